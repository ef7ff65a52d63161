"""Tiny slides, workflows on them, and damaged ones."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "sample_data")]

from pyramids import write_pyramid  # noqa: E402

SIDE = 256  # pixels of a slide
NET = {
    "tile": 32,
    "tile_mpp": 1.0,
    "image_size": 32,
    "patch": 16,
    "width": 24,
    "depth": 2,
    "heads": 3,
    "min_tissue": 0.3,
}
PRETRAIN = {
    "seed": 3,
    "system": {"class": "SelfViTMILPretraining", **NET, "prototypes": 32, "head_width": 32, "bottleneck": 16,
               "teacher_temperature": 0.02, "first_teacher_temperature": 0.02, "base_lr": 2e-3, "warmup_epochs": 1},
    "data": {"class": "SlideTiles", "table": "slides.csv", "tiles_a_slide": 4, "batch_size": 16, "cache": True,
             "small_size": 16, "small": 2, "smallest": 0.2},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}  # fmt: skip
MIL = {
    "requires": ["pre.yaml"],
    "seed": 3,
    "system": {"class": "SelfViTMIL", "labels": ["tumour"], **NET, "lr": 2e-3, "weights": "pre.yaml"},
    "data": {"class": "Bags", "table": "slides.csv"},
    "trainer": {"max_epochs": 12, "accelerator": "cpu"},
}


def draw(seed: int, tumour: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """A slide (SIDE, SIDE, 3) of pink tissue with a dark blue square where there is tumour, and its top left corner."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), 243, np.int16)
    pixels[16:240, 16:240] = (222, 150, 190)
    x, y = (int(32 * rng.integers(1, 6)) for _ in range(2))
    if tumour:
        pixels[y : y + 48, x : x + 48] = (100, 60, 150)
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8), (x, y)


def write_slide(path: Path, seed: int, tumour: bool, mpp: float | None = 1.0) -> tuple[int, int]:
    """A tiled pyramid; the corner of its tumour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, corner = draw(seed, tumour)
    write_pyramid(path, pixels, mpp)
    return corner


def write_table(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    """A table of slides."""
    lines = ["path,patient_id,split,tumour", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path

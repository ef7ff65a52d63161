"""Tiny smears with dark and pale nuclei, and the workflows that learn of them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sample_data.pyramids import write_pyramid

SIDE = 192
CELLS = 10
NET = {"tile": 32, "tile_mpp": 1.0, "image_size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}
PRETRAIN: dict[str, Any] = {
    "seed": 3,
    "system": {"class": "CytoFMPretraining", **NET, "prototypes": 32, "head_width": 32, "bottleneck": 16,
               "base_lr": 0.01, "warmup_epochs": 1},
    "data": {"class": "SlideTiles", "table": "smears.csv", "tiles_a_slide": 8, "batch_size": 32, "cache": True,
             "small_size": 16, "small": 2, "solarise": 0.0, "colour": 0.2},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}  # fmt: skip
MIL: dict[str, Any] = {
    "requires": ["pre.yaml"],
    "seed": 3,
    "system": {"class": "CytoFM", "labels": ["malignant"], **NET, "attention": 16, "lr": 0.02, "weights": "pre.yaml"},
    "data": {"class": "Bags", "table": "smears.csv"},
    "trainer": {"max_epochs": 30, "accelerator": "cpu"},
}  # fmt: skip


def draw(seed: int, malignant: bool) -> tuple[np.ndarray, np.ndarray]:
    """A smear (SIDE, SIDE, 3) of 1 um a pixel, and the centres (n, 2) of its large nuclei."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), 240.0)
    places = np.stack(np.meshgrid(np.arange(28, SIDE - 20, 38), np.arange(28, SIDE - 20, 38)), -1).reshape(-1, 2)
    chosen = rng.permutation(places)[:CELLS] + rng.integers(-4, 5, (CELLS, 2))
    v, u = np.mgrid[:SIDE, :SIDE]
    large = []
    for index, (x, y) in enumerate(chosen):
        ill = malignant and index < 3
        gap = np.hypot(u - x, v - y)
        pixels[gap < 13] = (150, 200, 210)
        pixels[gap < (10 if ill else 4.5)] = (50, 40, 110)
        large += [(x, y)] * ill
    noisy = pixels + rng.normal(0, 3, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.array(large).reshape(-1, 2)


def write_smear(path: Path, seed: int, malignant: bool) -> np.ndarray:
    """Write a smear as a pyramid or picture; the centres of its large nuclei."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, large = draw(seed, malignant)
    if path.suffix == ".tif":
        write_pyramid(path, pixels, 1.0, levels=1, quality=90)
    else:
        Image.fromarray(pixels).save(path)
    return large

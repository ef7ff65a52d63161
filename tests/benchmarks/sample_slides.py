"""What SelfViTMIL learns of the generated slides: ``python tests/benchmarks/sample_slides.py [RUN] [OUT]``.

Trains workflows/self_vit_mil.yaml where RUN holds no checkpoint yet, answers sample_data/slides, and prints the AUC of the test
split's slides (asked for: 0.95) and, on those with tumour, that of the tiles' attention against the painted masks (0.85).
A tile is tumour where half of it or more is painted so; tiles with less, but some, count for neither side. FROC is of all
slides of the test split, by the tiles' scores and by their attention stretched over each slide; on slides answered as
negative nothing is detected, as in DSMIL.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scored import MEDVIT, answer, test_rows, tiles_of, told_apart
from sklearn.metrics import roc_auc_score

from medvit.evaluate.froc import FALSE_ALARMS, Found, found_in_tiles, froc

ROOT = Path(__file__).resolve().parents[2]
SLIDES = ROOT / "sample_data/slides"
TUMOUR, CELL, MPP = 2, 16, 0.5  # value of a mask, level-0 pixels of one of its pixels, and micrometres of those
BOX_UM = 192.0  # side of what a detection silences: three tiles; Camelyon16's 746 is as large as a whole slide here


def tumour_share(mask: np.ndarray, ring: list[list[float]]) -> float:
    """How much of a tile is tumour."""
    left, top, right, bottom = (round(edge / CELL) for edge in (*ring[0], *ring[2]))
    return float((mask[top:bottom, left:right] == TUMOUR).mean())


def tile_auc(folder: Path, mask: np.ndarray, measure: str) -> float:
    """AUC of a measurement of tiles against the mask."""
    tiles = tiles_of(folder)
    shares = np.array([tumour_share(mask, tile["geometry"]["coordinates"][0]) for tile in tiles])
    values = np.array([tile["properties"]["measurements"][f"medvit: tumour {measure}"] for tile in tiles])
    clear = (shares >= 0.5) | (shares == 0)
    return float(roc_auc_score(shares[clear] >= 0.5, values[clear]))


def detected(folder: Path, measure: str, positive: bool) -> Found:
    """Detections by a measurement of tiles; attention is stretched to 0 to 1 over the slide."""
    tiles = tiles_of(folder)
    rings = np.array([tile["geometry"]["coordinates"][0] for tile in tiles], dtype=float)
    values = np.array([tile["properties"]["measurements"][f"medvit: tumour {measure}"] for tile in tiles], np.float32)
    if measure == "attention":
        values = (values - values.min()) / max(np.ptp(values), np.float32(1e-12))
    return found_in_tiles(rings[:, 0], rings[0, 2, 0] - rings[0, 0, 0], values * positive, MPP, CELL, box_um=BOX_UM)


def main() -> None:
    """Train, answer, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs/self_vit_mil")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "out/slides")
    arguments = parser.parse_args()
    started = time.monotonic()
    if not (arguments.run / "best.ckpt").is_file():
        workflow = ROOT / "workflows/self_vit_mil.yaml"
        subprocess.run([*MEDVIT, "train", workflow, "-o", arguments.run], check=True, stdout=sys.stderr)
    answers = answer(arguments.run / "best.ckpt", [SLIDES], arguments.out)
    seconds = time.monotonic() - started
    test = test_rows(SLIDES / "cases.csv")
    area, right = told_apart(test, "tumour", answers)
    print(f"slides, test split ({len(test)}): AUC {area:.3f}, accuracy {right:.3f}")
    for measure in ("attention", "score"):
        areas = [
            tile_auc(
                arguments.out / "cases" / answers[row["path"]]["case"],
                np.asarray(Image.open(SLIDES / row["mask"])),
                measure,
            )
            for row in test
            if row["tumour"] == "1"
        ]
        print(
            f"tiles of the {len(areas)} with tumour, {measure}: AUC {np.mean(areas):.3f} ({min(areas):.3f} to {max(areas):.3f})"
        )
    masks = [np.asarray(Image.open(SLIDES / row["mask"])) == TUMOUR for row in test]
    for measure in ("attention", "score"):
        places = [
            detected(
                arguments.out / "cases" / answers[row["path"]]["case"], measure, answers[row["path"]]["positive"] == "1"
            )
            for row in test
        ]
        found = froc(places, masks, [CELL * MPP] * len(masks))
        told = ", ".join(f"{at:g}: {share:.2f}" for at, share in zip(FALSE_ALARMS, found.sensitivity, strict=True))
        print(
            f"FROC of {measure}: {found.score:.3f} ({told}); {found.lesions} lesions, {found.isolated} too small to count, "
            f"{found.slides} slides"
        )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

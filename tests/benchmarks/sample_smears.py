"""What CytoFM learns of the generated smears: ``python tests/benchmarks/sample_smears.py [RUN] [OUT]``.

Trains workflows/cytofm.yaml where RUN holds no checkpoint yet, answers the test split of sample_data/smears, and prints its AUC
(asked for: 0.95) and, on the malignant ones, that of attention for malignant cells against all others (0.9). A tile is the
cell whose painted centre is nearest to its middle; tiles with none within 6 um are left out and counted.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[2]
SMEARS = ROOT / "sample_data/smears"
NEAR = 12.0  # level-0 pixels of 0.5 um


def cell_auc(folder: Path, cells: list[dict[str, str]]) -> tuple[float, int]:
    """AUC of attention for malignant cells, and how many tiles show none that was painted."""
    with gzip.open(folder / "tiles.geojson.gz") as file:
        tiles = json.load(file)["features"]
    middles = np.array([np.mean(tile["geometry"]["coordinates"][0][:4], axis=0) for tile in tiles])
    centres = np.array([[float(cell["x"]), float(cell["y"])] for cell in cells])
    gaps = np.linalg.norm(middles[:, None] - centres, axis=-1)
    near = gaps.min(axis=1) < NEAR
    malignant = np.array([cells[index]["class"] == "malignant" for index in gaps.argmin(axis=1)])
    values = np.array([tile["properties"]["measurements"]["medvit: malignant attention"] for tile in tiles])
    return float(roc_auc_score(malignant[near], values[near])), int((~near).sum())


def main() -> None:
    """Train, answer, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs/cytofm")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "out/smears")
    arguments = parser.parse_args()
    medvit = [sys.executable, "-m", "medvit"]
    started = time.monotonic()
    if not (arguments.run / "best.ckpt").is_file():
        workflow = ROOT / "workflows/cytofm.yaml"
        subprocess.run([*medvit, "train", workflow, "-o", arguments.run], check=True, stdout=sys.stderr)
    with (SMEARS / "cases.csv").open() as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    inputs = [SMEARS / row["path"] for row in test]
    answer = [*medvit, "predict", arguments.run / "best.ckpt", *inputs, "-o", arguments.out, "--resume"]
    subprocess.run(answer, check=True, stdout=sys.stderr)
    seconds = time.monotonic() - started
    with (arguments.out / "results.csv").open() as file:
        answers = {Path(row["source"]).name: row for row in csv.DictReader(file)}
    with (SMEARS / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    truth = [int(row["malignant"]) for row in test]
    area = roc_auc_score(truth, [float(answers[row["path"]]["probability"]) for row in test])
    right = np.mean([int(answers[row["path"]]["positive"]) == value for row, value in zip(test, truth, strict=True)])
    print(f"smears, test split ({len(test)}): AUC {area:.3f}, accuracy {right:.3f}")
    ill = [row["path"] for row in test if row["malignant"] == "1"]
    found = [
        cell_auc(arguments.out / "cases" / answers[name]["case"], [cell for cell in cells if cell["path"] == name])
        for name in ill
    ]
    areas = [area for area, _ in found]
    print(
        f"malignant cells by attention on the {len(ill)} malignant ones: AUC {np.mean(areas):.3f} "
        f"({min(areas):.3f} to {max(areas):.3f}); {sum(lost for _, lost in found)} tiles show no painted cell"
    )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()

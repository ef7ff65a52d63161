"""What several benchmarks measure of answers: those to a generated set's test split, its tiles, and areas under curves."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

MEDVIT = [sys.executable, "-m", "medvit"]
DRAWS = 2_000


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with table.open() as file:
        return list(csv.DictReader(file))


def test_rows(table: Path) -> list[dict[str, str]]:
    """Those of its test split."""
    return [row for row in read(table) if row["split"] == "test"]


def answer(checkpoint: Path, inputs: Sequence[Path], out: Path) -> dict[str, dict[str, str]]:
    """Answer files or folders into a folder; the answers by the files' names."""
    command = [*MEDVIT, "predict", checkpoint, *inputs, "-o", out, "--resume"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return {Path(row["source"]).name: row for row in read(out / "results.csv")}


def told_apart(test: Sequence[dict[str, str]], label: str, answers: dict[str, dict[str, str]]) -> tuple[float, float]:
    """AUC and accuracy of the answers to rows of a test split."""
    truth = [int(row[label]) for row in test]
    area = float(roc_auc_score(truth, [float(answers[row["path"]]["probability"]) for row in test]))
    right = np.mean([int(answers[row["path"]]["positive"]) == value for row, value in zip(test, truth, strict=True)])
    return area, float(right)


def tiles_of(folder: Path) -> list[dict[str, Any]]:
    """The tiles of an answered slide as QuPath gets them."""
    with gzip.open(folder / "tiles.geojson.gz") as file:
        tiles: list[dict[str, Any]] = json.load(file)["features"]
    return tiles


def interval(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> str:
    """AUC with a 95 % interval by drawing patients, or whatever else cases come from."""
    rng, areas, names = np.random.default_rng(0), [], np.unique(patient)
    for _ in range(DRAWS):
        drawn = np.concatenate([np.flatnonzero(patient == name) for name in rng.choice(names, len(names))])
        if 0 < truth[drawn].mean() < 1:
            areas.append(roc_auc_score(truth[drawn], score[drawn]))
    low, high = np.quantile(areas, (0.025, 0.975))
    return f"{roc_auc_score(truth, score):.3f} ({low:.2f} to {high:.2f})"

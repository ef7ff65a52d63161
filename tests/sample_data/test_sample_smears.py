"""The sample smears: made twice alike, split by patient, small, and honest about which cells are malignant."""

import csv
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import tiny

from medvit.case import read_table

FOLDER = Path(__file__).resolve().parents[2] / "sample_data"
SHIPPED = FOLDER / "smears"


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    return tiny.sample_module("plan_smears")


def test_the_same_seed_gives_the_shipped_bytes_and_another_seed_others(plan: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        plan.write_smear(plan.plan_smears(seed)[0], tmp_path / name)
    first, other = ((tmp_path / name / "0000.tif").read_bytes() for name in "ab")
    assert first == (SHIPPED / "0000.tif").read_bytes() != other


def test_no_patient_is_in_two_splits_and_half_of_each_split_is_malignant() -> None:
    splits = read_table(SHIPPED / "cases.csv", ["malignant"])  # refuses a patient in two splits
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 30, "val": 12, "test": 18}
    for cases in splits.values():
        assert sum(case.labels["malignant"] for case in cases) == len(cases) // 2


def test_malignant_cells_lie_on_malignant_smears_alone() -> None:
    with (SHIPPED / "cells.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    with (SHIPPED / "cases.csv").open(newline="", encoding="utf-8") as file:
        ill = {row["path"]: row["malignant"] == "1" for row in csv.DictReader(file)}
    found = Counter(cell["path"] for cell in cells if cell["class"] == "malignant")
    assert set(found) == {path for path, malignant in ill.items() if malignant}
    assert {cell["class"] for cell in cells} == {"benign", "malignant", "leucocyte", "debris"}


def test_all_smears_together_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 3_000_000

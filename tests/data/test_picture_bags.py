"""Pictures of single cells as bags, one a patient."""

import csv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.case import Case
from medvit.data.features import Features
from medvit.data.slide_tables import read_slides
from medvit.data.slides import Resolution
from medvit.data.smears import CellCutting
from medvit.errors import MedvitError, Rejected
from medvit.readers.sheet import SIDE, Sheet
from medvit.systems.cytofm import CytoFM

COUNTS = {"A": ("train", 3, 1), "B": ("train", 5, 0), "C": ("val", 2, 1), "D": ("test", 1, 0)}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Eleven pictures of four patients, each of a size of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for patient, (split, count, value) in COUNTS.items():
        for at in range(count):
            pixels = rng.integers(0, 256, (40 + at, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{patient}{at}.png")
            rows.append([f"{patient}{at}.png", patient, split, value])
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "patient_id", "split", "malignant"], *rows])
    return tmp_path / "cells.csv"


def bag(table: Path, patient: str) -> Case:
    splits = read_slides("pictures", table, ["malignant"])
    return next(case for cases in splits.values() for case in cases if case.files[0].name.startswith(patient))


def test_the_pictures_of_a_patient_are_one_bag_with_his_label(table: Path) -> None:
    splits = read_slides("pictures", table, ["malignant"])
    assert {split: [len(case.files) for case in cases] for split, cases in splits.items()} == {
        "train": [3, 5], "val": [2], "test": [1],
    }  # fmt: skip
    assert [case.labels["malignant"] for case in splits["train"]] == [1.0, 0.0]
    assert len({case.key for cases in splits.values() for case in cases}) == 4


def test_a_patient_whose_pictures_have_different_labels_is_refused(table: Path) -> None:
    table.write_text(table.read_text().replace("A1.png,A,train,1", "A1.png,A,train,0"))
    with pytest.raises(MedvitError, match="different labels"):
        read_slides("pictures", table, ["malignant"])


def test_every_picture_is_a_tile_and_shows_its_middle_square(table: Path) -> None:
    cutting = CellCutting(16, 0.25, 0.1, 100, "none")
    sheet = Resolution().open(bag(table, "B"))
    tiles, tiling, origin = cutting.plan(sheet)
    assert tiling.coords.tolist() == [[0, 0], [SIDE, 0], [2 * SIDE, 0], [0, SIDE], [SIDE, SIDE]]
    assert tiling.slide == (3 * SIDE, 2 * SIDE) and origin["tiles"].startswith("5 pictures")
    for at, (x, y) in enumerate(tiling.coords.tolist()):
        with Image.open(table.parent / f"B{at}.png") as picture:
            left, side = (50 - picture.height) / 2, picture.height
            wanted = picture.resize((16, 16), Image.Resampling.BICUBIC, box=(left, 0, left + side, side))
        assert np.array_equal(cutting.read(sheet, (x, y), tiles.mpp), np.asarray(wanted))
    few = CellCutting(16, 0.25, 0.1, 2, "none").plan(sheet)
    assert len(few[1].coords) == 2 and "among 5" in few[2]["tiles"]


def test_places_without_a_picture_and_damaged_pictures_are_refused(table: Path) -> None:
    sheet = Sheet(sorted(table.parent.glob("B*.png")))
    with pytest.raises(Rejected, match="no picture"):
        sheet.read((2 * SIDE, SIDE), 16, 1.0)
    (table.parent / "B0.png").write_bytes(b"no picture at all")
    Image.new("RGB", (20, 20), "red").save(table.parent / "B1.png")
    for at, reason in ((0, "undecodable"), (1, "one_colour")):
        with pytest.raises(Rejected) as caught:
            sheet.read((at * SIDE, 0), 16, 1.0)
        assert caught.value.reason == reason
    shown, unread = sheet.overview(16.0)
    assert shown.shape == (32, 48, 3)
    assert unread[:16, :32].all() and not unread[:, 32:].any() and not unread[16:].any()


def test_cytofm_describes_a_bag_of_pictures_and_marks_what_cannot_be_read(table: Path) -> None:
    (table.parent / "B3.png").write_bytes(b"")
    system = CytoFM(["malignant"], tile=16, image_size=16, patch=8, width=24, depth=1, heads=3)
    case = bag(table, "B")
    ((answered, found, _),) = system.embed([case], 0, nullcontext())
    assert answered is case and isinstance(found, Features)
    assert found.features.shape == (5, 24)
    assert found.valid.tolist() == [True, True, True, False, True]

"""The sample slides: made twice alike, split by patient, readable, and honest about where tumour is."""

import csv
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import openslide
import pytest
import tiny
from PIL import Image

from medvit.case import read_table
from medvit.readers.slide import Slide

FOLDER = Path(__file__).resolve().parents[2] / "sample_data"
SHIPPED = FOLDER / "slides"


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    return tiny.sample_module("plan_slides")


def rows() -> list[dict[str, str]]:
    with (SHIPPED / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def painted(row: dict[str, str]) -> np.ndarray:
    """The mask of a slide: 0 glass, 1 tissue, 2 tumour, 3 ink."""
    return np.asarray(Image.open(SHIPPED / row["mask"]))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(plan: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        plan.write_slide(plan.plan_slides(seed)[0], tmp_path / name)
    first, second, other = ((tmp_path / name / "0000.tif").read_bytes() for name in "abc")
    assert first == second != other


def test_the_shipped_slides_are_what_make_writes(plan: ModuleType, tmp_path: Path) -> None:
    planned = plan.plan_slides()
    assert sorted(path.name for path in SHIPPED.glob("*.tif")) == [slide.name for slide in planned]
    for slide, row in zip(planned, rows(), strict=True):
        assert [*row.values()] == [
            slide.name,
            slide.patient_id,
            slide.split,
            slide.mask_name,
            str(int(slide.share > 0)),
        ]
    for slide in (planned[0], planned[21]):
        plan.write_slide(slide, tmp_path)
        made, shipped = (Slide(folder / slide.name).overview(1.0)[0] for folder in (tmp_path, SHIPPED))
        assert np.abs(made.astype(int) - shipped).mean() < 0.1  # JPEG differs a little between builds of Pillow
        assert np.array_equal(np.asarray(Image.open(tmp_path / slide.mask_name)), painted({"mask": slide.mask_name}))


def test_no_patient_is_in_two_splits_and_every_split_is_half_tumour() -> None:
    splits = defaultdict(list)
    for split, cases in read_table(SHIPPED / "cases.csv", ["tumour"]).items():  # refuses a torn patient
        splits[split] = [case.labels["tumour"] for case in cases]
    assert {split: (len(found), sum(found)) for split, found in splits.items()} == {
        "train": (20, 10), "val": (8, 4), "test": (12, 6),
    }  # fmt: skip


def test_masks_hold_tumour_on_tumour_slides_only_and_ink_as_often_on_both() -> None:
    inked = defaultdict(int)
    for row in rows():
        mask = painted(row)
        assert mask.shape == (80, 96) and set(np.unique(mask)) <= {0, 1, 2, 3}
        tissue, tumour = ((mask == 1) | (mask == 2)).sum(), (mask == 2).sum()
        assert 0.25 < tissue / mask.size < 0.75
        assert (0.05 < tumour / tissue < 0.45) if row["tumour"] == "1" else tumour == 0
        inked[row["tumour"]] += bool((mask == 3).any())
    assert inked["0"] == inked["1"] >= 5


def test_tumour_looks_different_where_the_mask_says_and_neither_colour_nor_size_of_the_slide_tell() -> None:
    nuclear, whole = [], defaultdict(list)
    for row in rows():
        picture = Slide(SHIPPED / row["path"]).overview(8.0)[0].astype(float)
        mask = painted(row)
        whole[row["tumour"]].append(picture[mask == 0].mean())
        if row["tumour"] == "1":
            nuclear.append(picture[mask == 1][:, 0].mean() - picture[mask == 2][:, 0].mean())  # bluer: less red
    assert min(nuclear) > 5
    glass = {label: (np.mean(found), np.std(found)) for label, found in whole.items()}
    assert abs(glass["0"][0] - glass["1"][0]) < 2 * max(glass["0"][1], glass["1"][1])


def test_every_slide_opens_in_openslide_with_its_resolution_and_three_levels() -> None:
    for row in rows():
        with openslide.OpenSlide(SHIPPED / row["path"]) as slide:
            assert slide.level_dimensions == ((1536, 1280), (768, 640), (384, 320))
            assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.5, rel=1e-4)


def test_a_level_is_the_one_before_at_half_the_size() -> None:
    slide = Slide(SHIPPED / "0004.tif")
    fine, coarse = slide.region((0, 0), (1536, 1280), 0.5), slide.region((0, 0), (384, 320), 2.0)
    assert np.abs(np.asarray(Image.fromarray(fine).reduce(4)).astype(int) - coarse).mean() < 4


def test_the_shipped_folder_is_under_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 6e6

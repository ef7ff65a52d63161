"""Folders of pictures of cells: one case a folder, one bad picture costs itself alone, the same files as of any case."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from medvit.account import Options
from medvit.case import Case
from medvit.cell_folders import two_colours
from medvit.embed import embed
from medvit.errors import MedvitError
from medvit.evaluation import Asked, evaluate
from medvit.explanation import explain
from medvit.predict import predict
from medvit.systems.cytofm import CytoFM
from medvit.systems.thorax_mae import ThoraxMAE

NET: dict[str, Any] = {"tile": 16, "image_size": 16, "patch": 8, "width": 24, "depth": 1, "heads": 3, "each": True}
WHO = {"name": "tiny", "sha256": "a" * 64}
SUFFIXES = (".png", ".bmp", ".jpg", ".tif")


def system(cells: bool = True) -> CytoFM:
    torch.manual_seed(0)
    made = CytoFM(["malignant", "atypical"], **NET).eval()
    if cells:
        made.told("cells", "folder")
    return made


def write_cells(folder: Path, count: int, seed: int = 0, base: tuple[int, int, int] = (200, 120, 160)) -> Path:
    """Pictures of cells of all the kinds that are read, in different sizes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        noise = rng.normal(0, 20, (30 + index, 40, 3))
        pixels = (np.array(base) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"cell_{index:02d}{SUFFIXES[index % len(SUFFIXES)]}")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, one of whom has a picture that was cut and one of one colour."""
    top = tmp_path_factory.mktemp("cells") / "in"
    write_cells(top / "first", 7)
    write_cells(top / "second", 6, 1)
    (top / "second/cell_02.jpg").write_bytes((top / "second/cell_02.jpg").read_bytes()[:200])
    Image.new("RGB", (20, 20), "red").save(top / "second/cell_00.png")
    return top


@pytest.fixture(scope="module")
def out(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answered") / "out"
    write = ("csv", "heat", "geojson", "gallery")
    counts = predict(system(), WHO, [inputs], folder, Options(write=write, told={"cells": "folder"}))
    assert counts == {"inputs": 13, "ok": 2, "skipped": 9, "rejected": 2, "failed": 0}
    return folder


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    return {"/".join(Path(row["source"]).parts[-2:]): row for row in tiny.read_rows(out / "inputs.csv")}


def test_a_folder_is_one_case_with_an_answer_for_every_label(out: Path) -> None:
    results = tiny.read_rows(out / "results.csv")
    assert [row["label"] for row in results] == ["malignant", "atypical"] * 2
    assert len({row["case"] for row in results}) == 2
    origins = [json.loads(line)["origin"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert [origin["tiles"] for origin in origins if origin] == [
        "7 pictures of cells, as 16 px",
        "4 pictures of cells, as 16 px",
    ]
    assert json.loads((out / "run.json").read_text())["settings"]["cells"] == "folder"


def test_every_picture_has_a_row_and_bad_ones_say_what_is_wrong_with_them(out: Path) -> None:
    rows = rows_of(out)
    assert (rows["second/cell_00.png"]["status"], rows["second/cell_00.png"]["reason"]) == ("rejected", "one_colour")
    assert (rows["second/cell_02.jpg"]["status"], rows["second/cell_02.jpg"]["reason"]) == ("rejected", "undecodable")
    assert rows["second/cell_01.bmp"]["status"] == rows["first/cell_00.png"]["status"] == "ok"
    assert rows["second/cell_04.png"]["message"].startswith("It is picture 3 of 4 of its folder")
    assert all(row["message"].endswith(".") for row in rows.values() if row["status"] != "ok")


def test_gallery_and_geojson_number_the_pictures_as_the_rows_do(out: Path) -> None:
    folder = out / "cases" / rows_of(out)["second/cell_01.bmp"]["case"]
    with gzip.open(folder / "tiles.geojson.gz") as file:
        names = [tile["properties"]["name"] for tile in json.load(file)["features"]]
    assert names == ["picture 1", "picture 2", "picture 3", "picture 4"]
    for label in ("malignant", "atypical"):
        with Image.open(folder / f"gallery_{label}.png") as gallery:
            assert "4 of 4 tiles by attention" in gallery.info["Description"]


def test_the_heat_map_lies_on_the_sheet_of_pictures(inputs: Path) -> None:
    files = tuple(sorted((inputs / "first").iterdir())) * 3  # a sheet that is shown smaller than it is
    case = Case("many", "", files, header={"bag": "pictures"})
    of = system()
    plan = of.resolution.open(case)
    shown = of.read(case).pixels
    assert shown.shape[1:] == of.cutting.plan(plan)[1].slide[::-1] or max(shown.shape) <= 1_024
    from medvit.data.slides import shown_shape

    assert shown.shape[1:] == shown_shape(of.cutting.plan(plan)[1])


def test_without_the_word_pictures_are_not_taken_for_cells(inputs: Path, tmp_path: Path) -> None:
    counts = predict(system(False), WHO, [inputs / "first"], tmp_path / "out", Options(write=("csv",)))
    assert counts["ok"] == 0 and counts["skipped"] == 6  # and one TIFF, which says no resolution
    with pytest.raises(MedvitError, match="--cells says nothing to ThoraxMAE"):
        ThoraxMAE(["Effusion"], image_size=32, patch=16, width=24, depth=1, heads=3).told("cells", "folder")


def test_features_of_a_folder_are_one_file(inputs: Path, tmp_path: Path) -> None:
    counts = embed(system(), WHO, [inputs], tmp_path / "out", Options(write=(), told={"cells": "folder"}))
    assert counts["ok"] == 2 and counts["rejected"] == 2
    assert len(list((tmp_path / "out").rglob("features_*/*.h5"))) == 2


def test_a_tiled_tiff_among_pictures_stays_a_slide_and_a_folder_of_two_stains_is_said(tmp_path: Path) -> None:
    import tiny_slides

    write_cells(tmp_path / "in", 8)
    for file in write_cells(tmp_path / "blue", 8, 1, (120, 150, 220)).iterdir():
        file.rename(tmp_path / "in" / f"blue_{file.name}")
    tiny_slides.write_pyramid(tmp_path / "in/slide.tif", np.full((256, 256, 3), 245, np.uint8), 1.0)
    predict(system(), WHO, [tmp_path / "in"], tmp_path / "out", Options(write=("csv",), told={"cells": "folder"}))
    rows = rows_of(tmp_path / "out")
    assert (rows["in/slide.tif"]["status"], rows["in/slide.tif"]["reason"]) == ("rejected", "no_cells")
    records = [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    (notes,) = [record["origin"]["notes"] for record in records if record["status"] == "ok"]
    assert notes == "Its pictures are coloured in two quite different ways (8 and 8): two stains, or two sources."


def test_colours_that_vary_are_no_two_stains() -> None:
    rng = np.random.default_rng(0)
    one = np.array([200.0, 120, 160]) + rng.normal(0, 15, (60, 3))
    assert two_colours(one) is None and two_colours(one[:5]) is None
    sides = two_colours(np.concatenate([one, one[:9] + 120]))
    assert sides is not None and sorted([int(sides.sum()), int((~sides).sum())]) == [9, 60]


def test_pictures_of_a_patient_are_measured_as_one_case(inputs: Path, tmp_path: Path) -> None:
    files = sorted(path for path in inputs.rglob("*") if path.is_file())
    rows = [(str(path), path.parent.name, "test", int(path.parent.name == "first"), "") for path in files]
    tiny.write_table(tmp_path / "cells.csv", rows, ["malignant", "atypical"])
    told = evaluate(system(), WHO, tmp_path / "cells.csv", tmp_path / "out", Asked(draws=20))
    assert (told["cases"], told["patients"]) == (2, 2)


def test_a_folder_is_explained_as_one_case_and_its_parts_count_as_no_refusals(inputs: Path, tmp_path: Path) -> None:
    counts = explain(system(), [inputs], tmp_path / "why", ["attention of tiles"], ["atypical"], 0, "a" * 64)
    assert counts == {"explained": 2, "refused": 2}
    assert len(list((tmp_path / "why").rglob("heat_*.png"))) == 2

"""Cells on smears: every nucleus is found, crops stay inside, planes are told apart, and what is no smear is a sentence."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medvit.errors import Rejected
from medvit.readers.cells import corners_of, find_cells, find_nuclei, map_cells
from medvit.readers.focus import sharpest, sharpness
from medvit.readers.slide import Slide

SMEARS = Path(__file__).resolve().parents[2] / "sample_data" / "smears"
CRASH = (200, 200, 3)


def places(table: Path, name: str = "") -> tuple[np.ndarray, list[str]]:
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not name or row["path"] == name]
    return np.array([[float(row["x"]), float(row["y"])] for row in rows]), [row["class"] for row in rows]


def smear(tmp_path: Path, pixels: np.ndarray, name: str = "field.png") -> Slide:
    Image.fromarray(pixels).save(tmp_path / name)
    return Slide(tmp_path / name, mpp=0.5)


def disc(pixels: np.ndarray, x: float, y: float, radius: float, colour: tuple[int, int, int] = (60, 40, 130)) -> None:
    v, u = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    pixels[np.hypot(u - x, v - y) <= radius] = colour


def test_nearly_every_painted_nucleus_is_found_and_little_else() -> None:
    for name in ("0000.tif", "0007.tif", "0030.tif"):
        centres, kinds = places(SMEARS / "cells.csv", name)
        real = np.array([kind != "debris" for kind in kinds])
        found = map_cells(Slide(SMEARS / name))[1]
        gaps = np.linalg.norm(centres[:, None] - found, axis=-1)  # (cells, found)
        assert (gaps[real].min(axis=1) < 8).mean() > 0.95
        assert (gaps[real].min(axis=0) > 16).mean() < 0.1


def test_touching_nuclei_are_told_apart(tmp_path: Path) -> None:
    pixels = np.full(CRASH, 245, np.uint8)
    disc(pixels, 80, 100, 14)
    disc(pixels, 105, 100, 14)
    found = map_cells(smear(tmp_path, pixels))[1]
    assert sorted(found[:, 0].round(-1)) == [80, 100] or sorted(found[:, 0].round(-1)) == [80, 110]


def test_specks_and_colourless_dirt_are_no_cells() -> None:
    pixels = np.full(CRASH, 245, np.uint8)
    disc(pixels, 50, 50, 1.5)
    disc(pixels, 120, 120, 15, (90, 90, 90))
    assert not len(find_nuclei(pixels, 1.0).centres)


@pytest.mark.parametrize("colour", [(255, 255, 255), (128, 128, 128), (0, 0, 0), (150, 60, 160)])
def test_a_picture_of_one_colour_is_an_empty_smear(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    with pytest.raises(Rejected, match="picture of one colour") as caught:
        map_cells(smear(tmp_path, np.full(CRASH, colour, np.uint8)))
    assert caught.value.reason == "no_cells"


def test_a_crop_lies_around_its_cell_and_is_moved_inside_at_the_edge(tmp_path: Path) -> None:
    pixels = np.full(CRASH, 245, np.uint8)
    disc(pixels, 100, 90, 12)
    disc(pixels, 10, 190, 9)
    slide = smear(tmp_path, pixels)
    tiles = find_cells(slide, 64, 0.5)
    assert np.abs(np.array(sorted(tiles.coords.tolist())) - [[0, 136], [68, 58]]).max() <= 2
    assert all(slide.read(tuple(corner), 64, 0.5).shape == (64, 64, 3) for corner in tiles.coords)
    assert (tiles.tissue > 0.05).all()


def test_a_grid_keeps_the_tiles_that_hold_cells(tmp_path: Path) -> None:
    pixels = np.full((256, 256, 3), 245, np.uint8)
    disc(pixels, 32, 32, 14)
    tiles = find_cells(smear(tmp_path, pixels), 64, 0.5, layout="grid")
    assert tiles.coords.tolist() == [[0, 0]]


def test_cells_outside_the_plane_and_a_smear_smaller_than_a_crop_are_sentences(tmp_path: Path) -> None:
    slide = smear(tmp_path, np.full(CRASH, 245, np.uint8))
    with pytest.raises(Rejected, match="1 of 2 cells lie outside its 200 x 200 pixels") as caught:
        corners_of(slide, np.array([[10.0, 10.0], [201.0, 5.0]]), 32.0)
    assert caught.value.reason == "out_of_bounds"
    with pytest.raises(Rejected, match="less than one crop"):
        corners_of(slide, np.array([[10.0, 10.0]]), 132.0)


def test_the_sharpest_plane_is_the_one_that_was_not_blurred() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (40, 40, 3), np.uint8)
    planes = np.stack([gaussian_filter(sharp, (s, s, 0)) if s else sharp for s in (3, 1, 0, 2)])
    assert sharpest(planes) == 2
    assert sharpness(planes[1]) > sharpness(planes[3]) > sharpness(planes[0])


def test_the_pages_of_a_picture_are_focal_planes_and_each_cell_is_sharpest_in_its_own() -> None:
    slide = Slide(SMEARS / "stack" / "field.tif", mpp=0.5)
    assert slide.planes == 5
    with (SMEARS / "stack" / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] != "debris"]
    right = []
    for row in rows:
        corner = (float(row["x"]) - 14, float(row["y"]) - 14)
        stack = slide.read(corner, 28, 0.5, z="all")
        assert stack.shape == (5, 28, 28, 3)
        assert np.array_equal(slide.read(corner, 28, 0.5, z="best"), stack[sharpest(stack)])
        assert np.array_equal(slide.read(corner, 28, 0.5, z=3), stack[3])
        assert np.array_equal(slide.read(corner, 28, 0.5), stack[2])
        right.append(abs(sharpest(stack) - int(row["plane"])) <= 1)
    assert np.mean(right) > 0.7


def test_a_plane_that_is_not_there_and_pages_of_different_sizes_are_sentences(tmp_path: Path) -> None:
    slide = smear(tmp_path, np.full(CRASH, 200, np.uint8))
    assert slide.planes == 1
    assert np.array_equal(slide.read((0, 0), 20, 0.5, z="best"), slide.read((0, 0), 20, 0.5, z=0))
    assert slide.read((0, 0), 20, 0.5, z="all").shape == (1, 20, 20, 3)
    with pytest.raises(Rejected, match="there is no plane 1"):
        slide.read((0, 0), 20, 0.5, z=1)
    pages = [Image.new("RGB", size) for size in ((64, 64), (64, 32))]
    pages[0].save(tmp_path / "odd.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(Rejected) as caught:
        Slide(tmp_path / "odd.tif", mpp=0.5)
    assert caught.value.reason == "no_slide"

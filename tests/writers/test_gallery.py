"""Galleries: the most attended tiles first, lost tiles empty, and nothing for systems that show no tiles."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from medvit.case import Case
from medvit.codes import Label, code_of
from medvit.errors import Rejected
from medvit.image import Tiling
from medvit.result import Finding, Result, Run, TileScores
from medvit.writers.gallery import GAP, SHOWN, SIDE, most_attended, write_gallery

RUN = Run("CytoFM", "0", "f" * 64, datetime(2026, 1, 1, tzinfo=UTC))
LABEL = Label("malignant", code_of("malignant"))


def result(count: int, close_up: Callable[[int], np.ndarray | None] | None) -> Result:
    coords = np.stack([np.arange(count) * 10, np.zeros(count)], axis=1).astype(np.int64)
    attention = np.roll(np.linspace(1, 0, count, dtype=np.float32), 3)  # tile 3 has the most
    tiles = TileScores(Tiling(coords, 8.0, (1_000, 10), 0.5), {"malignant attention": attention})
    return Result(Case("x", "", (Path("x.png"),)), (Finding(LABEL, 0.2),), tiles=tiles, close_up=close_up)


def grey(index: int) -> np.ndarray:
    return np.full((16, 16, 3), 10 + 5 * index, np.uint8)


def test_the_highest_attention_comes_first_and_of_equal_ones_the_first() -> None:
    places = np.array([[0, 0], [9, 0], [5, 0], [0, 7]])
    assert most_attended(np.array([0.1, 0.5, 0.2, 0.2]), places, 3) == [(1, 0.5), (2, 0.2), (3, 0.2)]


def test_a_cell_read_at_several_planes_is_shown_once_at_the_one_attended_to_most() -> None:
    places = np.repeat([[0, 0], [9, 0]], 3, axis=0)
    chosen = most_attended(np.array([0.1, 0.25, 0.05, 0.2, 0.1, 0.3]), places)
    assert [index for index, _ in chosen] == [5, 1]
    assert np.allclose([share for _, share in chosen], [0.6, 0.4])


def test_the_gallery_shows_the_tiles_in_order_and_says_what_it_is(tmp_path: Path) -> None:
    (path,) = write_gallery(result(40, grey), tmp_path, RUN)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
        assert f"{SHOWN} of 40 tiles by attention" in sheet.info["Description"]
        assert "not for diagnosis" in sheet.info["Description"] and RUN.digest in sheet.info["Software"]
    middles = [int(pixels[GAP + SIDE // 2, GAP + SIDE // 2 + place * (SIDE + GAP), 0]) for place in range(3)]
    assert middles == [10 + 5 * index for index in (3, 4, 5)]


def test_a_tile_that_cannot_be_read_stays_empty(tmp_path: Path) -> None:
    def lost(index: int) -> np.ndarray:
        if index == 3:
            raise Rejected("tile", "It is gone.")
        return grey(index)

    (path,) = write_gallery(result(5, lost), tmp_path, RUN)
    with Image.open(path) as sheet:
        assert sheet.getpixel((GAP + SIDE // 2, GAP + SIDE // 2)) == (255, 255, 255)


def test_systems_that_show_no_tiles_leave_no_gallery(tmp_path: Path) -> None:
    assert write_gallery(result(5, None), tmp_path, RUN) == []
    assert write_gallery(result(5, lambda index: None), tmp_path, RUN) == []
    assert not any(tmp_path.iterdir())

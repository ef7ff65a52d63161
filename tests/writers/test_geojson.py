"""Tiles for QuPath: placed as it counts, measured in numbers JSON has, the same bytes every time."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.case import Case
from medvit.codes import Label, code_of
from medvit.explain.bags import spread
from medvit.image import Image, Tiling
from medvit.result import Finding, Result, Run, TileScores
from medvit.writers.geojson import write_tiles

RUN = Run("SelfViTMIL", "0.1.0", "ab" * 32, datetime(2026, 11, 21, tzinfo=UTC))
COORDS = np.array([[100, 50], [164, 50], [100, 114], [420, 370]])
SLIDE = (512, 480)


def answer(probability: float = 0.9, corner: tuple[int, int] = (0, 0), odd: float = 0.4) -> Result:
    tiling = Tiling(COORDS, 64.0, SLIDE, 0.5, corner, np.ones((48, 51), np.bool_))
    scores = {
        "tumour attention": np.array([0.1, 0.7, 0.2, 0.0], np.float32),
        "tumour score": np.array([0.2, 0.9, odd, 0.1], np.float32),
    }
    case = Case("slide", "SM", (Path("slide.svs"),))
    shown = Image(np.full((3, 240, 256), 0.9, np.float32))
    finding = Finding(Label("tumour", code_of("tumour")), probability)
    return Result(case, (finding,), tiles=TileScores(tiling, scores), read=lambda _: shown)


def features(path: Path) -> list[dict]:
    with gzip.open(path) as file:
        return json.load(file, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))["features"]


def test_attention_is_a_share_of_its_range_and_has_a_rank(tmp_path: Path) -> None:
    written = write_tiles(answer(), tmp_path, RUN)
    assert [path.name for path in written] == ["tiles.geojson.gz", "tiles.png"]
    told = [tile["properties"]["measurements"] for tile in features(written[0])]
    assert [one["medvit: tumour attention"] for one in told] == pytest.approx([1 / 7, 1, 2 / 7, 0], abs=1e-5)
    assert [one["medvit: tumour attention percentile"] for one in told] == [0.5, 1.0, 0.75, 0.25]
    assert [one["medvit: tumour score"] for one in told] == pytest.approx([0.2, 0.9, 0.4, 0.1])


def test_only_a_positive_slide_has_classified_tiles(tmp_path: Path) -> None:
    named = [tile["properties"].get("classification") for tile in features(write_tiles(answer(), tmp_path, RUN)[0])]
    assert [bool(one) for one in named] == [False, True, False, False] and named[1]["name"] == "tumour"
    well = features(write_tiles(answer(0.1), tmp_path / "well", RUN)[0])
    assert not any("classification" in tile["properties"] for tile in well)


def test_coordinates_count_from_the_scanned_part_as_qupath_does(tmp_path: Path) -> None:
    (tile, *_) = features(write_tiles(answer(corner=(90, 40)), tmp_path, RUN)[0])
    assert tile["geometry"]["coordinates"] == [[[10, 10], [74, 10], [74, 74], [10, 74], [10, 10]]]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    told = features(write_tiles(answer(odd=float("nan")), tmp_path, RUN)[0])
    assert "medvit: tumour score" not in told[2]["properties"]["measurements"]


def test_the_same_answer_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_tiles(answer(), tmp_path / name, RUN)[0].read_bytes() for name in "ab")
    assert first == second


def test_the_picture_shows_the_grid_over_the_slide(tmp_path: Path) -> None:
    with Pillow.open(write_tiles(answer(), tmp_path, RUN)[1]) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (240, 256, 3)
    blue = pixels[25, 50:80]  # the upper edge of the first tile, at half size
    assert (blue[:, 2] > blue[:, 0] + 100).all()


def test_a_result_without_tiles_writes_nothing(tmp_path: Path) -> None:
    assert write_tiles(Result(Case("film", "DX", (Path("a.dcm"),))), tmp_path, RUN) == []


def test_values_spread_over_the_slide_do_not_drift_and_overlaps_are_averaged() -> None:
    side = 100.4
    coords = np.array([[round(side * i), 0] for i in range(40)])
    tiling = Tiling(coords, side, (4_020, 110), 0.5)
    plane = spread(tiling, np.arange(1, 41, dtype=np.float32))
    middles = ((coords[:, 0] + side / 2) * plane.shape[1] / 4_020).astype(int)
    np.testing.assert_array_equal(plane[2, middles], np.arange(1, 41))
    twice = spread(Tiling(np.array([[0, 0], [0, 0]]), 64.0, (128, 64), 0.5), np.array([1.0, 3.0], np.float32))
    assert twice.max() == 2 and twice[:, -1].max() == 0

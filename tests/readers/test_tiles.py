"""Tiles: exact in micrometres, where tissue is, in one order, and never twice."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvit.errors import MedvitError, Rejected
from medvit.readers.slide import Slide
from medvit.readers.tiles import TissueMap, _shares, _starts, find_tiles, map_tissue, preview
from medvit.readers.tissue import find_tissue, otsu
from sample_data.pyramids import Page, cut, jpeg, write_pages, write_pyramid

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_data/slides"
SMALL_REGION = ROOT.parent / "shared/data/wsi/open/CMU-1-Small-Region.svs"
GLASS, PINK, PURPLE = (244, 243, 245), (225, 150, 185), (120, 80, 160)
INKS = {"green": (25, 110, 65), "blue": (30, 60, 180), "black": (25, 25, 28), "red": (205, 25, 35)}


def section(width: int = 1_600, height: int = 1_200) -> np.ndarray:
    """Glass with one round section, purple in its middle."""
    v, u = np.mgrid[0:height, 0:width]
    reach = np.hypot(u - width / 2, v - height / 2)
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    pixels[reach < 400] = PINK
    pixels[reach < 150] = PURPLE
    return pixels


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    write_pyramid(tmp_path / "s.tif", section(), 0.5)
    return Slide(tmp_path / "s.tif")


def refusal(slide: Slide, *arguments: float, **options: float) -> str:
    with pytest.raises(Rejected) as caught:
        find_tiles(slide, *arguments, **options)
    return caught.value.reason


def test_tiles_lie_on_tissue_row_by_row(slide: Slide) -> None:
    tiles = find_tiles(slide, 100, 0.5, min_tissue=0.9)
    middles = tiles.coords + 50
    assert (np.hypot(middles[:, 0] - 800, middles[:, 1] - 600) < 400).all()
    assert 30 < len(tiles) < 50
    assert tiles.coords.tolist() == sorted(tiles.coords.tolist(), key=lambda xy: (xy[1], xy[0]))
    assert (tiles.tissue >= 0.9).all()
    assert np.array_equal(find_tiles(slide, 100, 0.5, min_tissue=0.9).coords, tiles.coords)


def test_a_tile_spans_the_micrometres_that_were_asked_for(slide: Slide) -> None:
    tiles = find_tiles(slide, 64, 0.8)
    assert (tiles.mpp, tiles.size_level0) == (0.8, pytest.approx(64 * 0.8 / 0.5))
    columns = np.unique(tiles.coords[:, 0])
    assert set(np.diff(columns)) <= {102, 103}
    assert (np.abs(columns / (64 * 0.8 / 0.5) - np.rint(columns / 102.4)) < 0.01).all()  # nothing drifts


def test_a_level_within_tolerance_is_read_as_it_is(slide: Slide) -> None:
    near = find_tiles(slide, 64, 0.507)
    assert (near.mpp, near.target_mpp, near.size_level0) == (pytest.approx(0.5), 0.507, pytest.approx(64))
    assert find_tiles(slide, 64, 0.507, tolerance=0.001).mpp == 0.507


def test_a_slide_is_never_enlarged(slide: Slide) -> None:
    assert refusal(slide, 64, 0.25) == "too_coarse"


def test_neighbours_share_the_overlap(slide: Slide) -> None:
    tiles = find_tiles(slide, 64, 1.0, overlap=16)
    assert set(np.diff(np.unique(tiles.coords[:, 0]))) == {96}


@pytest.mark.parametrize(
    "options", [{"overlap": 64}, {"overlap": -1}, {"min_tissue": 1.1}, {"mpp": 0.0}, {"size": 0}, {"tolerance": -0.1}]
)
def test_settings_that_make_no_sense_are_a_sentence(slide: Slide, options: dict[str, float]) -> None:
    with pytest.raises(MedvitError, match="overlap at least 0 and below size"):
        find_tiles(slide, **{"size": 64, "mpp": 1.0, **options})


def test_min_tissue_of_zero_keeps_the_whole_grid(slide: Slide) -> None:
    assert len(find_tiles(slide, 100, 1.0, min_tissue=0)) == 8 * 6


def test_where_every_tile_is_kept_nothing_need_be_tissue(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", np.full((256, 256, 3), INKS["blue"], np.uint8), 0.5)  # ink, for all one can tell
    ink = Slide(tmp_path / "s.tif")
    assert len(find_tiles(ink, 64, 0.5, min_tissue=0)) == 16
    assert refusal(ink, 64, 0.5, min_tissue=0.01) == "no_tissue"


def test_a_slide_smaller_than_a_tile_is_refused(slide: Slide) -> None:
    assert refusal(slide, 2_000, 0.5) == "too_small"


@given(
    start=st.integers(0, 300),
    length=st.integers(1, 5_000),
    size=st.integers(8, 300),
    factor=st.floats(1.0, 8),
    share=st.floats(0, 0.99),
)
@settings(max_examples=200, deadline=None)
def test_no_tile_leaves_the_slide_and_none_comes_twice(
    start: int, length: int, size: int, factor: float, share: float
) -> None:
    side = size * factor
    step = side * (size - int(share * size)) / size
    found = _starts(start, start + length, side, step)
    assert len(np.unique(found)) == len(found)
    assert (found >= start).all() and (found + side <= start + length + 1).all()
    assert len(found) == 0 or start + length - (found[-1] + side) < step + 1  # no room is left for another


@given(st.integers(0, 2**32 - 1), st.floats(1.0, 25.0), st.floats(0.7, 13.0))
@settings(max_examples=50, deadline=None)
def test_shares_of_tissue_are_exact_to_parts_of_a_pixel(seed: int, side: float, factor: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 50)) < 0.5
    tissue = TissueMap(np.zeros((40, 50, 3), np.uint8), mask, factor)
    fine = np.kron(mask, np.ones((32, 32)))  # 32 times finer
    columns, rows = (rng.integers(0, int((count - side / factor) * factor) + 1, 3) for count in (50, 40))
    found = _shares(tissue, columns, rows, side, 1.0)
    scale = 32 / factor
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            top, left, bottom, right = (round(at * scale) for at in (y, x, y + side, x + side))
            if bottom > top and right > left:
                assert found[i, j] == pytest.approx(fine[top:bottom, left:right].mean(), abs=0.25 * factor / side)


# Tissue


def test_pure_glass_has_no_tissue(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (800, 800, 1)).round()
    write_pyramid(tmp_path / "s.tif", (np.array(GLASS) + noise).clip(0, 255).astype(np.uint8), 0.5)
    assert refusal(Slide(tmp_path / "s.tif"), 64, 1.0) == "no_tissue"


def test_a_region_that_is_tissue_all_over_is_kept_whole(tmp_path: Path) -> None:
    pixels = np.full((800, 800, 3), PINK, np.uint8)
    pixels[:, 400:] = PURPLE
    write_pyramid(tmp_path / "s.tif", pixels, 0.5)
    assert len(find_tiles(Slide(tmp_path / "s.tif"), 100, 0.5, min_tissue=1.0)) == 64


@pytest.mark.parametrize("glass", [(250, 250, 250), (215, 214, 216), (235, 232, 222)])
@pytest.mark.parametrize("stain", [PINK, PURPLE, (236, 205, 222), (150, 110, 80)])
def test_the_section_is_found_on_any_glass(glass: tuple[int, ...], stain: tuple[int, ...]) -> None:
    v, u = np.mgrid[0:150, 0:200]
    inside = np.hypot(u - 100, v - 75) < 50
    pixels = np.where(inside[..., None], np.array(stain), np.array(glass)).astype(np.uint8)
    found = find_tissue(pixels, 8.0)
    assert (found & inside).sum() / (found | inside).sum() > 0.9


@pytest.mark.parametrize("ink", INKS)
def test_marker_ink_is_no_tissue_and_takes_none_away(ink: str) -> None:
    pixels = section(200, 150)[:, :, :]
    v, u = np.mgrid[0:150, 0:200]
    inside = np.hypot(u - 100, v - 75) < 50
    pixels = np.where(inside[..., None], np.array(PINK), np.array(GLASS)).astype(np.uint8)
    stroke = (np.abs(v - 12) < 4) & (u > 20) & (u < 180)
    pixels[stroke] = INKS[ink]
    found = find_tissue(pixels, 8.0)
    assert not found[:20].any()
    assert (found & inside).sum() / (found | inside).sum() > 0.9


def test_a_slide_with_ink_only_is_refused(tmp_path: Path) -> None:
    pixels = np.full((800, 800, 3), GLASS, np.uint8)
    pixels[300:400, 100:700] = INKS["blue"]
    write_pyramid(tmp_path / "s.tif", pixels, 0.5)
    assert refusal(Slide(tmp_path / "s.tif"), 64, 1.0) == "no_tissue"


def test_specks_are_dropped_small_holes_filled_and_large_ones_left() -> None:
    pixels = np.full((200, 200, 3), GLASS, np.uint8)
    pixels[20:180, 20:180] = PINK
    pixels[4:8, 4:8] = PINK  # 32 um
    pixels[50:54, 50:54] = GLASS
    pixels[100:140, 100:140] = GLASS  # 320 um
    found = find_tissue(pixels, 8.0)
    assert not found[:15, :15].any()
    assert found[45:60, 45:60].all()
    assert not found[105:135, 105:135].any()


def test_a_dark_ground_gives_no_tissue() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[40:60, 40:60] = (10, 20, 200)
    assert not find_tissue(pixels, 8.0).any()


@pytest.mark.parametrize("light", [(30, 40, 250), (20, 220, 30), (230, 20, 25)])
def test_coloured_light_on_a_dark_ground_is_no_tissue(light: tuple[int, int, int]) -> None:
    v, u = np.mgrid[0:300, 0:300]
    pixels = np.full((300, 300, 3), (2, 2, 6), np.uint8)
    pixels[np.hypot(u - 150, v - 150) < 90] = light
    assert not find_tissue(pixels, 8.0).any()


def test_tissue_with_much_black_around_its_scan_is_found() -> None:
    pixels = np.zeros((600, 800, 3), np.uint8)
    scanned = section(400, 300)
    v, u = np.mgrid[0:300, 0:400]
    scanned[:], reach = GLASS, np.hypot(u - 200, v - 150)
    scanned[reach < 100] = PINK
    pixels[150:450, 200:600] = scanned
    found = find_tissue(pixels, 8.0)[150:450, 200:600]
    assert found[reach < 90].mean() > 0.95


@pytest.mark.real
@pytest.mark.skipif(not SMALL_REGION.is_file(), reason="../shared/data/wsi is absent")
def test_a_real_slide_of_fluorescence_has_no_tissue() -> None:
    with pytest.raises(Rejected) as caught:
        map_tissue(Slide(next(SMALL_REGION.parent.glob("*.ndpi"))), 64.0)
    assert caught.value.reason == "no_tissue"


def test_otsu_parts_two_values_and_survives_one() -> None:
    assert 0.2 < otsu(np.array([[0.2] * 50 + [0.7] * 30], np.float32)) <= 0.7
    assert 0 <= otsu(np.full((4, 4), 0.3, np.float32)) <= 1


def test_what_cannot_be_read_counts_as_tissue_so_that_its_tiles_are_counted(tmp_path: Path) -> None:
    tiles = [jpeg(tile, 90) for tile in cut(section(1_024, 1_024))]
    write_pages(tmp_path / "s.tif", [Page(1_024, 1_024, [b"\xff" * 700, *tiles[1:]])], 0.5, 90)
    slide = Slide(tmp_path / "s.tif")
    tiles_found = find_tiles(slide, 256, 0.5)
    assert [0, 0] in tiles_found.coords.tolist()
    with pytest.raises(Rejected, match="cannot be decoded"):
        slide.read((0, 0), 256, tiles_found.mpp)


# What was painted, and what is real


def test_on_the_sample_slides_tissue_is_where_it_was_painted() -> None:
    scores = []
    for path in sorted(SAMPLES.glob("*.tif"))[::5]:
        painted = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png")))
        found = map_tissue(Slide(path), 64.0)
        assert found.mpp == 8.0 and found.mask.shape == painted.shape  # 16 pixels of 0.5 um
        truth = (painted == 1) | (painted == 2)
        scores.append((found.mask & truth).sum() / (found.mask | truth).sum())
        assert (found.mask & (painted == 3)).sum() <= 0.02 * max(1, (painted == 3).sum())
    assert min(scores) > 0.85 and np.mean(scores) > 0.9, scores


def test_the_preview_shows_tiles_and_the_outline_of_tissue(slide: Slide) -> None:
    tissue = map_tissue(slide, 100)
    tiles = find_tiles(slide, 100, 1.0, tissue=tissue)
    shown = preview(slide, tiles, tissue, longest=80)
    assert shown.shape == (60, 80, 3) and shown.dtype == np.uint8
    assert ((shown == (40, 80, 220)).all(-1).sum() > 50) and ((shown == (0, 160, 60)).all(-1).sum() > 50)


@pytest.mark.real
@pytest.mark.skipif(not SMALL_REGION.is_file(), reason="../shared/data/wsi is absent")
@pytest.mark.parametrize("mpp, used, side, count", [(0.5, 0.499, 224.0, 46), (1.0, 1.0, 448.898, 11)])
def test_a_real_slide_is_tiled_at_two_resolutions(mpp: float, used: float, side: float, count: int) -> None:
    slide = Slide(SMALL_REGION)
    tiles = find_tiles(slide, 224, mpp)
    assert (tiles.mpp, round(tiles.size_level0, 3), len(tiles)) == (used, side, count)
    for x, y in tiles.coords:
        assert slide.read((x, y), 224, tiles.mpp).mean() < 225  # no tile of glass

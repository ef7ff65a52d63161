"""The short way through JPEG tiles: the same pixels as OpenSlide, and OpenSlide's where anything is unusual."""

import io
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from medvit.errors import Rejected
from medvit.readers.jpeg_tiles import JpegTiles, Unusual
from medvit.readers.slide import Slide
from medvit.readers.slide_files import OpenSlideSource
from medvit.readers.tiff import pages
from sample_data.pyramids import Page, cut, jpeg, write_pages, write_pyramid

SMALL_REGION = Path(__file__).resolve().parents[3] / "shared/data/wsi/open/CMU-1-Small-Region.svs"
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data/slides/0004.tif"


def noise(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def through_openslide(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        scale = slide.level_downsamples[level]
        return np.asarray(
            slide.read_region((round(x * scale), round(y * scale)), level, (width, height)).convert("RGB")
        )


@pytest.mark.parametrize("path", [SAMPLE, pytest.param(SMALL_REGION, marks=pytest.mark.real)], ids=["sample", "real"])
def test_the_short_way_gives_openslides_pixels_bit_by_bit(path: Path) -> None:
    if not path.is_file():
        pytest.skip("../shared/data/wsi is absent")
    source = OpenSlideSource(path)
    rng = np.random.default_rng(0)
    assert sorted(source._short) == list(range(len(source.levels)))
    for level, (width, height) in enumerate(source.levels):
        for _ in range(12):
            w, h = int(rng.integers(1, min(500, width))), int(rng.integers(1, min(500, height)))
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            found = source._short[level].read(x, y, w, h)
            assert np.array_equal(found, through_openslide(path, level, x, y, w, h))


def test_a_missing_tile_is_left_to_openslide(tmp_path: Path) -> None:
    tiles = [jpeg(tile, 90) for tile in cut(noise(1_024, 1_024))]
    write_pages(tmp_path / "s.tif", [Page(1_024, 1_024, [b"", *tiles[1:]])], 0.5, 90)
    source = OpenSlideSource(tmp_path / "s.tif")
    with pytest.raises(Unusual):
        source._short[0].read(0, 0, 10, 10)
    assert (source.read(0, 0, 0, 256, 256) == 255).all()
    assert source.read(0, 256, 0, 256, 256).std() > 10


def test_a_tile_whose_stream_says_another_size_is_not_decoded(tmp_path: Path) -> None:
    tiles = [jpeg(tile, 90) for tile in cut(noise(1_024, 1_024))]
    larger = jpeg(noise(512, 512), 90)
    write_pages(tmp_path / "s.tif", [Page(1_024, 1_024, [larger, *tiles[1:]])], 0.5, 90)
    source = OpenSlideSource(tmp_path / "s.tif")
    with pytest.raises(Unusual):
        source._short[0].read(0, 0, 10, 10)
    with pytest.raises(Rejected, match="cannot be decoded"):
        Slide(tmp_path / "s.tif").read((0, 0), 256, 0.5)


def test_a_tile_that_breaks_off_is_refused_and_not_half_grey(tmp_path: Path) -> None:
    tiles = [jpeg(tile, 90) for tile in cut(noise(1_024, 1_024))]
    write_pages(tmp_path / "s.tif", [Page(1_024, 1_024, [tiles[0][: len(tiles[0]) // 2], *tiles[1:]])], 0.5, 90)
    with pytest.raises(Unusual):
        OpenSlideSource(tmp_path / "s.tif")._short[0].read(0, 0, 10, 10)


def test_pages_that_are_not_of_colour_jpeg_tiles_are_left_to_openslide(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", noise(600, 500), 0.5)
    page = pages(tmp_path / "s.tif")[0]
    assert JpegTiles(tmp_path / "s.tif", page, 2**20).read(0, 0, 600, 500).shape == (500, 600, 3)
    for tag, value in ((259, (33005,)), (262, (1,)), (258, (8,)), (322, (0,)), (325, page.fields[325][:-1])):
        with pytest.raises(Unusual):
            JpegTiles(tmp_path / "s.tif", page._replace(fields={**page.fields, tag: value}), 2**20)


def test_tiles_that_were_read_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", noise(2_048, 512), 0.5, levels=1)
    tiles = JpegTiles(tmp_path / "s.tif", pages(tmp_path / "s.tif")[0], 5 * 256 * 256 * 4)
    tiles.read(0, 0, 2_048, 512)
    assert list(tiles._kept) == [11, 12, 13, 14, 15]
    before = tiles._kept[12]
    tiles.read(4 * 256, 256, 10, 10)
    assert tiles._kept[12] is before and list(tiles._kept)[-1] == 12


def test_pixels_without_colour_tables_of_their_page_are_read_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(256, 256)).save(buffer, "JPEG", quality=70, subsampling=2)
    write_pages(tmp_path / "s.tif", [Page(256, 256, [buffer.getvalue()])], 0.5, 70)
    slide = Slide(tmp_path / "s.tif")
    assert np.array_equal(slide.read((0, 0), 256, 0.5), through_openslide(tmp_path / "s.tif", 0, 0, 0, 256, 256))

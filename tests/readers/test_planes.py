"""Focal planes where OpenSlide shows one: NDPI and tiled TIFF, written here, and what is said when they cannot be read."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_ndpi

from medvit.errors import Rejected
from medvit.readers import planes
from medvit.readers.focus import sharpest
from medvit.readers.slide import Slide
from sample_data import pyramids

HEIGHT, WIDTH, MPP = 320, 448, 0.5
OME = (
    '<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYCZT" SizeX="448" SizeY="320" SizeC="{c}" SizeZ="3" '
    'SizeT="1"></Pixels></Image></OME>'
)


def field(plane: int) -> np.ndarray:
    """A field (HEIGHT, WIDTH, 3) of the plane's own colour; the middle one has strong stripes."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    grey = 120 + (90 if plane == 1 else 15) * np.sin(u / 3.0) * np.sin(v / 4.0)
    return np.rint(np.stack([np.full_like(grey, 60 + 60 * plane), grey, grey], -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def ndpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three planes of which the file names the middle one first, as scanners do."""
    path = tmp_path_factory.mktemp("ndpi") / "stack.ndpi"
    tiny_ndpi.write_ndpi(path, [field(1), field(0), field(2)], [0, -4_000, 4_000], MPP)
    return path


def tiled(path: Path, text: str = "", fields: int = 3) -> Path:
    pages = [pyramids.Page(WIDTH, HEIGHT, [pyramids.jpeg(tile, 90) for tile in pyramids.cut(field(plane))])
             for plane in range(fields)]  # fmt: skip
    pyramids.write_pages(path, pages, MPP, 90, text, stack=True)
    return path


def check_planes(slide: Slide) -> None:
    """Every plane is read at its place, at any resolution, and the sharpest is found."""
    assert (slide.planes, slide.size, slide.mpp) == (3, (WIDTH, HEIGHT), pytest.approx(MPP))
    for plane in range(3):
        found = slide.read((64, 32), 96, MPP, z=plane).astype(int)
        assert np.abs(found - field(plane)[32:128, 64:160]).mean() < 6
        coarse = slide.read((0, 0), 40, MPP * 8, z=plane)
        assert coarse.shape == (40, 40, 3) and abs(coarse[..., 0].mean() - (60 + 60 * plane)) < 6
    every = slide.read((64, 32), 96, MPP, z="all")
    assert every.shape == (3, 96, 96, 3) and sharpest(every) == 1
    assert np.array_equal(slide.read((64, 32), 96, MPP, z="best"), every[1])
    with pytest.raises(Rejected, match="3 focal planes"):
        slide.read((0, 0), 96, MPP, z=3)


def test_the_planes_of_an_ndpi_are_read_lowest_first(ndpi: Path) -> None:
    pytest.importorskip("fastslide")
    slide = Slide(ndpi)
    assert slide.reader == "openslide hamamatsu, focal planes by fastslide" and not slide.notes
    assert planes.depths(ndpi) == [-4_000, 0, 4_000]
    shown = slide.read((64, 32), 96, MPP).astype(int)  # without a word, the plane that OpenSlide shows
    assert np.abs(shown - slide.read((64, 32), 96, MPP, z=1)).mean() < 2
    check_planes(slide)


def test_without_fastslide_an_ndpi_is_read_at_one_plane_and_says_what_is_missing(
    ndpi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastslide", None)
    slide = Slide(ndpi)
    assert slide.planes == 1 and slide.reader == "openslide hamamatsu"
    assert slide.notes == ("Of its 3 focal planes one is read. The others need fastslide: pip install medvit[planes].",)


def test_another_picture_than_openslides_is_not_believed(ndpi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastslide")
    monkeypatch.setattr(
        planes.FastslidePlanes, "read", lambda self, plane, level, x, y, w, h: np.zeros((h, w, 3), "u1")
    )
    assert Slide(ndpi).planes == 1


@pytest.mark.parametrize("text", ["", OME.format(c=3), OME.format(c=1)])
def test_the_pages_of_a_tiled_tiff_are_planes(tmp_path: Path, text: str) -> None:
    slide = Slide(tiled(tmp_path / "stack.ome.tif", text))
    assert slide.reader.endswith("focal planes by Pillow")
    check_planes(slide)


def test_channels_and_pages_beyond_the_stack_are_no_planes(tmp_path: Path) -> None:
    assert Slide(tiled(tmp_path / "channels.ome.tif", OME.format(c=2))).planes == 1
    assert Slide(tiled(tmp_path / "more.ome.tif", OME.format(c=3), fields=4)).planes == 3
    assert Slide(tiled(tmp_path / "fewer.ome.tif", OME.format(c=3), fields=2)).planes == 1
    pyramids.write_pyramid(tmp_path / "pyramid.tif", field(0), MPP)
    assert Slide(tmp_path / "pyramid.tif").planes == 1


def test_a_cut_ndpi_has_the_planes_that_are_there(ndpi: Path, tmp_path: Path) -> None:
    for length in (3, 11, 40, ndpi.stat().st_size // 2):
        (tmp_path / "cut.ndpi").write_bytes(ndpi.read_bytes()[:length])
        assert len(planes.depths(tmp_path / "cut.ndpi")) < 3

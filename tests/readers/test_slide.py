"""Slides: the right pixels at any resolution, one lost tile for one damaged tile, and a reason for every refusal."""

import multiprocessing
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from medvit import budgets
from medvit.errors import MedvitError, Rejected
from medvit.readers.slide import Slide, read_mpp_table
from medvit.readers.slide_files import over_white
from medvit.readers.slide_open import group_slides
from sample_data.pyramids import Page, cut, halved, jpeg, write_pages, write_pyramid

REAL = Path(__file__).resolve().parents[3] / "shared/data/wsi/open"
SMALL_REGION = REAL / "CMU-1-Small-Region.svs"
APERIO = "Aperio Image Library v1\n600x500|AppMag = {power}|MPP = {mpp}"
real = pytest.mark.real
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/wsi is absent")


def picture(width: int = 900, height: int = 700) -> np.ndarray:
    """Smooth colours that differ everywhere, so that a shift of a pixel shows."""
    v, u = np.mgrid[0:height, 0:width]
    waves = [np.sin(u / 37 + k) * np.cos(v / 29 - k) for k in range(3)]
    return np.rint(128 + 90 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    write_pyramid(tmp_path / "slide.tif", picture(), 0.5, quality=95)
    return tmp_path / "slide.tif"


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(Rejected) as caught:
        make()
    assert len(str(caught.value)) > 8 and str(caught.value).endswith(".")
    return caught.value.reason


def test_size_resolution_and_levels_are_those_of_the_file(pyramid: Path) -> None:
    slide = Slide(pyramid)
    assert slide.size == (900, 700)
    assert slide.mpp == pytest.approx(0.5)
    assert slide.mpp_source == "file"
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    assert slide.bounds == (0, 0, 900, 700)
    assert slide.notes == ()


def test_a_tile_at_the_resolution_of_a_level_is_bit_equal_to_what_openslide_reads(pyramid: Path) -> None:
    with openslide.OpenSlide(pyramid) as raw:
        for level, mpp, xy in ((0, 0.5, (301, 203)), (1, 1.0, (300, 204)), (2, 2.0, (100, 40))):
            expected = np.asarray(raw.read_region(xy, level, (100, 100)).convert("RGB"))
            assert np.array_equal(Slide(pyramid).read(xy, 100, mpp), expected)


def test_a_tile_between_levels_is_what_the_whole_level_gives_resampled(pyramid: Path) -> None:
    whole = Image.fromarray(Slide(pyramid).region((0, 0), (900, 700), 0.5))
    box = (120.0, 80.0, 120.0 + 100 * 1.5, 80.0 + 100 * 1.5)
    expected = np.asarray(whole.resize((100, 100), Image.Resampling.BILINEAR, box=box))
    found = Slide(pyramid).read((120, 80), 100, 0.75)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_neighbouring_tiles_meet_without_a_seam(pyramid: Path) -> None:
    slide = Slide(pyramid)
    both = slide.region((60, 60), (120, 60), 0.8)
    left, right = slide.read((60, 60), 60, 0.8), slide.read((60 + 60 * 1.6, 60), 60, 0.8)
    assert np.abs(np.hstack([left, right]).astype(int) - both).max() <= 1


def test_a_tile_reads_the_coarsest_level_that_need_not_be_enlarged(pyramid: Path) -> None:
    slide = Slide(pyramid)
    numbers = [slide.level_for(mpp).number for mpp in (0.25, 0.5, 0.98, 0.99, 1.0, 1.9, 2.0, 50.0)]
    assert numbers == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("xy", [(-1, 0), (0, -1), (802, 0), (0, 602)])
def test_a_tile_outside_is_refused_and_not_made_up(pyramid: Path, xy: tuple[int, int]) -> None:
    assert refusal(lambda: Slide(pyramid).read(xy, 100, 0.5)) == "out_of_bounds"


def test_the_last_tile_that_fits_holds_no_strip_of_white(pyramid: Path) -> None:
    assert Slide(pyramid).read((800, 600), 100, 0.5).max() < 225
    assert Slide(pyramid).read((700.4, 500.4), 100, 1.0).max() < 225


def test_too_many_pixels_at_once_are_a_sentence(pyramid: Path) -> None:
    write_pages(pyramid, [Page(40_000, 40_000, [jpeg(np.full((256, 256, 3), 200, np.uint8), 70)] * 157**2)], 0.25)
    with pytest.raises(MedvitError, match="too many to read at once"):
        Slide(pyramid).read((0, 0), 1000, 10.0)


def test_an_overview_of_a_slide_with_one_level_is_read_in_blocks(tmp_path: Path) -> None:
    big = picture(2_600, 2_200)
    write_pyramid(tmp_path / "one.tif", big, 0.5, levels=1, quality=95)
    found, unread = Slide(tmp_path / "one.tif").overview(8.0)
    assert found.shape == (137, 162, 3)
    assert not unread.any()
    box = (0, 0, 162 * 16, 137 * 16)
    expected = np.asarray(Image.fromarray(big).resize((162, 137), Image.Resampling.BILINEAR, box=box))
    assert np.abs(found.astype(int) - expected).mean() < 1.5


def test_transparent_pixels_lie_over_white() -> None:
    words = np.array([[0xFF102030, 0x00000000, 0x80400000]], np.uint32)
    assert over_white(words)[0].tolist() == [[0x10, 0x20, 0x30], [255, 255, 255], [0x40 + 127, 127, 127]]


# Resolution


def test_a_slide_without_resolution_is_refused_unless_it_is_given(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", picture(), None)
    with pytest.raises(Rejected, match="--mpp") as caught:
        Slide(tmp_path / "s.tif")
    assert caught.value.reason == "no_mpp"
    assert (Slide(tmp_path / "s.tif", mpp=0.25).mpp, Slide(tmp_path / "s.tif", mpp=0.25).mpp_source) == (0.25, "given")
    slide = Slide(tmp_path / "s.tif", default_mpp=0.5)
    assert (slide.mpp, slide.mpp_source) == (0.5, "default")


def test_the_72_dpi_that_many_writers_put_there_is_no_resolution(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", picture(), 352.8)
    with pytest.raises(Rejected, match="no slide scanner has") as caught:
        Slide(tmp_path / "s.tif")
    assert caught.value.reason == "no_mpp"


def test_a_default_does_not_touch_a_slide_that_says_its_resolution(pyramid: Path) -> None:
    assert Slide(pyramid, default_mpp=0.25).mpp == pytest.approx(0.5)


def test_a_resolution_that_is_given_wins_and_the_difference_is_said(pyramid: Path) -> None:
    slide = Slide(pyramid, mpp=0.25)
    assert slide.mpp == 0.25
    assert slide.notes == ("The file says 0.5 um a pixel; 0.25 was given and is used.",)


def test_a_magnification_that_contradicts_the_resolution_is_said(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "right.svs", picture(), None, levels=1, text=APERIO.format(power=20, mpp=0.499))
    write_pyramid(tmp_path / "wrong.svs", picture(), None, levels=1, text=APERIO.format(power=40, mpp=0.499))
    assert Slide(tmp_path / "right.svs").notes == ()
    (note,) = Slide(tmp_path / "wrong.svs").notes
    assert "40x, which contradicts 0.499 um" in note


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), 400])
def test_a_resolution_that_cannot_be_is_the_commands_fault(pyramid: Path, mpp: float) -> None:
    with pytest.raises(MedvitError, match="micrometres"):
        Slide(pyramid, mpp=mpp)


def test_a_table_gives_resolutions_by_path(tmp_path: Path) -> None:
    (tmp_path / "mpp.csv").write_text("path,mpp\na/b.tif,0.25\nc.tif,0.5\n")
    assert read_mpp_table(tmp_path / "mpp.csv") == {tmp_path / "a/b.tif": 0.25, tmp_path / "c.tif": 0.5}
    for row in ("c.tif,0.5\nc.tif,0.25", "c.tif,twenty", "c.tif,nan"):
        (tmp_path / "mpp.csv").write_text(f"path,mpp\n{row}\n")
        with pytest.raises(MedvitError, match=r"mpp\.csv:[23]"):
            read_mpp_table(tmp_path / "mpp.csv")


# Damage


def test_one_damaged_tile_costs_one_tile(tmp_path: Path) -> None:
    pixels = picture(1_024, 1_024)
    tiles = [jpeg(tile, 90) for tile in cut(pixels)]
    sound, damaged = tmp_path / "sound.tif", tmp_path / "damaged.tif"
    write_pages(sound, [Page(1_024, 1_024, tiles)], 0.5, 90)
    write_pages(damaged, [Page(1_024, 1_024, [*tiles[:5], b"\xff" * 900, *tiles[6:]])], 0.5, 90)
    whole, slide = Slide(sound), Slide(damaged)
    lost = []
    for y in range(0, 1_024, 256):
        for x in range(0, 1_024, 256):
            try:
                assert np.array_equal(slide.read((x, y), 256, 0.5), whole.read((x, y), 256, 0.5))
            except Rejected as refused:
                assert refused.reason == "tile"
                lost.append((x, y))
    assert lost == [(256, 256)]


def test_an_overview_marks_what_could_not_be_read(tmp_path: Path) -> None:
    tiles = [jpeg(tile, 90) for tile in cut(picture(1_024, 1_024))]
    write_pages(tmp_path / "s.tif", [Page(1_024, 1_024, [*tiles[:5], b"\xff" * 900, *tiles[6:]])], 0.5, 90)
    found, unread = Slide(tmp_path / "s.tif").overview(8.0)
    assert unread.shape == found.shape[:2] == (64, 64)
    assert unread[16:32, 16:32].all()
    assert not unread[:12].any() and not unread[36:].any() and not unread[:, :12].any() and not unread[:, 36:].any()


def test_a_level_that_is_reduced_unlike_on_both_axes_is_not_used(tmp_path: Path) -> None:
    pixels = picture(1_024, 768)
    squeezed = np.asarray(Image.fromarray(pixels).resize((512, 192)))
    pages = [
        Page(p.shape[1], p.shape[0], [jpeg(t, 90) for t in cut(p)]) for p in (pixels, squeezed, halved(halved(pixels)))
    ]
    write_pages(tmp_path / "s.tif", pages, 0.5, 90)
    slide = Slide(tmp_path / "s.tif")
    assert [level.number for level in slide.levels] == [0, 2]
    assert slide.notes == ("Level 1 is reduced 2 times across and 4 times down; it is not used.",)
    expected = np.asarray(Image.fromarray(pixels).resize((256, 192), Image.Resampling.BILINEAR))[46:146, 78:178]
    assert np.abs(slide.read((312, 184), 100, 2.0).astype(int) - expected).mean() < 3


def test_levels_whose_sides_are_rounded_to_whole_pixels_are_trusted(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", picture(301, 251), 0.5, levels=4)
    assert len(Slide(tmp_path / "s.tif").levels) == 4


def test_every_kind_of_unreadable_file_has_its_own_reason(pyramid: Path, tmp_path: Path) -> None:
    whole = pyramid.read_bytes()
    cases = {
        "missing.svs": (None, "missing"),
        "empty.svs": (b"", "empty"),
        "text.svs": (b"a note about a slide", "unsupported"),
        "half.tif": (whole[: len(whole) // 2], "truncated"),
        "tail.tif": (with_a_tile_behind_the_end(tmp_path / "front.tif"), "truncated"),
        "zeros.tif": (b"II*\0" + bytes(400), "no_slide"),
        "circle.tif": (b"II*\0" + struct.pack("<IHI", 8, 0, 8), "unreadable"),
        "lonely.mrxs": (b"\xff\xd8\xff\xe0" + bytes(200), "incomplete_mrxs"),
        "broken.png": (b"\x89PNG\r\n\x1a\n" + bytes(90), "undecodable"),
    }
    found = {}
    for name, (content, _) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        found[name] = refusal(lambda path=tmp_path / name: Slide(path, default_mpp=0.5))
    assert found == {name: reason for name, (_, reason) in cases.items()}


def with_a_tile_behind_the_end(path: Path) -> bytes:
    """A TIFF that was cut although its directories, which lie before the pixels in some files, are whole."""
    tiles = [jpeg(tile, 70) for tile in cut(picture(512, 256))]
    write_pages(path, [Page(512, 256, tiles)], 0.5)
    data = path.read_bytes()
    offsets = struct.pack("<2I", 8, 8 + len(tiles[0]))
    assert data.count(offsets) == 1
    return data.replace(offsets, struct.pack("<2I", 8, len(data) - 10))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_called_so(pyramid: Path) -> None:
    pyramid.chmod(0)
    assert refusal(lambda: Slide(pyramid)) == "unreadable"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slide.svs")
    assert refusal(lambda: Slide(tmp_path / "slide.svs")) == "not_a_file"


# Pictures


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_plain_picture_is_a_slide_once_its_resolution_is_given(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"region.{suffix}"
    Image.fromarray(picture()).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    assert refusal(lambda: Slide(path)) == "no_mpp"
    slide = Slide(path, mpp=1.0)
    assert slide.size == (900, 700)
    assert np.abs(slide.read((10, 20), 64, 1.0).astype(int) - picture()[20:84, 10:74]).mean() < 2


def test_a_picture_with_transparency_lies_over_white_and_16_bits_are_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (Slide(tmp_path / "clear.png", mpp=1).read((0, 0), 40, 1.0) == 255).all()
    Image.fromarray(np.full((40, 40), 4_000, np.uint16)).save(tmp_path / "deep.png")
    assert refusal(lambda: Slide(tmp_path / "deep.png", mpp=1)) == "bits"


# Processes


def mean_of_tile(slide: Slide) -> float:
    return float(slide.read((0, 0), 100, 0.5).mean())


def test_a_slide_goes_to_other_processes_by_fork_and_by_pickle(pyramid: Path) -> None:
    slide = Slide(pyramid)
    expected = mean_of_tile(slide)
    copied = pickle.loads(pickle.dumps(slide))  # noqa: S301, our own
    assert copied._source is None and mean_of_tile(copied) == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(mean_of_tile, [slide]) == [expected]
    assert mean_of_tile(slide) == expected


def test_a_closed_slide_opens_again_when_it_is_read(pyramid: Path) -> None:
    slide = Slide(pyramid)
    expected = mean_of_tile(slide)
    slide.close()
    slide.close()
    assert mean_of_tile(slide) == expected


# Real slides


def test_a_slide_larger_than_any_film_may_be_is_read_by_seeking(pyramid: Path) -> None:
    tile = Slide(pyramid).read((100, 60), 64, 1.0)
    with pyramid.open("r+b") as file:
        file.truncate(3 * budgets.GIB)  # sparse: nothing of it lies on the disk
    assert pyramid.stat().st_size > budgets.FILE_BYTES
    assert np.array_equal(Slide(pyramid).read((100, 60), 64, 1.0), tile)


@real
@needs_real
def test_every_real_slide_is_read_or_refused_with_a_pinned_reason() -> None:
    files = [path for path in sorted(REAL.rglob("*")) if path.is_file()]
    found = {}
    for group in group_slides(files):
        name = group[0].relative_to(REAL).as_posix()
        try:
            slide = Slide(group[0])
            slide.read((0, 0), 32, slide.mpp)
            found[name] = (len(group), slide.reader, slide.size, round(slide.mpp, 4))
        except Rejected as refused:
            found[name] = (len(group), refused.reason)
    assert found == {
        "CMU-1-Small-Region.svs": (1, "openslide aperio", (2220, 2967), 0.499),
        "broken.svs": (1, "unsupported"),
        "multiframe_camelyon_challenge_image.dcm": (1, "openslide dicom", (1152, 700), 28.9685),
        "small_HE_levels.tiff": (1, "no_mpp"),
        "small_dicom_tcga_prad.dcm": (1, "incomplete_dicom"),
        "test3-DAPI-2-(387).ndpi": (1, "openslide hamamatsu", (3968, 4864), 0.2282),
        "wg26_FluorCell_4/10_0.dcm": (9, "wsidicom", (1408, 1408), 2.58),
    }


@real
@needs_real
def test_a_folder_of_one_dicom_series_is_one_slide() -> None:
    slide = Slide(REAL / "wg26_FluorCell_4")
    assert [level.downsample for level in slide.levels] == [1, 2, 4, 8, 16, 32, 64]
    fine, coarse = slide.region((0, 0), (176, 176), 20.64), slide.region((0, 0), (704, 704), 5.16)
    shrunk = np.asarray(Image.fromarray(coarse).resize((176, 176), Image.Resampling.BOX))
    assert np.abs(fine.astype(int) - shrunk).mean() < 3
    assert refusal(lambda: Slide(REAL)) == "several_slides"


@real
@needs_real
@pytest.mark.parametrize("mpp, most", [(0.5, 0.1), (1.0, 0.1)])
def test_a_tile_differs_little_from_the_same_region_resampled_from_level_0(mpp: float, most: float) -> None:
    """Against Pillow's own shrinking of level 0 read whole by OpenSlide; mean absolute difference in grey values."""
    with openslide.OpenSlide(SMALL_REGION) as raw:
        level0 = raw.read_region((0, 0), 0, raw.dimensions).convert("RGB")
    slide = Slide(SMALL_REGION)
    side = 224 * mpp / slide.mpp
    worst = 0.0
    for x, y in ((900, 600), (1000, 1500), (751, 2203)):
        resampled = level0.resize((224, 224), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
        tile = slide.read((x, y), 224, mpp).astype(int)
        assert tile.std() > 10
        worst = max(worst, float(np.abs(tile - np.asarray(resampled)).mean()))
    assert worst < most


@real
@needs_real
def test_a_cut_real_slide_is_called_truncated(tmp_path: Path) -> None:
    data = SMALL_REGION.read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: len(data) * 2 // 3])
    assert refusal(lambda: Slide(tmp_path / "cut.svs")) == "truncated"

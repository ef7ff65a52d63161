"""MIRAX slides: a file and its folder are one slide, read where it was scanned, and refused when either is not whole."""

from pathlib import Path

import numpy as np
import pytest
import tiny_mirax
import tiny_slides
import torch

from medvit.case import MICROSCOPY
from medvit.data.features import Features
from medvit.discover import discover
from medvit.errors import Rejected
from medvit.guard import Pool
from medvit.readers.headers import duties
from medvit.readers.slide import Slide
from medvit.readers.tiles import find_tiles
from medvit.systems.self_vit_mil import SelfViTMIL

LEFT, TOP = 2 * tiny_mirax.STEP, tiny_mirax.STEP  # corner of the scanned part
TISSUE = tiny_slides.draw(3, True)[0]


def write(path: Path, scanned: np.ndarray) -> Path:
    """A slide with what was scanned (H, W, 3) at its lower right; the margin that photographs of glass would show is bare."""
    height, width = scanned.shape[:2]
    pixels = np.full((TOP + height, LEFT + width, 3), tiny_mirax.GLASS, np.uint8)
    pixels[TOP:, LEFT:] = scanned
    pixels[: TOP + tiny_mirax.SHARED] = pixels[:, : LEFT + tiny_mirax.SHARED] = tiny_mirax.GLASS
    return tiny_mirax.write_mirax(path, pixels, 0.5)


@pytest.fixture
def mrxs(tmp_path: Path) -> Path:
    return write(tmp_path / "in/slide.mrxs", TISSUE)


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        Slide(path)
    return caught.value.reason, str(caught.value)


def test_pixels_resolution_and_the_scanned_part_are_those_of_the_file(tmp_path: Path) -> None:
    v, u = np.mgrid[:256, :256]
    waves = [np.sin(u / 17 + k) * np.cos(v / 13 - k) for k in range(3)]  # a shift of a pixel makes 2 grey values
    scanned = np.rint(128 + 90 * np.stack(waves, -1)).astype(np.uint8)
    slide = Slide(write(tmp_path / "slide.mrxs", scanned))
    assert (slide.reader, slide.size, slide.mpp, slide.mpp_source) == ("openslide mirax", (400, 344), 0.5, "file")
    assert slide.bounds == (LEFT, TOP, 288, 288) and slide.notes == ()
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    assert (slide.read((0, 0), 48, 0.5) == tiny_mirax.GLASS).all()
    for x, y, size, mpp in ((40, 30, 32, 0.5), (8, 8, 248, 0.5), (8, 8, 124, 1.0), (64, 64, 48, 2.0)):
        step = round(mpp / 0.5)
        true = scanned[y : y + size * step, x : x + size * step].reshape(size, step, size, step, 3).mean((1, 3))
        assert np.abs(slide.read((LEFT + x, TOP + y), size, mpp) - true).mean() < 1.5, (x, y, mpp)


def test_tiles_begin_where_the_scanned_part_does(mrxs: Path) -> None:
    found = find_tiles(Slide(mrxs), 48, 0.5, min_tissue=0)
    columns, rows = np.meshgrid(LEFT + 48 * np.arange(6), TOP + 48 * np.arange(6))
    assert found.coords.tolist() == np.stack([columns.ravel(), rows.ravel()], 1).tolist()


def test_a_file_and_its_folder_are_one_input_to_answer(mrxs: Path) -> None:
    (mrxs.parent / "notes.txt").write_text("of nobody")
    found = discover([mrxs.parent], Pool(0, duties), lambda case: None)
    assert [(one.case.modality, one.case.files) for one in found if one.case] == [(MICROSCOPY, (mrxs,))]
    told = {Path(one.path).name: one.refusal.reason for one in found if one.refusal}
    assert told == {
        **dict.fromkeys((path.name for path in mrxs.with_suffix("").iterdir()), "slide_part"),
        "notes.txt": "not_an_image",
    }


def test_it_is_described_like_the_same_pixels_in_a_tiff(mrxs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = SelfViTMIL(["tumour"], **{**tiny_slides.NET, "tile_mpp": 0.5, "min_tissue": 0.9}).eval()
    tiny_slides.write_pyramid(tmp_path / "in/same.tif", TISSUE, 0.5, quality=95)
    cases = [one.case for one in discover([tmp_path / "in"], Pool(0, duties), lambda case: None) if one.case]
    told = {case.files[0].name: answer for case, answer, _ in system.embed(cases, 0, torch.no_grad())}
    ours, same = told["slide.mrxs"], told["same.tif"]
    assert isinstance(ours, Features) and isinstance(same, Features)
    assert len(ours) == 36 and (ours.coords - (LEFT, TOP)).tolist() == same.coords.tolist() and ours.valid.all()
    assert ours.facts["reader"] == "openslide mirax" and ours.grid.mpp == 0.5
    lengths = np.linalg.norm(ours.features, axis=1) * np.linalg.norm(same.features, axis=1)
    alike = (ours.features * same.features).sum(1) / lengths
    assert alike.min() > 0.99


@pytest.mark.parametrize("lost", ["Slidedat.ini", "Index.dat", "Data0002.dat"])
def test_a_slide_whose_folder_is_not_whole_is_a_sentence(mrxs: Path, lost: str) -> None:
    (mrxs.with_suffix("") / lost).unlink()
    reason, said = refusal(mrxs)
    assert (
        reason == "incomplete_mrxs"
        and said == "Its folder of the same name is missing or damaged. Copy both, not in a zip."
    )


def test_a_slide_without_its_folder_is_a_sentence(mrxs: Path) -> None:
    alone = mrxs.rename(mrxs.with_name("alone.mrxs"))
    assert refusal(alone)[0] == "incomplete_mrxs"


@pytest.mark.parametrize("level", [0, 1])
def test_a_data_file_that_was_cut_is_named_with_its_bytes(mrxs: Path, level: int) -> None:
    file = mrxs.with_suffix("") / f"Data{level:04d}.dat"
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2):
        file.write_bytes(whole[:size])
        reason, said = refusal(mrxs)
        assert reason == "truncated" and f"{file.name} has {size} of at least {len(whole)} bytes" in said
    file.unlink()
    assert refusal(mrxs)[0] == "truncated"

"""Heat maps on disk: numbers that numpy reads, pictures that show the film where nothing was relevant."""

import json
from pathlib import Path

import numpy as np
import pytest
from answers import RUN
from PIL import Image as Pillow

from medvit import NOTICE
from medvit.case import Case
from medvit.codes import labels_of
from medvit.image import Fit, Image
from medvit.result import Finding, Heatmap, Result
from medvit.writers.heat import overlay, write_heat
from medvit.writers.picture import CAPTION_MIN_ROWS

RNG = np.random.default_rng(0)
FILM = (RNG.random((1, 150, 181)) * 0.8).astype(np.float32)
FIT = Fit((150, 181), (64, 64), (10.5, 20.25, 130.5, 140.25))
MASS, NODULE = labels_of(["Mass", "Nodule"])


def peaked(row: int, column: int) -> np.ndarray:
    values = np.zeros((8, 8), np.float32)
    values[row, column] = 0.7
    return values


def result(*maps: Heatmap, film: np.ndarray = FILM) -> Result:
    return Result(
        Case("1.2.3", "DX", (Path("film.dcm"),)),
        findings=(Finding(MASS, 0.83), Finding(NODULE, 0.61)),
        heatmaps=maps,
        read=lambda case: Image(film),
    )


MAP = Heatmap(MASS, peaked(2, 5), FIT, "gradient x attention")


def test_the_numbers_are_read_back_by_numpy_without_pickle(tmp_path) -> None:
    write_heat(result(MAP), tmp_path, RUN)
    with np.load(tmp_path / "heat_Mass.npz", allow_pickle=False) as file:
        assert set(file.files) == {"values", "box", "source", "model", "about"}
        np.testing.assert_array_equal(file["values"], MAP.values)
        assert file["values"].dtype == np.float32
        assert tuple(file["box"]) == FIT.box
        assert tuple(file["source"]) == FIT.source
        assert tuple(file["model"]) == FIT.model
        about = json.loads(str(file["about"]))
    assert about == {
        "label": "Mass", "code": "SCT:4147007", "method": "gradient x attention", "notice": NOTICE,
        "system": "ThoraxMAE", "version": "0.1.0", "weights_sha256": RUN.digest,
    }  # fmt: skip


def test_every_map_becomes_two_files_and_both_are_returned(tmp_path) -> None:
    written = write_heat(result(MAP, MAP._replace(label=NODULE)), tmp_path / "case", RUN)
    names = ["heat_Mass.npz", "heat_Mass.png", "heat_Nodule.npz", "heat_Nodule.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "case").iterdir()) == names


def test_without_maps_or_pixels_nothing_is_written(tmp_path) -> None:
    assert write_heat(result(), tmp_path, RUN) == []
    assert write_heat(Result(Case("u", "DX", ()), heatmaps=(MAP,)), tmp_path, RUN) == []
    assert list(tmp_path.iterdir()) == []


def test_the_picture_has_the_size_of_the_source_and_carries_the_notice(tmp_path) -> None:
    write_heat(result(MAP), tmp_path, RUN)
    with Pillow.open(tmp_path / "heat_Mass.png") as picture:
        assert (picture.height, picture.width) == FIT.source
        assert picture.mode == "RGB"
        said, maker = picture.text["Description"], picture.text["Software"]
    for words in (NOTICE, "Mass 0.83", "regions that influenced this score", "gradient x attention"):
        assert words in said
    assert maker == f"ThoraxMAE, medvit 0.1.0, weights SHA-256 {RUN.digest}"


def test_the_picture_differs_from_the_film_only_where_relevance_is_high(tmp_path) -> None:
    assert FILM.shape[1] < CAPTION_MIN_ROWS  # no caption is in the way
    write_heat(result(MAP), tmp_path, RUN)
    picture = np.asarray(Pillow.open(tmp_path / "heat_Mass.png")).astype(int)
    grey = (FILM[0] * 255).round().astype(int)[..., None]
    changed = np.abs(picture - grey).max(-1) > 1
    relevance = FIT.to_source(MAP.values)
    assert not changed[relevance == 0].any()
    assert changed[relevance > 0.9 * relevance.max()].all()
    assert 0 < changed.mean() < 0.05
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() + 0.5 - (10.5 + 120 * 2.5 / 8)) < 2
    assert abs(columns.mean() + 0.5 - (20.25 + 120 * 5.5 / 8)) < 2


def test_the_more_relevant_the_more_colour() -> None:
    film = np.full((10, 100), 0.5, np.float32)
    relevance = np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(10, 0)
    seen = overlay(film, relevance).astype(int)
    distance = np.abs(seen - 128).sum(-1)[0]
    assert (distance[:60] <= 3).all()  # below the quantile the film stays as it is
    assert distance[-1] > distance[75] > 3
    assert seen[0, -1, 0] > seen[0, -1, 2]  # the hot end is no grey


@pytest.mark.parametrize("values", [np.zeros((8, 8), np.float32), np.full((8, 8), 0.3, np.float32)])
def test_a_map_without_contrast_colours_nothing(values) -> None:
    film = FILM[0]
    seen = overlay(film, Fit(film.shape, (64, 64), (0, 0, *film.shape)).to_source(values))
    np.testing.assert_array_equal(seen, (film * 255).round().astype(np.uint8)[..., None].repeat(3, -1))


def test_a_large_picture_carries_the_caption_in_its_pixels(tmp_path) -> None:
    film = np.full((1, 400, 500), 0.5, np.float32)
    fit = Fit((400, 500), (64, 64), (0, 50, 400, 450))
    write_heat(result(MAP._replace(fit=fit), film=film), tmp_path, RUN)
    picture = np.asarray(Pillow.open(tmp_path / "heat_Mass.png"))
    assert picture.shape == (400, 500, 3)
    assert picture[-12:].max() > 200  # letters
    assert np.median(picture[-12:]) == 0  # on a dark line
    assert (picture[-40:-20, :10] == 128).all()  # and no higher


def test_a_second_run_writes_the_same_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        write_heat(result(MAP), tmp_path / name, RUN)
    for name in ("heat_Mass.npz", "heat_Mass.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_label_cannot_lead_out_of_the_folder(tmp_path) -> None:
    (label,) = labels_of(["../../Mass v1.5"])
    heat, findings = MAP._replace(label=label), (Finding(label, 0.9),)
    odd = Result(Case("u", "DX", ()), findings=findings, heatmaps=(heat,), read=lambda case: Image(FILM))
    written = write_heat(odd, tmp_path / "case", RUN)
    assert {path.parent for path in written} == {tmp_path / "case"}
    assert len(list((tmp_path / "case").iterdir())) == 2

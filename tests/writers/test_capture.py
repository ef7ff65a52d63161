"""The secondary capture: read back by pydicom, its pixels looked at."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from answers import COLUMNS, LABELS, ROWS, RUN, answer, pixels

from medvit.image import Image
from medvit.result import Finding
from medvit.writers.capture import LINE, MAPS, PANEL, draw, strongest, write_capture

WIDE = round(PANEL * COLUMNS / ROWS)  # of a panel of the film of `answers`


@pytest.fixture
def film(make_film, tmp_path):
    return make_film(tmp_path / "in/film.dcm", pixels(), PatientOrientation=["R", "F"], Laterality="L")


@pytest.fixture
def capture(film, tmp_path):
    (path,) = write_capture(answer(film), tmp_path / "out", RUN)
    assert path.name == "capture_sc.dcm"
    return pydicom.dcmread(path)


def test_the_object_says_that_it_is_derived_burnt_in_and_lossy(capture) -> None:
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.ConversionType == "SYN"
    assert capture.SeriesDescription == "AI overlay, RESEARCH USE ONLY, NOT FOR DIAGNOSIS"
    assert "not for diagnosis" in capture.DerivationDescription
    assert (capture.LossyImageCompression, capture.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert capture.LossyImageCompressionRatio > 2
    assert (capture.SamplesPerPixel, capture.BitsStored) == (3, 8)
    assert "PixelSpacing" not in capture  # nothing may be measured on it


def test_the_object_leads_to_the_film(capture, film) -> None:
    source = pydicom.dcmread(film)
    (origin,) = capture.SourceImageSequence
    assert (origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID) == (
        source.SOPClassUID,
        source.SOPInstanceUID,
    )
    assert origin.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_sides_are_those_of_the_film(capture, make_film, tmp_path) -> None:
    assert capture.PatientOrientation == ["R", "F"]
    assert (capture.Laterality, capture.BodyPartExamined) == ("L", "CHEST")
    plain = make_film(tmp_path / "in/plain.dcm", pixels())
    without = pydicom.dcmread(write_capture(answer(plain), tmp_path / "plain", RUN)[0])
    assert not without.PatientOrientation
    assert "Laterality" not in without


def test_the_decoded_picture_is_the_drawn_one(capture, film) -> None:
    result = answer(film)
    drawn = draw(result.read(result.case).pixels[0], result, RUN)
    shown = capture.pixel_array
    assert shown.shape == drawn.shape == (capture.Rows, capture.Columns, 3)
    assert np.abs(shown.astype(int) - drawn).mean() < 3


def test_panels_show_the_film_and_its_strongest_positive_maps_where_they_lie(film) -> None:
    result = replace(answer(film), read=lambda case: Image(np.full((1, ROWS, COLUMNS), 0.5, np.float32)))
    sheet = draw(result.read(result.case).pixels[0], result, RUN).astype(int)
    coloured = np.ptp(sheet, axis=-1) > 30
    first, second = (coloured[LINE : LINE + PANEL, start : start + WIDE] for start in (0, WIDE))
    assert not first.any()
    rows, columns = np.nonzero(second)
    assert 0 < second.mean() < 0.2
    heat = result.heatmaps[0]  # of Mass, the likelier: two patches of 75 / 8 source pixels at row 1 and 2, column 5
    centre = np.array([5 + 75 * 2 / 8, -3 + 75 * 5.5 / 8]) * PANEL / ROWS
    assert np.abs(np.array([rows.mean(), columns.mean()]) - centre).max() < PANEL / 18
    third = coloured[2 * LINE + PANEL : 2 * LINE + 2 * PANEL, :WIDE]
    assert third.any()
    assert heat.label.name == "Mass"


def test_maps_are_those_of_positive_findings_the_strongest_first(film) -> None:
    result = answer(film)
    many = tuple(result.heatmaps[0]._replace(label=label) for label in LABELS)
    shown = strongest(replace(result, heatmaps=many))
    assert [heat.label.name for heat, _ in shown] == ["Pneumonia", "Mass", "Pleural_Thickening"]
    assert len(shown) == MAPS
    assert all(finding.positive for _, finding in shown)


def test_a_negative_film_is_shown_with_its_probabilities_too(film, tmp_path) -> None:
    result = replace(answer(film), findings=tuple(Finding(label, 0.1) for label in LABELS))
    (path,) = write_capture(result, tmp_path / "out", RUN)
    shown = pydicom.dcmread(path).pixel_array
    assert shown.shape[1] == max(WIDE, 640)
    words = shown[LINE + PANEL :].astype(int)
    assert (words.max(-1) > 200).sum() > 500  # there are letters below the film
    amber = (words[..., 0] > 200) & (words[..., 2] < 130)
    assert amber[:LINE].any()  # the warning
    assert not amber[LINE:].any()  # and nothing that is present


@pytest.mark.parametrize("shape", [(3000, 20), (20, 3000), (1, 1)])
def test_films_of_any_shape_are_drawn(film, shape) -> None:
    result = replace(answer(film), heatmaps=())
    sheet = draw(np.zeros(shape, np.float32), result, RUN)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] >= 640

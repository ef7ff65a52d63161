"""Parametric Maps, read back by pydicom and numpy."""

import numpy as np
import pydicom
import pytest
from answers import COLUMNS, ROWS, RUN, answer, pixels

from medvit.writers.parametric import write_parametric


@pytest.fixture
def film(make_film, tmp_path):
    return make_film(tmp_path / "in/film.dcm", pixels(), ImagerPixelSpacing=[0.2, 0.1])


@pytest.fixture
def written(film, tmp_path):
    return write_parametric(answer(film), tmp_path / "out", RUN)


def test_stored_values_are_the_heat_map_over_the_film(written, film) -> None:
    assert [path.name for path in written] == ["map_pm_Mass.dcm", "map_pm_Pneumothorax.dcm"]
    for path, heat in zip(written, answer(film).heatmaps, strict=True):
        wanted = heat.fit.to_source(heat.values)
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, wanted)
        plain = pydicom.dcmread(path)
        stored = np.frombuffer(plain.FloatPixelData, "<f4").reshape(ROWS, COLUMNS)
        np.testing.assert_array_equal(stored, wanted)
        halves = stored[: ROWS // 2].sum(), stored[ROWS // 2 :].sum()
        assert (halves[0] > halves[1]) == (heat.label.name == "Mass")
        assert stored[:, COLUMNS // 2 :].sum() > 0 == stored[:, : COLUMNS // 4].sum()


def test_the_quantity_is_a_saliency_map_without_unit(written) -> None:
    shared = pydicom.dcmread(written[0]).SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.LUTLabel == "Mass"
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ("130404", "DCM")


def test_the_invented_plane_is_said_so_and_shared_by_all_objects_about_the_film(written) -> None:
    maps = [pydicom.dcmread(path) for path in written]
    for image in maps:
        assert image.ContentDescription == "SYNTHETIC GEOMETRY for viewers, NOT FOR MEASURING"
        assert image.ContentQualification == "RESEARCH"
        shared = image.SharedFunctionalGroupsSequence[0]
        assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.2, 0.1]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        position = (
            image.PerFrameFunctionalGroupsSequence[0].get("PlanePositionSequence") or shared.PlanePositionSequence
        )[0]
        assert position.ImagePositionPatient == [0, 0, 0]
    assert len({image.FrameOfReferenceUID for image in maps}) == 1
    assert len({image.SeriesInstanceUID for image in maps}) == 2  # viewers show the first map of a series only
    assert len({image.SeriesNumber for image in maps}) == 2


def test_each_frame_leads_to_the_film(written, film) -> None:
    source = pydicom.dcmread(film).SOPInstanceUID
    image = pydicom.dcmread(written[0])
    assert image.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source
    assert source.encode() in written[0].read_bytes()


def test_a_film_on_a_plane_keeps_its_own(make_film, tmp_path) -> None:
    path = make_film(
        tmp_path / "in/slice.dcm", pixels(), Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        PixelSpacing=[0.5, 0.5], ImagePositionPatient=[1, 2, 3.5], ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        FrameOfReferenceUID="1.2.3.4",
    )  # fmt: skip
    image = pydicom.dcmread(write_parametric(answer(path), tmp_path, RUN._replace(synthetic_geometry=False))[0])
    assert image.FrameOfReferenceUID == "1.2.3.4"
    assert image.ContentDescription == "Plane of the source image"
    shared = image.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 0, -1]


def test_a_map_without_any_relevance_is_written_too(film, tmp_path) -> None:
    result = answer(film)
    flat = result.heatmaps[0]._replace(values=np.zeros((8, 8), np.float32))
    (path,) = write_parametric(type(result)(result.case, result.findings, (), (flat,)), tmp_path, RUN)
    assert not np.frombuffer(pydicom.dcmread(path).FloatPixelData, "<f4").any()

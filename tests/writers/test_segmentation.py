"""Segmentations, read back by highdicom."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from answers import MASS, RUN, answer, masks, pixels
from highdicom.seg import segread
from highdicom.sr import srread

from medvit.errors import Unanswered
from medvit.result import Region
from medvit.writers.parametric import write_parametric
from medvit.writers.report import write_report
from medvit.writers.segmentation import write_segmentation


@pytest.fixture
def film(make_film, tmp_path):
    return make_film(tmp_path / "in/film.dcm", pixels(), ImagerPixelSpacing=[0.2, 0.2])


@pytest.fixture
def written(film, tmp_path):
    (path,) = write_segmentation(answer(film), tmp_path / "out", RUN)
    return path


def test_voxels_are_the_masks_which_may_overlap(written, film) -> None:
    assert written.name == "seg.dcm"
    source = pydicom.dcmread(film).SOPInstanceUID
    planes = segread(written).get_pixels_by_source_instance([source])  # (1, H, W, segments)
    np.testing.assert_array_equal(planes[0].astype(bool), np.stack(masks(), axis=-1))
    assert (masks()[0] & masks()[1]).any()


def test_segments_say_what_they_are_and_who_drew_them(written) -> None:
    segments = segread(written)
    assert segments.segmentation_type.value == "BINARY"
    first, second = (segments.get_segment_description(number) for number in (1, 2))
    assert (first.segment_label, second.segment_label) == ("Mass", "Pleural_Thickening")
    assert first.segmented_property_type.value == "4147007"
    assert second.segmented_property_type.scheme_designator == "99MEDVIT"
    assert first.segmented_property_category.value == "49755003"
    assert first.algorithm_type.value == "AUTOMATIC"
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ThoraxMAE", "0.1.0")
    assert RUN.digest in algorithm.AlgorithmParameters


def test_a_region_is_tracked_under_the_uid_of_its_finding_in_the_report(written, film, tmp_path) -> None:
    report = srread(write_report(answer(film), tmp_path, RUN)[0])
    uids = {group.tracking_identifier: group.tracking_uid for group in report.content.get_image_measurement_groups()}
    for number in (1, 2):
        segment = segread(written).get_segment_description(number)
        assert uids[segment.tracking_id] == segment.tracking_uid


def test_the_plane_is_that_of_the_heat_maps(written, film, tmp_path) -> None:
    image = pydicom.dcmread(written)
    heat = pydicom.dcmread(write_parametric(answer(film), tmp_path, RUN)[0])
    assert image.FrameOfReferenceUID == heat.FrameOfReferenceUID
    assert image.ContentDescription.startswith("SYNTHETIC GEOMETRY")


def test_an_empty_mask_is_an_answer_too(film, tmp_path) -> None:
    empty = Region(MASS, np.zeros_like(masks()[0]), 0.1)
    (path,) = write_segmentation(replace(answer(film), regions=(empty,)), tmp_path, RUN)
    assert not pydicom.dcmread(path).pixel_array.any()


def test_masks_of_more_slices_than_there_are_files_are_refused_in_a_sentence(film, tmp_path) -> None:
    volume = Region(MASS, np.zeros((2, 3, 4), bool), 0.1)
    with pytest.raises(Unanswered, match=r"on no plane|do not fit"):
        write_segmentation(replace(answer(film), regions=(volume,)), tmp_path, RUN)

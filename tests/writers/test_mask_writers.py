"""Masks of oblique volumes come back on the same voxels through nibabel and highdicom; pictures have the source's size."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny_volumes
from answers import RUN, dicom_errors
from highdicom.seg import segread
from PIL import Image as Pillow
from scipy.ndimage import binary_erosion

from medvit.case import Case
from medvit.codes import Label, code_of
from medvit.errors import Unreferable
from medvit.readers.scan import Grey, read_scan
from medvit.result import Region, Result
from medvit.writers.masks import COLOURS, _steps, _with_legend, drawn, write_mask_pictures
from medvit.writers.nifti import write_nifti
from medvit.writers.segmentation import write_segmentation
from medvit.writers.table import masks_of

NAMES = ("liver", "Nodule", "my own")


def result_of(files: list[Path], modality: str, masks: list[np.ndarray], spacing=None) -> Result:
    regions = tuple(
        Region(Label(name, code_of(name)), mask, 0.8, spacing) for name, mask in zip(NAMES, masks, strict=False)
    )
    case = Case("u", modality, tuple(files))
    return Result(case, regions=regions, read=lambda case: read_scan(case.files, case.modality, Grey()))


@pytest.fixture
def series(tmp_path: Path) -> tuple[list[Path], list[np.ndarray]]:
    """Files in no order, and masks with a voxel in a corner that no mirror image has."""
    volume, mask = tiny_volumes.block()
    files = tiny_volumes.write_series(tmp_path / "in", volume)
    corner = mask == 2
    corner[0, 0, 0] = corner[1, 2, 25] = True
    return sorted(files), [mask == 1, corner, np.zeros_like(corner)]


def test_a_segmentation_of_an_oblique_series_is_clean_and_each_frame_lies_on_its_slice(series, tmp_path) -> None:
    files, masks = series
    (path,) = write_segmentation(result_of(files, "CT", masks), tmp_path / "out", RUN)
    assert dicom_errors(path) == []
    segments = segread(path)
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    across, down = tiny_volumes.cosines()
    normal = np.cross(across, down)
    in_place = sorted(headers, key=lambda one: float(np.array(one.ImagePositionPatient, float) @ normal))
    voxels = segments.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in in_place], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(voxels.astype(bool), np.stack(masks, axis=-1))
    # By geometry alone: highdicom's own volume of the segment, at the affine of the source.
    volume = segments.get_volume(segment_numbers=[2], combine_segments=True)
    to_series = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ tiny_volumes.oblique()) @ volume.affine
    marked = np.argwhere(np.asarray(volume.array) > 0)
    placed = np.round((to_series @ np.c_[marked, np.ones(len(marked))].T)[:3]).astype(int)
    back = np.zeros(tiny_volumes.SHAPE[::-1], bool)
    back[tuple(placed)] = True
    np.testing.assert_array_equal(back.transpose(2, 1, 0), masks[1])


@pytest.mark.parametrize("kind", ["series", "nifti"])
def test_a_nifti_of_an_oblique_volume_lies_where_its_source_lies(series, tmp_path, kind) -> None:
    files, masks = series
    if kind == "nifti":
        files = [tiny_volumes.write_nifti(tmp_path / "v.nii.gz", tiny_volumes.block()[0], tiny_volumes.oblique())]
    written = write_nifti(result_of(files, "CT" if kind == "series" else "NIFTI", masks), tmp_path / "out", RUN)
    assert [path.name for path in written] == ["mask_liver.nii.gz", "mask_Nodule.nii.gz", "mask_my-own.nii.gz"]
    for path, mask in zip(written, masks, strict=True):
        nifti = nibabel.load(path)
        np.testing.assert_allclose(nifti.affine, tiny_volumes.oblique(), atol=1e-4)
        np.testing.assert_array_equal(np.asarray(nifti.dataobj).transpose(2, 1, 0) > 0, mask)


def test_segments_say_whether_they_are_organs_findings_or_places(series, tmp_path) -> None:
    files, masks = series
    (path,) = write_segmentation(result_of(files, "CT", masks), tmp_path / "out", RUN)
    said = [segread(path).get_segment_description(n) for n in (1, 2, 3)]
    assert [one.segmented_property_category.value for one in said] == ["91723000", "49755003", "309825002"]
    assert [one.segmented_property_type.value for one in said] == ["10200004", "27925004", "MY-OWN"]


def test_flat_masks_are_pictures_of_the_sources_size(tmp_path) -> None:
    Pillow.fromarray(tiny_volumes.block()[0][2]).save(tmp_path / "a.png")
    mask = tiny_volumes.block()[1][2] == 1
    written = write_mask_pictures(result_of([tmp_path / "a.png"], "", [mask]), tmp_path / "out", RUN)
    assert [path.name for path in written] == ["mask_liver.png", "masks.png"]
    np.testing.assert_array_equal(np.asarray(Pillow.open(written[0])), mask * np.uint8(255))
    assert "not for diagnosis" in Pillow.open(written[0]).text["Description"]
    shown = np.asarray(Pillow.open(written[1]))
    assert shown.shape[1] == 512 and shown.shape[0] > 24 * 18  # 18 times as large, with a legend
    inside = np.argwhere(binary_erosion(mask))[0] * 18 + 9
    grey = tiny_volumes.block()[0][2][tuple(inside // 18)] * 0.75
    np.testing.assert_allclose(shown[tuple(inside)], grey + COLOURS[0] * 0.25, atol=2)
    assert (shown[24 * 18 :] == COLOURS[0]).all(axis=-1).sum() > 50
    assert write_nifti(result_of([tmp_path / "a.png"], "", [mask]), tmp_path / "out", RUN) == []
    assert write_segmentation(result_of([tmp_path / "a.png"], "", [mask]), tmp_path / "out", RUN) == []


def test_of_a_volume_the_slice_that_shows_most_is_drawn(series, tmp_path) -> None:
    files, masks = series
    written = write_mask_pictures(result_of(files, "CT", masks), tmp_path / "out", RUN)
    assert [path.name for path in written] == ["masks.png"]
    pixels = np.random.default_rng(0).random((1, 8, 9)).astype(np.float32)
    picture = drawn(pixels, [np.zeros((8, 9), bool)])
    np.testing.assert_array_equal(picture, np.repeat((pixels[0] * 255).round().astype(np.uint8)[..., None], 3, axis=2))
    full = np.zeros((8, 9), bool)
    full[2:6, 2:7] = True
    coloured = drawn(pixels, [full]) != picture
    assert coloured[full].any(axis=-1).all() and not coloured[~full].any()


def test_pictures_have_the_proportions_of_their_pixels_and_name_many_masks_in_few_lines(series, tmp_path) -> None:
    files, masks = series
    one = result_of(files, "CT", masks[:1]).regions[0]
    picture = np.asarray(_with_legend(np.zeros((20, 30, 3), np.uint8), [one] * 40, "last"))
    assert picture.shape == (20 + 18 * 14 + 9, 512, 3)
    assert _steps((24, 28), (4.0, 1.5, 3.0)) == (18, 36) and _steps((24, 28), None) == (18, 18)
    assert _steps((2000, 1000), (0.2, 0.2)) == (1, 1)


def test_sizes_are_in_mm_only_where_spacing_is_known() -> None:
    mask = tiny_volumes.block()[1] == 1
    voxels = int(mask.sum())
    told = masks_of(result_of([], "CT", [mask], tiny_volumes.SPACING))[0]
    assert (told["pixels"], told["area_mm2"]) == (voxels, None)
    assert told["volume_ml"] == pytest.approx(voxels * 12 / 1000)
    flat = masks_of(result_of([], "CT", [mask[2]], (1.5, 2.0)))[0]
    assert flat["area_mm2"] == pytest.approx(int(mask[2].sum()) * 3) and flat["volume_ml"] is None
    unknown = masks_of(result_of([], "CT", [mask]))[0]
    assert unknown["area_mm2"] is unknown["volume_ml"] is None


def test_a_series_without_uids_has_no_segmentation(tmp_path) -> None:
    volume, mask = tiny_volumes.block()
    files = tiny_volumes.write_series(tmp_path / "in", volume, StudyInstanceUID="")
    with pytest.raises(Unreferable, match="StudyInstanceUID"):
        write_segmentation(result_of(files, "CT", [mask == 1]), tmp_path / "out", RUN)

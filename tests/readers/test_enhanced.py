"""Enhanced CT and MR: the frames of one file are a volume, and masks of it come back to the same frames."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny_volumes
from answers import RUN, dicom_errors
from highdicom.seg import segread
from pydicom.dataset import Dataset

from medvit.codes import Label, code_of
from medvit.discover import read_case
from medvit.errors import Rejected
from medvit.readers.masks import read_mask
from medvit.readers.scan import Grey, read_scan
from medvit.readers.series import read_series
from medvit.result import Region, Result
from medvit.writers.nifti import write_nifti
from medvit.writers.segmentation import write_segmentation

ZOO = Path(__file__).parents[3] / "shared" / "data" / "dicom_zoo"


def test_frames_lie_in_order_and_are_rescaled(tmp_path: Path) -> None:
    volume, _ = tiny_volumes.block()
    image = read_series([tiny_volumes.write_enhanced(tmp_path / "e.dcm", volume)])
    np.testing.assert_array_equal(image.pixels[0], volume * 2.0 - 150)
    assert image.spacing == pytest.approx(tiny_volumes.SPACING)
    assert image.place is not None
    np.testing.assert_allclose(image.place.affine, tiny_volumes.oblique(), atol=1e-5)
    assert image.origin["frames"] == "5"


def test_masks_come_back_to_the_frames_and_voxels_they_were_found_in(tmp_path: Path) -> None:
    volume, mask = tiny_volumes.block()
    file = tiny_volumes.write_enhanced(tmp_path / "e.dcm", volume)
    case = read_case(file)
    regions = tuple(Region(Label(name, code_of(name)), mask == n, 0.9) for n, name in ((1, "liver"), (2, "thing")))
    result = Result(case, regions=regions, read=lambda one: read_scan(one.files, one.modality, Grey()))
    (path,) = write_segmentation(result, tmp_path / "out", RUN)
    uid = pydicom.dcmread(file).SOPInstanceUID
    in_file = [5, 4, 3, 2, 1]  # numbers of frames, the first of which lies at the top
    frames = segread(path).get_pixels_by_source_frame(uid, in_file)
    for number, region in enumerate(regions):
        np.testing.assert_array_equal(frames[..., number].astype(bool), region.mask)
    assert not dicom_errors(path)
    image = read_scan([file], "MR", Grey())
    np.testing.assert_array_equal(read_mask(path, image), mask)
    first, _ = write_nifti(result, tmp_path / "out", RUN)
    voxels = nibabel.load(first)
    np.testing.assert_allclose(voxels.affine, tiny_volumes.oblique(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(voxels.dataobj).transpose(2, 1, 0) > 0, mask == 1)


def test_a_frame_that_is_missing_doubled_or_nowhere_is_told(tmp_path: Path) -> None:
    volume, _ = tiny_volumes.block()
    whole = tiny_volumes.write_enhanced(tmp_path / "e.dcm", volume)

    def refused(change) -> Rejected:
        one = pydicom.dcmread(whole)
        change(one)
        one.save_as(tmp_path / "x.dcm")
        with pytest.raises(Rejected) as refusal:
            read_series([tmp_path / "x.dcm"])
        return refusal.value

    def gone(one: Dataset) -> None:
        del one.PerFrameFunctionalGroupsSequence[2]
        one.NumberOfFrames, one.PixelData = 4, np.delete(volume[::-1], 2, axis=0).astype("<u2").tobytes()

    assert refused(gone).reason == "missing_slices"
    groups = "PerFrameFunctionalGroupsSequence"
    assert "lie in the same place" in str(refused(lambda one: one[groups].value.__setitem__(0, one[groups].value[1])))
    assert "says of 4 of them" in str(refused(lambda one: one[groups].value.pop()))
    assert refused(lambda one: delattr(one, "SharedFunctionalGroupsSequence")).reason == "no_plane"


@pytest.mark.real
def test_a_real_enhanced_object_is_a_volume_and_one_without_places_is_refused() -> None:
    if not ZOO.is_dir():
        pytest.skip("../shared/data/dicom_zoo is not at hand")
    image = read_series([ZOO / "fodicom__mr_brucker.dcm"])
    assert image.pixels.shape == (1, 4, 128, 256) and image.spacing == pytest.approx((1.0, 0.2, 0.1))
    with pytest.raises(Rejected, match="says of 0 of them"):
        read_series([ZOO / "pydicomdata__emri_small.dcm"])

"""Masks as NIfTI: the same voxels through nibabel, over the source's affine, with nothing else of its header."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.readers.volume import read_volume
from medvit.writers.nifti import write_masks


def oblique() -> np.ndarray:
    """Voxels to mm of a volume turned about two axes, its first axis to the patient's left."""
    a, b = np.deg2rad((17, -23))
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag((-0.8, 0.7, 2.5))
    affine[:3, 3] = (30, -40, 12)
    return affine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(0, 1000, (7, 9, 5)).astype(np.int16)
    nifti = nibabel.Nifti1Image(voxels, oblique())
    nifti.set_qform(oblique(), 1)
    nifti.header["descrip"] = b"DOE^JANE"
    nibabel.save(nifti, tmp_path / "source.nii.gz")
    return tmp_path / "source.nii.gz"


def test_a_mask_of_an_oblique_volume_lies_on_the_voxels_that_it_was_made_from(source: Path, tmp_path: Path) -> None:
    volume, theirs = read_volume(source), nibabel.load(source)
    write_masks([volume.pixels[0] > 600], volume.place, tmp_path / "mask.nii.gz")
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj) == 1, np.asarray(theirs.dataobj) > 600)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, theirs.affine, atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), theirs.get_qform(), atol=1e-4)
    assert [int(written.header[code]) for code in ("qform_code", "sform_code")] == [1, 2]
    assert written.header.get_xyzt_units()[0] == "mm"


def test_several_masks_become_labels_in_their_order(source: Path, tmp_path: Path) -> None:
    volume = read_volume(source)
    pixels = volume.pixels[0]
    write_masks([pixels > 300, pixels > 800], volume.place, tmp_path / "mask.nii.gz")
    voxels = np.asarray(nibabel.load(source).dataobj)
    wanted = (voxels > 300).astype(int) + (voxels > 800)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj), wanted)


def test_nothing_of_the_sources_descriptions_is_written(source: Path, tmp_path: Path) -> None:
    volume = read_volume(source)
    write_masks([volume.pixels[0] > 0], volume.place, tmp_path / "mask.nii.gz")
    assert b"DOE" not in nibabel.load(tmp_path / "mask.nii.gz").header.binaryblock
    assert "DOE" not in repr(volume)


def test_the_same_masks_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    volume = read_volume(source)
    files = [write_masks([volume.pixels[0] > 500], volume.place, tmp_path / f"{n}.nii.gz") for n in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_masks_of_another_shape_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the file's"):
        write_masks([np.zeros((5, 5, 5), bool)], read_volume(source).place, tmp_path / "mask.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists()

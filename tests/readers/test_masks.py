"""Masks to learn from, on the pixels of their images: every format, and what is refused."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny_volumes
from answers import RUN
from PIL import Image as Pillow
from pydicom.uid import CTImageStorage

from medvit.case import Case
from medvit.codes import Label, code_of
from medvit.errors import Rejected, Skipped, Unanswered
from medvit.image import Image
from medvit.readers.masks import read_mask
from medvit.readers.scan import Grey, read_scan, shown
from medvit.result import Region, Result
from medvit.writers.segmentation import write_segmentation

REAL = Path(__file__).parents[3] / "shared" / "data" / "seg3d" / "open"
AUTO = Grey()


@pytest.fixture
def volume() -> np.ndarray:
    return tiny_volumes.block()[0]


@pytest.fixture
def mask() -> np.ndarray:
    return tiny_volumes.block()[1]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "ASL"])
def test_a_nifti_mask_whose_axes_are_turned_lies_on_its_image_all_the_same(tmp_path, volume, mask, axes) -> None:
    image = read_scan([tiny_volumes.write_nifti(tmp_path / "v.nii.gz", volume, tiny_volumes.oblique())], "NIFTI", AUTO)
    tiny_volumes.write_nifti(tmp_path / "m.nii.gz", mask, tiny_volumes.oblique())
    turned = nibabel.load(tmp_path / "m.nii.gz")
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(turned.affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    nibabel.save(turned.as_reoriented(turn), tmp_path / "t.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "t.nii.gz", image), mask)


def test_a_nifti_mask_lies_on_a_series(tmp_path, volume, mask) -> None:
    image = read_scan(tiny_volumes.write_series(tmp_path / "s", volume), "CT", AUTO)
    path = tiny_volumes.write_nifti(tmp_path / "m.nii.gz", mask, tiny_volumes.oblique())
    np.testing.assert_array_equal(read_mask(path, image), mask)


def test_a_segmentation_lies_on_its_series(tmp_path, volume, mask) -> None:
    files = tiny_volumes.write_series(tmp_path / "s", volume)
    regions = tuple(Region(Label(name, code_of(name)), mask == n, 0.9) for n, name in ((1, "liver"), (2, "thing")))
    (path,) = write_segmentation(Result(Case("u", "CT", tuple(files)), regions=regions), tmp_path / "o", RUN)
    image = read_scan(sorted(files), "CT", AUTO)
    np.testing.assert_array_equal(read_mask(path, image), mask)
    elsewhere = tiny_volumes.write_series(tmp_path / "e", volume, ImagePositionPatient=lambda n: [0, 0, 4 * n],
                                          ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # fmt: skip
    with pytest.raises(Rejected, match="lies elsewhere"):
        read_mask(path, read_scan(elsewhere, "CT", AUTO))


def test_pictures_and_medsams_arrays(tmp_path, volume, mask) -> None:
    Pillow.fromarray(volume[2]).save(tmp_path / "v.png")
    Pillow.fromarray(mask[2]).save(tmp_path / "m.png")
    image = read_scan([tmp_path / "v.png"], "", AUTO)
    assert image.pixels.shape == (1, 1, 24, 28) and image.pixels.max() <= 1
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", image)[0], mask[2])
    np.savez(tmp_path / "v.npz", imgs=volume, gts=mask, spacing=(2.0, 1.5, 4.0))
    image = read_scan([tmp_path / "v.npz"], "", AUTO)
    assert image.spacing == (4.0, 1.5, 2.0)
    np.testing.assert_allclose(image.pixels[0], volume / 255, atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / "v.npz", image), mask)
    np.save(tmp_path / "s.npy", np.repeat(volume[2, :, :, None], 3, axis=2) / 255)
    assert read_scan([tmp_path / "s.npy"], "", AUTO).pixels.shape == (1, 1, 24, 28)


def test_colours_stay(tmp_path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (9, 8, 3)).astype(np.uint8)
    Pillow.fromarray(colours).save(tmp_path / "c.png")
    image = read_scan([tmp_path / "c.png"], "", AUTO)
    np.testing.assert_allclose(image.pixels[:, 0], colours.transpose(2, 0, 1) / 255, atol=1e-6)


def test_what_is_no_mask_of_its_image_is_refused_in_a_sentence(tmp_path, volume, mask) -> None:
    image = read_scan([tiny_volumes.write_nifti(tmp_path / "v.nii.gz", volume)], "NIFTI", AUTO)

    def refusal(values: np.ndarray, affine: np.ndarray | None = None) -> Unanswered:
        with pytest.raises(Rejected) as caught:
            read_mask(tiny_volumes.write_nifti(tmp_path / "m.nii.gz", values, affine), image)
        return caught.value

    assert "marks nothing" in str(refusal(np.zeros_like(mask)))
    assert refusal(mask.astype(np.float32) / 2).reason == "mask_values"
    assert refusal(mask, tiny_volumes.oblique()).reason == "mask_place"
    cut = refusal(mask[:, :20])
    assert cut.reason in ("mask_size", "mask_place")
    flat = Image(image.pixels[:, :1])
    np.save(tmp_path / "m.npy", mask[2, :20])
    with pytest.raises(Rejected, match="Its mask has 1 x 20 x 28 and the image 1 x 24 x 28 pixels"):
        read_mask(tmp_path / "m.npy", flat)
    Pillow.fromarray(np.zeros((24, 28, 3), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(Rejected, match="no picture of label numbers"):
        read_mask(tmp_path / "m.png", flat)
    with pytest.raises(Rejected):
        read_mask(tmp_path / "v.nii.gz", replace(image, place=None, pixels=image.pixels[:, :, :4]))


def test_arrays_that_hold_objects_or_other_names_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    np.savez(tmp_path / "b.npz", imgs=np.array([{}], dtype=object))
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    np.savez(tmp_path / "d.npz", imgs=np.full((2, 3, 3), 300, np.int32))
    for name in "abcd":
        with pytest.raises(Rejected):
            read_scan([tmp_path / f"{name}.npz"], "", AUTO)


def test_values_become_grey_as_medsam_has_it() -> None:
    values = np.array([[-2000.0, -160, 40, 240, 3000]], np.float32)
    grey, how = shown(values, Grey("auto", 40, 400), "CT")
    np.testing.assert_allclose(grey, [[0, 0, 0.5, 1, 1]])
    assert how == "window 40/400"
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(500), rng.uniform(10, 1000, 1000)]).astype(np.float32)[None]
    grey, how = shown(values, Grey("auto", 40, 400), "MR")
    low, high = np.percentile(values[values > 0], (0.5, 99.5))
    np.testing.assert_allclose(grey[values > 0], ((values[values > 0].clip(low, high) - low) / (high - low)), atol=1e-5)
    assert (grey[values == 0] == 0).all() and "percentiles" in how
    assert shown(values, Grey("ct", 40, 400), "NIFTI")[1] == "window 40/400"
    with pytest.raises(Rejected, match="same grey value"):
        shown(np.full((1, 4), 5000, np.float32), Grey(), "CT")


def test_a_mask_among_images_is_told_apart(tmp_path, mask) -> None:
    with pytest.raises(Skipped, match="a mask, no image"):
        read_scan([tiny_volumes.write_nifti(tmp_path / "m.nii.gz", mask)], "NIFTI", AUTO)


def test_many_labels_in_plain_patches_are_a_mask_and_as_many_greys_in_noise_an_image(tmp_path) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 60, (3, 8, 8)), np.ones((1, 6, 6))).astype(np.uint8)
    with pytest.raises(Skipped, match="a mask, no image"):
        read_scan([tiny_volumes.write_nifti(tmp_path / "m.nii.gz", labels)], "NIFTI", AUTO)
    greys = rng.integers(0, 60, labels.shape).astype(np.uint8)
    assert read_scan([tiny_volumes.write_nifti(tmp_path / "v.nii.gz", greys)], "NIFTI", AUTO).pixels.shape[1:] == (
        3,
        48,
        48,
    )


@pytest.mark.real
def test_a_real_mask_of_many_organs_is_no_image() -> None:
    if not (REAL / "totalseg").is_dir():
        pytest.skip("../shared/data/seg3d is not at hand")
    with pytest.raises(Skipped, match="42 different whole numbers"):
        read_scan([REAL / "totalseg" / "example_seg.nii.gz"], "NIFTI", AUTO)


@pytest.mark.real
def test_real_labels_without_images_are_masks_and_the_image_without_one_is_read() -> None:
    folder = REAL / "awkward"
    if not folder.is_dir():
        pytest.skip("../shared/data/seg3d is not at hand")
    for name in ("010", "281"):
        with pytest.raises(Skipped, match="a mask, no image"):
            read_scan([folder / f"label_without_image_hippocampus_{name}.nii.gz"], "NIFTI", AUTO)
    image = read_scan([folder / "image_without_label_hippocampus_118.nii.gz"], "NIFTI", AUTO)
    with pytest.raises(Rejected) as refusal:
        read_mask(folder / "label_without_image_hippocampus_281.nii.gz", image)
    assert refusal.value.reason in ("mask_size", "mask_place")


@pytest.mark.real
def test_a_real_mask_lies_on_the_slices_of_its_real_series(tmp_path) -> None:
    folder = REAL / "totalseg" / "example_ct_dicom"
    if not folder.is_dir():
        pytest.skip("../shared/data/seg3d is not at hand")
    for number, file in enumerate(sorted(folder.iterdir())):  # without UIDs, as they lie there, they are refused
        one = pydicom.dcmread(file)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, f"2.25.{number + 1}"
        one.save_as(tmp_path / f"{number}.dcm")
    image = read_scan(sorted(tmp_path.iterdir()), "CT", AUTO)
    assert image.pixels.shape == (1, 20, 512, 512)
    assert image.spacing == pytest.approx((2.0, 0.9765625, 0.9765625))  # slices 3 mm thick, 2 mm apart
    mask = read_mask(folder.parent / "example_seg_dicom.nii.gz", image)
    organs, air = np.isin(mask, (1, 5)), image.pixels[0] < 0.05
    assert organs.sum() > 1000 and (air & organs).sum() < 0.02 * organs.sum()  # spleen and liver hold no air
    assert (air & organs[:, ::-1]).sum() > 0.1 * organs.sum()  # as they would were rows counted from below

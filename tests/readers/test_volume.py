"""Volumes from NIfTI: turned for display, turned back exactly, and refused where nobody knows where they lie."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medvit.errors import Rejected
from medvit.readers.volume import read_volume

SHAPE = (4, 5, 6)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip
REAL = Path(__file__).parents[3] / "shared" / "data" / "seg3d" / "open"


def affine_of(axes: str, spacing: tuple[float, ...] = (1.0, 2.0, 3.0)) -> NDArray[np.float64]:
    """Voxels to mm for axes that lead where the letters say."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(axes):
        row = next(n for n, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[row, column] = spacing[column] * (1 if letter in "RAS" else -1)
    affine[:3, 3] = (-10, 20, 5)
    return affine


def save(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64], q: int = 1, s: int = 1) -> Path:
    nifti = nibabel.Nifti1Image(voxels, affine)
    nifti.set_sform(affine, s)
    nifti.set_qform(affine, q)
    nibabel.save(nifti, path)
    return path


def numbered(shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_every_orientation_is_displayed_alike_and_turned_back_exactly(tmp_path: Path, axes: str) -> None:
    affine = affine_of(axes)
    voxels = numbered()
    volume = read_volume(save(tmp_path / "v.nii.gz", voxels, affine))
    pixels = volume.pixels[0]
    assert np.array_equal(volume.place.to_source(pixels), voxels)
    assert volume.place.axes() == axes
    # The next voxel along slices, rows and columns lies up, back and to the left of the first in mm.
    place = {int(v): nibabel.affines.apply_affine(affine, index) for index, v in np.ndenumerate(voxels)}
    first = place[int(pixels[0, 0, 0])]
    for index, way in (((1, 0, 0), (0, 0, 1)), ((0, 1, 0), (0, -1, 0)), ((0, 0, 1), (-1, 0, 0))):
        step = place[int(pixels[index])] - first
        size = volume.spacing[index.index(1)]  # type: ignore[index]
        np.testing.assert_allclose(step, np.array(way) * size)


def test_an_oblique_volume_is_turned_but_not_resampled(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = affine_of("LPS")
    affine[:3, :3] = turn @ affine[:3, :3]
    volume = read_volume(save(tmp_path / "v.nii", numbered(), affine))
    assert volume.spacing == pytest.approx((3.0, 2.0, 1.0))
    assert np.array_equal(volume.pixels[0], numbered().transpose(2, 1, 0))


def test_the_files_scaling_is_applied(tmp_path: Path) -> None:
    nifti = nibabel.Nifti1Image(np.linspace(-1000, 1000, 120).reshape(SHAPE), affine_of("RAS"))
    nifti.set_data_dtype(np.int16)
    nibabel.save(nifti, tmp_path / "v.nii.gz")
    pixels = read_volume(tmp_path / "v.nii.gz").pixels
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == pytest.approx((-1000, 1000), abs=0.1)


def test_a_fourth_axis_of_one_is_left_out_and_a_longer_one_refused(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", numbered((*SHAPE, 1)), affine_of("RAS"))).place.shape == SHAPE
    with pytest.raises(Rejected, match="one volume of three is needed"):
        read_volume(save(tmp_path / "b.nii", numbered((*SHAPE, 2)), affine_of("RAS")))


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(numbered(), affine_of("RAS")), tmp_path / "v.nii.gz")
    assert read_volume(tmp_path / "v.nii.gz").place.shape == SHAPE


def broken(**changes: object) -> nibabel.Nifti1Header:
    """The header of a good file with some fields changed."""
    nifti = nibabel.Nifti1Image(numbered(), affine_of("RAS"))
    nifti.set_qform(affine_of("RAS"), 1)
    for field, value in changes.items():
        nifti.header[field] = value
    return nifti.header


ZERO = np.zeros(4, np.float32)
AFFINES = {
    "zero": ({"srow_x": ZERO, "srow_y": ZERO, "srow_z": ZERO, "qform_code": 0}, "zero along some axis"),
    "one axis zero": ({"srow_x": ZERO, "qform_code": 0}, "zero along some axis"),
    "flat": ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "qform_code": 0}, "zero along some axis"),
    "not a number": ({"srow_x": [np.nan, 0, 0, 0]}, "no finite numbers"),
    "endless": ({"srow_x": [np.inf, 0, 0, 0]}, "no finite numbers"),
    "sheared": ({"srow_x": [1, 0.5, 0, 0], "qform_code": 0}, "not at right angles"),
    "two forms": ({"srow_x": [-1, 0, 0, 10]}, "qform and sform disagree"),
    "moved": ({"srow_x": [1, 0, 0, 50]}, "qform and sform disagree"),
    "no form": ({"qform_code": 0, "sform_code": 0}, "which side is left"),
}


@pytest.mark.parametrize(("changes", "words"), AFFINES.values(), ids=AFFINES)
def test_a_volume_that_does_not_say_where_it_lies_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    data = broken(**changes).binaryblock + bytes(4) + numbered().tobytes(order="F")
    (tmp_path / "v.nii").write_bytes(data)
    with pytest.raises(Rejected, match=words) as refusal:
        read_volume(tmp_path / "v.nii")
    assert refusal.value.reason == "affine"


def test_one_form_alone_is_enough(tmp_path: Path) -> None:
    for name, q, s in (("q", 1, 0), ("s", 0, 2)):
        volume = read_volume(save(tmp_path / f"{name}.nii", numbered(), affine_of("LAS"), q, s))
        assert volume.place.axes() == "LAS"
        assert volume.place.codes == (q, s)


def test_headers_that_ask_for_more_than_the_file_may_hold_are_refused_before_anything_is_unpacked(
    tmp_path: Path,
) -> None:
    header = broken(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]).binaryblock
    for name, data in (("v.nii", header), ("v.nii.gz", gzip.compress(header + bytes(1000)))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Rejected, match="The header asks for 54,000,000,") as refusal:
            read_volume(tmp_path / name)
        assert refusal.value.reason == "too_large"


def test_what_is_packed_a_thousandfold_is_refused(tmp_path: Path) -> None:
    header = broken(dim=[3, 800, 800, 800, 1, 1, 1, 1]).binaryblock
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(header + bytes(10_000)))
    with pytest.raises(Rejected, match="more than a file of"):
        read_volume(tmp_path / "v.nii.gz")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    data = save(
        tmp_path / name, np.random.default_rng(0).integers(0, 999, (20, 20, 20), np.int16), affine_of("RAS")
    ).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Rejected):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not a volume" * 100, bytes(2000), b"\x1f\x8b" + b"x" * 500])
def test_what_is_no_volume_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(Rejected):
        read_volume(tmp_path / "v.nii")


def test_damaged_headers_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    good = save(tmp_path / "v.nii", numbered(), affine_of("RAS")).read_bytes()
    random = np.random.default_rng(0)
    read = 0
    for _ in range(300):
        data = bytearray(good)
        for place in random.integers(0, 352, 4):
            data[place] = random.integers(256)
        (tmp_path / "v.nii").write_bytes(data)
        try:
            read_volume(tmp_path / "v.nii")
            read += 1
        except Rejected:
            pass
    assert 0 < read < 300


def test_voxels_that_are_no_numbers_or_colours_are_refused(tmp_path: Path) -> None:
    voxels = numbered().astype(np.float32)
    voxels[1, 2, 3] = np.nan
    with pytest.raises(Rejected, match="no finite numbers"):
        read_volume(save(tmp_path / "nan.nii", voxels, affine_of("RAS")))
    with pytest.raises(Rejected, match="complex"):
        read_volume(save(tmp_path / "complex.nii", numbered().astype(np.complex64), affine_of("RAS")))


@pytest.mark.real
def test_real_volumes_are_read_with_the_spacing_of_their_files() -> None:
    files = sorted(REAL.glob("**/*.nii.gz"))[:12]
    if not files:
        pytest.skip("../shared/data/seg3d is not at hand")
    for file in files:
        volume, theirs = read_volume(file), nibabel.load(file)
        assert np.array_equal(
            volume.place.to_source(volume.pixels[0]),
            theirs.get_fdata(dtype=np.float32).reshape(volume.place.shape),
        )
        assert sorted(volume.spacing or ()) == pytest.approx(sorted(theirs.header.get_zooms()[:3]), rel=1e-3)

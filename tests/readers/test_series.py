"""Series of CT slices as volumes: in the order in which they lie, and refused where one is missing."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import tiny_volumes

from medvit.errors import Rejected
from medvit.readers.series import read_series


def test_slices_are_ordered_by_place_and_rescaled(tmp_path: Path) -> None:
    volume, _ = tiny_volumes.block()
    files = tiny_volumes.write_series(tmp_path, volume)
    image = read_series(sorted(files))
    np.testing.assert_array_equal(image.pixels[0], volume * 2.0 - 150)
    assert image.spacing == pytest.approx(tiny_volumes.SPACING)
    assert image.place is not None
    np.testing.assert_allclose(image.place.affine, tiny_volumes.oblique(), atol=1e-5)
    assert image.place.to_source(image.pixels[0]).shape == tiny_volumes.SHAPE[::-1]
    np.testing.assert_array_equal(image.place.to_display(image.place.to_source(volume)), volume)


def test_a_single_slice_has_no_thickness(tmp_path: Path) -> None:
    volume, _ = tiny_volumes.block()
    image = read_series(tiny_volumes.write_series(tmp_path, volume[:1]))
    assert image.pixels.shape == (1, 1, 24, 28) and image.spacing == tiny_volumes.SPACING[1:]


@pytest.mark.parametrize(
    ("gone", "words"), [((2,), "About 1 of its slices are missing"), ((2, 3), "About 2 of its slices")]
)
def test_a_missing_slice_is_told(tmp_path: Path, gone: tuple[int, ...], words: str) -> None:
    volume, _ = tiny_volumes.block(shape=(7, 24, 28))
    files = tiny_volumes.write_series(tmp_path, volume)
    with pytest.raises(Rejected, match=words) as refusal:
        read_series([file for number, file in enumerate(files) if number not in gone])
    assert refusal.value.reason == "missing_slices"


def position(number: int, extra: float = 0.0) -> list[str]:
    across, down = tiny_volumes.cosines()
    return [f"{v:.6f}" for v in np.array([20.0, -15, 30]) + np.cross(across, down) * 4 * number + across * extra]


BAD = {
    "two in one place": ({"ImagePositionPatient": lambda n: position(min(n, 3))}, "lie in the same place"),
    "one nearer": ({"ImagePositionPatient": lambda n: position(0 if n == 0 else n - 0.5)}, "unevenly spaced"),
    "sheared": ({"ImagePositionPatient": lambda n: position(n, 2.0 * n)}, "tilted gantry"),
    "another spacing": ({"PixelSpacing": lambda n: [1 + n, 2]}, "differ in size or pixel spacing"),
    "another direction": (
        {"ImageOrientationPatient": lambda n: [1, 0, 0, 0, 1, 0] if n else [0, 1, 0, 0, 0, 1]},
        "directions",
    ),
    "no direction": ({"ImageOrientationPatient": lambda n: [1, 0, 0, 1, 0, 0]}, "not at right angles"),
    "no position": ({"ImagePositionPatient": ""}, "does not say where it lies"),
    "colour": ({"PhotometricInterpretation": "PALETTE COLOR"}, "no grey slices"),
}


@pytest.mark.parametrize(("elements", "words"), BAD.values(), ids=BAD)
def test_what_is_no_stack_is_refused(tmp_path: Path, elements: dict[str, object], words: str) -> None:
    files = tiny_volumes.write_series(tmp_path, tiny_volumes.block()[0], **elements)
    with pytest.raises(Rejected, match=words):
        read_series(files)


def test_slices_of_another_size_are_refused(tmp_path: Path) -> None:
    volume, _ = tiny_volumes.block()
    files = tiny_volumes.write_series(tmp_path / "a", volume)
    other = pydicom.dcmread(files[2])
    other.Rows -= 1
    other.PixelData = volume[2, 1:].astype("<u2").tobytes()
    other.save_as(files[2])
    with pytest.raises(Rejected, match="differ in size"):
        read_series(files)

"""Read DICOM slices of CT or MR as a volume, of a series or an enhanced object: in order, refused where one is missing.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT); see `medvit.readers.positions` for frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.budgets import VOLUME_VOXELS
from medvit.case import DAMAGE, blame
from medvit.errors import Rejected, Unanswered
from medvit.image import Image, Plane
from medvit.readers.dicom import open_dicom
from medvit.readers.pixels import GREY, decode, read_form
from medvit.readers.positions import SQUARE, Lying, Vector, along_normal, planes

APART_MM = 1e-3  # slices nearer than this lie on each other
UNEVEN = 0.1  # share by which gaps between slices may differ from the usual one
SCANNER = 1  # sform code: coordinates of the scanner
TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))  # DICOM's patient coordinates lead left and back


@dataclass(frozen=True, slots=True)
class Stacked:
    """Where the voxels of a series lie. The array of its NIfTI is (columns, rows, slices).

    Args:
        affine: (4, 4) from that array to mm, right-anterior-superior.
        codes: Of qform and sform.
    """

    affine: NDArray[np.float64]
    codes: tuple[int, int] = (SCANNER, SCANNER)

    @property
    def directions(self) -> NDArray[np.float64]:
        """See `medvit.image.Place`."""
        axes = self.affine[:3, 2::-1].T
        return np.asarray(axes / np.linalg.norm(axes, axis=1, keepdims=True))

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Slices, rows and columns as columns, rows and slices."""
        return volume.transpose(2, 1, 0)

    def to_display(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Columns, rows and slices as slices, rows and columns."""
        return voxels.transpose(2, 1, 0)


class Slice(NamedTuple):
    """One slice: where it lies, and its values as its modality means them (Hounsfield units for CT)."""

    lying: Lying
    values: Plane


def read_series(files: Sequence[Path]) -> Image:
    """A volume of the files of one series, each a slice; or of one enhanced object, each of its frames a slice.

    Returns:
        Pixels (1, D, H, W) float32, rescaled; rows and columns as stored, slices along their normal. Its place is `Stacked`.

    Raises:
        Rejected: When slices differ in size, direction or spacing, lie on each other, or one is missing between others.
    """
    slices = [one for file in files for one in read_slices(file)]
    return stacked(ordered(slices), "frames" if len(slices) > len(files) else "slices")


def read_slices(file: Path) -> list[Slice]:
    """The slices of a file: one, or the frames of an enhanced object, in the order of the file.

    Raises:
        Rejected: When it cannot be decoded, is not grey, or does not say where they lie.
    """
    try:
        dataset = open_dicom(file)
        form = read_form(dataset)
        if form.photometric not in GREY or form.keyword != "PixelData" or form.samples != 1:
            raise Rejected("slices", "It holds no grey slices; series of such slices and enhanced objects are read.")
        if form.frames * form.values > VOLUME_VOXELS:
            raise Rejected("pixel_budget", f"Its frames have more than {VOLUME_VOXELS:,} voxels together.")
        lying = planes(dataset, form.frames)
        stored = decode(dataset, form).reshape(form.frames, *form.shape)
        sign = -1 if form.photometric == "MONOCHROME1" else 1
        return [
            Slice(at, sign * (plane.astype(np.float32) * np.float32(at.slope) + np.float32(at.intercept)))
            for at, plane in zip(lying, stored, strict=True)
        ]
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise blame(error, "undecodable", "The pixels cannot be decoded") from error


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Slices along their normal, the first where it begins.

    Raises:
        Rejected: When they are no stack.
    """
    first = slices[0].lying
    if sum(one.values.size for one in slices) > VOLUME_VOXELS:
        raise Rejected("pixel_budget", f"Its slices have more than {VOLUME_VOXELS:,} voxels together.")
    for one in slices[1:]:
        if one.values.shape != slices[0].values.shape or not np.allclose(one.lying.spacing, first.spacing, rtol=SQUARE):
            raise Rejected("slices", "Its slices differ in size or pixel spacing. Send one stack of slices at a time.")
        if np.abs(np.stack([one.lying.across - first.across, one.lying.down - first.down])).max() > SQUARE:
            raise Rejected("slices", "Its slices lie in different directions. Send one stack of slices at a time.")
    order, heights = along_normal([one.lying for one in slices])
    _check_gaps(np.diff(heights))
    return [slices[index] for index in order]


def _check_gaps(gaps: Vector) -> None:
    if not len(gaps):
        return
    if gaps.min() < APART_MM:
        raise Rejected(
            "slices",
            "Two of its slices lie in the same place (two times, echoes or stacks?). Send one stack of slices at a time.",
        )
    usual, least = float(np.median(gaps)), float(gaps.min())
    wide = gaps > usual * (1 + UNEVEN)
    if wide.any():
        missing = int(np.round(gaps[wide] / usual - 1).sum())
        told = f"About {missing} of its slices are missing" if missing else "Its slices are unevenly spaced"
        raise Rejected(
            "missing_slices", f"{told}: gaps of {gaps.max():.3g} mm beside {usual:.3g} mm. Send all of them."
        )
    if least < usual * (1 - UNEVEN):
        raise Rejected("missing_slices", f"Its slices are unevenly spaced: {least:.3g} mm beside {usual:.3g} mm.")


def stacked(slices: Sequence[Slice], named: str = "slices") -> Image:
    """Slices in order as a volume; a single one is one of a slice, whose thickness counts for nothing."""
    first, last = slices[0].lying, slices[-1].lying
    normal = np.cross(first.across, first.down)
    step = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[1], first.down * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    pixels = np.stack([one.values for one in slices])[None]
    if abs(step @ normal) < (1 - SQUARE) * np.linalg.norm(step):
        raise Rejected("slices", "Its slices are shifted against each other (a tilted gantry). Resample it first.")
    if not np.isfinite(pixels).all():
        raise Rejected("pixels", "Its slices hold values that are no finite numbers.")
    spacing = (float(np.linalg.norm(step)), *first.spacing) if len(slices) > 1 else first.spacing
    origin = {"spacing": "PixelSpacing and positions of the files", named: str(len(slices))}
    return Image(pixels, spacing, origin, place=Stacked(TO_RAS @ affine))

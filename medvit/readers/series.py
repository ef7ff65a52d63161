"""Read a DICOM series of CT or MR slices as a volume: ordered by where they lie, refused where one is missing.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.budgets import VOLUME_VOXELS
from medvit.case import DAMAGE, blame
from medvit.errors import Rejected, Unanswered
from medvit.image import Image, Plane
from medvit.readers.dicom import code, decimals, open_dicom
from medvit.readers.pixels import GREY, decode, read_form
from medvit.readers.radiograph import rescale

SQUARE = 1e-3  # the most that direction cosines may differ from one slice to another, or from a right angle
APART_MM = 1e-3  # slices nearer than this lie on each other
UNEVEN = 0.1  # share by which gaps between slices may differ from the usual one
SCANNER = 1  # sform code: coordinates of the scanner
TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))  # DICOM's patient coordinates lead left and back
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stacked:
    """Where the voxels of a series lie. The array of its NIfTI is (columns, rows, slices).

    Args:
        affine: (4, 4) from that array to mm, right-anterior-superior.
        codes: Of qform and sform.
    """

    affine: NDArray[np.float64]
    codes: tuple[int, int] = (SCANNER, SCANNER)

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Slices, rows and columns as columns, rows and slices."""
        return volume.transpose(2, 1, 0)

    def to_display(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Columns, rows and slices as slices, rows and columns."""
        return voxels.transpose(2, 1, 0)


class Slice(NamedTuple):
    """One file of a series: where it lies, and its values as its modality means them (Hounsfield units for CT)."""

    file: Path
    position: Vector  # mm of its first pixel
    across: Vector  # unit vector along a row
    down: Vector  # and along a column
    spacing: tuple[float, float]  # mm between rows, and between columns
    values: Plane


def read_series(files: Sequence[Path]) -> Image:
    """A volume of the files of one series, each a slice.

    Returns:
        Pixels (1, D, H, W) float32, rescaled; rows and columns as stored, slices along their normal. Its place is `Stacked`.

    Raises:
        Rejected: When slices differ in size, direction or spacing, lie on each other, or one is missing between others.
    """
    return stacked(ordered([read_slice(file) for file in files]))


def read_slice(file: Path) -> Slice:
    """One slice of a series.

    Raises:
        Rejected: When it cannot be decoded, is no grey slice, or does not say where it lies.
    """
    try:
        dataset = open_dicom(file)
        form = read_form(dataset)
        if form.frames != 1 or form.photometric not in GREY or form.keyword != "PixelData":
            raise Rejected("slices", "It is no single grey slice; series of such slices are read.")
        slope, intercept = rescale(dataset)
        values = decode(dataset, form).astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if code(dataset, "PhotometricInterpretation") == "MONOCHROME1":
            values = -values
        return Slice(file, *_plane(dataset), values)
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise blame(error, "undecodable", "The pixels cannot be decoded") from error


def _plane(dataset: Dataset) -> tuple[Vector, Vector, Vector, tuple[float, float]]:
    position, cosines = decimals(dataset, "ImagePositionPatient"), decimals(dataset, "ImageOrientationPatient")
    spacing = decimals(dataset, "PixelSpacing")
    if len(position) != 3 or len(cosines) != 6 or len(spacing) != 2 or min(spacing) <= 0:
        raise Rejected("no_plane", "A slice does not say where it lies (position, orientation and pixel spacing).")
    across, down = np.array(cosines[:3]), np.array(cosines[3:])
    axes = np.stack([across, down])
    if np.abs(axes @ axes.T - np.eye(2)).max() > SQUARE:
        raise Rejected("no_plane", "The orientation of a slice is none: its rows and columns are not at right angles.")
    return np.array(position), across, down, (spacing[0], spacing[1])


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Slices along their normal, the first where it begins.

    Raises:
        Rejected: When they are no stack.
    """
    first = slices[0]
    if sum(one.values.size for one in slices) > VOLUME_VOXELS:
        raise Rejected("pixel_budget", f"Its slices have more than {VOLUME_VOXELS:,} voxels together.")
    for one in slices[1:]:
        if one.values.shape != first.values.shape or not np.allclose(one.spacing, first.spacing, rtol=SQUARE):
            raise Rejected("slices", "Its slices differ in size or pixel spacing. Send one stack of slices at a time.")
        if np.abs(np.stack([one.across - first.across, one.down - first.down])).max() > SQUARE:
            raise Rejected("slices", "Its slices lie in different directions. Send one stack of slices at a time.")
    normal = np.cross(first.across, first.down)
    heights = np.array([float(np.dot(one.position, normal)) for one in slices])
    order = np.argsort(heights, kind="stable")
    _check_gaps(np.diff(heights[order]))
    return [slices[index] for index in order]


def _check_gaps(gaps: Vector) -> None:
    if not len(gaps):
        return
    if gaps.min() < APART_MM:
        raise Rejected("slices", "Two of its slices lie in the same place. Send one stack of slices at a time.")
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


def stacked(slices: Sequence[Slice]) -> Image:
    """Slices in order as a volume; a single one is one of a slice, whose thickness counts for nothing."""
    first = slices[0]
    normal = np.cross(first.across, first.down)
    step = (slices[-1].position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.across * first.spacing[1], first.down * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    pixels = np.stack([one.values for one in slices])[None]
    if abs(step @ normal) < (1 - SQUARE) * np.linalg.norm(step):
        raise Rejected("slices", "Its slices are shifted against each other (a tilted gantry). Resample it first.")
    if not np.isfinite(pixels).all():
        raise Rejected("pixels", "Its slices hold values that are no finite numbers.")
    spacing = (float(np.linalg.norm(step)), *first.spacing) if len(slices) > 1 else first.spacing
    origin = {"spacing": "PixelSpacing and positions of the files", "slices": str(len(slices))}
    return Image(pixels, spacing, origin, place=Stacked(TO_RAS @ affine))

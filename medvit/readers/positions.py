"""Where slices lie: the one of a file of CT or MR, or every frame of an enhanced object, with the scale of its values.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups), C.7.6.16.2.9 (pixel value transformation).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import Rejected
from medvit.readers.dicom import decimals
from medvit.readers.radiograph import rescale

SQUARE = 1e-3  # the most that direction cosines may differ from one slice to another, or from a right angle
FRAMES = "PerFrameFunctionalGroupsSequence"  # what an enhanced object says of each of its frames
Vector = NDArray[np.float64]


class Lying(NamedTuple):
    """Where a slice lies, and what its stored values mean: times slope plus intercept."""

    position: Vector  # mm of its first pixel
    across: Vector  # unit vector along a row
    down: Vector  # and along a column
    spacing: tuple[float, float]  # mm between rows, and between columns
    slope: float
    intercept: float


def planes(dataset: Dataset, frames: int) -> list[Lying]:
    """Where each frame lies.

    Args:
        dataset: Of `medvit.readers.dicom.open_dicom`.
        frames: How many it has.

    Raises:
        Rejected: When a frame does not say where it lies, or says nonsense.
    """
    if FRAMES not in dataset and frames == 1:
        return [_lying(dataset, dataset, dataset, dataset)]
    groups = list(dataset.get(FRAMES) or ())
    if len(groups) != frames:
        raise Rejected(
            "no_plane", f"It has {frames} frames and says of {len(groups)} of them where they lie. All are needed."
        )
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    names = (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    )  # fmt: skip
    return [_lying(*(_item(group, shared, name) for name in names)) for group in groups]


def along_normal(lying: Sequence[Lying]) -> tuple[NDArray[np.intp], Vector]:
    """Numbers of slices in the order in which they lie along the first one's normal, and their heights on it in mm."""
    normal = np.cross(lying[0].across, lying[0].down)
    heights = np.array([float(np.dot(one.position, normal)) for one in lying])
    order = np.argsort(heights, kind="stable")
    return order, heights[order]


def _item(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """What is said of a frame, by itself or with all others; nothing where it is not."""
    items = group.get(keyword) or shared.get(keyword)
    return items[0] if items else Dataset()


def _lying(position: Dataset, orientation: Dataset, measures: Dataset, values: Dataset) -> Lying:
    at, cosines = decimals(position, "ImagePositionPatient"), decimals(orientation, "ImageOrientationPatient")
    spacing = decimals(measures, "PixelSpacing")
    if len(at) != 3 or len(cosines) != 6 or len(spacing) != 2 or min(spacing) <= 0:
        raise Rejected("no_plane", "A slice does not say where it lies (position, orientation and pixel spacing).")
    across, down = np.array(cosines[:3]), np.array(cosines[3:])
    axes = np.stack([across, down])
    if np.abs(axes @ axes.T - np.eye(2)).max() > SQUARE:
        raise Rejected("no_plane", "The orientation of a slice is none: its rows and columns are not at right angles.")
    return Lying(np.array(at), across, down, (spacing[0], spacing[1]), *rescale(values))

"""Read the segmentation of a case to learn from, on the pixels of its image.

Source: DICOM PS3.3 A.51 (Segmentation), C.7.6.16.2.3 (plane position); the NIfTI affine.
"""

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom import Dataset

from medvit.case import DAMAGE, NIFTI, PICTURES, blame
from medvit.errors import Rejected, Unanswered
from medvit.image import Image, Place
from medvit.readers.dicom import decimals, integer, open_dicom
from medvit.readers.scan import ARRAYS, load_array
from medvit.readers.volume import read_volume

MOST_LABEL = 255
MASK_KEYS = ("gts", "gt")  # of MedSAM's npz
SAME_PLACE = 0.1  # voxels by which the places of a mask and its image may differ
Labels = NDArray[np.uint8]


def read_mask(path: Path, image: Image) -> Labels:
    """The segmentation of an image.

    Args:
        path: NIfTI, DICOM SEG, a PNG of label numbers, or MedSAM's ``gts``.
        image: What it is a segmentation of.

    Returns:
        (D, H, W) of whole numbers, 0 = nothing, pixel by pixel as the image.

    Raises:
        Rejected: When it cannot be read, is of another size or place than its image, or marks nothing.
    """
    name, shape = path.name.lower(), image.pixels.shape[1:]
    if name.endswith(NIFTI):
        values = _of_nifti(path, image)
    elif name.endswith(PICTURES):
        values = _of_picture(path)
    elif name.endswith(ARRAYS):
        values = load_array(path, MASK_KEYS)
    else:
        values = _of_segmentation(path, image)
    values = values[None] if values.ndim == 2 else values
    if values.shape != shape:
        raise Rejected("mask_size", f"Its mask has {_size(values.shape)} and the image {_size(shape)} pixels.")
    labels = np.asarray(values).astype(np.uint8)
    if not np.array_equal(labels, values):
        raise Rejected("mask_values", f"Its mask holds other values than whole numbers from 0 to {MOST_LABEL}.")
    if not labels.any():
        raise Rejected("no_voxels", "Its mask marks nothing: no structure has a voxel.")
    return labels


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _of_nifti(path: Path, image: Image) -> NDArray[Any]:
    mask = read_volume(path)
    voxels: NDArray[Any] = mask.pixels[0]
    if image.place is None or mask.place is None:
        return voxels
    return _turned(mask.place.to_source(voxels), mask.place.affine, image.place)


def _turned(voxels: NDArray[Any], affine: NDArray[np.float64], place: Place) -> NDArray[Any]:
    """Voxels of one array as slices, rows and columns of another that lies in the same place, its axes perhaps turned."""
    turn: NDArray[Any] = ornt_transform(io_orientation(affine), io_orientation(place.affine))
    turned: NDArray[Any] = apply_orientation(voxels, turn)
    moved = np.linalg.inv(place.affine) @ affine @ inv_ornt_aff(turn, voxels.shape)  # voxels of the one to the other's
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in turned.shape), 1]], float).T
    if np.abs(moved @ corners - corners).max() > SAME_PLACE:
        raise Rejected("mask_place", "Its mask lies elsewhere than the image: their affines differ.")
    return place.to_display(turned)


def _of_picture(path: Path) -> NDArray[Any]:
    try:
        with Pillow.open(path, formats=("PNG", "JPEG")) as file:
            if file.format == "JPEG" or (file.mode not in ("1", "L", "P") and not file.mode.startswith("I")):
                raise Rejected(
                    "mask_values", "Its mask is no picture of label numbers: a PNG of one grey channel is needed."
                )
            return np.asarray(file).astype(np.int64)
    except (Unanswered, MemoryError):
        raise
    except (Pillow.DecompressionBombError, *DAMAGE) as error:
        raise blame(error, "undecodable", "Its mask cannot be decoded") from error


def _of_segmentation(path: Path, image: Image) -> NDArray[Any]:
    """Frames of a binary DICOM Segmentation, laid where their planes are; where segments overlap the later one stays."""
    shape, place = image.pixels.shape[1:], image.place
    if place is None:
        raise Rejected("mask_place", "Its mask is a DICOM Segmentation and the image says not where it lies.")
    try:
        dataset = open_dicom(path)
        if str(dataset.get("SegmentationType", "")) != "BINARY":
            raise Rejected("mask_values", "Its mask is no binary DICOM Segmentation.")
        frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        if frames.shape[1:] != shape[1:]:
            raise Rejected(
                "mask_size", f"Its mask has {_size(frames.shape[1:])} pixels a slice, the image {_size(shape[1:])}."
            )
        labels = np.zeros(shape, np.uint8)
        groups, shared = list(dataset.PerFrameFunctionalGroupsSequence), dataset.SharedFunctionalGroupsSequence[0]
        segments = [_item(one, shared, "SegmentIdentificationSequence") for one in groups]
        numbers = [integer(one, "ReferencedSegmentNumber", 1, MOST_LABEL) for one in segments]
        for index in sorted(range(len(groups)), key=lambda i: numbers[i]):
            if frames[index].any():
                labels[_slice_of(groups[index], shared, place, shape[0])][frames[index] > 0] = numbers[index]
        return labels
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise blame(error, "undecodable", "Its mask cannot be decoded") from error


def _slice_of(group: Dataset, shared: Dataset, place: Place, slices: int) -> int:
    """Which slice of a volume a frame lies on."""
    position = decimals(_item(group, shared, "PlanePositionSequence"), "ImagePositionPatient")
    orientation = _item(group, shared, "PlaneOrientationSequence")
    cosines = np.array(decimals(orientation, "ImageOrientationPatient")).reshape(2, 3)
    to_voxels = np.linalg.inv(place.affine)
    ras = np.array([-1, -1, 1])
    column, row, number = (to_voxels @ [*(np.array(position) * ras), 1])[:3]
    axes = (to_voxels[:3, :3] @ (cosines * ras).T).T  # of a millimetre along a row, and along a column
    along = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    straight = np.abs(along - np.eye(3)[:2]).max() < SAME_PLACE
    nearest = round(float(number))
    if not straight or max(abs(column), abs(row), abs(number - nearest)) > SAME_PLACE or not 0 <= nearest < slices:
        raise Rejected("mask_place", "Its mask lies elsewhere than the image: a frame is on none of its slices.")
    return nearest


def _item(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """What is said of a frame, by itself or with all others."""
    item: Dataset = (group.get(keyword) or shared[keyword].value)[0]
    return item

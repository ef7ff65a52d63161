"""Read a volume from NIfTI, turned so that slices lie as they are displayed, with the way back to its own voxels.

Source: the NIfTI-1 and NIfTI-2 headers. What they hold besides geometry (descriptions, file names) is never kept.
"""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform
from numpy.typing import NDArray

from medvit.budgets import DECODED_BYTES, DECODED_RATIO, FILE_BYTES, RATIO_FREE_BYTES
from medvit.case import DAMAGE, blame
from medvit.errors import Rejected
from medvit.image import Image

DISPLAYED = (
    "S",
    "P",
    "L",
)  # where slices, rows and columns of a displayed volume lead: up, back, to the patient's left
SQUARE = 1e-3  # the most that cosines between axes, or two affines, may differ from what they should be
HEADER_BYTES = 540  # of NIfTI-2, the longer one
Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the voxels of a file lie, and how its volume was turned.

    Args:
        shape: Of the file's array.
        affine: (4, 4) from the file's voxels to mm, right-anterior-superior.
        codes: Of the file's qform and sform, as their affines' meaning.
    """

    shape: tuple[int, int, int]
    affine: Affine
    codes: tuple[int, int]

    def to_display(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """The file's array as slices, rows and columns."""
        turned: NDArray[Any] = apply_orientation(voxels, ornt_transform(self._own(), axcodes2ornt(DISPLAYED)))
        return turned

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Slices, rows and columns as the file's array; the inverse of `to_display`."""
        turned: NDArray[Any] = apply_orientation(volume, ornt_transform(axcodes2ornt(DISPLAYED), self._own()))
        if turned.shape != self.shape:
            raise ValueError(f"a volume of {volume.shape} is not the file's of {self.shape}")
        return turned

    @property
    def directions(self) -> NDArray[np.float64]:
        """See `medvit.image.Place`."""
        turn = ornt_transform(self._own(), axcodes2ornt(DISPLAYED))
        axes = np.empty((3, 3))
        for axis, (place, flip) in zip(self.affine[:3, :3].T, turn, strict=True):
            axes[int(place)] = flip * axis / np.linalg.norm(axis)
        return axes

    def axes(self) -> str:
        """Where the file's own axes lead, such as ``RAS``."""
        return "".join(str(code) for code in ornt2axcodes(self._own()))

    def spacing_mm(self) -> tuple[float, ...]:
        """Between slices, rows and columns as displayed."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        order = io_orientation(self.affine)[:, 0].astype(int)  # the world axis, x y z, of each of the file's
        return tuple(float(sizes[int(np.flatnonzero(order == axis)[0])]) for axis in (2, 1, 0))

    def _own(self) -> NDArray[np.float64]:
        own: NDArray[np.float64] = io_orientation(self.affine)
        return own


def read_volume(path: Path) -> Image:
    """A volume of one NIfTI file, ``.nii`` or ``.nii.gz``.

    Args:
        path: Three axes; a fourth of length one is left out.

    Returns:
        Pixels (1, D, H, W) float32 with the file's scaling applied: slices upwards, rows to the back, columns to the
        patient's left, as far as these are axes of the file: an oblique volume is turned, not resampled.

    Raises:
        Rejected: When the file is damaged or larger than it may be, or does not say clearly where its voxels lie.
    """
    nifti = _open(path)
    placed = _place(nifti)
    kind = nifti.get_data_dtype().kind
    if kind not in "iuf":
        raise Rejected("pixels", "The volume holds colours or complex numbers. One number a voxel is needed.")
    try:
        voxels = np.asanyarray(nifti.dataobj, np.float32).reshape(placed.shape)
    except MemoryError:
        raise
    except DAMAGE as error:
        raise blame(error, "undecodable", "The voxels cannot be decoded") from error
    if not np.isfinite(voxels).all():
        raise Rejected("pixels", "The volume holds voxels that are no finite numbers. Replace them and try again.")
    origin = {"spacing": "affine of the file", "axes of the file": placed.axes()}
    pixels = np.ascontiguousarray(placed.to_display(voxels))[None]
    return Image(pixels, placed.spacing_mm(), origin, place=placed)


def _open(path: Path) -> nibabel.Nifti1Image:
    try:
        packed = path.stat().st_size
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if zipped else raw as file:
                data = _read(file, packed)  # type: ignore[arg-type]
        made = nibabel.Nifti2Image if data[0:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
        return made.from_bytes(data)
    except (Rejected, MemoryError):
        raise
    except (
        *DAMAGE,
        nibabel.spatialimages.HeaderDataError,
        nibabel.filebasedimages.ImageFileError,
        zlib.error,
    ) as error:
        raise blame(error, "undecodable", "It is no NIfTI file, or damaged") from error


def _read(file: BinaryIO, packed: int) -> bytes:
    """A file's bytes as far as its header counts them; no more is unpacked, and nothing that is too much."""
    head = file.read(HEADER_BYTES)
    header: Any = nibabel.Nifti2Header if head[0:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Header
    length = header.sizeof_hdr
    if len(head) < length:
        raise Rejected("truncated", "The file ends within its header.")
    told = header(head[:length])
    if told["magic"].item()[:2] != b"n+":
        raise Rejected("format", "It is no NIfTI file with header and voxels in one. Convert it to .nii or .nii.gz.")
    shape = [int(n) for n in told.get_data_shape()]
    if min(shape, default=0) < 1:
        raise Rejected("header", "The header counts no voxels along some axis.")
    wanted = math.ceil(float(told["vox_offset"])) + math.prod(shape) * int(told.get_data_dtype().itemsize)
    if wanted > min(DECODED_BYTES, FILE_BYTES) or wanted > max(RATIO_FREE_BYTES, packed * DECODED_RATIO):
        raise Rejected("too_large", f"The header asks for {wanted:,} bytes, more than a file of {packed:,} may hold.")
    data = head + file.read(max(wanted - len(head), 0))
    if len(data) < wanted:
        raise Rejected("truncated", f"The file ends after {len(data):,} of {wanted:,} bytes.")
    return data


def _place(nifti: nibabel.Nifti1Image) -> Placed:
    shape = nifti.shape[:3]
    if len(shape) < 3 or math.prod(nifti.shape[3:]) != 1:
        raise Rejected(
            "shape", f"It has {len(nifti.shape)} axes; one volume of three is needed. Split series of volumes."
        )
    try:
        (q, q_code), (s, s_code) = nifti.get_qform(coded=True), nifti.get_sform(coded=True)
    except ValueError as error:
        raise Rejected(
            "affine", "Its qform is no rotation. Set it anew, or set its code to 0 beside a good sform."
        ) from error
    if not q_code and not s_code:
        raise Rejected("affine", "Neither qform nor sform is set, so nobody knows which side is left. Set one of them.")
    for affine in (q, s):
        _check_affine(affine)
    if q is not None and s is not None and np.abs(q - s).max() > SQUARE * max(np.abs(s).max(), 1.0):
        raise Rejected(
            "affine", "Its qform and sform disagree about where the voxels lie. Set the wrong one to the other."
        )
    affine = np.asarray(s if s is not None else q, np.float64)
    return Placed((int(shape[0]), int(shape[1]), int(shape[2])), affine, (int(q_code), int(s_code)))


def _check_affine(affine: Affine | None) -> None:
    if affine is None:
        return
    if not np.isfinite(affine).all():
        raise Rejected("affine", "Its affine holds values that are no finite numbers. Set it anew.")
    axes = affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    if min(sizes) <= 0 or abs(np.linalg.det(axes / sizes)) < SQUARE:
        raise Rejected("affine", "Its affine is zero along some axis, so voxels have no place. Set it anew.")
    cosines = (axes / sizes).T @ (axes / sizes) - np.eye(3)
    if np.abs(cosines).max() > SQUARE:
        raise Rejected("affine", "Its axes are not at right angles (sheared, or a tilted gantry). Resample it first.")

"""Read whatever masks are drawn on, as it is displayed: NIfTI, a DICOM series, a film, a picture, MedSAM's arrays.

Source: MedSAM's preparation of CT and MR (windows; percentiles 0.5 and 99.5 of what is not 0).
"""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from medvit.budgets import VOLUME_VOXELS
from medvit.case import DAMAGE, NIFTI, PICTURES, STACKED, blame
from medvit.errors import Rejected, Skipped, Unanswered
from medvit.image import Image, Plane
from medvit.readers.radiograph import MIN_CONTRAST, read_radiograph
from medvit.readers.series import read_series
from medvit.readers.volume import read_volume

ARRAYS = (".npz", ".npy")
PERCENTILES = (0.5, 99.5)  # of voxels that are not 0, MedSAM
LABELS_AT_MOST = 32  # different whole numbers that make a volume a mask
PATCHES_AT_MOST, PATCHED = (
    256,
    0.75,
)  # more of them do where so many voxels equal their neighbour; of images 0.07, of masks 0.81
IMAGE_KEYS = ("imgs", "img")  # of MedSAM's npz


class Grey(NamedTuple):
    """How values become grey.

    Args:
        kind: ``ct`` cuts a window, ``mr`` cuts at percentiles, ``auto`` takes the window for DICOM CT and percentiles for the
            rest; NIfTI does not say what it holds.
        level: Middle of the window, Hounsfield units.
        width: Its width.
    """

    kind: Literal["auto", "ct", "mr"] = "auto"
    level: float = 40.0
    width: float = 400.0


def read_scan(files: Sequence[Path], modality: str, grey: Grey) -> Image:
    """What masks are drawn on.

    Args:
        files: One file, or the slices of a DICOM series.
        modality: Of the case; slices of CT and MR form a volume.
        grey: How values become grey; pictures, films and MedSAM's arrays are taken as they are.

    Returns:
        Pixels (C, D, H, W) in [0, 1], three channels for colour, D = 1 for what is flat.

    Raises:
        Unanswered: For what cannot be read, and for a mask in the place of an image.
    """
    first = files[0]
    name = first.name.lower()
    if name.endswith(PICTURES):
        return _picture(first)
    if name.endswith(ARRAYS):
        return _arrays(first)
    if name.endswith(NIFTI):
        image = read_volume(first)
        _refuse_mask(image.pixels)
    elif modality in STACKED:
        image = read_series(files)
    else:
        film = read_radiograph(first)
        spacing = (
            film.spacing if film.origin["spacing"] == "PixelSpacing" else None
        )  # the detector's is not the patient's
        return replace(film, pixels=film.pixels[:, None], spacing=spacing)
    pixels, how = shown(image.pixels, grey, modality)
    return replace(image, pixels=pixels, origin={**image.origin, "grey": how})


def shown(values: Plane, grey: Grey, modality: str) -> tuple[Plane, str]:
    """Values of any range as grey in [0, 1], and how.

    Raises:
        Rejected: When nothing differs.
    """
    ct = grey.kind == "ct" or (grey.kind == "auto" and modality == "CT")
    if ct:
        low, high = grey.level - grey.width / 2, grey.level + grey.width / 2
        how = f"window {grey.level:g}/{grey.width:g}"
    else:
        inside = values[values != 0]
        low, high = (float(p) for p in np.percentile(inside if inside.size else values, PERCENTILES))
        how = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of what is not 0"
    cut = values.clip(low, high)
    least, span = float(cut.min()), float(np.ptp(cut))
    if span < MIN_CONTRAST * max(abs(low), abs(high), 1e-6):
        raise Rejected("no_contrast", f"Every voxel has the same grey value by its {how}.")
    out = (cut - np.float32(least)) / np.float32(span)
    if not ct:
        out[values == 0] = 0  # what the scanner left empty
    return out.astype(np.float32, copy=False), how


def _refuse_mask(values: Plane) -> None:
    """A volume of few whole numbers, or of more that lie in plain patches, is a mask that lies among images."""
    few = values.ravel()[:: max(values.size // 200_000, 1)]
    if not np.array_equal(few, np.round(few)) or len(np.unique(few)) > PATCHES_AT_MOST:
        return
    different = len(np.unique(values))
    if different <= LABELS_AT_MOST or (different <= PATCHES_AT_MOST and _alike(values) >= PATCHED):
        raise Skipped("mask", f"It holds {different} different whole numbers: a mask, no image.")


def _alike(values: Plane) -> float:
    """Share of voxels that equal the one before them in their row, of those that are not 0."""
    here, before = values[..., 1:], values[..., :-1]
    return float((here == before)[here != 0].mean())


def _picture(path: Path) -> Image:
    try:
        with Pillow.open(path, formats=("PNG", "JPEG")) as file:
            picture = ImageOps.exif_transpose(file)
            grey = picture.mode in ("1", "L", "LA") or picture.mode.startswith(("I", "F"))
            if picture.mode.startswith("I"):
                pixels = np.asarray(picture, np.float32)[None] / np.float32(65535)
            else:
                colours = np.asarray(picture.convert("L" if grey else "RGB"), np.float32) / np.float32(255)
                pixels = colours[None] if grey else np.ascontiguousarray(colours.transpose(2, 0, 1))
    except MemoryError:
        raise
    except (Pillow.DecompressionBombError, *DAMAGE) as error:
        raise blame(error, "undecodable", "The picture cannot be decoded") from error
    if np.ptp(pixels) < MIN_CONTRAST:
        raise Rejected("no_contrast", "Every pixel has the same value.")
    return Image(pixels[:, None], None, {"grey": "as in the file", "spacing": "none in the file"})


def _arrays(path: Path) -> Image:
    """MedSAM's ``imgs`` (D, H, W[, 3]) or ``img`` (H, W[, 3]), 0 to 255 or 0 to 1."""
    held = load_array(path, IMAGE_KEYS)
    colour = held.ndim in (3, 4) and held.shape[-1] == 3
    volume = held.ndim == (4 if colour else 3)
    if held.ndim not in (2, 3, 4) or held.size > 3 * VOLUME_VOXELS:
        raise Rejected("shape", f"Its images have the shape {held.shape}; (slices, rows, columns[, 3]) is needed.")
    values = held.astype(np.float32) / np.float32(255 if held.dtype == np.uint8 else 1)
    values = values if volume else values[None]
    pixels = np.moveaxis(values, -1, 0) if colour else values[None]
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise Rejected("pixels", "Its images hold values outside 0 to 255 (bytes) or 0 to 1.")
    if colour and np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2]):
        pixels = pixels[:1]  # grey, thrice
    return Image(np.ascontiguousarray(pixels), _spacing(path), {"grey": "as in the file"})


def _spacing(path: Path) -> tuple[float, ...] | None:
    """MedSAM keeps x, y, z in mm with a volume."""
    try:
        found = load_array(path, ("spacing",)).astype(float).ravel()
    except Unanswered:
        return None
    return tuple(found[::-1].tolist()) if len(found) == 3 and found.min() > 0 else None


def load_array(path: Path, keys: Sequence[str]) -> NDArray[Any]:
    """An array of numbers of a ``.npy`` file, or the first of some names in a ``.npz`` file.

    Raises:
        Rejected: For another kind of file, one without these names, or one that holds objects.
    """
    try:
        if path.suffix == ".npy":
            array: NDArray[Any] = np.load(path)
        else:
            with np.load(path) as held:
                names = [key for key in keys if key in held]
                if not names:
                    raise Rejected("arrays", f"It holds no {' or '.join(keys)}.")
                array = held[names[0]]
    except (Unanswered, MemoryError):
        raise
    except (*DAMAGE, zipfile.BadZipFile) as error:
        raise blame(error, "undecodable", "Its arrays cannot be read") from error
    if array.dtype.kind not in "iufb":
        raise Rejected("arrays", "It holds something else than numbers.")
    return array

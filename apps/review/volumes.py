"""Volumes for the browser: values with windows to see them by, marks of orientation, and masks that are shown and painted.

Values travel as whole numbers of 16 bits with the step that they count in, so that the browser can window them by itself.

Source of the windows for CT: usual ones of radiology (Radiopaedia, "Windowing (CT)").
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from apps.review.files import checked, files_of, is_stacked
from medvit.atomic import whole
from medvit.case import ENHANCED, NIFTI, PICTURES, SLICES
from medvit.errors import Rejected, Unanswered
from medvit.guard import Reply
from medvit.image import Image
from medvit.readers.dicom import decimals, open_dicom
from medvit.readers.radiograph import read_radiograph
from medvit.readers.series import read_series
from medvit.readers.volume import read_volume

CT_WINDOWS = {
    "soft tissue": (50.0, 400.0), "lung": (-600.0, 1500.0), "bone": (400.0, 1800.0), "mediastinum": (50.0, 350.0),
    "liver": (30.0, 150.0), "brain": (40.0, 80.0),
}  # fmt: skip  # centre and width, Hounsfield units
HOUNSFIELD_FROM = -500.0  # a NIfTI volume with values below this is taken for CT: nothing else is so far below 0
FINE_VOXELS = 190_000_000  # of larger volumes values travel in 256 steps
LETTERS = ("RL", "AP", "HF")  # where the axes of a patient lead, and back: right, anterior, head
SLANTED = 0.3  # of a unit vector; an axis with so much of another direction gets its letter, too


def read(path: str, case: str, count: int = 0) -> tuple[Image, str]:
    """A case as masks of it are drawn: pixels (C, D, H, W) in units of the file, and what its values are: ``HU`` or "".

    Args:
        path: Its first file.
        case: Its key.
        count: See `apps.review.files.files_of`.
    """
    if path.lower().endswith(NIFTI):
        checked(path, case)
        image = read_volume(Path(path))
        return image, "HU" if float(image.pixels.min()) < HOUNSFIELD_FROM else ""
    files, kind = files_of(path, case, count)
    if kind in (*SLICES, *ENHANCED):
        return read_series(files), "HU" if kind in (SLICES[0], ENHANCED[0], ENHANCED[2]) else ""
    flat = read_radiograph(Path(path))
    return Image(flat.pixels[:, None], flat.spacing, flat.origin), ""


def slices(path: str, case: str, count: int = 0) -> Reply:
    """What masks are drawn on, (D, H, W); D is 1 for what is flat.

    A value of the file is ``offset`` and so many ``scale`` more as the number says.
    """
    image, unit = read(path, case, count)
    values = image.pixels[0]
    low, high = float(values.min()), float(values.max())
    most = 65_535 if values.size <= FINE_VOXELS else 255
    whole_numbers = high - low <= most and np.array_equal(values.ravel()[::97], np.round(values.ravel()[::97]))
    scale = 1.0 if whole_numbers else max(high - low, 1e-12) / most
    told = {
        "shape": list(values.shape), "spacing": image.spacing, "origin": dict(image.origin), "offset": low, "scale": scale,
        "windows": _windows(path, image, unit), "unit": unit, "marks": _marks(path, image),
    }  # fmt: skip
    return Reply(told, (((values - low) / scale + 0.5).astype(np.uint16 if most > 255 else np.uint8),))


def planes(path: str, case: str) -> NDArray[np.uint8]:
    """The middle slice for a thumbnail, between its 1st and 99th percentile."""
    image, _ = read(path, case)
    plane = image.pixels[0, image.pixels.shape[1] // 2]
    low, high = (float(number) for number in np.percentile(plane, (1, 99)))
    return np.asarray((255 * (plane - low) / max(high - low, 1e-6)).clip(0, 255), np.uint8)


def _windows(path: str, image: Image, unit: str) -> list[list[Any]]:
    """Name, centre and width of each window; the first is the one to begin with."""
    some = image.pixels.ravel()[:: max(image.pixels.size // 2_000_000, 1)]
    low, first, last, high = (float(number) for number in np.percentile(some, (0, 1, 99, 100)))
    usual = [["1st to 99th percentile", (first + last) / 2, max(last - first, 1e-6)]] if last > first else []
    full = ["whole range", (low + high) / 2, max(high - low, 1e-6)]
    if image.place is None:
        return [full, *usual]  # a film or picture is read as it is displayed
    named = [[name, *window] for name, window in CT_WINDOWS.items()] if unit else []
    return [*_own_window(path), *([*named, *usual] if named else usual), full]


def _own_window(path: str) -> list[list[Any]]:
    """The first window that a DICOM file of slices brings."""
    if path.lower().endswith((*NIFTI, *PICTURES)):
        return []
    dataset = open_dicom(Path(path))
    if str(dataset.get("SOPClassUID", "")) not in (*SLICES, *ENHANCED):
        return []  # a film is read through its own window already
    try:
        groups = (dataset.get(name) for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"))
        said = [group[0] for group in groups if group and group[0].get("FrameVOILUTSequence")]
        window = said[0].FrameVOILUTSequence[0] if said else dataset
        centre, width = decimals(window, "WindowCenter"), decimals(window, "WindowWidth")
    except Unanswered:
        return []
    return [["of the file", centre[0], width[0]]] if centre and width and width[0] > 0 else []


def _marks(path: str, image: Image) -> dict[str, str]:
    """Letters of where the edges of a slice lie in the patient, and where the next slices do; none where nobody knows."""
    if image.place is None:
        return _marks_of_film(path)
    onwards, down, right = (_letters(axis) for axis in image.place.directions)
    up, left = (_letters(-axis) for axis in image.place.directions[1:])
    return {"left": left, "right": right, "top": up, "bottom": down, "onwards": onwards}


def _marks_of_film(path: str) -> dict[str, str]:
    if path.lower().endswith(PICTURES):
        return {}
    told = [str(one) for one in open_dicom(Path(path)).get("PatientOrientation") or []]
    if len(told) != 2 or not set(told) <= {*"RLAPHF"}:
        return {}
    back = {**{pair[0]: pair[1] for pair in LETTERS}, **{pair[1]: pair[0] for pair in LETTERS}}
    right, down = told
    return {"left": back[right], "right": right, "top": back[down], "bottom": down}


def _letters(axis: NDArray[np.float64]) -> str:
    order = np.argsort(-np.abs(axis), kind="stable")
    return "".join(LETTERS[i][int(axis[i] < 0)] for i in order if abs(axis[i]) >= SLANTED)


def masks(path: str, case: str, files: list[tuple[str, str, str]], shape: list[int]) -> Reply:
    """Masks of a case as bits, each (D, H, W) padded to whole bytes, with the slices that they are on.

    Args:
        path: The case's first file.
        case: Its key.
        files: Label, file and SHA-256 of each; "" for a file that no row of the log vouches for.
        shape: Of the image; a mask of another one is left out.
    """
    stacked = is_stacked(checked(path, case))
    told, bits, changed = [], [], []
    for number, (label, file, digest) in enumerate(files):
        try:
            mask = read_drawn(file, digest, stacked)
        except (OSError, Unanswered):
            changed.append(label)
            continue
        if list(mask.shape) != list(shape):
            continue  # of another image
        present = mask.any(axis=(1, 2))
        largest = int(mask.sum(axis=(1, 2)).argmax()) if present.any() else -1
        told.append({"label": label, "number": number, "present": present.astype(int).tolist(), "largest": largest})
        bits.append(np.packbits(mask))
    size = len(bits[0]) if bits else 0
    plain = {"masks": told, "bytes": size, "changed": changed}
    return Reply(plain, (np.concatenate(bits) if bits else np.zeros(0, np.uint8),))


def paint(
    path: str, case: str, file: str, digest: str, shape: Sequence[int], chosen: Sequence[int], bits: bytes, target: str
) -> Reply:
    """Write a mask whose chosen slices are as a reader painted them and whose others are as before.

    Args:
        path: The case's first file.
        case: Its key.
        file: The mask as it was; "" for none.
        digest: Its SHA-256 where the log vouches for it, else "".
        shape: Of the image, (D, H, W).
        chosen: Slices that were painted on.
        bits: Theirs one after the other, each padded to whole bytes.
        target: Where to; the mask as it was stays where it is.

    Raises:
        Rejected: When the bits are not those of these slices, or the mask as it was is one of another image.
    """
    stacked = is_stacked(checked(path, case))
    depth, rows, columns = (int(side) for side in shape)
    each = -(-rows * columns // 8)
    if len(set(chosen)) != len(chosen) or len(bits) != each * len(chosen) or not all(0 <= z < depth for z in chosen):
        raise Rejected("mask", "What was sent is no mask of these slices.")
    before = read_drawn(file, digest, stacked) if file else np.zeros((depth, rows, columns), bool)
    if before.shape != (depth, rows, columns):
        raise Rejected("mask", "The mask is one of another image.")
    after = before.copy()
    for place, z in enumerate(chosen):
        packed = np.frombuffer(bits, np.uint8, each, place * each)
        after[z] = np.unpackbits(packed, count=rows * columns).reshape(rows, columns).astype(bool)
    told = keep(after, Path(target))
    added, removed = int((after & ~before).sum()), int((before & ~after).sum())
    return Reply({"sha256": told, "voxels": int(after.sum()), "added": added, "removed": removed})


def keep(mask: NDArray[np.bool_], target: Path) -> str:
    """Write a reader's mask (D, H, W) whole; the SHA-256 of its file."""
    with whole(target) as part, part.open("wb") as file:
        np.savez_compressed(file, bits=np.packbits(mask), shape=np.array(mask.shape))
    return hashlib.sha256(target.read_bytes()).hexdigest()


def read_drawn(file: str, digest: str = "", stacked: bool = False) -> NDArray[np.bool_]:
    """A mask (D, H, W) that lies in a run's folder: NIfTI, PNG, or the bits of a reader's own.

    Args:
        file: Where.
        digest: Its SHA-256 where the log vouches for it.
        stacked: Whether it is one of a DICOM series, whose slices, rows and columns are shown as they are stored; what comes
            from NIfTI is turned for the screen.

    Raises:
        Rejected: When the file is another one than a row of the log vouches for.
    """
    if digest and hashlib.sha256(Path(file).read_bytes()).hexdigest() != digest:
        raise Rejected("changed", "A mask was changed after it was kept. `medvit review --verify` says which.")
    if file.endswith(".npz"):
        with np.load(file, allow_pickle=False) as held:
            shape = tuple(int(side) for side in held["shape"])
            return np.unpackbits(held["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    if file.endswith(".png"):
        with Pillow.open(file, formats=["PNG"]) as picture:
            return np.asarray(np.asarray(picture.convert("L")) > 127)[None]
    image = read_volume(Path(file))
    mask = np.asarray(image.pixels[0] > 0)
    return image.place.to_source(mask).transpose(2, 1, 0) if stacked and image.place else mask

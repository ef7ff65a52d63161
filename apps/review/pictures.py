"""What worker processes do for the app: open what was sent, and give back pixels; untrusted files are opened nowhere else.

Every duty checks first that the file is the case it is asked for: by SOP or Series Instance UID, or by its path where it has
none. Another file in its place is refused, so that nobody reads one case under the name of another.
"""

import io
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.datadict import tag_for_keyword

from apps.review.signing import write_verified
from medvit.case import CLIPS, PICTURES, SLIDES, Case, digest
from medvit.errors import Rejected, Unanswered
from medvit.guard import Duty, Reply
from medvit.readers.clip import read_clip
from medvit.readers.radiograph import read_radiograph
from medvit.readers.slide import Slide
from medvit.readers.survey import survey
from medvit.readers.volume import read_volume
from medvit.writers.source import open_source

SHOWN = ("Laterality", "ImageLaterality", "ViewPosition", "PatientOrientation", "SeriesNumber", "InstanceNumber",
         "BodyPartExamined", "Modality")  # fmt: skip
CHECKED = ("SOPInstanceUID", "SeriesInstanceUID")
NAMES = {"PatientName": "name", "PatientID": "ID", "PatientBirthDate": "born", "StudyDate": "study of"}
LONGEST = 3_072  # pixels of a film's longer side on the screen; larger ones are averaged down by whole numbers
TILE = 256
QUALITY = 88  # of the JPEG of a tile or frame
VOLUMES = (".nii", ".nii.gz")
FRAMES = 256  # of a clip on the screen
NOT_DICOM = (*PICTURES, *SLIDES, *CLIPS, ".nii", ".gz")


def duties() -> Mapping[str, Duty]:
    """The duties of a worker of the app."""
    return {
        "facts": facts, "film": film, "thumbnail": thumbnail, "slide": slide, "tile": tile, "clip": clip, "slices": slices,
        "masks": masks, "sign": write_verified,
    }  # fmt: skip


def facts(path: str, case: str, identity: bool) -> Reply:
    """What the header says of side, view and series; the patient's name only where it is asked for."""
    raw = _checked(path, case)
    told: dict[str, Any] = {name: text for name in SHOWN if (text := _plain(raw.get(name, b"")))}
    if identity and raw:
        source = open_source(Case("", "", (Path(path),)))
        if source:
            told["identity"] = {
                said: source.identity[name] for name, said in NAMES.items() if source.identity.get(name)
            }
    return Reply(told)


def film(path: str, case: str) -> Reply:
    """A film as displayed: (H, W) uint16, 0 black; what was used on the way."""
    _checked(path, case)
    image = read_radiograph(Path(path))
    rows, columns = image.pixels.shape[1:]
    step = max(-(-max(rows, columns) // LONGEST), 1)
    shown = _averaged(image.pixels[0], step)
    told = {"rows": rows, "columns": columns, "step": step, "spacing": image.spacing, "origin": dict(image.origin)}
    return Reply(told, ((shown.clip(0, 1) * 65535 + 0.5).astype(np.uint16),))


def thumbnail(path: str, case: str, kind: str, side: int) -> Reply:
    """A small JPEG of a case, without anything that the AI said."""
    _checked(path, case)
    if kind == "film":
        pixels = (read_radiograph(Path(path)).pixels[0] * 255).astype(np.uint8)
    elif kind == "clip":
        frames = read_clip(Path(path)).pixels[0]
        pixels = (frames[len(frames) // 2] * 255).astype(np.uint8)
    elif kind == "volume":
        values = slices(path, case).arrays[0]
        pixels = values[len(values) // 2]
    else:
        opened = _slide(path)
        scale = max(max(opened.size) / side, 1.0)
        size = (max(int(opened.size[0] / scale), 1), max(int(opened.size[1] / scale), 1))
        pixels = opened.region((0, 0), size, opened.mpp * scale)
    picture = Pillow.fromarray(pixels)
    picture.thumbnail((side, side), Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return Reply(None, (_jpeg(picture),))


def slide(path: str, case: str, mpp: float | None) -> Reply:
    """Size, resolution and focal planes of a slide."""
    _checked(path, case)
    opened = _slide(path, mpp)
    return Reply({
        "width": opened.size[0], "height": opened.size[1], "mpp": opened.mpp, "mpp_source": opened.mpp_source,
        "planes": opened.planes, "corner": list(opened.bounds[:2]), "notes": list(opened.notes), "reader": opened.reader,
    })  # fmt: skip


def tile(path: str, mpp: float | None, box: tuple[float, float, int, int, float], plane: int | None) -> Reply:
    """A JPEG of a rectangle of a slide: left, top in level-0 pixels, the tile's width and height, level-0 pixels a pixel."""
    opened = _slide(path, mpp)
    left, top, width, height, scale = box
    pixels = opened.region((left, top), (width, height), opened.mpp * scale, plane)
    return Reply(None, (_jpeg(Pillow.fromarray(pixels)),))


def clip(path: str, case: str) -> Reply:
    """A clip as JPEG frames, one behind the other, with their lengths."""
    _checked(path, case)
    image = read_clip(Path(path))
    frames = image.pixels[0]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int))
    parts = [_jpeg(Pillow.fromarray((frames[index] * 255).astype(np.uint8))) for index in chosen]
    told = {
        "lengths": [len(part) for part in parts], "frames": len(frames), "chosen": chosen.tolist(),
        "rows": frames.shape[1], "columns": frames.shape[2], "spacing": image.spacing, "origin": dict(image.origin),
    }  # fmt: skip
    return Reply(told, (np.concatenate(parts),))


def slices(path: str, case: str) -> Reply:
    """What masks are drawn on, (D, H, W) uint8 between its 1st and 99th percentile; D is 1 for what is flat."""
    _checked(path, case)
    if path.lower().endswith(VOLUMES):
        image = read_volume(Path(path))
        values = _stretched(image.pixels[0])
    else:
        image = read_radiograph(Path(path))
        values = image.pixels
    told = {"shape": list(values.shape), "spacing": image.spacing, "origin": dict(image.origin)}
    return Reply(told, ((values * 255).astype(np.uint8),))


def masks(path: str, case: str, files: list[tuple[str, str]], shape: list[int]) -> Reply:
    """Masks of a case as bits, each (D, H, W) padded to whole bytes, with the slices that they are on."""
    _checked(path, case)
    told, bits = [], []
    for label, file in files:
        mask = read_drawn(file)
        if list(mask.shape) != list(shape):
            continue  # of another image
        present = mask.any(axis=(1, 2))
        largest = int(mask.sum(axis=(1, 2)).argmax()) if present.any() else -1
        told.append({"label": label, "present": present.astype(int).tolist(), "largest": largest})
        bits.append(np.packbits(mask))
    size = len(bits[0]) if bits else 0
    return Reply({"masks": told, "bytes": size}, (np.concatenate(bits) if bits else np.zeros(0, np.uint8),))


def read_drawn(file: str) -> NDArray[np.bool_]:
    """A mask (D, H, W) that lies in a run's folder: NIfTI, PNG, or the bits of a reader's own."""
    if file.endswith(".npz"):
        with np.load(file, allow_pickle=False) as held:
            shape = tuple(int(side) for side in held["shape"])
            return np.unpackbits(held["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    if file.endswith(".png"):
        with Pillow.open(file, formats=["PNG"]) as picture:
            return np.asarray(np.asarray(picture.convert("L")) > 127)[None]
    return np.asarray(read_volume(Path(file)).pixels[0] > 0)


def _checked(path: str, case: str) -> dict[str, bytes]:
    """The wanted elements of a DICOM file, none of another, once it has proved to be the case."""
    if path.lower().endswith(NOT_DICOM):
        if digest(os.path.realpath(path)) != case:
            raise Rejected(
                "another_file", "Another file lies in its place. Nothing is shown, so that no case is mixed up."
            )
        return {}
    tags = {tag_for_keyword(name) or 0: name for name in (*SHOWN, *CHECKED)}
    found = survey(Path(path), tags, max(tags) + 1).values
    raw = {name: found[tag] for tag, name in tags.items() if tag in found}
    if case not in (digest(_plain(raw.get(name, b""))) for name in CHECKED):
        raise Rejected(
            "another_file", "Another image lies in its place. Nothing is shown, so that no case is mixed up."
        )
    return raw


def _plain(value: bytes) -> str:
    """A code or number of a header; anything that is none counts as nothing."""
    text = value.decode("ascii", "replace").strip("\0 ")
    return (
        text
        if len(text) <= 64 and text.replace("\\", "").replace("_", "").replace(".", "").replace(" ", "").isalnum()
        else ""
    )


@lru_cache(maxsize=8)
def _slide(path: str, mpp: float | None = None) -> Slide:
    """A slide that stays open; each worker keeps a few."""
    return Slide(Path(path), mpp, None if mpp else 1.0)


def _averaged(plane: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """The plane reduced by a whole number; rows and columns that do not fill a block are left out."""
    if step == 1:
        return plane
    rows, columns = (side // step * step for side in plane.shape)
    return np.asarray(
        plane[:rows, :columns].reshape(rows // step, step, columns // step, step).mean((1, 3)), np.float32
    )


def _stretched(values: NDArray[Any]) -> NDArray[np.float32]:
    low, high = (float(number) for number in np.percentile(values, (1, 99)))
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1e-6)
    return np.asarray(((values - low) / (high - low)).clip(0, 1), np.float32)


def _jpeg(picture: Pillow.Image) -> NDArray[np.uint8]:
    file = io.BytesIO()
    try:
        picture.save(file, "JPEG", quality=QUALITY)
    except OSError as error:
        raise Unanswered("undecodable", "Its picture cannot be encoded.") from error
    return np.frombuffer(file.getvalue(), np.uint8)

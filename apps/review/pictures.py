"""What worker processes do for the app: open what was sent, and give back pixels; untrusted files are opened nowhere else.

Every duty checks first that the file is the case it is asked for, see `apps.review.files`.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from apps.review.files import SHOWN, checked, plain
from apps.review.handing import hand_out
from apps.review.kin import kin
from apps.review.signing import write_verified
from apps.review.unpacked import member
from apps.review.volumes import masks, paint, planes, slices
from medvit.case import Case
from medvit.errors import Unanswered
from medvit.guard import Duty, Reply
from medvit.readers.clip import read_clip
from medvit.readers.headers import unpack
from medvit.readers.radiograph import read_radiograph
from medvit.readers.sheet import middle, read_picture
from medvit.readers.slide import Slide
from medvit.writers.source import open_source

NAMES = {"PatientName": "name", "PatientID": "ID", "PatientBirthDate": "born", "StudyDate": "study of"}
LONGEST = 3_072  # pixels of a film's longer side on the screen; larger ones are averaged down by whole numbers
Plane = int | Literal["best"] | None  # of a slide: a focal plane, the sharpest one of a tile, what the library shows
TILE = 256
QUALITY = 88  # of the JPEG of a tile or frame
FRAMES = 256  # of a clip on the screen


def duties() -> Mapping[str, Duty]:
    """The duties of a worker of the app."""
    return {
        "facts": facts, "film": film, "thumbnail": thumbnail, "slide": slide, "tile": tile, "clip": clip, "slices": slices,
        "masks": masks, "paint": paint, "hand out": hand_out, "sign": write_verified, "member": member,
        "unpack": unpack, "kin": kin,
    }  # fmt: skip


def facts(path: str, case: str, identity: bool) -> Reply:
    """What the header says of side, view and series; the patient's name only where it is asked for."""
    raw = checked(path, case)
    told: dict[str, Any] = {name: text for name in SHOWN if (text := plain(raw.get(name, b"")))}
    if identity and raw:
        source = open_source(Case("", "", (Path(path),)))
        if source:
            told["identity"] = {
                said: source.identity[name] for name, said in NAMES.items() if source.identity.get(name)
            }
    return Reply(told)


def film(path: str, case: str) -> Reply:
    """A film as displayed: (H, W) uint16, 0 black; what was used on the way."""
    checked(path, case)
    image = read_radiograph(Path(path))
    rows, columns = image.pixels.shape[1:]
    step = max(-(-max(rows, columns) // LONGEST), 1)
    shown = _averaged(image.pixels[0], step)
    told = {"rows": rows, "columns": columns, "step": step, "spacing": image.spacing, "origin": dict(image.origin)}
    return Reply(told, ((shown.clip(0, 1) * 65535 + 0.5).astype(np.uint16),))


def thumbnail(path: str, case: str, kind: str, side: int) -> Reply:
    """A small JPEG of a case, without anything that the AI said."""
    if kind == "cells":  # the first of a folder, whose name the case has
        return Reply(None, (_jpeg(Pillow.fromarray(middle(read_picture(Path(path)), side))),))
    checked(path, case)
    if kind == "film":
        pixels = (read_radiograph(Path(path)).pixels[0] * 255).astype(np.uint8)
    elif kind == "clip":
        frames = read_clip(Path(path)).pixels[0]
        pixels = (frames[len(frames) // 2] * 255).astype(np.uint8)
    elif kind == "volume":
        pixels = planes(path, case)
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
    checked(path, case)
    opened = _slide(path, mpp)
    return Reply({
        "width": opened.size[0], "height": opened.size[1], "mpp": opened.mpp, "mpp_source": opened.mpp_source,
        "planes": opened.planes, "corner": list(opened.bounds[:2]), "notes": list(opened.notes), "reader": opened.reader,
    })  # fmt: skip


def tile(path: str, mpp: float | None, box: tuple[float, float, int, int, float], plane: Plane) -> Reply:
    """A JPEG of a rectangle of a slide: left, top in level-0 pixels, the tile's width and height, level-0 pixels a pixel.

    The sharpest plane is that of a square.
    """
    opened = _slide(path, mpp)
    left, top, width, height, scale = box
    resolution = opened.mpp * scale
    if plane == "best":
        pixels = opened.read((left, top), width, resolution, plane)
    else:
        pixels = opened.region((left, top), (width, height), resolution, plane)
    return Reply(None, (_jpeg(Pillow.fromarray(pixels)),))


def clip(path: str, case: str) -> Reply:
    """A clip as JPEG frames, one behind the other, with their lengths."""
    checked(path, case)
    image = read_clip(Path(path))
    frames = image.pixels[0]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int))
    parts = [_jpeg(Pillow.fromarray((frames[index] * 255).astype(np.uint8))) for index in chosen]
    told = {
        "lengths": [len(part) for part in parts], "frames": len(frames), "chosen": chosen.tolist(),
        "rows": frames.shape[1], "columns": frames.shape[2], "spacing": image.spacing, "origin": dict(image.origin),
    }  # fmt: skip
    return Reply(told, (np.concatenate(parts),))


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


def _jpeg(picture: Pillow.Image) -> NDArray[np.uint8]:
    file = io.BytesIO()
    try:
        picture.save(file, "JPEG", quality=QUALITY)
    except OSError as error:
        raise Unanswered("undecodable", "Its picture cannot be encoded.") from error
    return np.frombuffer(file.getvalue(), np.uint8)

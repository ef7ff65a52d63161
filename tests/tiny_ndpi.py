"""An NDPI of some focal planes, written here: Hamamatsu's TIFF, whose offsets have 8 bytes in a file of the old kind.

Source: the format notes of OpenSlide (Hamamatsu): tag 65420 marks the kind, 65421 is the lens, 65424 the plane's place in nm.
"""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED, FLOAT = 1, 2, 3, 4, 5, 9, 11
LENS = 20.0


def write_ndpi(path: Path, planes: Sequence[np.ndarray], depths_nm: Sequence[int], mpp: float, levels: int = 2) -> None:
    """Write planes (H, W, 3) of different depths, each with smaller copies of half the side."""
    data = bytearray(b"II*\0" + bytes(8))
    links = [4]  # where the place of the next directory stands
    for plane, depth in zip(planes, depths_nm, strict=True):
        for level in range(levels):
            picture = Image.fromarray(plane)
            picture = picture.resize((picture.width >> level, picture.height >> level), Image.Resampling.BOX)
            _page(data, links, picture, depth, LENS / 2**level, mpp * 2**level)
    path.write_bytes(data)


def _page(data: bytearray, links: list[int], picture: Image.Image, depth: int, lens: float, mpp: float) -> None:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    jpeg, resolution = file.getvalue(), struct.pack("<II", round(1e7 / mpp), 1_000)
    places = {}
    for name, content in (("jpeg", jpeg), ("resolution", resolution), ("bits", struct.pack("<3H", 8, 8, 8))):
        data += bytes(-len(data) % 8)
        places[name] = len(data)
        data += content
    one = struct.pack
    entries = [
        (256, LONG, 1, one("<I", picture.width)), (257, LONG, 1, one("<I", picture.height)),
        (258, SHORT, 3, one("<I", places["bits"])), (259, SHORT, 1, one("<HH", 7, 0)), (262, SHORT, 1, one("<HH", 6, 0)),
        (271, ASCII, 4, b"Ham\0"), (273, LONG, 1, one("<I", places["jpeg"])), (277, SHORT, 1, one("<HH", 3, 0)),
        (278, LONG, 1, one("<I", picture.height)), (279, LONG, 1, one("<I", len(jpeg))),
        (282, RATIONAL, 1, one("<I", places["resolution"])), (283, RATIONAL, 1, one("<I", places["resolution"])),
        (296, SHORT, 1, one("<HH", 3, 0)), (65420, SHORT, 1, one("<HH", 1, 0)), (65421, FLOAT, 1, one("<f", lens)),
        (65422, SIGNED, 1, one("<i", 0)), (65423, SIGNED, 1, one("<i", 0)), (65424, SIGNED, 1, one("<i", depth)),
    ]  # fmt: skip
    data += bytes(-len(data) % 8)
    struct.pack_into("<Q", data, links[-1], len(data))
    data += struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack("<HHI", tag, kind, count) + value
    links.append(len(data))
    data += bytes(8)

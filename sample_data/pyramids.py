"""Writes tiled TIFF pyramids of JPEG tiles that OpenSlide opens with their resolution; nothing but Pillow is needed.

Source: TIFF 6.0 sections 8, 15 and 22 with Technical Note 2 (JPEG tables shared by the tiles of a page).
"""

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)

TILE = 256
SHORT, LONG, RATIONAL, ASCII, BYTES = 3, 4, 5, 2, 7
TABLES_ONLY, IMAGE_ONLY = 1, 2  # Pillow's stream types


class Page(NamedTuple):
    """One level: pixels, and the JPEG streams of its tiles row by row; equal streams are stored once."""

    width: int
    height: int
    tiles: Sequence[bytes]


def write_pyramid(
    path: Path, pixels: Pixels, mpp: float | None, levels: int = 3, quality: int = 70, text: str = ""
) -> None:
    """Writes an image with levels each half as large as the one before.

    Args:
        path: Where to.
        pixels: Level 0.
        mpp: Micrometres a pixel; None leaves the resolution out.
        levels: How many.
        quality: Of JPEG.
        text: Image Description of level 0; one of Aperio's makes it an SVS.
    """
    pages = []
    for level in range(levels):
        if level:
            pixels = halved(pixels)
        pages.append(Page(pixels.shape[1], pixels.shape[0], [jpeg(tile, quality) for tile in cut(pixels)]))
    write_pages(path, pages, mpp, quality, text)


def cut(pixels: Pixels) -> Iterator[Pixels]:
    """The tiles of an image row by row, white where they stick out."""
    height, width = pixels.shape[:2]
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = pixels[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def halved(pixels: Pixels) -> Pixels:
    """An image of half the size, by means of two by two."""
    return np.asarray(Image.fromarray(pixels).reduce(2))[: pixels.shape[0] // 2, : pixels.shape[1] // 2]


def jpeg(tile: Pixels, quality: int, stream: int = IMAGE_ONLY) -> bytes:
    """A tile as JPEG, 4:2:0, without the tables that its page holds."""
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=quality, subsampling=2, streamtype=stream)
    return buffer.getvalue()


def write_pages(
    path: Path, pages: Sequence[Page], mpp: float | None, quality: int = 70, text: str = "", stack: bool = False
) -> None:
    """Writes pages whose tiles are JPEG streams made by `jpeg` with the same quality: levels, or planes of one stack."""
    tables = jpeg(np.zeros((TILE, TILE, 3), np.uint8), quality, TABLES_ONLY)
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        link = 4  # where the offset of the next directory belongs
        for number, page in enumerate(pages):
            stored: dict[bytes, int] = {}
            for tile in page.tiles:
                if tile not in stored:
                    stored[tile] = file.tell()
                    file.write(tile)
            fields = [
                (254, LONG, [1 if number and not stack else 0]),  # New Subfile Type: reduced
                (256, LONG, [page.width]),
                (257, LONG, [page.height]),
                (258, SHORT, [8, 8, 8]),
                (259, SHORT, [7]),  # Compression: JPEG
                (262, SHORT, [6]),  # Photometric Interpretation: YCbCr
                (277, SHORT, [3]),
                (284, SHORT, [1]),
                (322, LONG, [TILE]),
                (323, LONG, [TILE]),
                (324, LONG, [stored[tile] for tile in page.tiles]),
                (325, LONG, [len(tile) for tile in page.tiles]),
                (347, BYTES, list(tables)),
                (530, SHORT, [2, 2]),
            ]
            if text and not number:
                fields.append((270, ASCII, [*text.encode("ascii"), 0]))
            if mpp:
                per_cm = round(10_000 / (mpp * page_scale(pages, number)) * 1_000)
                fields += [(282, RATIONAL, [per_cm, 1_000]), (283, RATIONAL, [per_cm, 1_000]), (296, SHORT, [3])]
            link = _write_directory(file, link, sorted(fields))


def page_scale(pages: Sequence[Page], number: int) -> float:
    """How much coarser a page is than the first."""
    return pages[0].width / pages[number].width


def _write_directory(file: io.BufferedWriter, link: int, fields: Sequence[tuple[int, int, Sequence[int]]]) -> int:
    """Writes one directory behind its values and enters its offset where the link is; returns the next link's place."""
    forms = {SHORT: "H", LONG: "I", RATIONAL: "I", ASCII: "B", BYTES: "B"}
    entries = b""
    for tag, kind, values in fields:
        data = struct.pack(f"<{len(values)}{forms[kind]}", *values)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        if len(data) > 4:
            file.write(b"\0" * (file.tell() % 2))
            data, place = struct.pack("<I", file.tell()), data
            file.write(place)
        entries += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(struct.pack("<H", len(fields)) + entries + b"\0\0\0\0")
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(end)
    return end - 4

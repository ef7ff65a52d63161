"""Where the pixels of a TIFF lie, measured from its directories alone: enough to tell a cut slide from a file that is none.

Source: TIFF 6.0 section 2 (directories), BigTIFF design (8-byte offsets, magic 43).
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medvit.errors import Rejected

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
STRIP_OFFSETS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, JPEG_TABLES = (
    273,
    279,
    322,
    323,
    324,
    325,
    347,
)
WANTED = (
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, STRIP_OFFSETS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT,
    TILE_OFFSETS, TILE_BYTES, JPEG_TABLES,
)  # fmt: skip
TYPES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}  # BYTE, SHORT, LONG, UNDEFINED, IFD, LONG8, IFD8
MAGIC = {b"II*\0": ("<", 42), b"MM\0*": (">", 42), b"II+\0": ("<", 43), b"MM\0+": (">", 43)}
PAGES = 1_000
ENTRIES = 4_096  # of one directory
VALUES = 4_000_000  # tiles of one page


class Page(NamedTuple):
    """One image of a TIFF.

    Attributes:
        width, height: Pixels.
        fields: The values of each tag that is known here.
    """

    width: int
    height: int
    fields: Mapping[int, tuple[int, ...]]

    @property
    def tiled(self) -> bool:
        """Whether it lies in tiles, as a slide does, and not in strips."""
        return TILE_OFFSETS in self.fields

    @property
    def end(self) -> int:
        """The byte behind its last tile or strip."""
        offsets = self.fields.get(TILE_OFFSETS if self.tiled else STRIP_OFFSETS, ())
        lengths = self.fields.get(TILE_BYTES if self.tiled else STRIP_BYTES, ())
        return max((offset + length for offset, length in zip(offsets, lengths, strict=False) if length), default=0)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def pages(path: Path) -> list[Page]:
    """The images of a TIFF.

    Raises:
        Rejected: When it is no TIFF, or a directory is cut off or not as the format says.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        order, version = MAGIC.get(file.read(4), ("", 0))
        if not version:
            raise Rejected("unsupported", "It is no TIFF.")
        walk = _Directories(file, order, version == 43, size)
        return walk.pages()


class _Directories:
    """The chain of directories of one open file."""

    def __init__(self, file: BinaryIO, order: str, big: bool, size: int) -> None:
        self._file, self._order, self._big, self._size = file, order, big, size

    def pages(self) -> list[Page]:
        """Follow the chain to its end."""
        (position,) = self._take(8 if self._big else 4, "Q" if self._big else "I")
        found: list[Page] = []
        seen = set()
        while position:
            if position in seen or len(found) >= PAGES:
                raise Rejected("unreadable", "The directories of its TIFF run in a circle or are too many.")
            seen.add(position)
            page, position = self._page(position)
            found.append(page)
        return found

    def _take(self, position: int, form: str) -> tuple[int, ...]:
        form = self._order + form
        self._file.seek(position)
        data = self._file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise Rejected("truncated", "It ends before the directories of its TIFF: it was cut. Copy it again.")
        return struct.unpack(form, data)

    def _page(self, position: int) -> tuple[Page, int]:
        count_form, entry_form, next_form = ("Q", "HHQ", "Q") if self._big else ("H", "HHI", "I")
        (count,) = self._take(position, count_form)
        if count > ENTRIES:
            raise Rejected("unreadable", f"A directory of its TIFF has {count} entries.")
        position += struct.calcsize("<" + count_form)
        step, room = (20, 8) if self._big else (12, 4)
        values: dict[int, tuple[int, ...]] = {}
        for _ in range(count):
            tag, kind, length = self._take(position, entry_form)
            if tag in WANTED and kind in TYPES:
                values[tag] = self._values(position + step - room, TYPES[kind], length, room)
            position += step
        (following,) = self._take(position, next_form)
        width, height = (values.get(tag, (0,))[0] for tag in (WIDTH, HEIGHT))
        return Page(width, height, values), following

    def _values(self, position: int, kind: str, length: int, room: int) -> tuple[int, ...]:
        if length > VALUES:
            raise Rejected("unreadable", f"A page of its TIFF has {length} tiles; {VALUES} are allowed.")
        form = f"{length}{kind}"
        if struct.calcsize("<" + form) > room:
            (position,) = self._take(position, "Q" if self._big else "I")
        return self._take(position, form)


def cut_at(path: Path) -> tuple[int, int] | None:
    """Bytes there and bytes needed, where tiles or strips of a TIFF lie behind its end.

    None where all are there, and where the directories are too odd to tell: whoever opened the file knows better.
    """
    there = path.stat().st_size
    try:
        needed = max((page.end for page in pages(path)), default=0)
    except Rejected:
        return None
    return (there, needed) if needed > there else None

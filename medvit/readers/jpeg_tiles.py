"""JPEG tiles of a TIFF level, decoded by Pillow and put together without OpenSlide.

Of the time that OpenSlide takes for a tile three quarters go into laying decoded tiles over each other with transparency, which
JPEG tiles on a grid do not have. Where Pillow's pixels are those of OpenSlide, bit by bit, this is the shorter way; whatever is
unusual (a missing tile, a damaged one, another compression) is left to OpenSlide.
Source: TIFF 6.0 section 15 (tiles), Technical Note 2 (JPEG tables).
"""

import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit.case import DAMAGE
from medvit.errors import Rejected
from medvit.readers import codestream, tiff

JPEG, RGB, YCBCR = 7, 2, 6
COLOURS = {RGB: "RGB", YCBCR: ""}  # what Pillow's decoder is told; "" as the stream says
MOST_SIDE = 4_096  # pixels of a tile


class Unusual(Exception):
    """Nothing that can be done here."""


class JpegTiles:
    """The tiles of one page, the last ones kept decoded.

    Args:
        path: The TIFF.
        page: One of its pages.
        kept_bytes: Of decoded tiles that are kept.

    Raises:
        Unusual: When the page is not of 8-bit colour JPEG tiles.
    """

    def __init__(self, path: Path, page: tiff.Page, kept_bytes: int) -> None:
        fields = page.fields
        self._width, self._height = (fields.get(tag, (0,))[0] for tag in (tiff.TILE_WIDTH, tiff.TILE_HEIGHT))
        compression, colours = (fields.get(tag, (0,))[0] for tag in (tiff.COMPRESSION, tiff.PHOTOMETRIC))
        plain = compression == JPEG and colours in COLOURS and fields.get(tiff.BITS) == (8, 8, 8)
        if not plain or not 0 < self._width <= MOST_SIDE or not 0 < self._height <= MOST_SIDE:
            raise Unusual
        self._across = -(-page.width // self._width)
        self._offsets, self._lengths = fields[tiff.TILE_OFFSETS], fields.get(tiff.TILE_BYTES, ())
        if not len(self._offsets) == len(self._lengths) == self._across * -(-page.height // self._height):
            raise Unusual
        self._tables = bytes(fields.get(tiff.JPEG_TABLES, ()))
        self._colours = COLOURS[colours]
        self._kept: OrderedDict[int, Pillow.Image] = OrderedDict()
        self._most = max(1, kept_bytes // (self._width * self._height * 4))
        self._lock = threading.Lock()
        self._file = path.open("rb", buffering=0)

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A rectangle that lies inside the page, (height, width, 3).

        Raises:
            Unusual: When one of its tiles is missing or cannot be decoded.
        """
        picture = Pillow.new("RGB", (width, height))
        for row in range(y // self._height, (y + height - 1) // self._height + 1):
            for column in range(x // self._width, (x + width - 1) // self._width + 1):
                tile = self._tile(row * self._across + column)
                picture.paste(tile, (column * self._width - x, row * self._height - y))
        return np.asarray(picture)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()
        self._kept.clear()

    def _tile(self, index: int) -> Pillow.Image:
        with self._lock:
            tile = self._kept.get(index)
            if tile is not None:
                self._kept.move_to_end(index)
                return tile
        tile = self._decode(index)
        with self._lock:
            self._kept[index] = tile
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return tile

    def _decode(self, index: int) -> Pillow.Image:
        offset, length = self._offsets[index], self._lengths[index]
        try:
            data = os.pread(self._file.fileno(), length, offset)
            if not length or len(data) < length:
                raise Unusual
            stream = codestream.jpeg(data, codestream.SEQUENTIAL)  # a frame of another size could overrun the decoder
            if (stream.columns, stream.rows, stream.samples) != (self._width, self._height, 3):
                raise Unusual
            if self._tables:
                data = self._tables[:-2] + data[2:]
            return Pillow.frombytes("RGB", (self._width, self._height), data, "jpeg", "RGB", self._colours)
        except (Rejected, *DAMAGE) as error:
            raise Unusual from error

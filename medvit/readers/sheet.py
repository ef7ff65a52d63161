"""Pictures of single cells as if they lay side by side on one smear, so that a patient's pictures are cut, described and shown
like the cells of a slide."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit.case import DAMAGE
from medvit.cell_folders import READER
from medvit.errors import Rejected
from medvit.image import Tiling
from medvit.readers.slide import Focus, Slide
from medvit.readers.slide_files import Pixels

SIDE = 256  # level-0 pixels of a picture's place, whatever the picture measures


class Sheet(Slide):
    """Pictures in rows, in the order of their names; each fills a square place with its middle square.

    Nobody knows their resolution: a tile shows its whole picture, and `mpp` (1) says nothing.

    Args:
        files: PNG, JPEG, BMP or TIFF of a cell each.
        notes: What is odd about them.

    Attributes:
        corners: (N, 2) int64, top left corner x, y of every picture's place.
    """

    def __init__(self, files: Sequence[Path], notes: Sequence[str] = ()) -> None:
        if not files:
            raise ValueError("a sheet needs pictures")
        self.files = tuple(sorted(files))
        self.columns = math.ceil(math.sqrt(len(self.files)))
        rows = math.ceil(len(self.files) / self.columns)
        self.path = self.files[0].parent
        self.size = (self.columns * SIDE, rows * SIDE)
        self.mpp, self.mpp_source, self.planes = 1.0, "unknown", 1
        self.levels, self.bounds = (), (0, 0, *self.size)
        self.reader, self.notes = READER, tuple(notes)
        self.corners = np.array([divmod(at, self.columns)[::-1] for at in range(len(self.files))], np.int64) * SIDE

    def read(self, xy_level0: tuple[float, float], size: int, mpp: float, z: Focus | None = None) -> Pixels:
        """The picture (size, size, 3) at a corner.

        Raises:
            Rejected: When it cannot be decoded or is of one colour, or where there is none.
        """
        column, row = (int(at) // SIDE for at in xy_level0)
        at = row * self.columns + column
        if not (0 <= column < self.columns and 0 <= at < len(self.files)):
            raise Rejected("out_of_bounds", f"There is no picture at {xy_level0[0]:g}, {xy_level0[1]:g}.")
        return middle(read_picture(self.files[at]), size)

    def overview(self, mpp: float) -> tuple[Pixels, NDArray[np.bool_]]:
        """All pictures at a low resolution, and where one could not be read; see `Slide.overview`."""
        width, height = (max(1, int(side / mpp)) for side in self.size)
        picture = np.full((height, width, 3), 255, np.uint8)
        unread = np.zeros(picture.shape[:2], np.bool_)
        side = max(1, int(SIDE / mpp))
        for corner in self.corners:
            x, y = (int(at / mpp) for at in corner)
            try:
                picture[y : y + side, x : x + side] = self.read(tuple(corner), side, mpp)
            except Rejected:
                unread[y : y + side, x : x + side] = True
        return picture, unread

    def close(self) -> None:
        """Nothing stays open."""


def number_of(tiling: Tiling, index: int) -> int:
    """Which of a sheet's pictures a tile is, from 1."""
    column, row = (int(at) // SIDE for at in tiling.coords[index])
    return row * (tiling.slide[0] // SIDE) + column + 1


def read_picture(file: Path) -> Pixels:
    """The pixels (H, W, 3) of a picture of one cell.

    Raises:
        Rejected: For one that cannot be decoded or is of one colour.
    """
    try:
        with Pillow.open(file, formats=("PNG", "JPEG", "BMP", "TIFF")) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (Pillow.DecompressionBombError, *DAMAGE) as error:
        raise Rejected("undecodable", f"The picture cannot be decoded ({type(error).__name__}).") from error
    if (pixels == pixels[:1, :1]).all():
        raise Rejected("one_colour", "It is of one colour: no cell is on it.")
    return pixels


def middle(pixels: Pixels, size: int) -> Pixels:
    """The middle square of a picture (H, W, 3), resampled to (size, size, 3)."""
    picture = Pillow.fromarray(pixels)
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return np.asarray(picture.resize((size, size), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side)))

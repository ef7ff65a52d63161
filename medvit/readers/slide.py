"""Whole slides, read at any resolution: `Slide.read(xy_level0, size, mpp)`.

Coordinates are pixels of level 0, x before y, in the full frame of the file; resolutions are micrometres a pixel (mpp).
Left as they are: embedded ICC profiles are not applied; `Slide.notes` says so where a file has them. Focal planes are counted
from 0; without a word about them the one that the library shows is read.
Source: OpenSlide 4 API; DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy).
"""

import math
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit.case import read_csv
from medvit.errors import MedvitError, Rejected, Unanswered
from medvit.readers.focus import sharpest
from medvit.readers.planes import UNREAD
from medvit.readers.slide_files import Broken, Pixels, Source
from medvit.readers.slide_open import FOCAL_PLANES, open_source

MPP_RANGE = (0.02, 100.0)  # what a slide scanner can mean; 72 dpi, the default of many writers, is 353
AXES = 0.01  # how far the two axes may disagree
MAGNIFICATION_MPP = 10.0  # micrometres a pixel times magnification: 20x is about 0.5
MAGNIFICATION_RANGE = (0.7, 1.45)
LEVEL_TOLERANCE = 0.02  # a level that is coarser by no more than this is not passed over for a finer one
REGION_PIXELS = 2**26  # of a level, for one read: 256 MiB
BLOCK = 2_048  # pixels of a level that an overview reads at a time
SMALLEST_BLOCK = 64
FAILURES = 1_000  # of blocks of an overview; from then on they are not divided any more
PLANES_OF_NDPI = " The others need fastslide: pip install medvit[planes]."
DRIFT = 0.05  # pixels by which the far edge of a tile may be off when a level is read as it is


Focus = int | Literal["best", "all"]  # a focal plane, the sharpest of each tile, or all of them


class Level(NamedTuple):
    """A level of the pyramid that can be trusted: its number in the file, pixels, and level-0 pixels a pixel."""

    number: int
    width: int
    height: int
    downsample: float


class Slide:
    """A slide whose resolution is known.

    It can be sent to other processes; each opens the file for itself when it first reads, and anew after an error, because
    OpenSlide answers nothing more on a handle that met a damaged tile.

    Args:
        path: SVS, NDPI, MRXS, tiled TIFF and whatever else OpenSlide reads; a DICOM file of the slide or a folder of one
            series; a PNG, JPEG or TIFF without tiles, whose mpp must be given.
        mpp: Micrometres a level-0 pixel, in place of what the file says; `mpp_source` becomes "given".
        default_mpp: The same, for a file that does not say; `mpp_source` becomes "default".

    Attributes:
        size: Width and height of level 0.
        mpp: Micrometres a level-0 pixel.
        mpp_source: "file", "given" or "default".
        levels: The levels that can be trusted, finest first.
        bounds: x, y, width, height of the scanned part in level-0 pixels, where the file names one (MRXS); else the frame.
        planes: How many focal planes can be read.
        reader: The library and format.
        notes: What is odd about the file, a sentence each; none is reason enough to refuse it.

    Raises:
        Rejected: For a file that is missing, cut, of an unknown kind, undecodable or without mpp.
    """

    def __init__(self, path: Path, mpp: float | None = None, default_mpp: float | None = None) -> None:
        for number in (mpp, default_mpp):
            if number is not None and not MPP_RANGE[0] <= number <= MPP_RANGE[1]:
                raise MedvitError(
                    f"mpp is {number:g}; micrometres a pixel lie between {MPP_RANGE[0]} and {MPP_RANGE[1]}."
                )
        self.path = Path(path)
        self._source: Source | None = open_source(self.path)
        self._process = os.getpid()
        self.size, self.planes = self._source.levels[0], self._source.planes
        self.reader = self._source.name
        notes: list[str] = []
        self.mpp, self.mpp_source = _resolution(self._source, mpp, default_mpp, notes)
        self.levels = _trusted(self._source, notes)
        self.bounds = _bounds(self._source)
        notes += _left_aside(self._source)
        self.notes = tuple(notes)

    def read(self, xy_level0: tuple[float, float], size: int, mpp: float, z: Focus | None = None) -> Pixels:
        """A square tile.

        Args:
            xy_level0: Its top left corner, level-0 pixels.
            size: Pixels a side.
            mpp: Micrometres a pixel of the tile.
            z: A focal plane from 0, ``best`` for the sharpest one of this tile (variance of the Laplacian), ``all`` for every
                one, or None for what the library shows.

        Returns:
            (size, size, 3) uint8, for ``all`` (planes, size, size, 3), RGB over white; ``size * mpp`` micrometres a side. Where
            a level has this very resolution it is read as it is, from its nearest whole pixel; else the next finer one is
            resampled from the exact place.

        Raises:
            Rejected: ``tile`` when its pixels cannot be decoded, ``out_of_bounds`` when it leaves the slide, ``plane`` when
                there is no such focal plane.
        """
        if z is None or isinstance(z, int) or (self.planes == 1 and z == "best"):
            return self.region(xy_level0, (size, size), mpp, z if isinstance(z, int) else None)
        stack = np.stack([self.region(xy_level0, (size, size), mpp, plane) for plane in range(self.planes)])
        return stack if z == "all" else stack[sharpest(stack)]

    def region(
        self, xy_level0: tuple[float, float], size: tuple[int, int], mpp: float, plane: int | None = None
    ) -> Pixels:
        """A rectangle of ``size`` (width, height) pixels of one focal plane, (height, width, 3); else like `read`."""
        if plane is not None and not 0 <= plane < self.planes:
            raise Rejected("plane", f"It has {self.planes} focal planes, counted from 0; there is no plane {plane}.")
        scale = mpp / self.mpp  # level-0 pixels a pixel
        self._check_bounds(xy_level0, size, scale)
        level = self.level_for(mpp)
        step = scale / level.downsample  # pixels of the level a pixel
        left, top = xy_level0[0] / level.downsample, xy_level0[1] / level.downsample
        width, height = size
        if abs(step - 1) * max(size) < DRIFT and width <= level.width and height <= level.height:
            x, y = min(round(left), level.width - width), min(round(top), level.height - height)
            return self._pixels(level, x, y, width, height, plane)
        if step * width * step * height > REGION_PIXELS:
            raise MedvitError(f"{self.path}: {width} x {height} pixels of {mpp:g} um are too many to read at once.")
        margin = math.ceil(step) + 1  # what the filter sees beside the rectangle
        x, y = max(math.floor(left) - margin, 0), max(math.floor(top) - margin, 0)
        right = min(math.ceil(left + step * width) + margin, level.width)
        bottom = min(math.ceil(top + step * height) + margin, level.height)
        picture = Pillow.fromarray(self._pixels(level, x, y, right - x, bottom - y, plane))
        box = (left - x, top - y, min(left + step * width, right) - x, min(top + step * height, bottom) - y)
        return np.asarray(picture.resize(size, Pillow.Resampling.BILINEAR, box=box))

    def level_for(self, mpp: float) -> Level:
        """The coarsest level that need not be enlarged to a resolution; level 0 where all would have to be."""
        most = mpp / self.mpp * (1 + LEVEL_TOLERANCE)
        return max(
            (level for level in self.levels if level.downsample <= most), default=self.levels[0], key=_coarseness
        )

    def overview(self, mpp: float) -> tuple[Pixels, NDArray[np.bool_]]:
        """The whole slide at a low resolution, read block by block so that memory does not grow with level 0.

        Returns:
            (H, W, 3) uint8, and (H, W) where it could not be read (white in the picture).
        """
        width, height = (max(1, int(side * self.mpp / mpp)) for side in self.size)
        picture = np.full((height, width, 3), 255, np.uint8)
        unread = np.zeros((height, width), np.bool_)
        step = mpp / self.mpp / self.level_for(mpp).downsample
        block = max(1, int(BLOCK / step))
        blocks = [(x, y, block) for y in range(0, height, block) for x in range(0, width, block)]
        failures = 0
        while blocks:
            x, y, side = blocks.pop()
            wide, high = min(side, width - x), min(side, height - y)
            try:
                part = self.region((x * mpp / self.mpp, y * mpp / self.mpp), (wide, high), mpp)
                picture[y : y + high, x : x + wide] = part
            except Unanswered:
                failures += 1
                if side * step <= SMALLEST_BLOCK or side == 1 or failures > FAILURES:
                    unread[y : y + high, x : x + wide] = True
                    continue
                half = (side + 1) // 2
                corners = [(x + dx, y + dy, half) for dy in (0, half) for dx in (0, half)]
                blocks += [corner for corner in corners if corner[0] < width and corner[1] < height]
        return picture, unread

    def close(self) -> None:
        """Let the file go; the next read opens it again."""
        if self._source is not None and self._process == os.getpid():
            self._source.close()
        self._source = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}

    def _check_bounds(self, xy: tuple[float, float], size: tuple[int, int], scale: float) -> None:
        for start, count, side in zip(xy, size, self.size, strict=True):
            # A pixel more, since positions are rounded to whole pixels.
            if count < 1 or start < 0 or start + count * scale > side + 1:
                raise Rejected(
                    "out_of_bounds",
                    f"A tile of {size[0]} x {size[1]} pixels at {xy[0]:g}, {xy[1]:g} leaves the slide of "
                    f"{self.size[0]} x {self.size[1]} pixels.",
                )

    def _pixels(self, level: Level, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        for _ in range(2):  # storage may stumble once
            if self._source is None or self._process != os.getpid():
                self._source, self._process = open_source(self.path), os.getpid()
            try:
                return self._source.read(level.number, x, y, width, height, plane)
            except Broken:
                self.close()
        raise Rejected("tile", f"Its pixels at {x}, {y} of level {level.number} cannot be decoded.")


def read_mpp_table(table: Path) -> dict[Path, float]:
    """Micrometres a level-0 pixel from a CSV of ``path, mpp``; paths are relative to the table's folder.

    Returns:
        Resolved path to mpp: what to give as `Slide`'s ``mpp``.

    Raises:
        MedvitError: For a value that is no such number, or a slide that is named twice with different ones.
    """
    found: dict[Path, float] = {}
    for number, row in enumerate(read_csv(table, ("path", "mpp")), 2):
        try:
            mpp = float(row["mpp"])
        except ValueError:
            mpp = math.nan
        if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            raise MedvitError(f"{table}:{number}: mpp must be micrometres a pixel, such as 0.25.")
        path = (table.parent / row["path"]).resolve()
        if found.setdefault(path, mpp) != mpp:
            raise MedvitError(f"{table}:{number}: the slide is named twice, with another mpp.")
    return found


def _resolution(source: Source, given: float | None, default: float | None, notes: list[str]) -> tuple[float, str]:
    """Micrometres a level-0 pixel and where they are from; disagreements go to the notes."""
    said = source.mpp if source.mpp and all(MPP_RANGE[0] <= mpp <= MPP_RANGE[1] for mpp in source.mpp) else None
    if said and abs(said[0] / said[1] - 1) > AXES:
        if given is None:
            raise Rejected("mpp_axes", f"Its pixels are {said[0]:g} x {said[1]:g} um, not square. Give its true mpp.")
        said = None
    power = _magnification(source)
    in_file = (said[0] + said[1]) / 2 if said else None
    mpp, origin = (given, "given") if given else (in_file, "file") if in_file else (default, "default")
    if mpp is None:
        extra = f" It names {power:g}x, which is no pixel size." if power else ""
        extra += f" It gives {source.mpp[0]:g} um a pixel, which no slide scanner has." if source.mpp else ""
        raise Rejected(
            "no_mpp", f"It does not say how large its pixels are.{extra} Give --mpp or a table of path, mpp."
        )
    if in_file and abs(in_file / mpp - 1) > AXES:
        notes.append(f"The file says {in_file:g} um a pixel; {mpp:g} was given and is used.")
    low, high = MAGNIFICATION_RANGE
    if power and not low <= mpp * power / MAGNIFICATION_MPP <= high:
        notes.append(f"The file names {power:g}x, which contradicts {mpp:g} um a pixel; the pixel size is used.")
    return mpp, origin


def _magnification(source: Source) -> float | None:
    try:
        power = float(source.facts.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER, ""))
    except ValueError:
        return None
    return power if power > 0 and math.isfinite(power) else None


def _trusted(source: Source, notes: list[str]) -> tuple[Level, ...]:
    """The levels whose two axes are reduced alike; OpenSlide averages what is not and would read the wrong place."""
    full_width, full_height = source.levels[0]
    found = []
    for index, (width, height) in enumerate(source.levels):
        across, down = full_width / width, full_height / height
        slack = AXES + 1 / width + 1 / height  # sides are rounded to whole pixels
        if abs(across / down - 1) > slack or abs(source.downsamples[index] / across - 1) > slack:
            notes.append(
                f"Level {index} is reduced {across:.3g} times across and {down:.3g} times down; it is not used."
            )
        else:
            found.append(Level(index, width, height, source.downsamples[index]))
    return tuple(found)


def _coarseness(level: Level) -> float:
    return level.downsample


def _bounds(source: Source) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(source.facts[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return (0, 0, *source.levels[0])
    return (x, y, width, height)


def _left_aside(source: Source) -> list[str]:
    """What a file holds and is not used."""
    notes = []
    if int(source.facts.get("openslide.icc-size") or 0):
        notes.append("Its embedded ICC profile is not applied.")
    planes = [source.facts.get(f"dicom.{name}", "") for name in FOCAL_PLANES]
    if source.planes == 1 and any(text.isdecimal() and int(text) > 1 for text in planes):
        notes.append("Of its focal planes one is read.")
    if unread := source.facts.get(UNREAD):
        notes.append(
            f"Of its {unread} focal planes one is read." + (PLANES_OF_NDPI if "hamamatsu" in source.name else "")
        )
    return notes

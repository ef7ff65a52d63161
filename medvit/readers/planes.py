"""Focal planes of slides of which OpenSlide shows one: NDPI through fastslide, pages of a tiled TIFF by themselves.

How planes are found: an NDPI says the depth of each picture (tag 65424); the pages of a TIFF or OME-TIFF are planes where they
are as large as the first and its OME description, if there is one, says that they differ in Z alone. Whether the other
library reads what OpenSlide reads is seen from a sample before it is believed. Planes of CZI, MRXS, SCN and VSI are not read.
DICOM slides of several planes are read by wsidicom, untiled pages by Pillow: see `medvit.readers.slide_open`.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit.errors import Rejected
from medvit.readers import tiff
from medvit.readers.jpeg_tiles import JpegTiles, Unusual
from medvit.readers.slide_files import Broken, OpenSlideSource

Pixels = NDArray[np.uint8]
UNREAD = "medvit.unread-planes"  # a fact of a source: how many planes its file has, where only one can be read
LENS, DEPTH = 65421, 65424  # tags of NDPI: magnification, negative for labels and maps; nm above the middle
MOST = 200  # planes, and pictures of an NDPI
SAMPLE, ALIKE = 300, 4.0  # pixels a side of what is compared, and grey values that decoders may differ by on average
CACHE = 2**25  # bytes of decoded tiles


class Planes(Protocol):
    """The focal planes of a file."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def shown(self) -> int:
        """The one that OpenSlide shows."""

    @property
    def levels(self) -> Sequence[tuple[int, int]]:
        """Width and height of the levels that every plane has."""

    def read(self, plane: int, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """A rectangle in pixels of the level, (height, width, 3); or `Broken`."""

    def close(self) -> None:
        """Let the file go."""


class Stacked:
    """A slide as OpenSlide shows it, whose focal planes something else reads; see `medvit.readers.slide_files.Source`."""

    def __init__(self, shown: OpenSlideSource, planes: Planes, by: str) -> None:
        self._shown, self._planes = shown, planes
        self.name = f"{shown.name}, focal planes by {by}"
        self.levels, self.downsamples, self.mpp, self.facts = shown.levels, shown.downsamples, shown.mpp, shown.facts
        self.planes = planes.count

    def read(self, level: int, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        """See `Source.read`; a plane without that level is read at its finest one and made smaller."""
        if plane is None:
            return self._shown.read(level, x, y, width, height)
        if self.levels[level] in self._planes.levels:
            return self._planes.read(plane, list(self._planes.levels).index(self.levels[level]), x, y, width, height)
        return self._reduced(self.downsamples[level], x, y, width, height, plane)

    def _reduced(self, factor: float, x: int, y: int, width: int, height: int, plane: int) -> Pixels:
        full_width, full_height = self._planes.levels[0]
        left, top = int(x * factor), int(y * factor)
        right, bottom = min(round((x + width) * factor), full_width), min(round((y + height) * factor), full_height)
        pixels = self._planes.read(plane, 0, left, top, max(right - left, 1), max(bottom - top, 1))
        return np.asarray(Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BOX))

    def close(self) -> None:
        """See `Source.close`."""
        self._planes.close()
        self._shown.close()


class FastslidePlanes:
    """The planes of an NDPI, lowest first.

    Raises:
        ImportError: Without fastslide.
        Broken: When it does not read them.
    """

    def __init__(self, path: Path, depths: Sequence[int]) -> None:
        import fastslide  # of the extra `planes`

        try:
            self._slide: Any = fastslide.FastSlide.from_file_path(str(path), cache=CACHE)
            self.count, self.levels = int(self._slide.z_count), [tuple(size) for size in self._slide.level_dimensions]
        except (RuntimeError, ValueError) as error:
            raise Broken from error
        self.shown = min(range(len(depths)), key=lambda plane: abs(depths[plane]))
        if self.count != len(depths):
            raise Broken

    def read(self, plane: int, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See `Planes.read`."""
        try:
            pixels = np.array(self._slide.read_region((x, y), level, (width, height), z=plane).numpy())
        except (RuntimeError, ValueError) as error:
            raise Broken from error
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise Broken
        return pixels

    def close(self) -> None:
        """See `Planes.close`."""
        self._slide.close()


class PagePlanes:
    """The pages of a TIFF, in their order; the first is the one that OpenSlide shows.

    Raises:
        Unusual: When one of them is not of 8-bit colour JPEG tiles.
    """

    shown = 0

    def __init__(self, path: Path, pages: Sequence[tiff.Page]) -> None:
        self._pages: list[JpegTiles] = []
        self.count, self.levels = len(pages), [(pages[0].width, pages[0].height)]
        try:
            for page in pages:
                self._pages.append(JpegTiles(path, page, CACHE // len(pages)))
        except Unusual:
            self.close()
            raise

    def read(self, plane: int, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See `Planes.read`."""
        try:
            return self._pages[plane].read(x, y, width, height)
        except Unusual as error:
            raise Broken from error

    def close(self) -> None:
        """See `Planes.close`."""
        for page in self._pages:
            page.close()


def with_planes(path: Path, shown: OpenSlideSource) -> OpenSlideSource | Stacked:
    """An open slide with its focal planes, where it has several and they can be read; else with a fact that says so."""
    planes: Planes | None = None
    count, by = 1, ""
    with suppress(Broken, Unusual, ImportError, Rejected):
        if shown.name.endswith("hamamatsu") and path.suffix.lower() == ".ndpi":
            found = depths(path)
            count, by = len(found), "fastslide"
            planes = FastslidePlanes(path, found) if count > 1 else None
        elif shown.name.endswith("generic-tiff"):
            pages = stack(tiff.pages(path), shown.facts)
            count, by = len(pages), "Pillow"
            planes = PagePlanes(path, pages) if count > 1 else None
    if planes is not None and _alike(planes, shown):
        return Stacked(shown, planes, by)
    if planes is not None:
        planes.close()
    if count > 1:
        shown.facts = {**shown.facts, UNREAD: str(count)}
    return shown


def _alike(planes: Planes, shown: OpenSlideSource) -> bool:
    """Whether the plane that OpenSlide shows is the same picture here, by a sample from the middle."""
    if planes.levels[0] != tuple(shown.levels[0]):
        return False
    width, height = (min(SAMPLE, side) for side in shown.levels[0])
    place = (0, (shown.levels[0][0] - width) // 2, (shown.levels[0][1] - height) // 2, width, height)
    try:
        ours, theirs = planes.read(planes.shown, *place), shown.read(*place)
    except Broken:
        return False
    return float(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).mean()) < ALIKE


def depths(path: Path) -> list[int]:
    """The depths (nm) of an NDPI's focal planes, lowest first.

    Its directories are those of a TIFF but for the links between them, which have 8 bytes.
    """
    found: set[int] = set()
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"II*\0":
            return []
        (position,) = struct.unpack("<Q", head[4:])
        for _ in range(MOST):
            file.seek(position)
            count = int.from_bytes(file.read(2), "little")
            entries = file.read(12 * count)
            link = file.read(8)
            if not position or len(entries) < 12 * count or len(link) < 8:
                break
            tags = {tag: value for tag, _, _, value in struct.iter_unpack("<HHI4s", entries)}
            if LENS in tags and DEPTH in tags and struct.unpack("<f", tags[LENS])[0] > 0:
                found.add(struct.unpack("<i", tags[DEPTH])[0])
            (position,) = struct.unpack("<Q", link)
    return sorted(found)


def stack(pages: Sequence[tiff.Page], facts: Mapping[str, str]) -> list[tiff.Page]:
    """Those pages of a TIFF that are focal planes of the first, itself included."""
    first = pages[0]
    same = [page for page in pages if page.tiled and (page.width, page.height) == (first.width, first.height)]
    said = facts.get("tiff.ImageDescription") or facts.get("openslide.comment", "")
    if "<OME" not in said[:1_000]:
        return same[:MOST]
    sizes = {
        axis: int(number) for axis, number in re.findall(r'\bSize([ZTC])="(\d{1,4})"', said[: said.find("</Pixels>")])
    }
    if sizes.get("T", 1) != 1 or sizes.get("C", 1) not in (1, 3) or len(same) < sizes.get("Z", 1):
        return same[:1]
    return same[: min(sizes.get("Z", 1), MOST)]

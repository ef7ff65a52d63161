"""The libraries that decode slides behind one interface: OpenSlide, wsidicom for what it refuses, Pillow for pictures."""

import ctypes
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import lowlevel
from PIL import Image as Pillow
from PIL import ImageOps

from medvit import budgets
from medvit.case import DAMAGE
from medvit.errors import Rejected
from medvit.readers import tiff
from medvit.readers.jpeg_tiles import JpegTiles, Unusual

Pixels = NDArray[np.uint8]
OPAQUE = 0xFF000000
SHORT_WAY = ("aperio", "generic-tiff")
SAMPLE = 300  # pixels a side of what is compared
MOST_KEPT = 2**22  # pixels of memory that is kept between reads
LEAST_CACHE, MOST_CACHE = 2**25, 160 * 2**20  # bytes of decoded tiles that a handle keeps
NOTHING: Mapping[str, str] = MappingProxyType({})


class Broken(Exception):
    """Pixels that the library cannot decode; the handle may be of no use any more."""


class Source(Protocol):
    """An open slide."""

    @property
    def name(self) -> str:
        """The library and format, for records."""

    @property
    def levels(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level in pixels, finest first."""

    @property
    def downsamples(self) -> Sequence[float]:
        """Level-0 pixels a pixel of each level."""

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres a level-0 pixel, x and y, as the file says; None where it does not."""

    @property
    def facts(self) -> Mapping[str, str]:
        """OpenSlide's properties, as far as there are any."""

    @property
    def planes(self) -> int:
        """Focal planes that can be read."""

    def read(self, level: int, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        """A rectangle in pixels of the level, (height, width, 3), glass and what was not scanned white; or `Broken`.

        ``plane`` counts focal planes from 0; None is the one that the library shows.
        """

    def close(self) -> None:
        """Let the file go."""


class OpenSlideSource:
    """A slide through OpenSlide: SVS, NDPI, MRXS, tiled TIFF, DICOM and more.

    Raises:
        openslide.OpenSlideError: When it does not read the file.
    """

    planes = 1  # it shows one of them

    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(path)
        self.facts: Mapping[str, str] = dict(self._slide.properties)
        self._kept = threading.local()
        # Tiles are read row by row. Of OpenSlide's own 32 MiB a row of a wide slide is gone before the next one needs it again.
        height = _number(self.facts.get("openslide.level[0].tile-height")) or 256
        rows = int(2 * height * self._slide.dimensions[0] * 4)
        cache = min(max(rows, LEAST_CACHE), MOST_CACHE)
        self._slide.set_cache(openslide.OpenSlideCache(cache))
        self.name = f"openslide {self.facts.get(openslide.PROPERTY_NAME_VENDOR, '')}".strip()
        self.levels = self._slide.level_dimensions
        self.downsamples = self._slide.level_downsamples
        mpp = [_number(self.facts.get(name)) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
        self.mpp = (mpp[0], mpp[1]) if mpp[0] is not None and mpp[1] is not None else None
        self._short = self._short_ways(path, cache)

    def read(self, level: int, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        """See `Source.read`."""
        if level in self._short:
            try:
                return self._short[level].read(x, y, width, height)
            except Unusual:
                pass
        return self._through_openslide(level, x, y, width, height)

    def _short_ways(self, path: Path, cache: int) -> dict[int, JpegTiles]:
        """The levels of JPEG tiles that Pillow decodes to the same pixels as OpenSlide, by a sample of each."""
        found: dict[int, JpegTiles] = {}
        if not tiff.is_tiff(path) or self.facts.get(openslide.PROPERTY_NAME_VENDOR) not in SHORT_WAY:
            return found
        try:
            pages = {(page.width, page.height): page for page in reversed(tiff.pages(path)) if page.tiled}
        except Rejected:  # too odd for us; OpenSlide read it
            return found
        for level, size in enumerate(self.levels):
            try:
                tiles = JpegTiles(path, pages[size], cache // 2)
            except (KeyError, Unusual):
                continue
            width, height = min(SAMPLE, size[0]), min(SAMPLE, size[1])
            place = (level, (size[0] - width) // 2, (size[1] - height) // 2, width, height)
            try:
                if np.array_equal(tiles.read(*place[1:]), self._through_openslide(*place)):
                    found[level] = tiles
                    continue
            except (Unusual, Broken):
                pass
            tiles.close()
        return found

    def _through_openslide(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """What `read` gives, by OpenSlide.

        `OpenSlide.read_region` makes a picture of four channels that one then copies to three; here OpenSlide's own buffer
        (premultiplied BGRA) is turned into RGB over white in one pass.
        """
        buffer = self._room(width * height).reshape(height, width)
        factor = self.downsamples[level]
        at = round(x * factor), round(y * factor)
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
        try:
            lowlevel._read_region(self._slide._osr, pointer, *at, level, width, height)
        except (openslide.OpenSlideError, ctypes.ArgumentError) as error:  # the latter: the handle is closed
            raise Broken from error
        return over_white(buffer)

    def _room(self, words: int) -> NDArray[np.uint32]:
        """Memory for pixels, kept between reads by each thread: new memory costs as much as turning the colours round."""
        kept: NDArray[np.uint32] | None = getattr(self._kept, "words", None)
        if kept is None or len(kept) < words or len(kept) > MOST_KEPT:
            kept = self._kept.words = np.empty(words, np.uint32)
        return kept[:words]

    def close(self) -> None:
        """See `Source.close`."""
        for tiles in self._short.values():
            tiles.close()
        self._slide.close()


class WsiDicomSource:
    """A DICOM slide through wsidicom, which reads some that OpenSlide refuses (greyscale, for example).

    Raises:
        Broken: When it does not read the files either.
    """

    name = "wsidicom"
    facts: Mapping[str, str] = NOTHING

    def __init__(self, files: Sequence[Path]) -> None:
        from wsidicom import WsiDicom, errors  # a second to import, and seldom needed

        own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
        self._errors: tuple[type[Exception], ...] = (*own, *DAMAGE)  # they have no common base
        try:
            with warnings.catch_warnings(action="ignore"):  # they quote header values
                self._slide = WsiDicom.open(list(files))
            pyramid = list(self._slide.pyramid)
            base = pyramid[0]
            self._indices = [level.level for level in pyramid]
            self.levels = [(level.size.width, level.size.height) for level in pyramid]
            self.downsamples = [2.0 ** (level.level - base.level) for level in pyramid]
            self.mpp = (float(base.mpp.width), float(base.mpp.height))
            self._depths = sorted(base.focal_planes)  # micrometres
            self.planes = max(1, len(self._depths))
        except self._errors as error:
            raise Broken from error

    def read(self, level: int, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        """See `Source.read`."""
        depth = None if plane is None else self._depths[plane]
        try:
            picture = self._slide.read_region((x, y), self._indices[level], (width, height), z=depth)
        except self._errors as error:
            raise Broken from error
        return np.asarray(picture.convert("RGB"))

    def close(self) -> None:
        """See `Source.close`."""
        self._slide.close()


class PictureSource:
    """A PNG, JPEG or TIFF without tiles, decoded whole: a region that somebody cut out of a slide, or a field of a smear.

    The pages of a TIFF are focal planes of one field, the middle one is shown.

    Raises:
        Rejected: When it cannot be decoded, has more than 8 bits a channel, or pages of different sizes.
    """

    downsamples = (1.0,)
    mpp = None
    facts: Mapping[str, str] = NOTHING

    def __init__(self, path: Path) -> None:
        try:
            with Pillow.open(path, formats=("PNG", "JPEG", "TIFF")) as file:
                self.name = f"pillow {file.format}"
                if file.mode.startswith(("I", "F")):
                    raise Rejected("bits", "It has more than 8 bits a channel. Convert it to 8-bit colour first.")
                count = getattr(file, "n_frames", 1) if file.format == "TIFF" else 1
                if count * file.width * file.height > budgets.FRAME_PIXELS:
                    raise Rejected("too_large", f"Its {count} pages have more pixels than may be decoded at once.")
                self._pixels = [_rgb(ImageOps.exif_transpose(page)) for page in _pages(file, count)]
        except (Pillow.DecompressionBombError, *DAMAGE) as error:
            raise Rejected("undecodable", f"The picture cannot be decoded ({type(error).__name__}).") from error
        if len({page.shape for page in self._pixels}) > 1:
            raise Rejected("no_stack", "Its pages differ in size, so they are no focal planes of one field.")
        self.planes = len(self._pixels)
        self.levels = ((self._pixels[0].shape[1], self._pixels[0].shape[0]),)

    def read(self, level: int, x: int, y: int, width: int, height: int, plane: int | None = None) -> Pixels:
        """See `Source.read`."""
        shown = self._pixels[self.planes // 2 if plane is None else plane]
        return shown[y : y + height, x : x + width]

    def close(self) -> None:
        """See `Source.close`."""


def _pages(file: Pillow.Image, count: int) -> Iterator[Pillow.Image]:
    for number in range(count):
        if number:
            file.seek(number)
        yield file


def over_white(premultiplied: NDArray[np.uint32]) -> Pixels:
    """Premultiplied BGRA as OpenSlide gives it, (h, w) words, to RGB (h, w, 3) over white."""
    channels = premultiplied.astype("<u4", copy=False).view(np.uint8).reshape(*premultiplied.shape, 4)
    pixels = np.empty((*premultiplied.shape, 3), np.uint8)
    for channel in range(3):  # plane by plane: five times faster than one reversed slice
        pixels[..., channel] = channels[..., 2 - channel]
    if premultiplied.size and premultiplied.min() < OPAQUE:
        pixels += 255 - channels[..., 3:]
    return pixels


def _rgb(picture: Pillow.Image) -> Pixels:
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB"))
    white = Pillow.new("RGBA", picture.size, "white")
    return np.asarray(Pillow.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None

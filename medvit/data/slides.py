"""What worker processes do with slides: find their tiles and read them; what they answer is checked here too."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.case import MICROSCOPY, Case
from medvit.cell_folders import BAG
from medvit.data.features import Grid
from medvit.errors import MedvitError, Rejected
from medvit.guard import Duty, Reply
from medvit.image import Tiling
from medvit.readers.sheet import Sheet
from medvit.readers.slide import Slide, read_mpp_table
from medvit.readers.stain import normalise_stain
from medvit.readers.tiles import Tiles, TissueMap, find_tiles, map_tissue

Pixels = NDArray[np.uint8]
CHUNK = 64  # tiles that a worker reads in one call
OPEN = 4  # slides that a process keeps open
SHOWN = 1_024  # pixels of the longer side of what people are shown
MASK_SIDE = 512  # pixels of the longer side of the mask of tissue that travels with a result
NONSENSE = Rejected("crashed", "The process that worked on it answered nonsense.")


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a user says about pixel sizes, micrometres a level-0 pixel.

    Args:
        default: Of slides that do not say it themselves.
        table: Of single slides, whatever they say, by resolved path.
    """

    default: float | None = None
    table: Mapping[Path, float] = field(default_factory=dict)

    @classmethod
    def told(cls, text: str) -> "Resolution":
        """From a number, or the path of a table of ``path, mpp``."""
        try:
            return cls(default=float(text)) if text else cls()
        except ValueError:
            return cls(table=read_mpp_table(Path(text)))

    def of(self, case: Case) -> float | None:
        """What the table says of a case."""
        return self.table.get(case.files[0].resolve())

    def open(self, case: Case) -> Slide:
        """The slide of a case.

        Raises:
            Rejected: When it cannot be read, or nobody says its resolution.
        """
        if case.header.get("bag") == BAG:
            return Sheet(case.files, [case.header["stains"]] if "stains" in case.header else ())
        return Slide(case.files[0], self.of(case), self.default)


@dataclass(frozen=True, slots=True)
class Cutting:
    """How slides are cut to tiles.

    Args:
        tile: Pixels of a tile's side.
        mpp: Micrometres a pixel of a tile.
        min_tissue: Share of a tile that must be tissue.
        most: Tiles of a slide at most; of more, so many evenly spaced ones in the order of the grid.
        stain: ``macenko`` or ``none``.
        overlap: Pixels of a tile that neighbours share.

    Raises:
        MedvitError: For what makes no sense.
    """

    tile: int
    mpp: float
    min_tissue: float
    most: int
    stain: str
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.tile < 1 or self.mpp <= 0 or not 0 <= self.min_tissue <= 1 or self.most < 1:
            raise MedvitError(
                f"Tiles of {self.tile} px at {self.mpp} um with min_tissue {self.min_tissue}, at most {self.most}: sizes and "
                "numbers must be positive, shares between 0 and 1."
            )
        if not 0 <= self.overlap < self.tile:
            raise MedvitError(
                f"tile_overlap is {self.overlap}; of tiles of {self.tile} px neighbours may share 0 to {self.tile - 1} px."
            )

    def plan(self, slide: Slide) -> tuple[Tiles, Tiling, dict[str, str]]:
        """The tiles of a slide, where those that are kept lie, and what to say about that.

        Raises:
            Rejected: When it has none.
        """
        tissue = map_tissue(slide, self.tile * self.mpp, needed=self.min_tissue > 0)
        tiles = find_tiles(slide, self.tile, self.mpp, overlap=self.overlap, min_tissue=self.min_tissue, tissue=tissue)
        return tiles, *self.laid(slide, tiles, thinned(len(tiles), self.most), tissue)

    def laid(
        self,
        slide: Slide,
        tiles: Tiles,
        kept: NDArray[np.int64],
        tissue: TissueMap,
        facts: Mapping[str, str] | None = None,
    ) -> tuple[Tiling, dict[str, str]]:
        """Where the tiles that are kept lie, on what was found, and what to say of the slide, with further facts, and them."""
        every = max(1, -(-max(tissue.mask.shape) // MASK_SIDE))
        shown = tissue.mask[::every, ::every]
        tiling = Tiling(tiles.coords[kept], tiles.size_level0, slide.size, slide.mpp, slide.bounds[:2], shown)
        shared = f", neighbours share {tiles.overlap} px" if tiles.overlap else ""
        origin = {
            "reader": slide.reader,
            "mpp": f"{slide.mpp:.6g}",
            "mpp_source": slide.mpp_source,
            **(facts or {}),
            "tiles": among(f"{len(kept)} of {self.tile} px at {tiles.mpp:.4g} um{shared}", len(kept), len(tiles)),
        }
        if slide.notes:
            origin["notes"] = " ".join(slide.notes)
        return tiling, origin

    def read(self, slide: Slide, corner: tuple[int, int], mpp: float, plane: int | None = None) -> Pixels:
        """A tile, its stain normalised where that is asked for and its colours allow it.

        Args:
            slide: What to read from.
            corner: Its top left corner, level-0 pixels.
            mpp: Micrometres a pixel to read it at.
            plane: Its focal plane; None for the one that the library shows.

        Raises:
            Rejected: When it cannot be decoded.
        """
        return self.same_stain(slide.read(corner, self.tile, mpp, plane))

    def same_stain(self, pixels: Pixels) -> Pixels:
        """Pixels of a tile with its stain normalised where that is asked for and its colours allow it."""
        same = normalise_stain(pixels) if self.stain == "macenko" else None
        return pixels if same is None else same


class Plan(NamedTuple):
    """The tiles of a slide that a worker found, before they are described."""

    tiling: Tiling
    grid: Grid
    origin: dict[str, str]
    pixels: Pixels  # of the first tiles
    valid: NDArray[np.bool_]
    seconds: float


class Shelf:
    """The slides that a process keeps open."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.slides: OrderedDict[str, Slide] = OrderedDict()

    def open(self, case: Case) -> Slide:
        """The slide of a case; the one that was not used for longest is closed for it.

        Raises:
            Rejected: When it cannot be read.
        """
        if case.key not in self.slides:
            self.slides[case.key] = self.resolution.open(case)
        self.slides.move_to_end(case.key)
        while len(self.slides) > OPEN:
            self.slides.popitem(last=False)[1].close()
        return self.slides[case.key]


class Desk:
    """The duties of a worker: ``read`` finds the tiles of a slide and reads the first of them, ``tiles`` reads more."""

    def __init__(self, resolution: Resolution, cutting: Cutting) -> None:
        self.shelf, self.cutting = Shelf(resolution), cutting

    def duties(self) -> Mapping[str, Duty]:
        """By name."""
        return {"read": self.read, "tiles": self.tiles}

    def read(self, case: Case) -> Reply:
        """The tiles of a slide, and the pixels of the first ones."""
        started = time.monotonic()
        slide = self.shelf.open(case)
        tiles, tiling, origin = self.cutting.plan(slide)
        planes = () if tiling.planes is None else (tiling.planes,)
        pixels, valid = self.pixels(slide, tiling.coords[:CHUNK], tiles.mpp, *planes)
        plain = {
            "size_level0": tiles.size_level0,
            "slide": slide.size,
            "name": case.files[0].stem if case.modality == MICROSCOPY and not case.header else case.key,
            "mpp": slide.mpp,
            "tile_mpp": tiles.mpp,
            "overlap": tiles.overlap,
            "corner": slide.bounds[:2],
            "origin": origin,
            "seconds": time.monotonic() - started,
        }
        tissue = tiling.tissue if tiling.tissue is not None else np.zeros((1, 1), np.bool_)
        return Reply(plain, (tiling.coords, tissue, pixels, valid, *planes))

    def tiles(
        self, case: Case, coords: NDArray[np.int64], mpp: float, planes: NDArray[np.int64] | None = None
    ) -> Reply:
        """The pixels of some tiles."""
        return Reply(None, self.pixels(self.shelf.open(case), coords, mpp, planes))

    def pixels(
        self, slide: Slide, coords: NDArray[np.int64], mpp: float, planes: NDArray[np.int64] | None = None
    ) -> tuple[Pixels, NDArray[np.bool_]]:
        """Tiles (n, size, size, 3) at their focal planes, and (n,) which of them could be read."""
        size = self.cutting.tile
        pixels = np.zeros((len(coords), size, size, 3), np.uint8)
        valid = np.zeros(len(coords), np.bool_)
        for index, (x, y) in enumerate(coords):
            try:
                plane = () if planes is None else (int(planes[index]),)
                pixels[index] = self.cutting.read(slide, (int(x), int(y)), mpp, *plane)
                valid[index] = True
            except Rejected:  # a tile that cannot be decoded costs itself alone
                continue
        return pixels, valid


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Which of so many tiles are kept: all, or ``most`` of them evenly spaced in the order of the grid."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def among(said: str, kept: int, count: int) -> str:
    """What is said of the tiles that are kept, and of how many they are where they are not all."""
    return said if kept == count else f"{said}, evenly spaced among {count}"


def shown_mpp(slide: Slide | Tiling) -> float:
    """Micrometres a pixel of the picture that people are shown."""
    size = slide.size if isinstance(slide, Slide) else slide.slide
    return max(slide.mpp, max(size) * slide.mpp / SHOWN)


def shown_shape(tiling: Tiling) -> tuple[int, int]:
    """Rows and columns of that picture, see `Slide.overview`."""
    mpp = shown_mpp(tiling)
    width, height = (max(1, int(side * tiling.mpp / mpp)) for side in tiling.slide)
    return height, width


def planned(reply: Reply, size: int) -> Plan:
    """What a worker answered to ``read``; it has seen untrusted bytes, so nothing is taken on trust.

    Raises:
        Rejected: For nonsense.
    """
    try:
        told = reply.plain
        coords, tissue, pixels, valid, *rest = reply.arrays
        planes = rest[0] if rest else None
        if coords.ndim != 2 or coords.shape[1] != 2 or not len(coords) or coords.dtype.kind != "i" or tissue.ndim != 2:
            raise NONSENSE
        width, height = (int(side) for side in told["slide"])
        mpp, tile_mpp, side = (float(told[name]) for name in ("mpp", "tile_mpp", "size_level0"))
        left, top = (int(at) for at in told["corner"])
        overlap = int(told["overlap"])
        if (
            min(width, height, mpp, tile_mpp, side) <= 0
            or not 0 <= overlap < size
            or coords.min() < 0
            or (coords > (width, height)).any()
        ):
            raise NONSENSE
        if planes is not None and (planes.shape != (len(coords),) or planes.dtype.kind != "i" or planes.min() < 0):
            raise NONSENSE
        tiling = Tiling(
            coords.astype(np.int64), side, (width, height), mpp, (left, top), tissue.astype(np.bool_), planes
        )
        grid = Grid(str(told["name"]), width, height, mpp, size, tile_mpp, side, overlap)
        origin = {str(name): str(said) for name, said in told["origin"].items()}
        pixels, valid = checked_pixels((pixels, valid), min(len(coords), CHUNK), size)
        return Plan(tiling, grid, origin, pixels, valid, float(told["seconds"]))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise NONSENSE from error


def checked_pixels(arrays: Sequence[NDArray[Any]], count: int, size: int) -> tuple[Pixels, NDArray[np.bool_]]:
    """Tiles of a worker and which of them could be read.

    Raises:
        Rejected: For nonsense.
    """
    pixels, valid = arrays
    if pixels.shape != (count, size, size, 3) or pixels.dtype != np.uint8 or valid.shape != (count,):
        raise NONSENSE
    return pixels, valid.astype(np.bool_)

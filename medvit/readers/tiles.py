"""A slide cut into tiles of an exact size in micrometres, where there is tissue."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from medvit.errors import MedvitError, Rejected
from medvit.image import Tiling
from medvit.readers.slide import Slide
from medvit.readers.slide_files import Pixels
from medvit.readers.tissue import Mask, find_tissue

Grid = NDArray[np.floating]

MASK_MPP = 8.0
MASK_PIXELS_A_TILE = 8  # at least so many pixels of the mask span a tile
MASK_SIDE = 4_096  # pixels of the longer side of the mask, at most


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of one slide, row by row from the top, each row from the left.

    Args:
        coords: (N, 2) int64, top left corners x, y in level-0 pixels.
        tissue: (N,) float32, share of each tile that is tissue.
        size: Pixels a side.
        mpp: Micrometres a pixel that tiles are read at: the level's own where that is within tolerance of `target_mpp`.
        target_mpp: What was asked for.
        overlap: Pixels that neighbours share.
        size_level0: Level-0 pixels a side, exact.
    """

    coords: NDArray[np.int64]
    tissue: NDArray[np.float32]
    size: int
    mpp: float
    target_mpp: float
    overlap: int
    size_level0: float

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True, slots=True)
class TissueMap:
    """Where a slide holds tissue.

    Args:
        picture: (H, W, 3) uint8, the whole slide.
        mask: (H, W), True on tissue, and where nothing could be read: only the tiles there can tell.
        mpp: Micrometres a pixel of both.
    """

    picture: Pixels
    mask: Mask
    mpp: float


def map_tissue(slide: Slide, tile_um: float, mask_mpp: float | None = None, *, needed: bool = True) -> TissueMap:
    """Find the tissue of a slide.

    Args:
        slide: What to look at.
        tile_um: Micrometres a side of the tiles to come; they need a mask of some pixels a tile.
        mask_mpp: Micrometres a pixel of the mask; None for 8, or less for small tiles.
        needed: Whether a slide without tissue is refused; False where every tile is kept anyway.

    Raises:
        Rejected: When nothing is tissue, or no pixel can be decoded.
    """
    mpp = mask_mpp or min(MASK_MPP, tile_um / MASK_PIXELS_A_TILE)
    mpp = max(mpp, slide.mpp, max(slide.size) * slide.mpp / MASK_SIDE)
    picture, unread = slide.overview(mpp)
    if unread.all():
        raise Rejected("tiles", "None of its pixels can be decoded.")
    mask = find_tissue(picture, mpp) | unread
    if needed and not mask.any():
        raise Rejected(
            "no_tissue",
            "No tissue is found on it: empty glass, pen marks only, or a stain on a dark ground, which is not looked for.",
        )
    return TissueMap(picture, mask, mpp)


def find_tiles(
    slide: Slide,
    size: int = 224,
    mpp: float = 0.5,
    *,
    tolerance: float = 0.02,
    overlap: int = 0,
    min_tissue: float = 0.5,
    tissue: TissueMap | None = None,
) -> Tiles:
    """Lay a grid over a slide and keep the tiles that hold enough tissue.

    The grid begins at the top left of the scanned part; tiles that would leave the slide at its right or lower edge are left
    out. Corners are rounded one by one, so that nothing drifts.

    Args:
        slide: What to cut.
        size: Pixels a side of a tile.
        mpp: Micrometres a pixel of a tile.
        tolerance: A level within this share of ``mpp`` is read as it is, not resampled; `Tiles.mpp` says so.
        overlap: Pixels of a tile that neighbours share, 0 up to below ``size``.
        min_tissue: Share of a tile that must be tissue; 0 keeps every tile.
        tissue: Where tissue is; found when it is not given.

    Raises:
        MedvitError: For a size, overlap or share that makes no sense.
        Rejected: For a slide coarser than ``mpp``, smaller than a tile or without tissue.
    """
    if size < 1 or mpp <= 0 or not 0 <= overlap < size or not 0 <= min_tissue <= 1 or not 0 <= tolerance < 0.5:
        raise MedvitError(
            f"Tiles of {size} px at {mpp} um, overlap {overlap} px, min_tissue {min_tissue}, tolerance {tolerance}: size and "
            "mpp must be positive, overlap at least 0 and below size, min_tissue between 0 and 1, tolerance below 0.5."
        )
    used = _effective(slide, mpp, tolerance)
    side = size * used / slide.mpp
    step = side * (size - overlap) / size
    columns, rows = (_starts(start, length, side, step) for start, length in zip(*_frame(slide), strict=True))
    if not len(columns) or not len(rows):
        across, down = (math.floor(length * slide.mpp) for length in slide.size)
        raise Rejected("too_small", f"It spans {across} x {down} um, less than one tile of {size * used:.0f} um.")
    tissue = tissue or map_tissue(slide, size * used, needed=min_tissue > 0)
    shares = _shares(tissue, columns, rows, side, slide.mpp)  # (rows, columns)
    row, column = np.nonzero(shares >= min_tissue)
    if not len(row):
        raise Rejected(
            "no_tissue", f"None of its tiles of {size * used:.0f} um is tissue to a share of {min_tissue:g}."
        )
    coords = np.stack([columns[column], rows[row]], axis=1)  # (N, 2)
    return Tiles(coords, shares[row, column], size, used, mpp, overlap, side)


def preview(slide: Slide | Tiling, tiles: Tiles | Tiling, tissue: TissueMap, longest: int = 1_024) -> Pixels:
    """The slide with the outline of its tissue (green) and its tiles (blue), for the eye; (H, W, 3) uint8."""
    factor = min(1.0, longest / max(tissue.mask.shape))
    height, width = (max(1, round(side * factor)) for side in tissue.mask.shape)
    picture = Pillow.fromarray(tissue.picture).resize((width, height), Pillow.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    scale = slide.mpp / tissue.mpp * factor  # pixels of the picture a level-0 pixel
    for x, y in tiles.coords:
        corner = (x * scale, y * scale, (x + tiles.size_level0) * scale, (y + tiles.size_level0) * scale)
        draw.rectangle(corner, outline=(40, 80, 220))
    pixels = np.array(picture)
    mask = np.asarray(Pillow.fromarray(tissue.mask).resize((width, height), Pillow.Resampling.NEAREST))
    edge = np.zeros_like(mask)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    pixels[edge] = (0, 160, 60)
    return pixels


def _effective(slide: Slide, mpp: float, tolerance: float) -> float:
    """The resolution to read at: a level's own where it is near enough."""
    own = [level.downsample * slide.mpp for level in slide.levels]
    nearest = min(own, key=lambda there: abs(math.log(there / mpp)))
    if abs(nearest / mpp - 1) <= tolerance:
        return nearest
    if mpp < slide.mpp:
        raise Rejected("too_coarse", f"Its finest pixels are {slide.mpp:g} um; tiles of {mpp:g} um would be made up.")
    return mpp


def _frame(slide: Slide) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the grid starts and how far it may go, x and y, level-0 pixels."""
    x, y, width, height = slide.bounds
    ends = min(x + width, slide.size[0]), min(y + height, slide.size[1])
    start = max(x, 0), max(y, 0)
    return start, ends


def _starts(start: int, end: int, side: float, step: float) -> NDArray[np.int64]:
    """Positions along one axis of tiles that stay on the slide, rounded from the exact ones."""
    count = math.floor((end - start - side) / step + 1e-6) + 1
    return (start + step * np.arange(max(count, 0))).round().astype(np.int64)


def _shares(
    tissue: TissueMap, columns: NDArray[np.int64], rows: NDArray[np.int64], side: float, mpp: float
) -> NDArray[np.float32]:
    """Share of tissue of every tile of the grid, (rows, columns), exact to parts of a pixel of the mask."""
    height, width = tissue.mask.shape
    sums = np.zeros((height + 1, width + 1), np.float64)
    sums[1:, 1:] = tissue.mask.cumsum(0, dtype=np.float64).cumsum(1)  # area left of and above each corner
    scale = mpp / tissue.mpp
    strips = _between(sums, rows * scale, (rows + side) * scale)  # (rows, width + 1)
    areas = _between(strips.T, columns * scale, (columns + side) * scale).T  # (rows, columns)
    shares: NDArray[np.float32] = (areas / (side * scale) ** 2).clip(0, 1).astype(np.float32)
    return shares


def _between(sums: Grid, first: Grid, last: Grid) -> Grid:
    """Differences of a plane's rows at fractional positions, interpolated."""

    def at(position: Grid) -> Grid:
        position = position.clip(0, len(sums) - 1)
        low = np.minimum(position.astype(np.int64), len(sums) - 2)
        part = (position - low)[:, None]
        row: Grid = sums[low] * (1 - part) + sums[low + 1] * part
        return row

    return at(last) - at(first)

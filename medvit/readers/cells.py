"""Cells on a smear: found by their nuclei on a picture of low resolution, then cut out of the slide one by one or by a grid.

For nuclei that are darker than the rest and take a dye that absorbs red light: haematoxylin (Papanicolaou, H&E) and the azures
(May-Gruenwald-Giemsa, Diff-Quik). A smear has no tissue: what makes a mask of tissue good (one large region without holes and
specks) throws its cells away.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.errors import MedvitError, Rejected
from medvit.readers.slide import Slide
from medvit.readers.slide_files import Pixels
from medvit.readers.tiles import Tiles, TissueMap, find_tiles
from medvit.readers.tissue import Mask, find_pen, on_dark_ground, otsu

Layout = Literal["cells", "grid"]

FIND_MPP = 1.0  # micrometres a pixel that nuclei are looked for at
FIND_SIDE = 8_192  # pixels of the longer side of that picture, at most
NUCLEUS_UM = (4.0, 40.0)  # diameters of what counts as a nucleus; larger ones are clumps and smudges
DARKNESS_RANGE = (0.18, 0.45)  # where Otsu's threshold of red absorbance may lie
APART_UM = 5.0  # centres of two nuclei are not nearer to each other
HALO_UM = 6.0  # cytoplasm around a nucleus that the mask of cells adds
GLASS_PERCENTILE = 95
COLOURLESS = 0.06  # absorbance by which colours must differ: dust and bubbles' rims are grey
TOLERANCE = 0.02  # a level within this share of the resolution asked for is read as it is


class Nuclei(NamedTuple):
    """Nuclei on a picture.

    Attributes:
        centres: (N, 2) x, y in pixels of the picture, row by row.
        mask: (H, W), True on a nucleus.
    """

    centres: NDArray[np.float64]
    mask: Mask


def find_nuclei(picture: Pixels, mpp: float) -> Nuclei:
    """The nuclei on a picture (H, W, 3), touching ones apart by the peaks of their distance from the edge.

    Args:
        picture: A stained smear on bright glass.
        mpp: Micrometres a pixel of it, about 1.
    """
    smooth = ndimage.gaussian_filter(picture.astype(np.float32), (0.8, 0.8, 0), mode="nearest") / 255  # (H, W, 3)
    glass = np.percentile(smooth.reshape(-1, 3), GLASS_PERCENTILE, axis=0).clip(0.3, 1)
    absorbed = -np.log((smooth / glass).clip(0.02, 1))  # (H, W, 3)
    red = absorbed[..., 0]
    threshold = float(np.clip(otsu(red[red > DARKNESS_RANGE[0] / 2].clip(0, 1)), *DARKNESS_RANGE))
    coloured = absorbed.max(-1) - absorbed.min(-1) > COLOURLESS
    mask = (red > threshold) & coloured & ~find_pen(smooth, mpp)
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(mask, iterations=1))
    return _apart(np.asarray(mask), mpp)


def _apart(mask: Mask, mpp: float) -> Nuclei:
    """The parts of a mask that have the size of nuclei or of clumps of them, and their centres."""
    labels, count = ndimage.label(mask)
    if not count:
        return Nuclei(np.zeros((0, 2)), mask)
    areas = np.bincount(labels.ravel())
    fits = areas >= math.pi / 4 * (NUCLEUS_UM[0] / mpp) ** 2
    fits[0] = False
    mask = fits[labels]
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), max(0.5, 1.0 / mpp))
    reach = 2 * max(1, round(APART_UM / mpp / 2)) + 1
    peaks, found = ndimage.label((depth == ndimage.maximum_filter(depth, reach)) & mask)
    centres = np.array(ndimage.center_of_mass(peaks, peaks, range(1, found + 1))).reshape(-1, 2)
    at = centres.round().astype(np.int64)
    slim = depth[at[:, 0], at[:, 1]] * 2 * mpp <= NUCLEUS_UM[1]
    return Nuclei(centres[slim][:, ::-1].astype(np.float64), np.asarray(mask))


def map_cells(slide: Slide, mpp: float = FIND_MPP) -> tuple[TissueMap, NDArray[np.float64]]:
    """Where a smear holds cells, and the centres (N, 2) of their nuclei in level-0 pixels.

    Raises:
        Rejected: ``no_cells`` for an empty smear, a picture of one colour, or a stain without dark nuclei.
    """
    used = max(mpp, slide.mpp, max(slide.size) * slide.mpp / FIND_SIDE)
    picture, unread = slide.overview(used)
    if unread.all():
        raise Rejected("tiles", "None of its pixels can be decoded.")
    nuclei = find_nuclei(picture, used)
    if not len(nuclei.centres) or on_dark_ground(picture.astype(np.float32) / np.float32(255)):
        raise Rejected(
            "no_cells",
            "No cell is found on it: an empty smear, a picture of one colour, or a stain without dark nuclei on bright glass.",
        )
    near = ndimage.distance_transform_edt(~nuclei.mask) * used <= HALO_UM
    return TissueMap(picture, np.asarray(near), used), (nuclei.centres + 0.5) * (used / slide.mpp)


def find_cells(
    slide: Slide,
    size: int,
    mpp: float,
    *,
    layout: Layout = "cells",
    overlap: int = 0,
    min_cells: float = 0.1,
    cells: tuple[TissueMap, NDArray[np.float64]] | None = None,
) -> Tiles:
    """The tiles of a smear: a crop around every cell, or those of a grid that hold cells.

    A crop that would leave the slide is moved inside.

    Args:
        slide: What to cut.
        size: Pixels a side of a tile.
        mpp: Micrometres a pixel of a tile.
        layout: ``cells`` or ``grid``.
        overlap: Pixels of a tile of the grid that neighbours share.
        min_cells: Share of a tile of the grid that must be cells.
        cells: What `map_cells` found; it looks where this is not given.

    Raises:
        Rejected: For a slide without cells, smaller than a tile, or coarser than ``mpp``.
    """
    mask, centres = cells or map_cells(slide)
    if layout == "grid":
        return find_tiles(slide, size, mpp, overlap=overlap, min_tissue=min_cells, tissue=mask)
    used = _effective(slide, mpp)
    corners = corners_of(slide, centres, size * used)
    height, width = mask.mask.shape
    scale = slide.mpp / mask.mpp
    side = size * used / slide.mpp
    shares = [
        mask.mask[
            min(int(y * scale), height - 1) : int((y + side) * scale) + 1,
            min(int(x * scale), width - 1) : int((x + side) * scale) + 1,
        ].mean()
        for x, y in corners
    ]
    return Tiles(corners, np.array(shares, np.float32), size, used, mpp, 0, side)


def corners_of(slide: Slide, centres: NDArray[np.floating], side_um: float) -> NDArray[np.int64]:
    """Top left corners (N, 2) of crops around centres (N, 2), level-0 pixels, moved inside where they would leave the slide.

    Raises:
        Rejected: ``out_of_bounds`` for a cell outside the slide, ``too_small`` for a slide smaller than a crop.
    """
    outside = ~((centres >= 0) & (centres <= np.array(slide.size))).all(axis=1)
    if outside.any():
        x, y = centres[int(np.argmax(outside))]
        raise Rejected(
            "out_of_bounds",
            f"{int(outside.sum())} of {len(centres)} cells lie outside its {slide.size[0]} x {slide.size[1]} pixels, the first "
            f"at {x:g}, {y:g}. Positions are level-0 pixels, x before y.",
        )
    side = side_um / slide.mpp
    room = np.array(slide.size) - side
    if room.min() < 0:
        across, down = (length * slide.mpp for length in slide.size)
        raise Rejected("too_small", f"It spans {across:.0f} x {down:.0f} um, less than one crop of {side_um:.0f} um.")
    moved: NDArray[np.int64] = np.floor((centres - side / 2).clip(0, room)).astype(np.int64)
    return moved


def _effective(slide: Slide, mpp: float) -> float:
    """The resolution to read at: a level's own where it is near enough."""
    if mpp <= 0:
        raise MedvitError(f"Crops of {mpp} um a pixel make no sense; mpp must be positive.")
    nearest = min((level.downsample * slide.mpp for level in slide.levels), key=lambda own: abs(math.log(own / mpp)))
    if abs(nearest / mpp - 1) <= TOLERANCE:
        return nearest
    if mpp < slide.mpp:
        raise Rejected("too_coarse", f"Its finest pixels are {slide.mpp:g} um; crops of {mpp:g} um would be made up.")
    return mpp

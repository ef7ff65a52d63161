"""How well masks agree: Dice, and the share of their surfaces that lie within a tolerance of each other.

Source: Nikolov et al. 2021 (arXiv:1809.04430), the normalised surface Dice of surface elements between pixels, each counted
by its length or area; the protocol of DB-SAM (Qin et al. 2024, arXiv:2410.04172) as its release evaluates.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medvit.errors import MedvitError

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

PAPER_SIDE = 256  # pixels of the protocol's images
PAPER_TOLERANCE_PX = 1.0
PAPER_MARGIN_PX = 9  # that boxes are larger than the mask on each side


class Scores(NamedTuple):
    """Dice and normalised surface Dice (NSD), each in [0, 1]."""

    dice: float
    nsd: float


class Surface(NamedTuple):
    """The elements of one mask's surface.

    Attributes:
        distance_mm: From each to the other mask's surface; infinite where that mask is empty.
        size: Length in mm of each in 2-D, area in mm² in 3-D.
    """

    distance_mm: Floats
    size: Floats


def dice(found: Mask, truth: Mask) -> float:
    """Twice the pixels in both over the pixels in each, for masks of one shape; 1 where both are empty."""
    _check(found, truth)
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def surface_dice(found: Mask, truth: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> float:
    """The share of both surfaces that lies within a tolerance of the other, by length or area.

    Args:
        found: (H, W) or (D, H, W).
        truth: Of the same shape.
        spacing_mm: Between pixel centres along every axis.
        tolerance_mm: The greatest distance that still counts as agreement.

    Returns:
        In [0, 1]; 1 where both masks are empty, 0 where one is.
    """
    surfaces = surface_distances(found, truth, spacing_mm)
    total = sum(float(surface.size.sum()) for surface in surfaces)
    near = sum(float(surface.size[surface.distance_mm <= tolerance_mm].sum()) for surface in surfaces)
    return near / total if total else 1.0


def surface_distances(found: Mask, truth: Mask, spacing_mm: tuple[float, ...]) -> tuple[Surface, Surface]:
    """The surfaces of both masks, each with its distances to the other."""
    _check(found, truth)
    if len(spacing_mm) != found.ndim or min(spacing_mm) <= 0:
        raise MedvitError(f"Masks of {found.ndim} axes need {found.ndim} positive spacings in mm, not {spacing_mm}.")
    window = _around(found | truth)
    sizes = [_sizes(mask[window], spacing_mm) for mask in (found, truth)]
    distances = [_distances(size, spacing_mm) for size in sizes]
    ours, theirs = (
        Surface(distance[size > 0], size[size > 0]) for size, distance in zip(sizes, reversed(distances), strict=True)
    )
    return ours, theirs


def _check(found: Mask, truth: Mask) -> None:
    if found.shape != truth.shape or found.ndim not in (2, 3):
        raise MedvitError(
            f"Masks must have one shape of 2 or 3 axes to be compared, not {found.shape} and {truth.shape}."
        )
    if found.dtype != np.bool_ or truth.dtype != np.bool_:
        raise MedvitError(
            f"Masks must be boolean to be compared, not {found.dtype} and {truth.dtype}: one label at a time."
        )


def _around(mask: Mask) -> tuple[slice, ...]:
    """The part of a mask that is not empty."""
    extents = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    return tuple(slice(e[0], e[-1] + 1) if e.size else slice(0, 0) for e in extents)


def _sizes(mask: Mask, spacing: tuple[float, ...]) -> Floats:
    """Length or area of the surface in every cell between neighbouring pixels, 0 where there is none."""
    padded = np.pad(mask, 1)
    cells = tuple(n - 1 for n in padded.shape)
    code = np.zeros(cells, np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        part = padded[tuple(slice(c, c + n) for c, n in zip(corner, cells, strict=True))]
        code |= part.astype(np.uint8) << bit
    table: Floats = _table(spacing)
    return table[code]


def _distances(size: Floats, spacing: tuple[float, ...]) -> Floats:
    """From every cell to the nearest one with a surface."""
    if not size.any():
        return np.full(size.shape, np.inf)
    return np.asarray(distance_transform_edt(size == 0, sampling=spacing), np.float64)


@lru_cache(maxsize=64)
def _table(spacing: tuple[float, ...]) -> Floats:
    """Length or area of the surface in a cell, by which of its corners are inside: bit n for corner n of `product`."""
    axes = len(spacing)
    corners = list(product((0, 1), repeat=axes))
    measure = _length if axes == 2 else _area
    return np.array(
        [measure({c for b, c in enumerate(corners) if code >> b & 1}, spacing) for code in range(2 ** len(corners))]
    )


Corner = tuple[int, ...]
Segment = tuple[Corner, Corner]


def _segments(face: list[Corner], inside: set[Corner]) -> list[Segment]:
    """How a surface crosses a face, given by its four corners in a circle: between middles of sides, times two.

    Where it crosses all four sides, corners inside are cut off one by one.
    """
    middles = [tuple(a + b for a, b in zip(face[n], face[(n + 1) % 4], strict=True)) for n in range(4)]
    crossed = [n for n in range(4) if (face[n] in inside) != (face[(n + 1) % 4] in inside)]
    if len(crossed) == 4:
        return [(middles[n - 1], middles[n]) for n in range(4) if face[n] in inside]
    return [(middles[crossed[0]], middles[crossed[1]])] if crossed else []


def _length(inside: set[Corner], spacing: tuple[float, ...]) -> float:
    segments = _segments([(0, 0), (0, 1), (1, 1), (1, 0)], inside)
    return float(sum(np.linalg.norm((np.array(a) - b) / 2 * spacing) for a, b in segments))


def _area(inside: set[Corner], spacing: tuple[float, ...]) -> float:
    """Of the polygons that close the segments of a cube's six faces.

    Where a face is crossed on all sides, the corners of the smaller kind are cut off. A polygon that is not flat is cut into
    triangles so that its area is greatest where pixels are cubes. So the reference implementation's table has it.
    """
    if len(inside) > 4:
        inside = set(product((0, 1), repeat=3)) - inside
    segments = []
    for axis, side in product(range(3), (0, 1)):
        circle = [(0, 0), (0, 1), (1, 1), (1, 0)]
        segments += _segments([(*c[:axis], side, *c[axis:]) for c in circle], inside)
    total = 0.0
    while segments:
        loop = list(segments.pop())
        while loop[-1] != loop[0]:
            following = next(s for s in segments if loop[-1] in s)
            segments.remove(following)
            loop.append(following[1] if following[0] == loop[-1] else following[0])
        corners = np.array(loop[:-1], np.float64) / 2
        total += sum(_triangle(corners[list(t)] * spacing) for t in _triangles(corners)[1])
    return total


def _triangles(polygon: Floats, start: int = 0) -> tuple[float, list[tuple[int, int, int]]]:
    """The greatest area that a polygon (n, 3) has when it is cut into triangles, and their corners, counted from ``start``."""
    last = len(polygon) - 1
    best: tuple[float, list[tuple[int, int, int]]] = (0.0, [])
    for n in range(1, last):
        before, behind = _triangles(polygon[: n + 1], start), _triangles(polygon[n:], start + n)
        area = before[0] + behind[0] + _triangle(polygon[[0, n, last]])
        if area > best[0]:
            best = (area, [*before[1], *behind[1], (start, start + n, start + last)])
    return best


def _triangle(corners: Floats) -> float:
    return float(np.linalg.norm(np.cross(corners[1] - corners[0], corners[2] - corners[0]))) / 2


def paper_box(mask: Mask) -> Floats:
    """The box of the protocol's prompt, x_min, y_min, x_max, y_max: the extent of a mask (256, 256), 9 pixels larger.

    As in the release, the greater sides are cut off at the width and height, not at the last pixel.

    Raises:
        MedvitError: When the mask is empty.
    """
    _check_paper(mask[None])
    if not mask.any():
        raise MedvitError("A mask without a pixel has no box: leave out slices without the structure.")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)
    larger: Floats = np.clip(box + PAPER_MARGIN_PX * np.array([-1, -1, 1, 1]), 0, PAPER_SIDE)
    return larger


def paper_scores(found: Mask, truth: Mask, flat: bool = False) -> Scores:
    """Scores by DB-SAM's protocol: 256 pixels a side, distances in pixels with a tolerance of one.

    Args:
        found: (N, 256, 256) of one structure: a volume's slices, or images of a 2-D task.
        truth: Of the same shape.
        flat: Whether these are single images, whose Dice is the mean over them. NSD takes them for a stack even so, as the
            release does.
    """
    _check_paper(found)
    overlap = float(np.mean([dice(a, b) for a, b in zip(found, truth, strict=True)])) if flat else dice(found, truth)
    return Scores(overlap, surface_dice(found, truth, (1.0, 1.0, 1.0), PAPER_TOLERANCE_PX))


def _check_paper(masks: Mask) -> None:
    if masks.ndim != 3 or masks.shape[1:] != (PAPER_SIDE, PAPER_SIDE):
        raise MedvitError(f"The paper's protocol is for masks of {PAPER_SIDE} x {PAPER_SIDE}, not {masks.shape[1:]}.")

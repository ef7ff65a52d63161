"""Which tiles of a slide a label's score came from, as a plane over the slide."""

import numpy as np

from medvit.image import Plane, Tiling

ATTENTION, INSTANCES = "attention of tiles", "scores of tiles"
PIXELS_A_TILE = 8  # of the plane
LONGEST = 1_024  # pixels of the plane


def spread(tiling: Tiling, values: Plane) -> Plane:
    """Values (N,) of tiles as a plane (h, w) over the whole slide: the mean where tiles overlap, 0 where none is.

    Of a tile that was read at several focal planes the highest value counts.
    """
    if tiling.planes is not None:
        tiling, values = _highest(tiling, values)
    scale = min(PIXELS_A_TILE / tiling.size_level0, LONGEST / max(tiling.slide))
    width, height = (max(1, round(side * scale)) for side in tiling.slide)
    sums, counts = np.zeros((height, width), np.float64), np.zeros((height, width), np.float64)
    for (left, top, right, bottom), value in zip(tiling.rectangles(scale), values, strict=True):
        sums[top:bottom, left:right] += value
        counts[top:bottom, left:right] += 1
    return np.asarray(sums / np.maximum(counts, 1), np.float32)


def _highest(tiling: Tiling, values: Plane) -> tuple[Tiling, Plane]:
    """Every place once, with the highest of its values."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(tiling.coords[order], axis=0, return_index=True)
    kept = np.sort(order[first])
    return tiling.kept(kept), values[kept]

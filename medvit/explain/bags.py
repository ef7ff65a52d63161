"""Which tiles of a slide a label's score came from, as a plane over the slide."""

import numpy as np

from medvit.image import Plane, Tiling

ATTENTION = "attention of tiles"
PIXELS_A_TILE = 8  # of the plane
LONGEST = 1_024  # pixels of the plane


def spread(tiling: Tiling, values: Plane) -> Plane:
    """Values (N,) of tiles as a plane (h, w) over the whole slide: the mean where tiles overlap, 0 where none is.

    Tiles are drawn as their rectangles, every edge rounded for itself, so that nothing drifts.
    """
    scale = min(PIXELS_A_TILE / tiling.size_level0, LONGEST / max(tiling.slide))
    width, height = (max(1, round(side * scale)) for side in tiling.slide)
    sums, counts = np.zeros((height, width), np.float64), np.zeros((height, width), np.float64)
    first = (tiling.coords * scale).round().astype(np.int64)
    last = np.maximum(((tiling.coords + tiling.size_level0) * scale).round().astype(np.int64), first + 1)
    for (left, top), (right, bottom), value in zip(first, last, values, strict=True):
        sums[top:bottom, left:right] += value
        counts[top:bottom, left:right] += 1
    return np.asarray(sums / np.maximum(counts, 1), np.float32)

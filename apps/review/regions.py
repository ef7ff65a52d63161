"""Boxes around the regions that influenced a score most, from its heat map.

They say where the map is strong, not where a disease is: the systems that answer films draw no boxes of their own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

HALF = 0.5  # of the map's highest value: what lies above belongs to a region
MOST = 3  # regions of a map
SMALL = 0.2  # of the strongest region's sum: what is weaker gets no box
SPREAD = 0.5  # of the model's field of view: a map that is strong over more of it points nowhere
FINER = 8  # points a value of the map, so that edges lie where the coloured map ends

Box = tuple[float, float, float, float]


def regions(values: NDArray[np.floating], field: Sequence[float], source: Sequence[int]) -> list[Box]:
    """The strongest regions of a map, each as x_min, y_min, x_max, y_max in source pixels, the strongest first.

    Args:
        values: The map (h, w) over the model's field of view, not negative.
        field: Top, left, bottom, right of that field in source pixels.
        source: Rows and columns of the source.
    """
    rows, columns = values.shape
    fine = np.asarray(
        Pillow.fromarray(values.astype(np.float32)).resize((columns * FINER, rows * FINER), Pillow.Resampling.BILINEAR)
    )
    strong = fine >= HALF * float(fine.max())
    if not fine.max() > 0 or strong.mean() > SPREAD:
        return []
    named, count = ndimage.label(strong)
    sums = ndimage.sum_labels(fine, named, range(1, count + 1))
    places = ndimage.find_objects(named)
    kept = [index for index in np.argsort(-sums)[:MOST] if sums[index] >= SMALL * sums.max()]
    top, left, bottom, right = field
    down, across = (bottom - top) / fine.shape[0], (right - left) / fine.shape[1]
    found = []
    for index in kept:
        y, x = places[index]
        box = (left + x.start * across, top + y.start * down, left + x.stop * across, top + y.stop * down)
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(source[1])), min(box[3], float(source[0])))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            found.append(inside)
    return found

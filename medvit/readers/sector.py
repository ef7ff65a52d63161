"""Find the scanned part of an ultrasound clip: what changes from frame to frame, without the text around it.

Source: DICOM PS3.3 C.8.5.5 (ultrasound regions), where a file has them.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from medvit.image import Plane

Mask = NDArray[np.bool_]
Bounds = tuple[int, int, int, int]  # top, left, bottom, right in pixels, half open

LOOKS = 32  # frames that are compared
CHANGE = 0.006  # standard deviation of a grey value in [0, 1] from which a pixel changes
FLICKER = 0.06  # and of its mean: bright words in compressed frames change a little
JOIN = 0.02  # of the frame's longer side: gaps of this size do not part the sector
LEAST = 0.04  # of the frame: what is smaller is no sector
WHOLE = 0.9  # of the frame: what is larger is a clip that was cropped before


def find_sector(frames: Plane, region: Bounds | None = None) -> Mask | None:
    """The pixels of the scanned sector.

    Args:
        frames: (T, H, W) in [0, 1].
        region: Where it lies, if that is known.

    Returns:
        (H, W), convex; all True for a clip that was cropped to the sector before; None where there is none.
    """
    looks = frames[np.linspace(0, len(frames) - 1, min(LOOKS, len(frames))).astype(int)]
    changes = looks.std(axis=0) > np.maximum(CHANGE, FLICKER * looks.mean(axis=0))
    if region:
        inside = np.zeros_like(changes)
        inside[region[0] : region[2], region[1] : region[3]] = True
        changes &= inside
    joined = _closed(changes, max(round(JOIN * max(changes.shape)), 1))
    parts, _ = ndimage.label(joined)
    sizes = np.bincount(parts.ravel())
    if len(sizes) < 2 or sizes[1:].max() < LEAST * changes.size:
        return None
    sector = _hull(parts == 1 + int(sizes[1:].argmax()))
    return np.ones_like(sector) if sector.mean() > WHOLE else sector


def bounds(mask: Mask) -> Bounds:
    """The smallest rectangle around what is True."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _closed(mask: Mask, reach: int) -> Mask:
    """Gaps up to a reach are filled, then what is thinner than it, such as lines of text, is dropped."""
    padded = np.pad(mask, 2 * reach)
    square = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    closed = ndimage.binary_closing(padded, square)
    opened: Mask = ndimage.binary_opening(closed, square)
    return opened[2 * reach : -2 * reach, 2 * reach : -2 * reach]


def _hull(mask: Mask) -> Mask:
    """The convex hull of what is True."""
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows][:, ::-1].argmax(axis=1)
    edge = np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)])  # x, y
    try:
        corners = edge[ConvexHull(edge).vertices]
    except QhullError:  # a line
        return mask
    picture = Pillow.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    return np.asarray(picture, bool)

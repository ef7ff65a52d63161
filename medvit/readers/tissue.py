"""Where a stained slide holds tissue, from a picture of low resolution.

For stains on bright glass (H&E, IHC). Fluorescence, bright on black, gives no tissue.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.readers.slide_files import Pixels

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

# Otsu always finds a threshold, in pure glass and in pure tissue too; these keep it where it can be right.
COLOUR_RANGE = (0.05, 0.12)
DARKNESS_RANGE = (0.10, 0.25)
DARK_COLOUR = 0.5  # share of the threshold of colour that something dark must have: shadows and dust have none
GLASS_PERCENTILE = 95
GLASS_RANGE = (0.6, 1.0)
SPECK_UM = 60.0  # diameter of what is too small to be tissue
HOLE_UM = 60.0  # diameter of a hole that is filled; larger ones are lumen or fat
PEN_RIM_UM = 40.0
FAINT_INK = 0.02
BLACK, PALE, PALE_PERCENTILE = (
    0.2,
    0.5,
    99,
)  # brightness of a dark ground; the least of all three colours, where it is highest


def find_tissue(picture: Pixels, mpp: float) -> Mask:
    """The tissue on a slide.

    Saturation and darkness each have Otsu's threshold, kept in a range; a pixel is tissue where its colour is strong, or where
    it is dark and has some colour. Pen marks are taken out, small specks and holes too.

    Args:
        picture: (H, W, 3) of the whole slide.
        mpp: Micrometres a pixel of it; about 8 is right.

    Returns:
        (H, W), True on tissue.
    """
    smooth = ndimage.uniform_filter(picture.astype(np.float32) / 255, (3, 3, 0), mode="nearest")  # (H, W, 3)
    if on_dark_ground(smooth):
        return np.zeros(smooth.shape[:2], np.bool_)
    colour = smooth.max(-1) - smooth.min(-1)  # saturation times brightness: steady where it is dark
    grey = smooth.mean(-1)
    glass = float(np.clip(np.percentile(grey, GLASS_PERCENTILE), *GLASS_RANGE))
    darkness = np.clip(1 - grey / glass, 0, 1).astype(np.float32)
    strong = float(np.clip(otsu(colour), *COLOUR_RANGE))
    dark = float(np.clip(otsu(darkness), *DARKNESS_RANGE))
    tissue = (colour > strong) | ((darkness > dark) & (colour > DARK_COLOUR * strong))
    tissue &= ~find_pen(smooth, mpp)
    tissue = ndimage.binary_opening(tissue, iterations=1) if min(tissue.shape) > 8 else tissue
    tissue = _without_small(tissue, SPECK_UM, mpp)
    return ~_without_small(~tissue, HOLE_UM, mpp)


def on_dark_ground(picture: Plane) -> bool:
    """Whether a picture (H, W, 3) in [0, 1] is black for the most part and nowhere whitish: fluorescence, no stain on glass.

    A scan of a stain with much black around it has bright glass or pale tissue somewhere.
    """
    pale = np.percentile(picture.min(-1), PALE_PERCENTILE)
    return bool(np.median(picture.mean(-1)) < BLACK and pale < PALE)


def find_pen(picture: Plane, mpp: float) -> Mask:
    """Marker ink with its rim: green and blue (more green than red, as no stain in common use), pure red, black.

    Args:
        picture: (H, W, 3) in [0, 1], smoothed.
        mpp: Micrometres a pixel.
    """
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    top, colour = picture.max(-1), picture.max(-1) - picture.min(-1)
    green_ink = (green - red > 0.10) & (top - red > 0.2)
    blue_ink = (green - red > FAINT_INK) & (blue - red > 0.3)
    red_ink = red - np.maximum(green, blue) > 0.5
    black_ink = (top < 0.35) & (colour < 0.12)
    ink = _without_small(green_ink | blue_ink | red_ink | black_ink, SPECK_UM, mpp)
    if not ink.any():
        return ink
    faint = ink | (green - red > FAINT_INK) | ((top < 0.7) & (colour < 0.05))
    spread = ndimage.binary_propagation(ink, mask=faint)  # to where the ink fades out
    return np.asarray(ndimage.distance_transform_edt(~spread) * mpp <= PEN_RIM_UM)


def otsu(plane: Plane) -> float:
    """Otsu's threshold of values in [0, 1], from 256 bins: the split with the largest variance between both sides."""
    counts, edges = np.histogram(plane, 256, (0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(apart))]) if np.isfinite(apart).any() else 0.0


def _without_small(mask: Mask, diameter_um: float, mpp: float) -> Mask:
    """A mask without its connected parts that are smaller than a disc."""
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    least = np.pi / 4 * (diameter_um / mpp) ** 2
    large = np.bincount(labels.ravel()) >= least
    large[0] = False
    return np.asarray(large[labels])

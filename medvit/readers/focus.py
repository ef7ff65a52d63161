"""Which focal plane of a stack is sharp."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]


def sharpness(pixels: Pixels) -> float:
    """Variance of the Laplacian of a picture (H, W, 3), in squared grey values: the larger, the sharper."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    return float(ndimage.laplace(grey).var())


def sharpest(planes: Pixels) -> int:
    """The sharpest of focal planes (Z, H, W, 3); the first of those that are alike."""
    return int(np.argmax([sharpness(plane) for plane in planes]))

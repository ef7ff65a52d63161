"""Macenko's stain normalisation: a tile as if it had been stained like the reference.

Source: Macenko et al., ISBI 2009, with the reference and constants of the Self-ViT-MIL release, which torchstain shares.
"""

import numpy as np
from numpy.typing import NDArray

from medvit.readers.slide_files import Pixels

WHITE = 240.0  # transmitted light
PALEST = 0.15  # optical density below which a pixel counts as glass
PERCENTILE = 1.0
# Haematoxylin and eosin of the reference, (3 colours, 2 stains), and how dense each is at its 99th percentile.
REFERENCE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
DENSITIES = np.array([1.9705, 1.0308])
BRIGHTEST = 254  # what the release makes of anything over 255

Matrix = NDArray[np.float64]


def normalise_stain(pixels: Pixels) -> Pixels | None:
    """A tile (H, W, 3) in the colours of the reference; None where it has too little stain to tell its colours."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / WHITE)  # (n, 3)
    stained = density[(density >= PALEST).all(axis=1)]
    if len(stained) < 2:
        return None
    stains = _stains(stained)
    amounts = np.linalg.lstsq(stains, density.T, rcond=None)[0]  # (2, n)
    most = np.percentile(amounts, 100 - PERCENTILE, axis=1)
    if not (most > 0).all():
        return None
    amounts *= (DENSITIES / most)[:, None]
    light = WHITE * np.exp(-REFERENCE @ amounts)  # (3, n)
    light[light > np.iinfo(np.uint8).max] = BRIGHTEST
    normalised: Pixels = light.T.reshape(pixels.shape).astype(np.uint8)
    return normalised


def _stains(stained: Matrix) -> Matrix:
    """Haematoxylin and eosin of a tile, (3, 2): the outermost directions of the plane that its colours lie in."""
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, 1:]  # (3, 2)
    flat = stained @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    edges = np.percentile(angles, (PERCENTILE, 100 - PERCENTILE))
    ends = plane @ np.stack([np.cos(edges), np.sin(edges)])  # (3, 2)
    order = (0, 1) if ends[0, 0] > ends[0, 1] else (1, 0)  # haematoxylin absorbs more red
    return np.asarray(ends[:, order])

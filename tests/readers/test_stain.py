"""Stain normalisation agrees with torchstain and refuses tiles without stain."""

import numpy as np
import pytest

from medvit.readers.slide import Slide
from medvit.readers.stain import normalise_stain

torchstain = pytest.importorskip("torchstain", reason="torchstain is not installed (extra dev)")
SLIDE = "sample_data/slides/0001.tif"


def tile(request, corner):
    return Slide(request.config.rootpath / SLIDE).read(corner, 128, 0.5)


@pytest.mark.parametrize("corner", [(500, 500), (700, 600), (800, 400)])
def test_a_tile_looks_as_torchstain_makes_it(request, corner):
    pixels = tile(request, corner)
    theirs, _, _ = torchstain.normalizers.MacenkoNormalizer(backend="numpy").normalize(pixels, stains=False)
    ours = normalise_stain(pixels)
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1  # 254 or 255 for what is brighter than white
    assert np.abs(pixels.astype(int) - ours).max() > 20


def test_a_tile_of_glass_is_not_normalised():
    assert normalise_stain(np.full((16, 16, 3), 250, np.uint8)) is None

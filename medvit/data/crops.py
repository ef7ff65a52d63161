"""Random crops of coloured tiles, as DINO looks at them. Everything random comes from the generator that is passed in.

Source: Caron et al. 2021 (arXiv:2104.14294), the augmentation of its release, which Self-ViT-MIL leaves as it is: none of it is
made for histology. `Crops.rotate` is ours and off where a recipe is followed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageFilter, ImageOps

from medvit.data.augment import random_crop

Pixels = NDArray[np.uint8]
Picture = Pillow.Image
RATIO = (3 / 4, 4 / 3)
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
JITTER, GREY, SOLARISE = 0.8, 0.2, 0.2  # probabilities
BLUR = (1.0, 0.1, 0.5)  # of the first, of the second and further large crops, of small crops
RADIUS = (0.1, 2.0)  # of the blur, pixels
SOLARISE_FROM = 128


@dataclass(frozen=True, slots=True)
class Crops:
    """How a tile is looked at.

    Args:
        size: Pixels of large crops.
        small_size: Pixels of small crops.
        small: How many small crops; there are always two large ones.
        scale: Smallest share of a tile's area that a large crop shows; small ones show less than that.
        smallest: Smallest share that a small crop shows.
        colour: Strength of colour jitter, 1 as published, 0 for none.
        grey: Probability of a grey crop.
        blur: Probability of a blur, as a share of the published ones.
        solarise: Probability with which the second large crop is solarised.
        rotate: Whether tiles are turned by right angles and mirrored up-down.
    """

    size: int
    small_size: int
    small: int = 8
    scale: float = 0.4
    smallest: float = 0.05
    colour: float = 1.0
    grey: float = GREY
    blur: float = 1.0
    solarise: float = SOLARISE
    rotate: bool = False

    def cut(self, tile: Pixels, rng: Generator) -> tuple[Pixels, Pixels]:
        """Two large crops (2, 3, size, size) and the small ones (L, 3, small_size, small_size) of a tile (H, W, 3)."""
        large = [self._crop(tile, rng, self.size, (self.scale, 1.0), which) for which in (0, 1)]
        small = [self._crop(tile, rng, self.small_size, (self.smallest, self.scale), 2) for _ in range(self.small)]
        empty = np.empty((0, 3, self.small_size, self.small_size), np.uint8)
        return np.stack(large), np.stack(small) if small else empty

    def _crop(self, tile: Pixels, rng: Generator, size: int, scale: tuple[float, float], which: int) -> Pixels:
        top, left, bottom, right = _box(rng, tile.shape[:2], scale)
        picture = Pillow.fromarray(tile).resize((size, size), Pillow.Resampling.BICUBIC, (left, top, right, bottom))
        if rng.random() < 0.5:
            picture = ImageOps.mirror(picture)
        if self.rotate:
            picture = picture.transpose(Pillow.Transpose.ROTATE_90) if rng.random() < 0.5 else picture
            picture = ImageOps.flip(picture) if rng.random() < 0.5 else picture
        if self.colour and rng.random() < JITTER:
            picture = jitter(picture, rng, self.colour)
        if rng.random() < self.grey:
            picture = ImageOps.grayscale(picture).convert("RGB")
        if rng.random() < BLUR[which] * self.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*RADIUS)))
        if which == 1 and rng.random() < self.solarise:
            picture = ImageOps.solarize(picture, SOLARISE_FROM)
        return np.asarray(picture).transpose(2, 0, 1)


def jitter(picture: Picture, rng: Generator, strength: float) -> Picture:
    """Change brightness, contrast, saturation and hue, in random order."""
    steps = (
        (ImageEnhance.Brightness, BRIGHTNESS), (ImageEnhance.Contrast, CONTRAST), (ImageEnhance.Color, SATURATION), (None, HUE),
    )  # fmt: skip
    for index in rng.permutation(len(steps)):
        kind, most = steps[index]
        by = rng.uniform(-most * strength, most * strength)
        picture = kind(picture).enhance(max(0.0, 1 + by)) if kind else turned(picture, by)
    return picture


def turned(picture: Picture, hue: float) -> Picture:
    """A picture with its hue turned by a share of the circle."""
    channels = list(picture.convert("HSV").split())
    channels[0] = channels[0].point([(value + round(hue * 255)) % 256 for value in range(256)])
    return Pillow.merge("HSV", channels).convert("RGB")


def _box(rng: Generator, shape: tuple[int, ...], scale: tuple[float, float]) -> tuple[float, float, float, float]:
    """A random rectangle whose area is a share of the tile's within ``scale``."""
    return random_crop(rng, (shape[0], shape[1]), 1, scale[0], RATIO, scale[1]).box

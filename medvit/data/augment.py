"""Random views of films for training. Everything random comes from the generator that is passed in.

Source: random resized crop after Szegedy et al. 2015; RandAugment after Cubuk et al. 2020 (arXiv:1909.13719) with the
operations, probability one half and "increasing" magnitudes of timm that the thorax MAE release trains with; colour
operations act on grey values here, and the one that only changes saturation does nothing.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

from medvit.data.inputs import View
from medvit.image import Fit, Plane, view

Picture = Pillow.Image
Operation = Callable[[Picture, float, Generator], Picture]

LEVELS = 10.0  # RandAugment magnitudes run from 0 to 10
TRANSLATE_SHARE = 0.45  # of the image's side, at magnitude 10
APPLY_PROBABILITY = 0.5
FILL = 128  # grey where a moved picture leaves a gap: about the mean of a film


def random_view(
    rng: Generator,
    *,
    crop_min: float,
    flip: float = 0.5,
    randaugment: float = 0.0,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> View:
    """A random part of the film, perhaps mirrored and altered.

    Args:
        rng: Source of every random choice.
        crop_min: Smallest share of the film's area that is kept; the largest is all of it.
        flip: Probability of a left-right mirror image.
        randaugment: Magnitude 0 to 10 of two RandAugment operations; 0 for none.
        ratio: Width over height of the part, smallest and largest.
    """

    def look(plane: Plane, size: int) -> tuple[Plane, Fit]:
        fit = random_crop(rng, (plane.shape[0], plane.shape[1]), size, crop_min, ratio)
        seen = view(plane, fit)
        if rng.random() < flip:
            seen = seen[:, ::-1]
        return (rand_augment(seen, randaugment, rng) if randaugment else seen), fit

    return look


def random_crop(
    rng: Generator,
    source: tuple[int, int],
    size: int,
    share_min: float,
    ratio: tuple[float, float],
    share_max: float = 1.0,
) -> Fit:
    """A rectangle of random area and aspect; ten tries, then the largest centred one of an allowed aspect."""
    height, width = source
    for _ in range(10):
        area = height * width * rng.uniform(share_min, share_max)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return Fit(source, (size, size), (top, left, top + h, left + w))
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    top, left = (height - h) // 2, (width - w) // 2
    return Fit(source, (size, size), (top, left, top + h, left + w))


def rand_augment(plane: Plane, magnitude: float, rng: Generator, operations: int = 2) -> Plane:
    """Apply random operations to a film (h, w) in [0, 1]; magnitudes vary with a standard deviation of one half."""
    picture = Pillow.fromarray((plane.clip(0, 1) * 255).round().astype(np.uint8))
    for index in rng.integers(0, len(OPERATIONS), operations):
        if rng.random() < APPLY_PROBABILITY:
            level = float(np.clip(rng.normal(magnitude, 0.5), 0, LEVELS)) / LEVELS
            picture = OPERATIONS[index](picture, level, rng)
    return np.asarray(picture, np.float32) / np.float32(255)


def _sign(rng: Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _affine(picture: Picture, matrix: tuple[float, ...]) -> Picture:
    return picture.transform(picture.size, Pillow.Transform.AFFINE, matrix, Pillow.Resampling.BICUBIC, fillcolor=FILL)


def _enhanced(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, level, rng: kind(picture).enhance(max(0.1, 1 + _sign(rng) * 0.9 * level))


def _sheared(x: float, y: float) -> Operation:
    def shear(picture: Picture, level: float, rng: Generator) -> Picture:
        by = _sign(rng) * 0.3 * level
        return _affine(picture, (1, x * by, 0, y * by, 1, 0))

    return shear


def _moved(x: float, y: float) -> Operation:
    def move(picture: Picture, level: float, rng: Generator) -> Picture:
        by = _sign(rng) * TRANSLATE_SHARE * level
        return _affine(picture, (1, 0, x * by * picture.width, 0, 1, y * by * picture.height))

    return move


def _solarise_add(picture: Picture, level: float, rng: Generator) -> Picture:
    return picture.point([min(255, grey + int(110 * level)) if grey < 128 else grey for grey in range(256)])


OPERATIONS: tuple[Operation, ...] = (
    lambda picture, level, rng: ImageOps.autocontrast(picture),
    lambda picture, level, rng: ImageOps.equalize(picture),
    lambda picture, level, rng: ImageOps.invert(picture),
    lambda picture, level, rng: picture.rotate(
        _sign(rng) * 30 * level, resample=Pillow.Resampling.BICUBIC, fillcolor=FILL
    ),
    lambda picture, level, rng: ImageOps.posterize(picture, max(1, 4 - int(4 * level))),
    lambda picture, level, rng: ImageOps.solarize(picture, 256 - min(256, int(256 * level))),
    _solarise_add,
    lambda picture, level, rng: picture,  # "color" changes saturation, of which a film has none
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _sheared(1, 0),
    _sheared(0, 1),
    _moved(1, 0),
    _moved(0, 1),
)

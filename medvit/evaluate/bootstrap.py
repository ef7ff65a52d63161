"""Intervals by drawing patients anew: every measure of every draw at once, from weights of cases.

Drawing with replacement gives each case a whole-number weight; a measure of the draw is the weighted measure of all cases. So
nothing is sorted again for a draw, and a thousand draws cost little more than one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

DRAWS = 1_000
LEVEL = 0.95
AT_ONCE = 2_500_000  # weights that are held at a time: what a processor's cache and a small machine bear


class Interval(NamedTuple):
    """A measure with its interval; NaN where it is not defined.

    Attributes:
        value: Of all cases.
        low: The interval's lower end.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


def numbered(groups: Sequence[str]) -> NDArray[np.intp]:
    """The number (n,) of each case's patient, from 0; a case without one ("") is a patient of its own."""
    named = [group or f"\0{index}" for index, group in enumerate(groups)]
    _, numbers = np.unique(np.array(named, dtype=object).astype(str), return_inverse=True)
    return np.asarray(numbers, np.intp)


def draws(patients: NDArray[np.intp], count: int = DRAWS, seed: int = 0) -> Iterator[Weights]:
    """How often each case was drawn: blocks (n, b) of ``count`` draws of patients with replacement.

    Args:
        patients: (n,) from `numbered`.
        count: Draws in all.
        seed: The same seed gives the same draws.
    """
    rng = np.random.default_rng(seed)
    size = int(patients.max()) + 1 if len(patients) else 0
    alone = size == len(patients) and bool((patients == np.arange(size)).all())
    block = max(1, min(count, AT_ONCE // max(len(patients), 1)))
    for start in range(0, count, block):
        b = min(block, count - start)
        drawn = rng.integers(0, size, (size, b), dtype=np.int32)  # (P, b)
        places = drawn.astype(np.int64) * b + np.arange(b)
        weights = np.bincount(places.ravel(), minlength=size * b).reshape(size, b).astype(np.float32)
        yield weights if alone else weights[patients]


def interval(value: float, drawn: Floats, level: float = LEVEL, mirrored: bool = False) -> Interval:
    """The percentile interval of a measure's draws (R,); draws in which it is not defined do not count.

    ``mirrored`` turns the draws around the value (the basic bootstrap), for measures that draws push upwards, such as the
    calibration error: few cases look worse calibrated than many.
    """
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    if mirrored:
        low, high = max(2 * value - high, 0), 2 * value - low
    return Interval(float(value), float(low), float(high))

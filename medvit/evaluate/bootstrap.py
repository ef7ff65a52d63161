"""Intervals by drawing patients anew: every measure of every draw at once, from weights of cases.

Drawing with replacement gives each case a whole-number weight; a measure of the draw is the weighted measure of all cases. So
nothing is sorted again for a draw, and a thousand draws cost little more than one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

DRAWS = 1_000
LEVEL = 0.95
INVERTED = 0.97  # of tests of a sum of absolute values: by simulation, so that 95 % of the intervals hold the truth
HALVINGS = 20
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


def interval(value: float, drawn: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of a measure's draws (R,); draws in which it is not defined do not count."""
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def absolute_sum(parts: Floats, drawn: Floats, level: float = INVERTED) -> Interval:
    """The sum of the absolute values of parts (m,), with the interval of what it would be of endless cases.

    Chance pushes such a sum up, the more the nearer its parts are to nought, so that percentiles of draws miss the truth. The
    interval holds every sum under which the one that was seen is no rarity: truths are the parts drawn in towards nought (or
    scaled up), and what chance adds to them is how the draws differ from the parts. It may end below the sum itself, and starts
    at 0 where no error at all would explain what was seen.

    Source: test inversion by bootstrap (Carpenter 1999, "Test inversion bootstrap confidence intervals"); the way in is soft
    thresholding (Donoho and Johnstone 1994). ``level`` is more than 95 % because draws know too little of bins with few cases:
    see `tests/benchmarks/coverage.py` for what was measured.

    Args:
        parts: (m,).
        drawn: The parts of every draw (m, R).
        level: Of the test.
    """
    total = float(np.abs(parts).sum())
    chance = drawn[:, np.isfinite(drawn).all(axis=0)] - parts[:, None]
    if not np.isfinite(total) or not chance.shape[1]:
        return Interval(total, float("nan"), float("nan"))
    order = np.sort(np.abs(parts))[::-1]
    cuts = (np.cumsum(order), np.append(order[1:], 0))

    def seen(truth: float) -> float:
        """How often chance gives at least the sum that was seen where the truth is ``truth``."""
        base = _drawn_in(parts, cuts, truth) if truth <= total else parts * (truth / total)
        return float((np.abs(base[:, None] + chance).sum(axis=0) >= total * (1 - 1e-12)).mean())

    ends = [_root(seen, share, total) for share in ((1 - level) / 2, (1 + level) / 2)]
    return Interval(total, *ends)


def _drawn_in(parts: Floats, cuts: tuple[Floats, Floats], total: float) -> Floats:
    """Parts whose absolute values are lower by one amount, none below 0, so that they sum up to ``total``."""
    sums, following = cuts
    amounts = (sums - total) / np.arange(1, len(parts) + 1)
    amount = amounts[int(np.argmax(amounts >= following))]
    told: Floats = np.sign(parts) * np.maximum(np.abs(parts) - max(float(amount), 0), 0)
    return told


def _root(rising: Callable[[float], float], wanted: float, first: float) -> float:
    """Where a share that rises from 0 on reaches ``wanted``; 0 where it is there already."""
    if rising(0.0) >= wanted:
        return 0.0
    low, high = 0.0, max(first, 1e-9)
    while rising(high) < wanted and high < 1e6 * first:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high

"""How far readers agree beyond chance: Cohen's kappa of two, Fleiss' kappa of several, with intervals.

Source: Cohen 1960 (two readers); Fleiss 1971 (several readers, each case read by all); intervals by resampling cases, 95 % of
2,000 draws. Where all readings are of one kind, kappa is not defined and given as NaN.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
Z = 1.959963984540054  # of 95 %

Numbers = NDArray[np.float64]


class Kappa(NamedTuple):
    """Kappa with its interval, the share of agreement, and over how many cases."""

    value: float
    low: float
    high: float
    agreement: float
    cases: int


def cohen(first: Sequence[str], second: Sequence[str], kinds: Sequence[str], seed: int = 0) -> Kappa:
    """Cohen's kappa of two readers of the same cases.

    Args:
        first: The readings of one reader, one of ``kinds`` a case.
        second: Those of the other, in the same order.
        kinds: What a reading may be.
        seed: Of the draws.
    """
    count = len(kinds)
    place = {kind: index for index, kind in enumerate(kinds)}
    pairs = np.array([place[one] * count + place[two] for one, two in zip(first, second, strict=True)], int)
    if not len(pairs):
        return Kappa(math.nan, math.nan, math.nan, math.nan, 0)
    drawn = _drawn(np.eye(count**2)[pairs], seed).reshape(-1, count, count)  # (1 + DRAWS, kinds, kinds)
    shares = drawn / len(pairs)
    agreed = np.trace(shares, axis1=1, axis2=2)
    return _kappa(agreed, np.einsum("di,di->d", shares.sum(1), shares.sum(2)), len(pairs))


def fleiss(readings: Sequence[Sequence[str]], kinds: Sequence[str], seed: int = 0) -> Kappa:
    """Fleiss' kappa of several readers.

    Args:
        readings: For each case what each reader said; every case by the same number of readers, at least two.
        kinds: What a reading may be.
        seed: Of the draws.
    """
    if not readings:
        return Kappa(math.nan, math.nan, math.nan, math.nan, 0)
    raters = len(readings[0])
    if raters < 2 or any(len(case) != raters for case in readings):
        raise ValueError("every case needs the same number of readings, at least two")
    counted = np.array([[case.count(kind) for kind in kinds] for case in map(list, readings)], float)  # (cases, kinds)
    agreed = ((counted**2).sum(1) - raters) / (raters * (raters - 1))
    drawn = _drawn(np.column_stack([counted, agreed]), seed) / len(readings)
    chance = ((drawn[:, :-1] / raters) ** 2).sum(1)
    return _kappa(drawn[:, -1], chance, len(readings))


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """A share with Wilson's 95 % interval; NaN of nothing."""
    if not count:
        return math.nan, math.nan, math.nan
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return share, max(middle - half, 0.0), min(middle + half, 1.0)


def _drawn(rows: Numbers, seed: int) -> Numbers:
    """The sum of all rows, then sums of as many rows drawn with replacement: (1 + DRAWS, columns)."""
    count = len(rows)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
    return np.concatenate([rows.sum(0)[None], weights @ rows])


def _kappa(agreed: Numbers, chance: Numbers, cases: int) -> Kappa:
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(chance < 1 - 1e-12, (agreed - chance) / (1 - chance), np.nan)
    known = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (math.nan, math.nan)
    return Kappa(float(values[0]), float(low), float(high), float(agreed[0]), cases)

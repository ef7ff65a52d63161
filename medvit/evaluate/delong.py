"""Whether two areas under the ROC curve of the same cases differ, after DeLong.

Source: DeLong et al. 1988, Biometrics 44(3); by midranks as Sun and Xu 2014, IEEE Signal Processing Letters 21(11). Cases count
as independent: where patients have several, `medvit.evaluate.measures.difference` draws patients instead.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from medvit.evaluate.bootstrap import Floats

Z95 = 1.959963984540054


class Test(NamedTuple):
    """Two areas compared; NaN where a class is absent or nothing varies.

    Attributes:
        first: Area of the first probabilities.
        second: Of the second ones.
        low: Lower end of the 95 % interval of first - second.
        high: Its upper end.
        p: Two-sided p-value of no difference.
    """

    first: float
    second: float
    low: float
    high: float
    p: float


def delong(first: Floats, second: Floats, y: Floats) -> Test:
    """Compare two areas.

    Args:
        first: Probabilities (n,).
        second: Probabilities (n,) of the same cases.
        y: 1, 0 or NaN (n,); cases without truth, or without both answers, do not count.
    """
    known = np.isfinite(y) & np.isfinite(first) & np.isfinite(second)
    truth = y[known] > 0.5
    m, n = int(truth.sum()), int((~truth).sum())
    if not m or not n:
        return Test(*[math.nan] * 5)
    scores = np.stack([first[known], second[known]])
    every = np.stack([rankdata(s) for s in scores])  # (2, m + n)
    among, others = (np.stack([rankdata(s[which]) for s in scores]) for which in (truth, ~truth))
    wins = (every[:, truth] - among) / n  # (2, m): share of the negatives that lie under each positive
    losses = 1 - (every[:, ~truth] - others) / m
    areas = wins.mean(axis=1)
    spread = (_covariance(wins) / m) + (_covariance(losses) / n)
    variance = float(spread[0, 0] + spread[1, 1] - 2 * spread[0, 1])
    gap = float(areas[0] - areas[1])
    if not variance > 1e-14:
        same = abs(gap) < 1e-12
        return Test(
            float(areas[0]),
            float(areas[1]),
            gap if same else math.nan,
            gap if same else math.nan,
            1.0 if same else math.nan,
        )
    deviation = math.sqrt(variance)
    p = math.erfc(abs(gap) / deviation / math.sqrt(2))
    return Test(float(areas[0]), float(areas[1]), gap - Z95 * deviation, gap + Z95 * deviation, p)


def _covariance(values: Floats) -> Floats:
    return np.cov(values) if values.shape[1] > 1 else np.zeros((2, 2))

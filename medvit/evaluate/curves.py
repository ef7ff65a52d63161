"""Curves with bands for a report: receiver operating characteristic, precision and recall, reliability."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.evaluate.bootstrap import Floats, draws, numbered
from medvit.evaluate.measures import BINS

GRID = np.linspace(0, 1, 51)
BAND_DRAWS = 200
WILSON = 1.96


def curves(p: Floats, y: Floats, groups: list[str], seed: int = 0) -> dict[str, Any]:
    """ROC and precision-recall curves of one label over `GRID`, each with a pointwise 95 % band over patients.

    Args:
        p: Probabilities (n,).
        y: 1, 0 or NaN (n,).
        groups: The patient of each case.
        seed: Of the draws.

    Returns:
        ``roc`` and ``pr``, each lists of x, y, low and high; empty where a class is absent.
    """
    known = np.flatnonzero(np.isfinite(y) & np.isfinite(p))
    order = known[np.argsort(-p[known], kind="stable")]
    truth = y[order] > 0.5
    if not truth.any() or truth.all():
        return {"roc": [], "pr": []}
    ends = np.flatnonzero(np.diff(p[order], append=-np.inf))  # the last case of every run of ties
    one = np.ones(len(order))
    value = _both(one, truth, ends)
    drawn = [
        _both(weights[order, b].astype(np.float64), truth, ends)
        for weights in draws(numbered(groups), BAND_DRAWS, seed)
        for b in range(weights.shape[1])
    ]
    told = {}
    for index, name in enumerate(("roc", "pr")):
        every = np.stack([pair[index] for pair in drawn])
        low, high = np.nanquantile(every, [0.025, 0.975], axis=0)
        told[name] = np.stack([GRID, value[index], low, high], axis=1).round(4).tolist()
    return told


def _both(weights: Floats, truth: NDArray[np.bool_], ends: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sensitivity at `GRID` of 1 - specificity, and precision at `GRID` of recall; NaN where a draw lacks a class."""
    hits, false = np.cumsum(weights * truth)[ends], np.cumsum(weights * ~truth)[ends]
    if not hits[-1] or not false[-1]:
        return np.full(len(GRID), np.nan), np.full(len(GRID), np.nan)
    recall, fallout = hits / hits[-1], false / false[-1]
    roc = np.interp(GRID, np.append(0, fallout), np.append(0, recall))
    precision = hits / np.maximum(hits + false, 1e-12)
    first = np.minimum(np.searchsorted(recall, GRID - 1e-12), len(recall) - 1)
    return roc, precision[first]


def reliability(p: Floats, y: Floats) -> list[dict[str, float]]:
    """The bins of a reliability diagram that hold cases: mean probability, share of positives with Wilson's interval."""
    known = np.isfinite(y) & np.isfinite(p)
    p, y = p[known], y[known]
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    told = []
    for b in np.unique(place):
        inside = place == b
        n, share = int(inside.sum()), float(y[inside].mean())
        centre = (share + WILSON**2 / (2 * n)) / (1 + WILSON**2 / n)
        half = WILSON / (1 + WILSON**2 / n) * float(np.sqrt(share * (1 - share) / n + WILSON**2 / (4 * n * n)))
        told.append({
            "cases": n, "probability": round(float(p[inside].mean()), 4), "share": round(share, 4),
            "low": round(max(centre - half, 0), 4), "high": round(min(centre + half, 1), 4),
        })  # fmt: skip
    return told

"""How well probabilities of one label answer cases that carry weights: ranking, decisions, calibration.

Cases whose truth is unknown (NaN), or that got no answer (NaN), never count. What a draw cannot define (no positive case, say)
is NaN. Weights of one are the measures of the cases themselves; `medvit.evaluate.bootstrap` makes those of draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from medvit.evaluate.bootstrap import DRAWS, Floats, Interval, Weights, absolute_sum, draws, interval, numbered

BINS = 10  # of equal width, of the calibration error
DECISION = ("sensitivity", "specificity", "balanced_accuracy", "ppv", "npv")


@contextmanager
def _undefined() -> Iterator[None]:
    """Nothing divided by nothing is NaN, silently: the caller says what is not defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        yield


class Label:
    """The known cases of one label, sorted once.

    Args:
        p: Probabilities (n,).
        y: 1, 0 or NaN (n,).
        points: Thresholds by the name of the operating point.
    """

    def __init__(self, p: Floats, y: Floats, points: Mapping[str, float] | None = None) -> None:
        known = np.flatnonzero(np.isfinite(y) & np.isfinite(p))
        order = known[np.argsort(p[known], kind="stable")]
        positive = y[order] > 0.5
        self.positives, self.negatives = order[positive], order[~positive]  # rows, by rising probability
        high, low = p[self.positives], p[self.negatives]
        self.below = np.searchsorted(low, high, "left")  # negatives that lie under each positive
        self.upto = np.searchsorted(low, high, "right")
        self.first = np.searchsorted(high, high, "left")  # positives that lie under it
        self.points = dict(points or {})
        self.cut = {name: (int(np.searchsorted(high, t, "left")), int(np.searchsorted(low, t, "left")))
                    for name, t in self.points.items()}  # fmt: skip
        self.order, self.p, self.y = order, p[order], y[order]
        self.bins = np.minimum((self.p * BINS).astype(np.intp), BINS - 1)

    def measures(self, weights: Weights) -> dict[str, Floats]:
        """Every measure by name, see `measures_and_gaps`."""
        return self.measures_and_gaps(weights)[0]

    def measures_and_gaps(self, weights: Weights) -> tuple[dict[str, Floats], Floats]:
        """Every measure by name, each (b,), for weights (n, b), and the parts (bins, b) of ``ece`` with their signs.

        A decision's name ends in ``@`` and its operating point. Measures are those of scikit-learn: ``auprc`` is its average
        precision, ``ece`` the mean distance of mean probability and share of positives over `BINS` bins of equal width.
        """
        up, down = (_cumulated(weights, rows) for rows in (self.positives, self.negatives))  # (m + 1, b)
        with _undefined():
            told, gaps = self._calibration(weights)
            return {**self._ranking(weights, up, down), **told, **self._decisions(up, down)}, gaps

    def _ranking(self, weights: Weights, up: Floats, down: Floats) -> dict[str, Floats]:
        own = weights[self.positives].astype(np.float64)  # (P, b)
        every, others = up[-1], down[-1]
        under = (down[self.below] + down[self.upto]) / 2
        found = every - up[self.first]
        precision = found / (found + others - down[self.below])
        won, kept = (np.einsum("pb,pb->b", own, np.nan_to_num(each)) for each in (under, precision))
        auprc = np.where((every > 0) & (others > 0), kept / every, np.nan)
        return {"auroc": won / (every * others), "auprc": auprc}

    def _calibration(self, weights: Weights) -> tuple[dict[str, Floats], Floats]:
        sums = np.zeros((len(self.order), 2 + 2 * BINS))
        rows = np.arange(len(self.order))
        sums[:, 0], sums[:, 1] = 1, (self.p - self.y) ** 2
        sums[rows, 2 + self.bins], sums[rows, 2 + BINS + self.bins] = self.p, self.y
        exact = weights.shape[1] == 1  # the estimate itself; draws bear single precision
        held = weights[self.order].astype(np.float64 if exact else np.float32)
        told: Floats = (sums.T.astype(held.dtype) @ held).astype(np.float64)  # (2 + 2 bins, b)
        gaps: Floats = (told[2 : 2 + BINS] - told[2 + BINS :]) / told[0]
        return {"brier": told[1] / told[0], "ece": np.abs(gaps).sum(axis=0)}, gaps

    def _decisions(self, up: Floats, down: Floats) -> dict[str, Floats]:
        told: dict[str, Floats] = {}
        for name, (missed, kept) in self.cut.items():
            hits, right = up[-1] - up[missed], down[kept]
            false = down[-1] - right
            sensitivity, specificity = hits / up[-1], right / down[-1]
            values = (sensitivity, specificity, (sensitivity + specificity) / 2, hits / (hits + false),
                      right / (right + up[missed]))  # fmt: skip
            told |= {f"{measure}@{name}": value for measure, value in zip(DECISION, values, strict=True)}
        return told

    def counts(self, name: str) -> dict[str, int]:
        """The confusion at an operating point."""
        missed, kept = self.cut[name]
        return {"tp": len(self.positives) - missed, "fn": missed, "fp": len(self.negatives) - kept, "tn": kept}


def _cumulated(weights: Weights, rows: NDArray[np.intp]) -> Floats:
    """Sums of the weights of the first 0, 1, … rows: (m + 1, b); whole numbers, so that nothing is rounded."""
    sums = np.zeros((len(rows) + 1, weights.shape[1]), np.float32 if len(weights) < 1 << 22 else np.float64)
    np.cumsum(weights[rows], axis=0, out=sums[1:])
    return sums.astype(np.float64)  # what was added up in single precision is exact


Told = dict[str, dict[str, Interval]]


def with_intervals(
    p: Floats,
    y: Floats,
    names: Sequence[str],
    points: Mapping[str, Mapping[str, float]],
    groups: Sequence[str],
    count: int = DRAWS,
    seed: int = 0,
) -> Told:
    """Measures of every label and their mean over labels (``mean``), each with a 95 % interval over patients.

    Args:
        p: Probabilities (n, K); NaN where a case was not answered.
        y: (n, K) of 1, 0 and NaN.
        names: Of the K labels.
        points: Label to operating points, each a threshold.
        groups: The patient of each case; "" where unknown.
        count: Draws; 0 leaves the intervals undefined.
        seed: Of the draws.

    Returns:
        Label to measure to interval.
    """
    labels = [Label(p[:, k], y[:, k], points.get(name)) for k, name in enumerate(names)]
    values, held = zip(*(label.measures_and_gaps(np.ones((len(p), 1), np.float32)) for label in labels), strict=True)
    drawn: list[list[tuple[dict[str, Floats], Floats]]] = [[] for _ in labels]
    for weights in draws(numbered(groups), count, seed) if len(p) else ():
        for parts, label in zip(drawn, labels, strict=True):
            parts.append(label.measures_and_gaps(weights))
    none: Floats = np.empty((BINS, 0))
    merged = [
        {measure: np.concatenate([part[measure] for part, _ in parts]) if parts else np.empty(0) for measure in value}
        for parts, value in zip(drawn, values, strict=True)
    ]
    gaps = [np.concatenate([gap for _, gap in parts], axis=1) if parts else none for parts in drawn]
    told = {
        name: {measure: interval(float(value[measure][0]), each[measure]) for measure in value}
        for name, value, each in zip(names, values, merged, strict=True)
    }
    for name, own, of_draws in zip(names, held, gaps, strict=True):
        told[name]["ece"] = absolute_sum(own[:, 0], of_draws)
    return {"mean": _mean(values, merged, held, gaps), **told}


def _mean(
    values: Sequence[Mapping[str, Floats]],
    drawn: Sequence[Mapping[str, Floats]],
    held: Sequence[Floats],
    gaps: Sequence[Floats],
) -> dict[str, Interval]:
    """The mean over the labels for which a measure is defined; draws count where it is for all of those."""
    told = {}
    for measure in dict.fromkeys(name for value in values for name in value):
        defined = [k for k, value in enumerate(values) if measure in value and np.isfinite(value[measure][0])]
        if not defined:
            told[measure] = interval(float("nan"), np.empty(0))
        elif measure == "ece":
            every = np.concatenate([held[k][:, 0] for k in defined]), np.concatenate([gaps[k] for k in defined])
            told[measure] = absolute_sum(every[0] / len(defined), every[1] / len(defined))
        else:
            mean = float(np.mean([values[k][measure][0] for k in defined]))
            told[measure] = interval(mean, np.mean([drawn[k][measure] for k in defined], axis=0))
    return told


def difference(
    first: Floats,
    second: Floats,
    y: Floats,
    groups: Sequence[str],
    measure: str = "auroc",
    count: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """A measure of the first probabilities (n,) less that of the second, with an interval over the same draws of patients."""
    answered = np.isfinite(first) & np.isfinite(second)
    truth = np.where(answered, y, np.nan)
    pair = [Label(one, truth) for one in (first, second)]
    one = np.ones((len(y), 1), np.float32)
    value, *_ = pair[0].measures(one)[measure] - pair[1].measures(one)[measure]
    parts = [
        pair[0].measures(weights)[measure] - pair[1].measures(weights)[measure]
        for weights in draws(numbered(groups), count, seed)
    ]
    return interval(float(value), np.concatenate(parts) if parts else np.empty(0))

"""From which probability a case counts as positive: operating points, chosen on validation cases and never on test cases."""

import numpy as np

from medvit.evaluate.bootstrap import Floats

YOUDEN = "youden"
SENSITIVITY, SPECIFICITY = 0.9, 0.9  # that the fixed points promise on validation cases


def points(p: Floats, y: Floats, default: float = 0.5) -> dict[str, float]:
    """The thresholds of one label.

    ``youden`` has the largest sensitivity + specificity; ``sensitivity 0.9`` the highest specificity among those that find 90 %
    of the positive cases, ``specificity 0.9`` the highest sensitivity among those that leave 90 % of the negative ones alone.
    Each lies half way to the next probability, so that a new case is not decided by rounding.

    Args:
        p: Probabilities (n,) of validation cases.
        y: 1, 0 or NaN (n,).
        default: Where a class is absent.
    """
    names = (YOUDEN, f"sensitivity {SENSITIVITY:g}", f"specificity {SPECIFICITY:g}")
    known = np.isfinite(y) & np.isfinite(p)
    truth, told = y[known] > 0.5, p[known]
    if not truth.any() or truth.all():
        return dict.fromkeys(names, default)
    cuts = np.unique(told)  # positive from here on
    high, low = np.sort(told[truth]), np.sort(told[~truth])
    sensitivity = 1 - np.searchsorted(high, cuts, "left") / len(high)
    specificity = np.searchsorted(low, cuts, "left") / len(low)
    none = float(cuts[-1]) + (1 - float(cuts[-1])) / 2  # above every case
    chosen = {
        names[0]: _last_best(sensitivity + specificity),
        names[1]: int(np.flatnonzero(sensitivity >= SENSITIVITY - 1e-12)[-1]),
        names[2]: next(iter(np.flatnonzero(specificity >= SPECIFICITY - 1e-12)), -1),
    }
    return {name: none if index < 0 else _between(cuts, int(index)) for name, index in chosen.items()}


def _last_best(values: Floats) -> int:
    """The highest cut of the largest sum; above all cases where no cut is better than that."""
    best = float(values.max())
    return -1 if best <= 1 + 1e-12 else int(np.flatnonzero(values >= best - 1e-12)[-1])


def _between(cuts: Floats, index: int) -> float:
    return float(cuts[index] + cuts[index - 1]) / 2 if index else float(cuts[0])

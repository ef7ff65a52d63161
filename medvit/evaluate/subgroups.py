"""Measures of parts of the cases: by sex, age band, view, device, site or any other column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvit.evaluate.bootstrap import Floats
from medvit.evaluate.measures import with_intervals
from medvit.evaluate.points import YOUDEN

FEW = 20  # positive cases below which a subgroup's measures are warned of
BANDS = ((0, "under 18"), (18, "18 to 39"), (40, "40 to 59"), (60, "60 to 79"), (80, "80 and more"))
USUAL = ("sex", "age", "view", "device", "site", "modality")
MOST = 30  # values of a column; with more it is no column of groups
TOLD = ("auroc", "auprc", f"sensitivity@{YOUDEN}", f"specificity@{YOUDEN}", "ece")


def band(column: str, value: str) -> str:
    """The group that a cell puts a case into: an age's band, the value itself, or ``unknown``."""
    text = value.strip()
    if column.lower() == "age" and text:
        digits = text.rstrip("Yy").lstrip("0") or "0"
        if not digits.replace(".", "", 1).isdigit():
            return "unknown"
        return [name for least, name in BANDS if float(digits) >= least][-1]
    return text or "unknown"


def subgroups(
    p: Floats,
    y: Floats,
    names: Sequence[str],
    points: Mapping[str, Mapping[str, float]],
    patients: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    count: int,
) -> list[dict[str, Any]]:
    """Counts and measures with intervals of every group and label, and of the mean over labels.

    Args:
        p: Probabilities (n, K).
        y: (n, K) of 1, 0 and NaN.
        names: Of the labels.
        points: Operating points by label.
        patients: Of each case.
        columns: By name, the cell of each case.
        count: Draws of the intervals.
    """
    told = []
    for column, cells in columns.items():
        groups = [band(column, cell) for cell in cells]
        for group in sorted(set(groups)):
            inside = np.array([one == group for one in groups])
            who = [patient for patient, here in zip(patients, inside, strict=True) if here]
            found = with_intervals(p[inside], y[inside], names, points, who, count)
            for label, measures in found.items():
                k = names.index(label) if label != "mean" else None
                truth = y[inside] if k is None else y[inside, k]
                positives, known = int((truth == 1).sum()), int(np.isfinite(truth).sum())
                told.append({
                    "column": column, "group": group, "label": label, "cases": int(inside.sum()),
                    "patients": len(set(who)), "known": known, "positives": positives,
                    "warning": f"fewer than {FEW} positive cases" if k is not None and positives < FEW else "",
                    "measures": {name: list(measures[name]) for name in TOLD if name in measures},
                })  # fmt: skip
    return told

"""What is measured on the answers about a split, as plain data: the content of ``evaluation.json``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvit.evaluate.bootstrap import DRAWS, Floats
from medvit.evaluate.curves import curves, reliability
from medvit.evaluate.delong import delong
from medvit.evaluate.measures import Label, difference, with_intervals
from medvit.evaluate.points import YOUDEN
from medvit.evaluate.subgroups import subgroups

GROUP_DRAWS = 200
WORST, WORST_A_LABEL = 12, 3
Points = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers about the cases of a split.

    Args:
        keys: Of the n cases.
        patients: Pseudonym of each; "" where unknown.
        names: Of the K labels that are measured.
        p: Probabilities (n, K); NaN where there is no answer.
        y: (n, K) of 1, 0 and NaN.
        far: Whether each case is unlike the training cases (n,); NaN where nobody knows.
    """

    keys: Sequence[str]
    patients: Sequence[str]
    names: tuple[str, ...]
    p: Floats
    y: Floats
    far: Floats


def assess(
    answers: Answers, points: Points, columns: Mapping[str, Sequence[str]], count: int = DRAWS
) -> dict[str, Any]:
    """Every measure with its interval, curves, confusion, subgroups and worst errors.

    Args:
        answers: About the split.
        points: Operating points by label, from validation cases.
        columns: What cases are grouped by: the cell of each case by column.
        count: Draws of the intervals.
    """
    found = with_intervals(answers.p, answers.y, answers.names, points, answers.patients, count)
    labels = {}
    for k, name in enumerate(answers.names):
        p, y = answers.p[:, k], answers.y[:, k]
        one = Label(p, y, points[name])
        labels[name] = {
            "known": len(one.order),
            "positives": len(one.positives),
            "not_answered": int((np.isfinite(y) & ~np.isfinite(p)).sum()),
            "measures": {measure: list(told) for measure, told in found[name].items()},
            "points": {at: {"threshold": threshold, **one.counts(at)} for at, threshold in points[name].items()},
            **curves(p, y, list(answers.patients)),
            "reliability": reliability(p, y),
        }
    known = np.isfinite(answers.far)
    told: dict[str, Any] = plain({
        "draws": count,
        "labels": labels,
        "mean": {measure: list(told) for measure, told in found["mean"].items()},
        "subgroups": subgroups(answers.p, answers.y, answers.names, points, answers.patients, columns,
                               min(count, GROUP_DRAWS)),
        "out_of_distribution": {"known": int(known.sum()), "over": int(answers.far[known].sum())},
        "worst": worst(answers, points),
    })  # fmt: skip
    return told


def worst(answers: Answers, points: Points) -> list[dict[str, Any]]:
    """The errors at Youden's point that were furthest from the truth, a few of a label at most."""
    errors = []
    for k, name in enumerate(answers.names):
        p, y = answers.p[:, k], answers.y[:, k]
        wrong = np.flatnonzero(np.isfinite(y) & np.isfinite(p) & ((p >= points[name][YOUDEN]) != (y > 0.5)))
        for i in wrong[np.argsort(-np.abs(p[wrong] - y[wrong]), kind="stable")][:WORST_A_LABEL]:
            errors.append({"case": answers.keys[i], "label": name, "probability": round(float(p[i]), 6),
                           "truth": int(y[i]), "threshold": points[name][YOUDEN]})  # fmt: skip
    return sorted(errors, key=lambda one: -abs(one["probability"] - one["truth"]))[:WORST]


def compare(first: Answers, second: Answers, count: int = DRAWS) -> dict[str, Any]:
    """Differences first - second of areas by label, by paired draws of patients and after DeLong."""
    told = {}
    for name in (name for name in first.names if name in second.names):
        i, k = first.names.index(name), second.names.index(name)
        ours, theirs, y = first.p[:, i], second.p[:, k], first.y[:, i]
        test = delong(ours, theirs, y)
        told[name] = {
            "auroc": test.first, "auroc_against": test.second, "cases": int(np.isfinite(y).sum()),
            "difference": list(difference(ours, theirs, y, first.patients, "auroc", count)),
            "auprc_difference": list(difference(ours, theirs, y, first.patients, "auprc", count)),
            "delong": [test.low, test.high], "delong_p": test.p,
        }  # fmt: skip
    return dict(plain({"labels": told, "patients_repeat": len(set(first.patients)) < len(first.patients)}))


def plain(tree: Any) -> Any:
    """Plain data as JSON holds it: what is not defined is null, numbers have six digits behind the point."""
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    if isinstance(tree, (float, np.floating)):
        return round(float(tree), 6) if math.isfinite(tree) else None
    return int(tree) if isinstance(tree, np.integer) else tree

"""Dice and surface Dice of many cases and structures: means with intervals by drawing patients."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medvit.evaluate.bootstrap import DRAWS, Floats, Interval, draws, interval, numbered
from medvit.evaluate.subgroups import FEW, band

MEASURES = ("dice", "nsd")


class Scored(NamedTuple):
    """The scores of cases.

    Attributes:
        keys: Of the n cases.
        patients: Pseudonym of each; "" where unknown.
        names: Of the K structures.
        values: (n, K) by measure, each in [0, 1]; NaN where a case does not show a structure, or nothing can be measured.
    """

    keys: Sequence[str]
    patients: Sequence[str]
    names: tuple[str, ...]
    values: Mapping[str, Floats]


def measured(scored: Scored, count: int = DRAWS) -> dict[str, Any]:
    """The mean over cases of every structure, and the mean of those means, with 95 % intervals over patients."""
    weights = _weights(scored.patients, count)
    means = {measure: _means(values, weights) for measure, values in scored.values.items()}
    structures = {}
    for k, name in enumerate(scored.names):
        shown = np.isfinite(scored.values[MEASURES[0]][:, k])
        who = {patient or key for patient, key, one in zip(scored.patients, scored.keys, shown, strict=True) if one}
        structures[name] = {"cases": int(shown.sum()), "patients": len(who),
                            **{m: list(_interval(told[:, k])) for m, told in means.items()}}  # fmt: skip
    return {"structures": structures, "mean": {m: list(_interval(_over(told))) for m, told in means.items()}}


def groups(scored: Scored, columns: Mapping[str, Sequence[str]], count: int) -> list[dict[str, Any]]:
    """`measured` of the cases of every group, the mean over structures, with a warning where there are few cases."""
    told = []
    for column, cells in columns.items():
        of = [band(column, cell) for cell in cells]
        for group in sorted(set(of)):
            rows = [i for i, one in enumerate(of) if one == group]
            part = Scored([scored.keys[i] for i in rows], [scored.patients[i] for i in rows], scored.names,
                          {measure: values[rows] for measure, values in scored.values.items()})  # fmt: skip
            told.append({"column": column, "group": group, "cases": len(rows), **measured(part, count)["mean"],
                         "warning": f"fewer than {FEW} cases" if len(rows) < FEW else ""})  # fmt: skip
    return told


def differences(first: Scored, second: Scored, count: int = DRAWS) -> dict[str, Any]:
    """First less second, of the same cases and structures, over the same draws of patients."""
    weights = _weights(first.patients, count)
    told: dict[str, Any] = {"structures": {name: {} for name in first.names}, "mean": {}}
    for measure, values in first.values.items():
        gaps = _means(values - second.values[measure], weights)
        for k, name in enumerate(first.names):
            told["structures"][name][measure] = list(_interval(gaps[:, k]))
        told["mean"][measure] = list(_interval(_over(gaps)))
    return told


def _weights(patients: Sequence[str], count: int) -> Floats:
    """(n, 1 + draws): every case once, then how often each draw has it."""
    drawn = [one.astype(np.float64) for one in draws(numbered(patients), count)]
    return np.concatenate([np.ones((len(patients), 1)), *drawn], axis=1)


def _means(values: Floats, weights: Floats) -> Floats:
    """Weighted means (1 + draws, K) of what is known."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        told: Floats = (weights.T @ np.where(known, values, 0)) / (weights.T @ known)
    return told


def _over(means: Floats) -> Floats:
    """The mean (1 + draws,) over the structures that are known at all; draws count where all of those are."""
    defined = np.isfinite(means[0])
    return means[:, defined].mean(axis=1) if defined.any() else np.full(len(means), np.nan)


def _interval(means: Floats) -> Interval:
    return interval(float(means[0]), means[1:])

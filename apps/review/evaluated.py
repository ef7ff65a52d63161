"""The report of `medvit evaluate` about the weights that answered a run: found beside the run, or given, and read.

Labels of a test set and decisions of readers are about different cases and stand side by side, never in one number.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from apps.review.kappa import wilson
from apps.review.runs import Run
from medvit.budgets import MIB
from medvit.errors import MedvitError

FILE = "evaluation.json"
LARGEST = 64 * MIB
FOLDERS = 200  # beside a run that are looked into
SAME = 5e-4  # between thresholds that are one: the report rounds them

Measure = tuple[float, float, float]  # with its 95 % interval; NaN where not defined
NOT_DEFINED: Measure = (float("nan"), float("nan"), float("nan"))


class Measured(NamedTuple):
    """A finding on labelled cases: area under the curve with its interval over patients, and sensitivity and specificity at the
    run's own threshold with Wilson's.
    """

    cases: int
    positives: int
    auroc: Measure
    sensitivity: Measure
    specificity: Measure


class Heads(NamedTuple):
    """What the heads of the network do: rises of the loss, distances (layers, heads), and patterns with how many heads."""

    cases: int
    importance: list[list[float]]
    distance: list[list[float]]
    patterns: list[tuple[int, list[list[float]]]]


class Report(NamedTuple):
    """What the page needs of an evaluation report."""

    file: Path
    system: str
    split: str
    table: str
    cases: int
    patients: int
    evaluated: str
    labels: Mapping[str, Mapping[str, Any]]
    heads: Heads | None

    def measured(self, finding: str, threshold: float) -> Measured | None:
        """What was measured of a finding; sensitivity and specificity only where a threshold of the report is the run's."""
        told = self.labels.get(finding)
        if told is None:
            return None
        at = next((one for one in told["points"] if abs(one["threshold"] - threshold) <= SAME), None)
        sensitivity = wilson(at["tp"], at["tp"] + at["fn"]) if at else NOT_DEFINED
        specificity = wilson(at["tn"], at["tn"] + at["fp"]) if at else NOT_DEFINED
        return Measured(told["known"], told["positives"], told["auroc"], sensitivity, specificity)


def report_of(run: Run, given: Sequence[Path]) -> tuple[Report | None, str]:
    """The newest report about the weights of a run, and what is to be said where there is none.

    Args:
        run: The run.
        given: Files, or folders that hold one; those beside the run are looked at where none is given.
    """
    wrong = []
    found: list[Report] = []
    for file in _given(given) if given else _beside(run.folder):
        try:
            weights, report = _known(file, file.stat().st_mtime_ns if file.exists() else 0)
        except MedvitError as error:
            wrong.append(str(error))
            continue
        if weights == run.about.weights:
            found.append(report)
        elif given:
            wrong.append(f"{file} measures other weights than those that answered here, so it is left aside.")
    if found:
        return max(found, key=lambda one: one.evaluated), ""
    if wrong:
        return None, wrong[0]
    return None, (
        "No report about these weights lies beside the run. `medvit evaluate CHECKPOINT TABLE -o "
        f"{run.folder}/evaluation` writes one; or start the app with --evaluation FILE."
    )


def read(file: Path) -> tuple[str, Report]:
    """The digest of the weights that a report is about, and the report.

    Raises:
        MedvitError: When it is no such report.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError
        told = json.loads(file.read_text(encoding="utf-8"))
        labels = {str(name): _label(one) for name, one in told["labels"].items()}
        report = Report(
            file, str(told["system"]), str(told["split"]), str(told["table"]), int(told["cases"]), int(told["patients"]),
            str(told["evaluated"]), labels, _heads(told.get("attention")),
        )  # fmt: skip
        return str(told["checkpoint"]["sha256"]), report
    except OSError as error:
        raise MedvitError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MedvitError(f"{file} is no report of `medvit evaluate`.") from None


@lru_cache(maxsize=64)
def _known(file: Path, version: int) -> tuple[str, Report]:
    """`read`, once for every version of a file."""
    return read(file)


def _label(told: Mapping[str, Any]) -> Mapping[str, Any]:
    points = [
        {"threshold": float(one["threshold"]), **{name: int(one[name]) for name in ("tp", "fn", "fp", "tn")}}
        for one in told["points"].values()
    ]
    auroc = _measure(told["measures"].get("auroc"))
    return {"known": int(told["known"]), "positives": int(told["positives"]), "points": points, "auroc": auroc}


def _measure(told: Sequence[float | None] | None) -> Measure:
    value, low, high = (float("nan") if one is None else float(one) for one in told or (None, None, None))
    return value, low, high


def _heads(told: Mapping[str, Any] | None) -> Heads | None:
    if not told:
        return None
    patterns = [(int(one["heads"]), _plane(one["map"])) for one in told["patterns"]]
    return Heads(int(told["cases"]), _plane(told["importance"]), _plane(told["distance"]), patterns)


def _plane(told: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(value) for value in row] for row in told]


def _given(given: Sequence[Path]) -> Iterator[Path]:
    for one in given:
        yield one / FILE if one.is_dir() else one


def _beside(out: Path) -> Iterator[Path]:
    """Where a report may lie: in the run's folder, in one within it or beside it."""
    out = out.resolve()
    near = [
        out,
        out / "evaluation",
        out.parent,
        *sorted(out.parent.glob("*/")),
        *sorted(out.parent.glob("evaluation/*/")),
    ]
    for folder in dict.fromkeys(near[:FOLDERS]):
        if (folder / FILE).is_file():
            yield folder / FILE

"""Cross-validation over patients: a workflow trained once a fold, each measured on the patients that it never saw.

Of each fold one part of the patients is test, the next is validation (it selects the epoch, thresholds and temperatures), all
others train. No fold's test cases choose anything.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvit import NOTICE, __version__
from medvit.atomic import write_text
from medvit.errors import MedvitError
from medvit.evaluate.assess import Answers, plain
from medvit.evaluate.measures import with_intervals
from medvit.evaluation import Asked, answers
from medvit.tasks.findings import Findings
from medvit.train import instantiate, train
from medvit.workflow import Workflow, class_of, load_system, open_workflow

log = logging.getLogger(__name__)

LEAST = 3


def train_folds(
    path: Path, folds: int, overrides: Sequence[str] = (), run: Path | None = None, allow: Sequence[str] = (),
    resume: str | None = None,
) -> Path:  # fmt: skip
    """Train a workflow once a fold and leave ``folds.json`` beside the runs ``fold_0``, ``fold_1``, ….

    Args:
        path: The workflow; what it requires is trained once, on the table's own splits.
        folds: How many parts patients are dealt to, at least 3.
        overrides: As for `medvit.workflow.open_workflow`.
        run: The folder of the runs; ``runs/<name of the file>_folds`` without one.
        allow: As for `medvit.workflow.open_workflow`.
        resume: ``auto`` leaves finished folds alone and goes on with the unfinished one.

    Returns:
        The path of ``folds.json``.

    Raises:
        MedvitError: When the workflow has no labels or its data no folds, and as training does.
    """
    if folds < LEAST:
        raise MedvitError(
            f"--folds {folds}: there must be at least {LEAST}: one tests, one validates, the others train."
        )
    if resume not in (None, "auto"):
        raise MedvitError("--folds goes on with --resume auto, not with a checkpoint.")
    base = run or Path("runs", f"{path.stem}_folds")
    works = [
        open_workflow(path, [*overrides, f"data.folds={folds}", f"data.fold={k}"], base / f"fold_{k}", allow)
        for k in range(folds)
    ]
    if not issubclass(class_of(str(works[0].system["class"])), Findings):
        raise MedvitError(f"{path} trains no system with labels, so there is nothing to measure on folds.")
    for required in works[0].requires:
        log.warning(
            "%s is trained on the table's own splits: it may see images, not labels, of test patients.", required.path
        )
    parts = []
    for k, work in enumerate(works):
        log.info("fold %d of %d", k + 1, folds)
        train(work, resume)
        parts.append(_answered(work))
    told = measured(parts)
    file = base / "folds.json"
    head = {"notice": NOTICE, "medvit": __version__, "workflow": path.name, "folds_of_patients": folds}
    write_text(file, json.dumps({**head, **told}, indent=2) + "\n")
    mean = told["mean_of_folds"].get("mean")
    if mean:
        log.info("mean AUROC of %d folds: %.3f (standard deviation %.3f)", folds, mean["auroc"], mean["deviation"])
    return file


def _answered(work: Workflow) -> Answers:
    """What the best checkpoint of a fold says of its test patients."""
    built, data, trainer = instantiate(work)
    trainer.strategy.connect(built)
    data.trainer = trainer
    data.setup("fit")
    system = load_system(work.best)
    if not isinstance(system, Findings):
        raise MedvitError(f"{work.best} answers no findings.")
    if mpp := getattr(data, "mpp", None):
        system.told("mpp", str(mpp))
    cases = [case for case in data.splits["test"] if case.labels]  # type: ignore[attr-defined]  # data of labelled cases
    if not cases:
        raise MedvitError(f"{work.run}: no test patient of this fold has a label.")
    found, _ = answers(system, cases, [label.name for label in system.labels], Asked())
    return found


def measured(parts: Sequence[Answers]) -> dict[str, Any]:
    """Measures of each fold, their mean over folds, and of all answers together, where every case counts once."""
    names = parts[0].names
    each = [with_intervals(part.p, part.y, names, {}, part.patients) for part in parts]
    mean = {}
    for label in (*names, "mean"):
        areas = np.array([one[label]["auroc"].value for one in each])
        known = areas[np.isfinite(areas)]
        if len(known):
            deviation = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
            mean[label] = {"auroc": float(known.mean()), "deviation": deviation, "folds": len(known)}
    together = with_intervals(
        np.concatenate([part.p for part in parts]),
        np.concatenate([part.y for part in parts]),
        names,
        {},
        [who for part in parts for who in part.patients],
    )
    told = {
        "folds": [{"cases": len(part.keys), "measures": _lists(one)} for part, one in zip(parts, each, strict=True)],
        "mean_of_folds": mean,
        "together": _lists(together),
    }
    return dict(plain(told))


def _lists(told: dict[str, Any]) -> dict[str, Any]:
    return {label: {name: list(value) for name, value in one.items()} for label, one in told.items()}

"""Measure a checkpoint on a table of labelled cases: numbers with intervals, a report and a model card.

The split is answered as `medvit predict` answers, in guarded processes. Nothing is chosen on it: operating points come with the
checkpoint, or from the validation split of the table.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import numpy as np

from medvit.atomic import locked, write_text
from medvit.case import Case
from medvit.data.batch import Batch
from medvit.duties import pool_of
from medvit.errors import MedvitError, Unanswered
from medvit.evaluate.assess import Answers, Points, assess, compare, plain
from medvit.evaluate.froc import BOX_UM
from medvit.evaluate.places import Places
from medvit.evaluate.points import YOUDEN, points
from medvit.explain.analytics import analysed
from medvit.labelled import Asking, columns_of, counted, provenance, read_labels, read_masks, split_of
from medvit.pipeline import Answer, Pipeline
from medvit.progress import progress
from medvit.result import Result
from medvit.tasks.bags import BagClassification
from medvit.tasks.classification import Classification
from medvit.tasks.findings import Findings, known_bce
from medvit.tasks.system import System
from medvit.writers.evaluation_page import evaluation_page
from medvit.writers.model_card import model_card
from medvit.writers.summary import thumbnail
from medvit.writers.table import written_csv

log = logging.getLogger(__name__)

ATTENTION_CASES = 32  # whose attention is looked at
ANSWER_COLUMNS = ("case", "label", "truth", "probability", "out_of_distribution")


@dataclass(frozen=True, slots=True)
class Asked(Asking):
    """How to evaluate findings.

    Args:
        batch_size: Cases answered at once.
        precision: ``32`` or ``bf16``.
        boxes: A CSV of where findings lie on films, for FROC.
        mask_values: What in the masks of slides is a lesion, for FROC; any value but 0 where empty.
        silence_um: Side of the square that a detection on a slide silences, for FROC.
    """

    batch_size: int = 16
    precision: str = "32"
    boxes: Path | None = None
    mask_values: tuple[int, ...] = ()
    silence_um: float = BOX_UM


def evaluate(
    system: System,
    checkpoint: Mapping[str, Any],
    table: Path,
    out: Path,
    asked: Asked,
    against: tuple[System, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure a system and leave ``evaluation.json``, ``evaluation.html``, ``model_card.md`` and ``answers.csv`` in ``out``.

    Args:
        system: Of findings, with its weights.
        checkpoint: What identifies it: ``name``, ``sha256`` and its card.
        table: medvit's own CSV, see `medvit.case.read_table`.
        out: The folder.
        asked: How.
        against: Another system and what identifies it, compared on the same cases.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        MedvitError: When the system answers no findings, or the table has none of its labels or not the split.
    """
    findings = _findings(system)
    names, splits = read_labels(table, [label.name for label in findings.labels], asked.boxes)
    splits = {split: system.gathered(table, cases) for split, cases in splits.items()}
    cases = split_of(table, splits, asked.split)
    columns_of(table, cases, [case.key for case in cases], asked.by)  # a wrong --by is told before the work
    points_of, source = operating_points(findings, checkpoint, names, splits, table, asked)
    with locked(out):
        places = _places(findings, table, points_of, asked)
        answered, refused = answers(findings, cases, names, asked, places)
        told = {
            **provenance(system.identity, checkpoint, table, asked),
            "calibration": _calibration(checkpoint),
            "split": asked.split,
            "splits": {name: counted(some, names) for name, some in splits.items()},
            "cases": len(answered.keys),
            "patients": len({who or key for who, key in zip(answered.patients, answered.keys, strict=True)}),
            "unanswered": {"count": sum(refused.values()), "reasons": dict(refused)},
            "points_from": source,
            **assess(answered, points_of, columns_of(table, cases, answered.keys, asked.by), asked.draws),
            "froc": plain(places.told(asked.draws)) if places else {},
        }
        if against:
            other, identity = against
            theirs, _ = answers(_findings(other), cases, [n for n in names if n in _names(other)], asked)
            if not theirs.names:
                raise MedvitError(f"{identity['name']} answers none of the labels {', '.join(names)}.")
            told["against"] = {"checkpoint": dict(identity), **compare(*_common(answered, theirs), asked.draws)}
        told["attention"] = _attention(findings, cases, asked)
        pictures = _pictures(findings, [case for case in cases if case.key in {one["case"] for one in told["worst"]}],
                             told["worst"], out, asked)  # fmt: skip
        _write(told, answered, pictures, out)
    return told


def _findings(system: System) -> Findings:
    if not isinstance(system, Findings):
        raise MedvitError(f"{type(system).__name__} answers no findings. Give a checkpoint of a system that does.")
    return system


def _names(system: System) -> list[str]:
    return [label.name for label in system.labels]


def operating_points(
    system: Findings,
    checkpoint: Mapping[str, Any],
    names: Sequence[str],
    splits: Mapping[str, list[Case]],
    table: Path,
    asked: Asked,
) -> tuple[Points, str]:
    """The thresholds of every label, and where they were chosen: never on the split that is measured."""
    kept = checkpoint.get("operating_points") or {}
    if all(name in kept for name in names):
        return {name: kept[name] for name in names}, "the checkpoint (validation split of its training)"
    if asked.split != "val" and any(case.labels for case in splits.get("val", [])):
        log.info("The checkpoint holds no operating points; they are chosen on the validation split of %s.", table)
        seen, _ = answers(system, [case for case in splits["val"] if case.labels], names, asked)
        found = {name: points(seen.p[:, k], seen.y[:, k]) for k, name in enumerate(seen.names)}
        return found, f"validation split of {table.name}"
    chosen = dict(zip(_names(system), system.thresholds.tolist(), strict=True))
    return {
        name: {"youden": chosen[name]} for name in names
    }, "the checkpoint's thresholds (validation split of its training)"


def _places(system: Findings, table: Path, points_of: Points, asked: Asked) -> Places | None:
    """What collects detections, where the table or the user says where lesions lie; None where nobody does."""
    thresholds = {name: at[YOUDEN] for name, at in points_of.items()}
    if isinstance(system, Classification):
        return Places(list(thresholds), thresholds, boxed=True) if asked.boxes else None
    masks = read_masks(table) if isinstance(system, BagClassification) else {}
    if not masks:
        return None
    return Places(list(thresholds), thresholds, masks=masks, values=asked.mask_values, silence_um=asked.silence_um)


def answers(
    system: Findings, cases: Sequence[Case], names: Sequence[str], asked: Asked, places: Places | None = None
) -> tuple[Answers, Counter[str]]:
    """What a system says of cases, and how many it did not answer, by reason; ``places`` takes what they show."""
    with _every_map(system) if places and places.boxed else _no_map(system):
        return _answers(system, cases, names, asked, places)


def _answers(
    system: Findings, cases: Sequence[Case], names: Sequence[str], asked: Asked, places: Places | None
) -> tuple[Answers, Counter[str]]:
    got: list[tuple[Case, Result]] = []
    refused: Counter[str] = Counter()
    with progress(len(cases), "cases") as advance, TemporaryDirectory() as folder:
        for batch in answered(system, cases, asked, (), Path(folder), places is not None):
            for one in batch:
                if isinstance(one.result, Unanswered):
                    refused[one.result.reason] += 1
                    log.warning("%s is not answered: %s", one.case.files[0], one.result)
                else:
                    if places:
                        places.take(one.case, one.result)
                    got.append((one.case, replace(one.result, heatmaps=(), tiles=None)))
            advance(len(batch))
    if not got:
        raise MedvitError(f"None of the {len(cases)} cases could be answered; the warnings above say why.")
    p, y = (np.full((len(got), len(names)), np.nan) for _ in range(2))
    for i, (case, result) in enumerate(got):
        said = {finding.label.name: finding.probability for finding in result.findings}
        for k, name in enumerate(names):
            p[i, k], y[i, k] = said.get(name, np.nan), case.labels.get(name, np.nan)
    far = np.array([np.nan if result.distance is None else float(result.distance.far) for _, result in got])
    keys, patients = [case.key for case, _ in got], [case.patient for case, _ in got]
    return Answers(keys, patients, tuple(names), p, y, far), refused


def answered(
    system: Findings, cases: Sequence[Case], asked: Asked, write: Sequence[str], folder: Path, keeps: bool = False
) -> Iterator[list[Answer]]:
    """Answers batch by batch; what is written lies under ``folder``, and what was drawn is given back where it ``keeps``."""
    system.to(asked.device).eval()
    size = system.at_once or asked.batch_size
    with pool_of(system, asked.workers, folder, write) as pool:
        pipeline = Pipeline(system, pool, asked.device, asked.precision, Event(), keeps)
        batches = (cases[start : start + size] for start in range(0, len(cases), size))
        yield from pipeline.answers(batches, {case.key for case in cases})


def _calibration(checkpoint: Mapping[str, Any]) -> str:
    found = checkpoint.get("calibration")
    if not found:
        return "none: this checkpoint is not calibrated"
    return f"{found['method']} ({found['validation_cases']} cases)"


def _common(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """Both answers about the cases that both answered."""
    theirs = set(second.keys)
    shared = [key for key in first.keys if key in theirs]
    return _of(first, shared), _of(second, shared)


def _of(answers: Answers, keys: Sequence[str]) -> Answers:
    place = {key: i for i, key in enumerate(answers.keys)}
    rows = [place[key] for key in keys]
    patients = [answers.patients[i] for i in rows]
    return Answers(keys, patients, answers.names, answers.p[rows], answers.y[rows], answers.far[rows])


def _pictures(
    system: Findings, cases: Sequence[Case], worst: Sequence[Mapping[str, Any]], out: Path, asked: Asked
) -> dict[tuple[str, str], str]:
    """The worst errors with what influenced their scores, as small pictures."""
    if not cases:
        return {}
    with _every_map(system), TemporaryDirectory(dir=out) as folder:
        for _ in answered(system, cases, asked, ("heat",), Path(folder)):
            pass
        return {(one["case"], one["label"]): thumbnail(Path(folder), one["case"], one["label"]) for one in worst}


@contextmanager
def _every_map(system: Findings) -> Iterator[None]:
    """Answers come with a map of every label: maps are made of what is positive, and here of what was missed too."""
    thresholds = system.thresholds.clone()
    system.explains = True
    system.thresholds.zero_()
    try:
        yield
    finally:
        system.thresholds.copy_(thresholds)


@contextmanager
def _no_map(system: Findings) -> Iterator[None]:
    system.explains = False
    yield


def _attention(system: Findings, cases: Sequence[Case], asked: Asked) -> dict[str, Any] | None:
    """What the heads of a system of films do, on some of the cases; None where its network is no ViT of images."""
    if not isinstance(system, Classification):
        return None
    samples = []
    with pool_of(system, asked.workers, Path()) as pool:
        for case in cases[:ATTENTION_CASES]:
            with suppress(Unanswered):
                samples.append(system.collect(case, pool.submit("read", case).result(), pool)[0])
    if not samples:
        return None
    batch = Batch(samples).to(asked.device)
    x = system.inputs(batch)
    return analysed(system.net, x, lambda logits: known_bce(logits.float(), batch.y))


def _write(told: Mapping[str, Any], answered: Answers, pictures: Mapping[tuple[str, str], str], out: Path) -> None:
    with written_csv(out / "answers.csv", ANSWER_COLUMNS) as add:
        for i, key in enumerate(answered.keys):
            far = "" if np.isnan(answered.far[i]) else int(answered.far[i])
            for k, name in enumerate(answered.names):
                p, y = answered.p[i, k], answered.y[i, k]
                add({"case": key, "label": name, "truth": "" if np.isnan(y) else int(y),
                     "probability": "" if np.isnan(p) else round(float(p), 6), "out_of_distribution": far})  # fmt: skip
    write_text(out / "evaluation.json", json.dumps(told, indent=2) + "\n")
    write_text(out / "model_card.md", model_card(told))
    write_text(out / "evaluation.html", evaluation_page(told, pictures))

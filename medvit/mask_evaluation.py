"""Measure a promptable system on a table of cases with masks: Dice and surface Dice with intervals, a report and a model card.

The true masks say where boxes are asked about, so every report names the way in which they were made.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow

from medvit.atomic import locked, write_text
from medvit.case import Case
from medvit.data.inputs import unpacked
from medvit.data.mask_tables import read_folder, read_masked
from medvit.duties import pool_of
from medvit.errors import MedvitError, Unanswered
from medvit.evaluate.assess import GROUP_DRAWS, plain
from medvit.evaluate.mask_scores import MEASURES, Scored, differences, groups, measured
from medvit.evaluate.segmentation import Scores
from medvit.guard import Pool
from medvit.labelled import Asking, columns_of, provenance
from medvit.progress import progress
from medvit.tasks.prompted import (
    PROTOCOLS,
    Labels,
    Protocol,
    Published,
    asked_as_published,
    asked_by_slices,
    asked_once,
    numbers_in,
    paper_scores_of,
    scores_of,
    square,
)
from medvit.tasks.segmentation import Segmentation
from medvit.writers.mask_page import mask_page, outlined
from medvit.writers.model_card import model_card
from medvit.writers.table import written_csv

log = logging.getLogger(__name__)

TOLERANCE_MM = 2.0
WORST = 12
COLUMNS = ("case", "structure", *MEASURES, "slices")
WHOLE = "whole folder"


@dataclass(frozen=True, slots=True)
class AskedMasks(Asking):
    """How to evaluate masks; a folder is measured whole, whatever the ``split``.

    Args:
        protocol: One of `PROTOCOLS`.
        structures: What the numbers of the masks are called.
        tolerance_mm: Within which surfaces agree; ``paper`` has its own.
    """

    protocol: Protocol = "slices"
    structures: Mapping[int, str] = field(default_factory=dict)
    tolerance_mm: float = TOLERANCE_MM


class Told(NamedTuple):
    """What is known of one structure of one case: its scores, how many slices count, and the slice that shows most of it."""

    case: Case
    number: int
    scores: Scores
    slices: int
    picture: str


def evaluate_masks(
    system: Segmentation,
    checkpoint: Mapping[str, Any],
    table: Path,
    out: Path,
    asked: AskedMasks,
    against: tuple[Segmentation, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure a system and leave ``evaluation.json``, ``evaluation.html``, ``model_card.md`` and ``masks.csv`` in ``out``.

    Args:
        system: With its weights; the user's boxes are its prompts.
        checkpoint: What identifies it: ``name``, ``sha256`` and its card.
        table: A CSV of ``path, patient_id, split, mask``, or a folder, see `medvit.data.mask_tables`.
        out: The folder.
        asked: How.
        against: Another system and what identifies it, compared on the same cases.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        MedvitError: When the split has no case, or none could be answered.
    """
    cases, splits = _cases(table, asked.split)
    if table.is_file():
        columns_of(table, cases, [case.key for case in cases], asked.by)  # a wrong --by is told before the work
    _warn_of_strangers(system, asked)
    with locked(out):
        told, refused = _told(system, cases, asked)
        scored = _scored(told, asked)
        columns = columns_of(table, cases, scored.keys, asked.by) if table.is_file() else {}
        result = plain({
            **provenance(system.identity, checkpoint, table, asked),
            "split": asked.split if table.is_file() else WHOLE,
            "splits": splits,
            "cases": len(scored.keys),
            "patients": len({who or key for who, key in zip(scored.patients, scored.keys, strict=True)}),
            "unanswered": {"count": sum(refused.values()), "reasons": dict(refused)},
            "protocol": asked.protocol,
            "protocol_is": PROTOCOLS[asked.protocol],
            "prompts": "boxes of --boxes" if system.prompts.boxes else "boxes around the true masks",
            "tolerance": "1 px" if asked.protocol == "paper" else f"{asked.tolerance_mm:g} mm",
            "draws": asked.draws,
            **measured(scored, asked.draws),
            "subgroups": groups(scored, columns, min(asked.draws, GROUP_DRAWS)),
            "worst": _worst(told, asked),
        })  # fmt: skip
        if against:
            other, identity = against
            theirs, _ = _told(other, cases, asked)
            both = _common(scored, _scored(theirs, asked))
            result["against"] = {"checkpoint": dict(identity), **plain(differences(*both, asked.draws))}
        _write(result, told, asked, out)
    return dict(result)


def _warn_of_strangers(system: Segmentation, asked: AskedMasks) -> None:
    """Say which boxes bear names that no structure has: they are not asked about."""
    names = {box.label for boxes in system.prompts.boxes.values() for box in boxes}
    strangers = sorted(name for name in names - set(asked.structures.values()) if not name.isdecimal())
    if strangers:
        log.warning("No structure is called %s; these boxes are not measured. See --structures.", ", ".join(strangers))


def _cases(table: Path, split: str) -> tuple[list[Case], dict[str, dict[str, int]]]:
    """What is measured, and how many cases and patients each split has."""
    splits = read_masked("medvit", table) if table.is_file() else {WHOLE: read_folder(table)}
    split = split if table.is_file() else WHOLE
    if not splits.get(split):
        raise MedvitError(f"The table {table} has no case in split {split!r}; it has {', '.join(splits)}. See --split.")
    counts = {
        name: {"cases": len(cases), "patients": len({case.patient or case.uid for case in cases})}
        for name, cases in splits.items()
    }
    return splits[split], counts


def _told(system: Segmentation, cases: Sequence[Case], asked: AskedMasks) -> tuple[list[Told], Counter[str]]:
    """Every structure of every case, the lowest Dice first, and how many cases were not answered, by reason."""
    system.to(asked.device).eval()
    told: list[Told] = []
    refused: Counter[str] = Counter()
    with pool_of(system, asked.workers, Path()) as pool, progress(len(cases), "cases") as advance, torch.no_grad():
        for case, images in _read(pool, cases):
            try:
                told += _of_case(system, case, images, asked)
                told.sort(key=lambda one: one.scores.dice)
                told[WORST:] = [one._replace(picture="") for one in told[WORST:]]  # only the worst are shown
            except Unanswered as refusal:
                refused[refusal.reason] += 1
                log.warning("%s is not answered: %s", case.files[0], refusal)
            advance(1)
    if not told:
        raise MedvitError(f"None of the {len(cases)} cases could be answered; the warnings above say why.")
    return told, refused


def _read(pool: Pool, cases: Sequence[Case]) -> Iterator[tuple[Case, tuple[Any, Any]]]:
    """Cases with their images and masks on the way, the next one read while one is answered."""
    ahead = None
    for case in cases:
        following = (case, (pool.submit("read", case), pool.submit("truth", case)))
        if ahead:
            yield ahead
        ahead = following
    if ahead:
        yield ahead


def _of_case(system: Segmentation, case: Case, images: tuple[Any, Any], asked: AskedMasks) -> list[Told]:
    sample, _ = unpacked(images[0].result(), case, ())
    truth: Labels = images[1].result().arrays[0]
    x = sample.x.to(asked.device)
    if asked.protocol == "paper":
        return [_published(case, number, one, sample.x) for number, one in asked_as_published(system, x, truth).items()]
    masks = (
        asked_by_slices(system, x, sample.fit, truth)
        if asked.protocol == "slices"
        else asked_once(system, case, x, sample.fit, truth, {n: _name(n, asked) for n in numbers_in(truth)})
    )
    told = []
    for number, mask in masks.items():
        true = truth == number
        sizes = true.sum(axis=(1, 2))
        z = int(sizes.argmax())
        picture = outlined(sample.x[:, z].numpy(), true[z], mask[z])
        scores = scores_of(mask, true, sample.spacing, asked.tolerance_mm)
        told.append(Told(case, number, scores, int((sizes > 0).sum()), picture))
    return told


def _published(case: Case, number: int, one: Published, x: torch.Tensor) -> Told:
    shown = int(one.truth.sum(axis=(1, 2)).argmax())
    planes = np.stack([square(plane, Pillow.Resampling.BILINEAR) for plane in x[:, one.slices[shown]].numpy()])
    picture = outlined(planes, one.truth[shown], one.found[shown])
    return Told(case, number, paper_scores_of(one), len(one.slices), picture)


def _name(number: int, asked: AskedMasks) -> str:
    return asked.structures.get(number, str(number))


def _scored(told: Sequence[Told], asked: AskedMasks) -> Scored:
    cases = {one.case.key: one.case for one in sorted(told, key=lambda one: one.case.key)}
    numbers = sorted({one.number for one in told})
    values = {measure: np.full((len(cases), len(numbers)), np.nan) for measure in MEASURES}
    place = {key: i for i, key in enumerate(cases)}
    for one in told:
        for measure, value in zip(MEASURES, one.scores, strict=True):
            values[measure][place[one.case.key], numbers.index(one.number)] = value
    names = tuple(_name(number, asked) for number in numbers)
    return Scored(list(cases), [case.patient for case in cases.values()], names, values)


def _common(first: Scored, second: Scored) -> tuple[Scored, Scored]:
    """Both about the cases and structures that both answered."""
    theirs = set(second.keys)
    keys = [key for key in first.keys if key in theirs]
    names = tuple(name for name in first.names if name in second.names)
    return _of(first, keys, names), _of(second, keys, names)


def _of(scored: Scored, keys: Sequence[str], names: tuple[str, ...]) -> Scored:
    place = {key: i for i, key in enumerate(scored.keys)}
    rows = [place[key] for key in keys]
    columns = [scored.names.index(name) for name in names]
    values = {measure: each[np.ix_(rows, columns)] for measure, each in scored.values.items()}
    return Scored(keys, [scored.patients[row] for row in rows], names, values)


def _worst(told: Sequence[Told], asked: AskedMasks) -> list[dict[str, Any]]:
    return [
        {"case": one.case.key, "structure": _name(one.number, asked), **one.scores._asdict(), "slices": one.slices}
        for one in told[:WORST]
    ]


def _write(result: Mapping[str, Any], told: Sequence[Told], asked: AskedMasks, out: Path) -> None:
    with written_csv(out / "masks.csv", COLUMNS) as add:
        for one in told:
            scores = {name: "" if value != value else round(value, 6) for name, value in one.scores._asdict().items()}
            add({"case": one.case.key, "structure": _name(one.number, asked), **scores, "slices": one.slices})
    pictures = {(one.case.key, _name(one.number, asked)): one.picture for one in told}
    write_text(out / "evaluation.json", json.dumps(result, indent=2) + "\n")
    write_text(out / "model_card.md", model_card(result))
    write_text(out / "evaluation.html", mask_page(result, pictures))

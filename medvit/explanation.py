"""``medvit explain``: maps of chosen cases by chosen methods, and what the methods are worth on labelled cases."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from medvit import NOTICE, __version__
from medvit.atomic import locked, write_text
from medvit.case import Case, read_csv, read_table
from medvit.codes import Label
from medvit.data.batch import Batch, Sample
from medvit.discover import discover
from medvit.duties import WORK, pool_of
from medvit.errors import MedvitError, Unanswered
from medvit.explain.bags import spread
from medvit.explain.faithfulness import RANDOM, Asked, judged, table
from medvit.explain.subjects import Bags, Subject, subject_of
from medvit.guard import Pool
from medvit.image import rescaled
from medvit.progress import progress
from medvit.result import Finding, Heatmap, Result, Run
from medvit.tasks.clips import ClipFindings
from medvit.tasks.findings import Findings, ImageFindings
from medvit.tasks.system import System

log = logging.getLogger(__name__)

MOST = 40  # questions that are asked, evenly over the labels
PART = "_part"  # how reasons end that say: it is a part of a case, which is answered as a whole
SHARE = 0.5  # of a cell that must lie in a mask or box to count as true
MEASURES = ("deletion mean", "insertion mean", "deletion blur", "insertion blur", "deletion median", "insertion median",
            "pointing", "iou", "randomised")  # fmt: skip


def explained(system: System) -> Findings:
    """A system whose answers can be explained.

    Raises:
        MedvitError: For any other.
    """
    if not isinstance(system, Findings) or not hasattr(system, "net"):
        raise MedvitError(f"{type(system).__name__} answers no findings, so there is nothing to explain.")
    return system


def part(system: Findings, k: int) -> tuple[nn.Module, int]:
    """The network that answers a label, and the label's place in its logits."""
    if isinstance(system, ClipFindings):
        return system.part(k)
    return cast(nn.Module, system.net), k


def network_input(system: Findings, sample: Sample) -> Tensor:
    """What the network sees of a sample: (1, C, *spatial), or a bag (1, N, D)."""
    batch = Batch([sample]).to(system.thresholds.device)
    return system.inputs(batch) if isinstance(system, ImageFindings) else batch.x


def methods_of(system: System) -> list[str]:
    """The methods that a system's maps can be made by."""
    return list(subject_of(part(explained(system), 0)[0]).methods)


def explain(
    system: System,
    inputs: Sequence[Path],
    out: Path,
    methods: Sequence[str],
    labels: Sequence[str],
    workers: int,
    digest: str,
) -> dict[str, int]:
    """Write maps of every case, method and label: ``OUT/cases/<case>/heat_<label>-<method>.png`` and ``.npz``.

    Args:
        system: Of findings.
        inputs: Files, folders and zips.
        out: The folder.
        methods: Names, see `methods_of`.
        labels: Which labels; those at or above their threshold where empty.
        workers: Guarded processes that read and write; 0 does it here.
        digest: SHA-256 of the checkpoint.

    Returns:
        How many inputs were ``explained`` and how many ``refused``.
    """
    found = explained(system)
    known = {label.name: k for k, label in enumerate(found.labels)}
    _refuse_unknown(methods, methods_of(system), "--method")
    _refuse_unknown(labels, list(known), "--labels")
    found.eval()
    run = Run(type(system).__name__, __version__, digest, datetime.now(UTC))
    counts = {"explained": 0, "refused": 0}
    with locked(out), pool_of(found, workers, out, ("heat",), run) as pool:
        listed = discover(inputs, pool, found.refuse, (), (), out / WORK, found.together)
        with progress(len(listed), "inputs") as advance:
            for one in listed:
                try:
                    if one.refusal or not one.case:
                        raise one.refusal or Unanswered("unread", "It holds nothing that is read here.")
                    sample, _ = found.collect(one.case, pool.submit("read", one.case).result(), pool)
                    result = _asked(found, sample, methods, [known[name] for name in labels])
                    pool.submit("write", result, urgent=True).result()
                    counts["explained"] += 1
                except Unanswered as refusal:
                    if not refusal.reason.endswith(PART):
                        log.warning("%s: %s", one.source, refusal)
                        counts["refused"] += 1
                advance(1)
        shutil.rmtree(out / WORK, ignore_errors=True)  # what zips held
    return counts


def _asked(system: Findings, sample: Sample, methods: Sequence[str], labels: Sequence[int]) -> Result:
    """A case with a map for every method and label, each under a name of both."""
    with torch.no_grad():
        logits, _ = system.logits_and_features(Batch([sample]).to(system.thresholds.device))
        probability = system.probability(logits)[0].tolist()
    answered = system.answered()
    chosen = labels or [k for k, label in enumerate(answered) if probability[k] >= label.threshold]
    findings, heat = [], []
    for k in chosen:
        net, place = part(system, k)
        subject, x = subject_of(net), network_input(system, sample)
        for method in methods:
            label = Label(f"{answered[k].name} {method}", answered[k].code, answered[k].threshold)
            values = subject.methods[method](x, place).float().cpu().numpy()
            if sample.tiling is not None:
                values = spread(sample.tiling, rescaled(values))
            findings.append(Finding(label, probability[k]))
            heat.append(Heatmap(label, values, sample.fit, method))
    return Result(sample.case, tuple(findings), heatmaps=tuple(heat), origin=sample.origin)


def score(
    system: System, cases_table: Path, out: Path, split: str, methods: Sequence[str], boxes: Path | None, workers: int,
    most: int = MOST, mask_values: Sequence[int] = (),
) -> dict[str, Any]:  # fmt: skip
    """What each method's maps are worth on the positive cases of a split; leaves ``faithfulness.json`` and ``.md``.

    Args:
        system: Of findings.
        cases_table: medvit's own CSV; a column ``mask`` names pictures of where tumour is, for slides.
        out: The folder.
        split: Of the table.
        methods: Names, all where empty.
        boxes: A CSV of boxes, see `medvit.case.read_table`.
        workers: Guarded processes that read; 0 reads here.
        most: Questions that are asked, evenly over the labels.
        mask_values: Which values of a mask's pixels, or palette numbers, are the finding; any but 0 where empty.
    """
    found = explained(system)
    found.eval()
    names = [label.name for label in found.labels]
    header = read_csv(cases_table, ("path", "patient_id", "split"))
    asked = [name for name in names if name in header[0]]
    _refuse_unknown(methods, methods_of(system), "--method")
    cases = read_table(cases_table, asked, boxes).get(split, [])
    masks = {str((cases_table.parent / row["path"]).resolve()): row.get("mask", "") for row in header}
    with locked(out), pool_of(found, workers, out) as pool:
        by_net = _questions(found, _chosen(cases, asked, most), pool, cases_table.parent, masks, mask_values)
        told: dict[str, list[dict[str, float]]] = {}
        patients: list[str] = []
        for subject, questions in by_net:
            wanted = list(methods) or list(subject.methods)
            for name, worths in judged(subject, questions, wanted).items():
                told.setdefault(name, []).extend(worths)
            patients += [question.patient for question in questions]
        if not patients:
            raise MedvitError(f"{cases_table} has no readable positive case of {', '.join(names)} in split {split}.")
        result = {"notice": NOTICE, "medvit": __version__, "system": system.identity, "table": cases_table.name,
                  "split": split, **table(told, patients)}  # fmt: skip
        write_text(out / "faithfulness.json", json.dumps(result, indent=2).replace("NaN", "null") + "\n")
        write_text(out / "faithfulness.md", text(result) + "\n")
    return result


def _chosen(cases: Sequence[Case], names: Sequence[str], most: int) -> list[tuple[Case, str]]:
    """Positive cases and their labels, in turns from every label; those with boxes first."""
    turns = []
    for name in names:
        of = [case for case in cases if case.labels.get(name) == 1]
        of.sort(key=lambda case: not any(box.label == name for box in case.boxes))
        turns += [(place, case, name) for place, case in enumerate(of)]
    turns.sort(key=lambda turn: turn[0])
    return [(case, name) for _, case, name in turns[:most]]


def _questions(
    system: Findings,
    chosen: Sequence[tuple[Case, str]],
    pool: Pool,
    folder: Path,
    masks: Mapping[str, str],
    values: Sequence[int],
) -> list[tuple[Subject, list[Asked]]]:
    """The questions, by the network that they are asked of."""
    place = {label.name: k for k, label in enumerate(system.labels)}
    read: dict[str, Sample] = {}
    by_net: dict[int, tuple[Subject, list[Asked]]] = {}
    for case, name in chosen:
        if case.key not in read:
            try:
                with torch.no_grad():
                    read[case.key], _ = system.collect(case, pool.submit("read", case).result(), pool)
            except Unanswered as refusal:
                log.warning("%s is left out: %s", case.files[0], refusal)
                continue
        sample = read[case.key]
        net, k = part(system, place[name])
        subject, questions = by_net.setdefault(id(net), (subject_of(net), []))
        x = network_input(system, sample)
        mask = folder / masks[case.uid] if masks.get(case.uid) else None
        truth = (
            _tiles_in(mask, sample, values)
            if isinstance(subject, Bags)
            else _cells_in(case, name, sample, subject.grid(x))
        )
        questions.append(Asked(x, k, case.patient, truth))
    return list(by_net.values())


def _cells_in(case: Case, name: str, sample: Sample, grid: tuple[int, ...]) -> Tensor | None:
    """The cells of an image of which half lies in the label's boxes; None without boxes or for clips."""
    marked = [box for box in case.boxes if box.label == name]
    boxes = np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in marked], np.float64)
    if not len(boxes) or len(grid) != 2:
        return None
    rows, columns = sample.fit.model
    plane = np.zeros((rows, columns), np.float32)
    for x_min, y_min, x_max, y_max in sample.fit.to_model(boxes).round().astype(int).clip(0):
        plane[y_min:y_max, x_min:x_max] = 1
    shares = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(plane)[None, None], grid)[0, 0]
    least = min(SHARE, float(shares.max()))  # a nodule may be smaller than a cell
    return shares >= least if least > 0 else None


def _tiles_in(mask: Path | None, sample: Sample, values: Sequence[int]) -> Tensor | None:
    """The tiles of a slide of which half has those values, or any but 0, in a mask picture of the whole slide."""
    if mask is None or sample.tiling is None:
        return None
    with Pillow.open(mask) as picture:
        held = np.asarray(picture)
    plane = np.isin(held, values) if values else held > 0
    width, height = sample.tiling.slide
    scale = np.array([plane.shape[1] / width, plane.shape[0] / height])
    places = sample.tiling.rectangles(scale)
    inside = [plane[top:bottom, left:right].mean() for left, top, right, bottom in places]
    return torch.tensor([share >= SHARE for share in inside])


def _refuse_unknown(given: Sequence[str], known: Sequence[str], option: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise MedvitError(f"{option} knows {', '.join(known)} here, not {', '.join(unknown)}.")


def text(told: Mapping[str, Any]) -> str:
    """The table of `score` in Markdown, and what it allows to be said."""
    rows = told["methods"]
    shown = [name for name in MEASURES if any(name in row for row in rows.values())]
    lines = [f"| method | {' | '.join(shown)} | beats chance |", "|---" * (len(shown) + 2) + "|"]
    for name, row in rows.items():
        beats = "" if name == RANDOM else "yes" if name in told["beat_chance"] else "no"
        lines.append(f"| {name} | {' | '.join(_cell(row.get(measure)) for measure in shown)} | {beats} |")
    best = told["recommended"]
    said = (
        f"Recommended: {best}, by insertion less deletion among the methods whose deletion beats chance."
        if best
        else "No method is recommended: none takes the score away sooner than chance does."
    )
    title = f"{told['system']}, {told['table']}, split {told['split']}, {told['cases']} positive findings"
    return "\n".join([title, "", *lines, "", said])


def _cell(value: Sequence[float] | None) -> str:
    if not value or value[0] != value[0]:
        return ""
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"

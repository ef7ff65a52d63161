"""How well frozen features tell types of cells apart: a linear probe and nearest neighbours on a labelled set.

Source: the protocol of DINO and iBOT (k = 20, temperature 0.07) for CytoFM's task of cell types, with class-balanced accuracy.
The probe's decay is chosen on the validation split; the test split is looked at once.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medvit import NOTICE
from medvit.atomic import write_text
from medvit.case import Case
from medvit.data.cell_tables import CellKind, Pixels, centre_of, check_stains, class_of, read_cells
from medvit.errors import MedvitError, Rejected
from medvit.evaluate.probe import linear_probe, neighbours, score
from medvit.readers.cells import corners_of
from medvit.readers.sheet import middle, read_picture
from medvit.tasks.smears import Smears
from medvit.tasks.system import System

log = logging.getLogger(__name__)
BATCH = 64


def probe(
    system: System,
    kind: CellKind,
    path: Path,
    classes: Sequence[str] = (),
    group: str = "",
    level: str = "level_3",
    stains: Literal["one", "mixed"] = "one",
) -> dict[str, Any]:
    """Describe the cells of a set by a system's frozen encoder, learn their types on train and answer for test.

    Args:
        system: One of smears, such as `CytoFMPretraining` or `CytoFM`.
        kind, path, classes, group, level: See `medvit.data.cell_tables.read_cells`.
        stains: ``mixed`` where the set is meant to hold several stains; else that is refused.

    Returns:
        Numbers of cells, and for each way of answering the class-balanced accuracy with its 95 % interval over groups.

    Raises:
        MedvitError: For a system without cells, a set that is not fit, or a split that lacks types.
    """
    if not isinstance(system, Smears):
        raise MedvitError(
            f"{type(system).__name__} describes no cells. Give a system of smears, such as CytoFMPretraining."
        )
    splits = read_cells(kind, path, classes, group=group, level=level)
    for split in ("train", "val", "test"):
        if split not in splits:
            raise MedvitError(f"{path} has no cells in split {split}; a probe needs train, val and test.")
    kinds = sorted({class_of(case) for case in splits["train"]})
    strange = sorted({class_of(case) for split in ("val", "test") for case in splits[split]} - set(kinds))
    if strange:
        raise MedvitError(f"{path} has no cell of the type {strange[0]!r} in split train, but some in val or test.")
    read = {split: _read(system, cases) for split, cases in splits.items()}
    if stains == "one":
        every = [pair for pairs in read.values() for pair in pairs]
        check_stains(path, [case for case, _ in every], [pixels for _, pixels in every])
    x, y, groups = {}, {}, {}
    for split, pairs in read.items():
        if not pairs:
            raise MedvitError(f"None of the cells of split {split} can be read; the warnings above say why.")
        x[split] = _described(system, [pixels for _, pixels in pairs])
        y[split] = torch.tensor([kinds.index(class_of(case)) for case, _ in pairs])
        groups[split] = [case.patient or case.uid for case, _ in pairs]
    answers = {
        "linear probe": linear_probe(x["train"], y["train"], x["val"], y["val"], x["test"]),
        "nearest neighbours": neighbours(x["train"], y["train"], x["test"]),
    }
    told = {name: score(answer, y["test"], groups["test"])._asdict() for name, answer in answers.items()}
    return {
        "classes": kinds,
        "cells": {split: len(pairs) for split, pairs in read.items()},
        "groups": {split: len(set(names)) for split, names in groups.items()},
        "balanced_accuracy": told,
        "notice": NOTICE,
    }


def write(told: dict[str, Any], out: Path) -> None:
    """Keep what `probe` found as ``probe.json`` in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "probe.json", json.dumps(told, indent=2) + "\n")


def text(told: dict[str, Any]) -> str:
    """What `probe` found, for people."""
    lines = [f"{', '.join(told['classes'])}: {told['cells']['test']} test cells of {told['groups']['test']} groups"]
    for name, found in told["balanced_accuracy"].items():
        lines.append(
            f"{name}: class-balanced accuracy {found['accuracy']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        )
    return "\n".join([*lines, NOTICE])


def _read(system: Smears, cases: Sequence[Case]) -> list[tuple[Case, Pixels]]:
    """The cells that can be read, with their pixels; of others a warning says why."""
    pairs = []
    for case in cases:
        try:
            pairs.append((case, cell_pixels(system, case)))
        except Rejected as refusal:
            log.warning("%s is left out: %s", case.files[0].name, refusal)
    return pairs


def cell_pixels(system: Smears, case: Case) -> Pixels:
    """The pixels (tile, tile, 3) of a cell: cut out of its smear, or its picture's middle square.

    Raises:
        Rejected: When it cannot be read, or lies outside its smear.
    """
    cutting, centre = system.cutting, centre_of(case)
    if centre is not None:
        slide = system.slide_of(case)
        (corner,) = corners_of(slide, np.array([centre]), cutting.tile * cutting.mpp)
        return cutting.read(slide, (int(corner[0]), int(corner[1])), cutting.mpp)
    return middle(read_picture(case.files[0]), cutting.tile)


def _described(system: Smears, pixels: Sequence[Pixels]) -> Tensor:
    stacks = (torch.from_numpy(np.stack(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH))
    return torch.cat([system.describe(stack).float().cpu() for stack in stacks])

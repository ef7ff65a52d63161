"""Tables of labelled cases as they are measured: which labels, splits, groups and masks they have."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medvit import NOTICE, __version__
from medvit.case import Case, read_csv, read_table
from medvit.errors import MedvitError
from medvit.evaluate.subgroups import MOST, USUAL, band
from medvit.weights import file_digest

log = logging.getLogger(__name__)

NOT_GROUPS = ("path", "patient_id", "split", "mask")  # columns that make no subgroups


@dataclass(frozen=True, slots=True)
class Asking:
    """How to evaluate, whatever the system answers.

    Args:
        split: Of the table.
        by: Columns for subgroups; those of `USUAL` that the table has where empty.
        draws: Of every interval.
        workers: Guarded processes that read; 0 reads here.
        device: ``cpu``, ``cuda``, ….
        data_licence: What the model card says of the data.
        weights_licence: What it says of the weights.
    """

    split: str = "test"
    by: tuple[str, ...] = ()
    draws: int = 1_000
    workers: int = 0
    device: str = "cpu"
    data_licence: str = "not told; say it with --data-licence"
    weights_licence: str = "not told; say it with --weights-licence"


def provenance(identity: str, checkpoint: Mapping[str, Any], table: Path, asked: Asking) -> dict[str, Any]:
    """What an evaluation was made of: the system's ``identity``, its checkpoint, and the table or the folder."""
    return {
        "notice": NOTICE,
        "medvit": __version__,
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": identity,
        "checkpoint": dict(checkpoint),
        "table": table.name,
        "table_sha256": file_digest(table) if table.is_file() else "a folder",
        "data_licence": asked.data_licence,
        "weights_licence": asked.weights_licence,
    }


def read_labels(
    table: Path, labels: Sequence[str], boxes: Path | None = None
) -> tuple[list[str], dict[str, list[Case]]]:
    """The labels that a table has, and its cases by split.

    Raises:
        MedvitError: When it has none of them.
    """
    header = read_csv(table, ("path", "patient_id", "split"))[0]
    names = [name for name in labels if name in header]
    if not names:
        raise MedvitError(f"The table {table} has no column for any of the system's labels: {', '.join(labels)}.")
    if len(names) < len(labels):
        absent = ", ".join(name for name in labels if name not in names)
        log.warning("%s has no column for %s; they are not measured.", table, absent)
    return names, read_table(table, names, boxes)


def split_of(table: Path, splits: Mapping[str, list[Case]], split: str) -> list[Case]:
    """The labelled cases of a split.

    Raises:
        MedvitError: When there are none.
    """
    cases = [case for case in splits.get(split, []) if case.labels]
    if not cases:
        raise MedvitError(
            f"The table {table} has no labelled case in split {split!r}; it has {', '.join(splits)}. Choose with --split."
        )
    return cases


def read_masks(table: Path) -> dict[str, Path]:
    """The masks and outlines that a table's column ``mask`` names, by a case's uid.

    Raises:
        MedvitError: For one that is not there.
    """
    rows = read_csv(table, ("path",))
    masks = {str((table.parent / row["path"]).resolve()): table.parent / row["mask"] for row in rows if row.get("mask")}
    missing = [mask for mask in masks.values() if not mask.is_file()]
    if missing:
        raise MedvitError(f"{table} names the mask {missing[0]}, which is not there. Paths are relative to the table.")
    return masks


def columns_of(table: Path, cases: Sequence[Case], keys: Sequence[str], by: Sequence[str] = ()) -> dict[str, list[str]]:
    """The cells of answered cases by column, of columns that make subgroups.

    Raises:
        MedvitError: For a column that is not there, names patients, or has a value for nearly every case.
    """
    rows = read_csv(table, ("path", *by))
    cells = {str((table.parent / row["path"]).resolve()): row for row in rows}
    of = {case.key: cells.get(case.uid) or cells[str(case.files[0].resolve())] for case in cases}
    told = {}
    for column in by or [name for name in USUAL if name in rows[0]]:
        if column in NOT_GROUPS:
            raise MedvitError(f"--by {column}: this column makes no subgroups. Choose another one of {table}.")
        values = [of[key][column] for key in keys]
        groups = {band(column, value) for value in values}
        if len(groups) > MOST:
            raise MedvitError(f"--by {column}: {len(groups)} different values are no subgroups; there may be {MOST}.")
        if len(groups) > 1 or by:
            told[column] = values
    return told


def counted(cases: Sequence[Case], names: Sequence[str]) -> dict[str, Any]:
    """Cases, patients and positive cases by label."""
    positives = {name: sum(case.labels.get(name) == 1 for case in cases) for name in names}
    return {"cases": len(cases), "patients": len({case.patient or case.uid for case in cases}), "positives": positives}

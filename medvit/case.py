"""A case: the files one answer is about, listed in a table here or found in folders by `medvit.discover`."""

import csv
import gzip
import hashlib
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from errno import EINVAL
from pathlib import Path
from typing import NamedTuple

from pydicom.errors import BytesLengthException, InvalidDicomError

from medvit.errors import MedvitError, Rejected, Unanswered

PICTURES = (".png", ".jpg", ".jpeg")
BITMAP = ".bmp"  # of pictures of cells alone
CELL_PICTURES = (*PICTURES, BITMAP, ".tif", ".tiff")
MIRAX = ".mrxs"
SLIDES = (".svs", ".ndpi", MIRAX, ".tif", ".tiff", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi")
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
MICROSCOPY = "SM"  # the modality of slides
STACKED = ("CT", "MR")  # modalities whose slices form a volume
SLICES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4")  # CT and MR Image Storage
ENHANCED = (  # enhanced CT and MR, and both as converted from slices: a volume in one file
    "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.4",
)  # fmt: skip
CLIPS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".mpg", ".mpeg")
ULTRASOUND = "US"  # the modality of clips
NIFTI = (".nii", ".nii.gz")
VOLUME = "NIFTI"  # stands for the modality of such files, which do not say theirs
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
# Everything that pydicom and its codecs were seen to raise on damaged files.
DAMAGE = (
    InvalidDicomError, BytesLengthException, struct.error, zlib.error, ValueError, TypeError, AttributeError, KeyError,
    IndexError, RuntimeError, OSError, EOFError, StopIteration, ArithmeticError, MemoryError,
)  # fmt: skip
SPLITS = ("train", "val", "test")
# Header elements that a case keeps; none of them identifies the patient.
HEADER = {
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "sop_uid": "SOPInstanceUID",
    "sop_class": "SOPClassUID",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
}
UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # PS3.5 section 9.1
# Columns of a table that a case keeps beside its labels.
FACTS = ("modality", "view", "sex", "age", "site", "device")


class Box(NamedTuple):
    """Where a finding lies: source pixels, 0-based, half open; of volumes on a slice, counted from 0."""

    label: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    slice: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What one answer is about.

    Args:
        uid: SOP or Series Instance UID; the path where there is none.
        modality: DICOM Modality; "" for pictures and tables that do not say.
        files: Its files, in order.
        labels: Finding to 1.0 (present) or 0.0 (absent); a finding that is not named is unknown.
        mask: A segmentation of it, for training.
        boxes: Where findings lie, for evaluation.
        patient: Pseudonym of the patient, see `pseudonym`; "" where unknown.
        header: Facts from the header or the table that identify nobody: see `HEADER` and `FACTS`.
    """

    uid: str
    modality: str
    files: tuple[Path, ...]
    labels: Mapping[str, float] = field(default_factory=dict)
    mask: Path | None = None
    boxes: tuple[Box, ...] = ()
    patient: str = ""
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The case in file names and tables: first 16 hex digits of the SHA-256 of its uid."""
        return digest(self.uid)


def digest(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text, any bytes of a file name included."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def pseudonym(patient_id: str) -> str:
    """A stable name for a patient that does not say who it is."""
    return f"p-{digest(patient_id)[:12]}"


def blame(error: BaseException, reason: str, what: str) -> Unanswered:
    """Why a file gets no answer: rejected for damage of its own, failed where the disk refused to give it.

    Args:
        error: One of `DAMAGE`.
        reason: For damage, see `Unanswered`.
        what: The sentence for damage, without its end.
    """
    if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # that is a position which a file made up
        return Unanswered(
            "unreadable", f"It cannot be read from the disk: {error.strerror}. Mend that, then use --resume."
        )
    return Rejected(reason, f"{what} ({type(error).__name__}).")


def read_table(table: Path | str, labels: Sequence[str] = (), boxes: Path | str | None = None) -> dict[str, list[Case]]:
    """Read medvit's own table: a CSV with a row a case.

    Columns: ``path`` (relative to the table's folder), ``patient_id``, ``split`` (train, val, test) and one a finding
    with 1, 0 or nothing (unknown). Other columns may follow and are kept as facts.

    Args:
        table: The CSV file, UTF-8.
        labels: Findings that must be columns of it.
        boxes: A CSV of ``path, label, x_min, y_min, x_max, y_max`` in source pixels.

    Returns:
        Split to cases, in the order of the table.

    Raises:
        MedvitError: For a missing column, file or value, a file in two rows, and a patient in two splits.
    """
    table = Path(table)
    rows = read_csv(table, ("path", "patient_id", "split", *labels))
    marked = read_boxes(Path(boxes)) if boxes else {}
    splits: dict[str, list[Case]] = defaultdict(list)
    lines: dict[str, int] = {}  # of files
    for number, row in enumerate(rows, 2):
        where, uid = f"{table}:{number}", str((table.parent / row["path"]).resolve())
        if lines.setdefault(uid, number) != number:
            raise MedvitError(f"{where}: {row['path']} stands in line {lines[uid]} already. A file is one row.")
        if row["split"] not in SPLITS:
            raise MedvitError(f"{where}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}.")
        values = {name: label_value(row[name], f"{where}: {name}") for name in labels}
        splits[row["split"]].append(
            Case(
                uid=uid,
                modality=row.get("modality", ""),
                files=(table.parent / row["path"],),
                labels={name: value for name, value in values.items() if value is not None},
                boxes=tuple(marked.get(row["path"], ())),
                patient=pseudonym(row["patient_id"]) if row["patient_id"] else "",
                header={name: row[name] for name in FACTS if name in row},
            )
        )
    check_files(table, splits)
    check_patients(table, splits)
    return dict(splits)


def read_csv(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, ``.gz`` or plain, that must have those columns; blank lines are left out.

    Raises:
        MedvitError: When the file is missing, empty, no UTF-8, ragged or lacks a column, with the nearest name.
    """
    try:
        opened = gzip.open if table.suffix == ".gz" else open
        with opened(table, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            rows = list(reader)
    except FileNotFoundError:
        raise MedvitError(f"The table {table} is not there. Give the path of a CSV file.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise MedvitError(f"The table {table} cannot be read as UTF-8 CSV: {error}.") from error
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        raise MedvitError(f"The table {table} has the column {twice[0]!r} more than once.")
    missing = [name for name in columns if name not in header]
    if missing:
        near = {name: get_close_matches(name, header, 1) for name in missing}
        said = "; ".join(
            f"{name!r}" + (f" (did you mean {near[name][0]!r}?)" if near[name] else "") for name in missing
        )
        raise MedvitError(
            f"The table {table} has no column {said}. Its columns: {', '.join(header) or 'none'}."
            + (" Cells must be separated by commas." if len(header) == 1 and {";", "\t"} & set(header[0]) else "")
        )
    if not rows:
        raise MedvitError(f"The table {table} has no rows.")
    ragged = [number for number, row in enumerate(rows, 2) if None in row or None in row.values()]
    if ragged:
        raise MedvitError(f"{table}:{ragged[0]}: another number of cells than the header's {len(header)}.")
    return rows


def label_value(cell: str, where: str) -> float | None:
    """1.0, 0.0 or None (unknown) of a cell; ``where`` names the place in errors."""
    text = cell.strip()
    if not text:
        return None
    if text in ("0", "1", "0.0", "1.0"):
        return float(text)
    raise MedvitError(f"{where} is {cell!r}; it must be 1 (present), 0 (absent) or empty (unknown).")


def check_files(table: Path, splits: Mapping[str, Sequence[Case]]) -> None:
    """Refuse a table whose files are not all there."""
    every = [file for cases in splits.values() for case in cases for file in case.files]
    missing = [file for file in every if not file.is_file()]
    if missing:
        raise MedvitError(
            f"The table {table} names {missing[0]}, which is not there ({len(missing)} of {len(every)} files are missing). "
            "Paths are relative to the table's folder unless the reader of the data set says otherwise."
        )


def check_patients(table: Path, splits: Mapping[str, Sequence[Case]]) -> None:
    """Refuse a patient in two splits; cases without a patient count as patients of their own."""
    home: dict[str, set[str]] = defaultdict(set)
    for split, cases in splits.items():
        for case in cases:
            if case.patient:
                home[case.patient].add(split)
    torn = sorted(patient for patient, where in home.items() if len(where) > 1)
    if torn:
        named = ", ".join(f"{patient} ({' and '.join(sorted(home[patient]))})" for patient in torn[:5])
        raise MedvitError(
            f"The table {table} has {len(torn)} patients in more than one split: {named}"
            f"{', …' if len(torn) > 5 else ''}. Every patient's cases must lie in one split."
        )


def read_boxes(table: Path) -> dict[str, list[Box]]:
    """Boxes by path, of a CSV of ``path, label, x_min, y_min, x_max, y_max`` and, for volumes, ``slice``.

    Raises:
        MedvitError: For what is no number, and for a box without area.
    """
    boxes: dict[str, list[Box]] = defaultdict(list)
    edges = ("x_min", "y_min", "x_max", "y_max")
    for number, row in enumerate(read_csv(table, ("path", "label", *edges)), 2):
        where = f"{table}:{number}"
        try:
            left, top, right, bottom = (float(row[edge]) for edge in edges)
        except ValueError:
            raise MedvitError(f"{where}: {', '.join(edges)} must be numbers of source pixels.") from None
        box = Box(row["label"], left, top, right, bottom, slice_of(row, where))
        if not (box.x_min < box.x_max and box.y_min < box.y_max):
            raise MedvitError(f"{where}: the box has no area.")
        boxes[row["path"]].append(box)
    return boxes


def slice_of(row: Mapping[str, str], where: str) -> int | None:
    """The slice that a row of a table names, counted from 0; None where it names none."""
    text = row.get("slice", "").strip()
    if text and not text.isdecimal():
        raise MedvitError(f"{where}: slice is {text!r}; it must be a whole number, counted from 0, or empty.")
    return int(text) if text else None

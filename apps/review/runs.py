"""What a run answered, read from its records, also while they are still being written."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from medvit.case import MICROSCOPY, NIFTI, STACKED, ULTRASOUND, digest
from medvit.cell_folders import READER
from medvit.codes import file_name
from medvit.errors import MedvitError

BOX, OWN = "box ", "drawn "  # begin the names of masks that a reader asked for, and that a reader drew from nothing
NAMELESS = re.compile(rf"{OWN}[1-9][0-9]?")
NONE = "No finding above threshold"  # stands for the answer of a case in which nothing is positive
MASKED = re.compile(r"~[0-9a-f]{16}")
CASE = re.compile(r"[0-9a-f]{16}")
SMEARS = "CytoFM"


class Said(NamedTuple):
    """What the AI says of one finding."""

    label: str
    code: str
    probability: float
    threshold: float
    positive: bool


class Distance(NamedTuple):
    """How far a case lies from those that the system learned from, and from where on that is far."""

    value: float
    limit: float
    far: bool


class Mask(NamedTuple):
    """What a system outlined: its own score of it, and what is told of it."""

    label: str
    score: float
    told: str


class Row(NamedTuple):
    """An answered case."""

    case: str
    key: str
    source: str
    header: Mapping[str, str]
    origin: Mapping[str, str]
    said: tuple[Said, ...]
    distance: Distance | None  # from the training cases; None where the run did not look
    positive: tuple[Said, ...]  # what the AI holds for present
    strongest: Said | None  # the positive finding of the highest probability; else the most probable one
    masks: tuple[Mask, ...] = ()  # for systems that outline; their scores stand as probabilities, without a threshold

    @property
    def modality(self) -> str:
        """DICOM Modality, "" for pictures."""
        return self.header.get("modality", "")

    @property
    def slices(self) -> int:
        """Of a series of slices, how many were answered; 0 for anything else."""
        told = self.origin.get("slices", "")
        return int(told) if told.isdecimal() else 0

    @property
    def mpp(self) -> float | None:
        """Micrometres a level-0 pixel that were given when it was answered; None where the file says them."""
        given = self.origin.get("mpp", "") if self.origin.get("mpp_source") != "file" else ""
        return float(given) if given.replace(".", "", 1).isdecimal() else None

    def finding(self, name: str) -> Said | None:
        """What the AI says of a finding by name; of `NONE` that nothing is there."""
        if name == NONE:
            most = self.strongest
            return Said(NONE, "", most.probability if most else 0.0, most.threshold if most else 0.5, False)
        if name.startswith((BOX, OWN)):
            return Said(name, "", 0.0, 0.0, True)
        return next((one for one in self.said if one.label == name), None)


class About(NamedTuple):
    """Who answered, as every page says it."""

    system: str
    version: str
    weights: str
    started: str
    finished: bool
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    found: int  # inputs; 0 while the run is still looking for them


class Run:
    """One folder that `medvit predict` wrote or is writing; shared by all sessions, read only.

    Args:
        folder: Where ``run.json`` and ``records.jsonl`` lie.

    Raises:
        MedvitError: When it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            raise MedvitError(
                f"{folder} holds no answers yet. Run `medvit predict CHECKPOINT INPUT -o {folder}` first."
            )
        self.name = self.folder.resolve().name
        self.key = digest(str(self.folder.resolve()))[:8]
        self._lock = Lock()
        self._place: tuple[int, int] = (0, 0)  # inode and bytes read of the records
        self._version: tuple[int, int] = (0, 0)  # inode and time of run.json
        self._rows: dict[str, Row] = {}
        self._done: set[str] = set()
        self.about = self._about()

    def refresh(self) -> "Run":
        """Take in the records that were written since; returns itself."""
        path = self.folder / "records.jsonl"
        with self._lock:
            self._read_about()
            try:
                found = path.stat()
            except OSError:  # nothing is answered yet
                return self
            inode, done = self._place
            if found.st_ino == inode and found.st_size == done:
                return self
            if found.st_ino != inode or found.st_size < done:
                done, rows, ended = 0, {}, set()
            else:
                rows, ended = dict(self._rows), set(self._done)
            with path.open("rb") as file:
                file.seek(done)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    done += len(line)
                    key, row = _told(line)
                    ended.add(key)
                    if row:
                        rows[row.case] = row
            self._place, self._rows, self._done = (found.st_ino, done), rows, ended - {""}
        return self

    def _read_about(self) -> None:
        """Take in run.json where it was written anew: when the inputs are found, and at the end."""
        try:
            found = (self.folder / "run.json").stat()
        except OSError:
            return
        if (found.st_ino, found.st_mtime_ns) != self._version:
            self.about, self._version = self._about(), (found.st_ino, found.st_mtime_ns)

    @property
    def rows(self) -> Mapping[str, Row]:
        """The answered cases by their key; replaced, never changed."""
        return self._rows

    @property
    def done(self) -> int:
        """How many inputs have a record, answered or not."""
        return len(self._done)

    def kind(self, row: Row) -> str:
        """How a case is looked at: film, slide, smear, cells (pictures of single ones), clip or volume."""
        if row.origin.get("reader") == READER:
            return "cells"
        if row.modality == MICROSCOPY or "mpp" in row.origin:
            return "smear" if self.about.system == SMEARS else "slide"
        if row.modality == ULTRASOUND or "sector" in row.origin:
            return "clip"
        volume = row.masks or row.modality in STACKED or row.source.lower().endswith(NIFTI)
        return "volume" if volume else "film"

    def asks(self, row: Row, blind: bool) -> int:
        """How many findings a reader is asked about."""
        return len(row.said) if blind else len(row.positive) or 1

    def wanted(self, row: Row, blind: bool) -> tuple[str, ...]:
        """The findings that a reader is asked about: all of them when blind, else what the AI holds for present."""
        if blind:
            return tuple(sorted(one.label for one in row.said))
        return tuple(one.label for one in row.positive) or (NONE,)

    def heat(self, case: str) -> dict[str, Path]:
        """The heat maps of a case by the label's part of their names."""
        if not CASE.fullmatch(case):
            return {}
        found = sorted((self.folder / "cases" / case).glob("heat_*.npz"))
        return {path.stem.removeprefix("heat_"): path for path in found}

    def mask_files(self, row: Row) -> list[tuple[str, str]]:
        """Label and file of each mask of a case: NIfTI of a volume, PNG of what is flat."""
        folder = self.folder / "cases" / row.case
        found = []
        for mask in row.masks:
            stem = f"mask_{file_name(mask.label)}"
            path = next(
                (folder / f"{stem}{end}" for end in (".nii.gz", ".png") if (folder / f"{stem}{end}").is_file()), None
            )
            if path:
                found.append((mask.label, str(path)))
        return found

    def _about(self) -> About:
        try:
            told = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            card = told["settings"]["checkpoint"]
            return About(
                system=str(told["settings"]["system"]).split(" ")[0],
                version=str(told["medvit"]),
                weights=str(card["sha256"]),
                started=str(told["started"]),
                finished="counts" in told and not told["counts"].get("unfinished"),
                inputs=tuple(str(path) for path in told["inputs"]),
                labels=tuple(str(name) for name in card.get("labels", ())),
                metrics={str(name): float(value) for name, value in card.get("metrics", {}).items()},
                counts={str(name): int(count) for name, count in told.get("counts", {}).items()},
                found=int(told.get("inputs_found", told.get("counts", {}).get("inputs", 0))),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise MedvitError(f"{self.folder / 'run.json'} is damaged, so nobody knows what answered here.") from None


def may_draw(finding: str) -> bool:
    """Whether a reader may begin a mask of this from nothing: of a finding, or of a structure without a name, ``drawn 1``."""
    return (
        finding != NONE
        and not finding.startswith(BOX)
        and (not finding.startswith(OWN) or bool(NAMELESS.fullmatch(finding)))
    )


def tell_apart(runs: Sequence[Run]) -> None:
    """Give runs whose folders have the same name longer ones, of the folders above them: ``ward_1_out`` and ``ward_2_out``."""
    tails = {run.key: run.folder.resolve().parts[1:] for run in runs}
    for run in runs:
        tail, others = tails[run.key], [tails[one.key] for one in runs if one.key != run.key]
        depth = next((n for n in range(1, len(tail)) if all(one[-n:] != tail[-n:] for one in others)), len(tail))
        run.name = "_".join(tail[-depth:])


def _told(line: bytes) -> tuple[str, Row | None]:
    """The key of a record's input, "" of a damaged line, and its case where it was answered."""
    try:
        record = json.loads(line)
        return str(record["key"]), _row(record)
    except (ValueError, KeyError, TypeError):
        return "", None


def _row(record: Mapping[str, Any]) -> Row | None:
    """The answered case of a record; None for an input that got no answer, and for a record that is damaged."""
    try:
        if record["status"] != "ok" or not CASE.fullmatch(record["case"]):
            return None
        said = tuple(
            Said(one["label"], one["code"], float(one["probability"]), float(one["threshold"]), bool(one["positive"]))
            for one in record["findings"]
        )
        masks = tuple(_mask(one) for one in record.get("masks", ()))
        if masks:
            said = tuple(
                Said(one["label"], one["code"], float(one["score"]), 0.0, bool(one["pixels"]))
                for one in record["masks"]
            )
        return Row(
            record["case"],
            record["key"],
            record["source"],
            record["header"],
            record["origin"],
            said,
            Distance(float(far["value"]), float(far["limit"]), bool(far["far"]))
            if (far := record.get("distance"))
            else None,
            tuple(one for one in said if one.positive),
            max(said, key=lambda one: (one.positive, one.probability), default=None),
            masks,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _mask(told: Mapping[str, Any]) -> Mask:
    """What a record says of a mask, in a line."""
    millilitres = float(told.get("volume_ml") or 0)
    size = f"{millilitres:.{0 if millilitres >= 100 else 1}f} ml" if millilitres else f"{told.get('pixels', 0)} pixels"
    words = [f"the network's own score {float(told['score']):.2f}", size, str(told.get("prompt", ""))]
    return Mask(str(told["label"]), float(told["score"]), " · ".join(word for word in words if word))


def locate(row: Row, bases: Sequence[Path]) -> Path | None:
    """The file that a case was answered from; None where it is not there any more, or lies in a zip.

    A record holds the path as it was typed, with parts that name the patient replaced by a digest; its key is a digest of
    the whole path, so that no other file can be taken for it.

    Args:
        row: The case.
        bases: Folders that a relative path may start from.
    """
    for base in bases:
        for path in unmasked(base, Path(row.source).parts):
            whole = os.path.abspath(path)  # noqa: PTH100
            if digest(whole) == row.key and path.is_file():
                return Path(whole)
    return None


def unmasked(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The paths below a folder that a path with replaced parts may stand for."""
    if not parts:
        yield base
        return
    first, *rest = parts
    if not MASKED.fullmatch(first):
        yield from unmasked(base / first, rest)
        return
    try:
        names = [entry.name for entry in os.scandir(base) if digest(entry.name) == first[1:]]
    except OSError:
        return
    for name in names:
        yield from unmasked(base / name, rest)

"""A run's folder from its beginning to its end: what it says of itself, and the tables and report from its records."""

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medvit import NOTICE, __version__, budgets
from medvit.atomic import write_text
from medvit.case import Case
from medvit.errors import Halted, MedvitError
from medvit.found import Found
from medvit.journal import Journal
from medvit.writers.summary import write_summary
from medvit.writers.table import write_tables

STATUSES = ("ok", "skipped", "rejected", "failed")
VERSIONS = ("torch", "lightning", "numpy", "pydicom", "highdicom", "pillow")
# What results need on the disk, at most: bytes a case, and for each pixel of its film by writer.
CASE_BYTES = 100_000
BYTES_A_PIXEL = {"heat": 3, "sc": 3, "pm": 4, "seg": 1, "png": 3, "nifti": 1}
UNKNOWN_PIXELS = 4_000_000
PIXELS_A_BYTE = 100  # of a compressed film
SPARE_BYTES = 50_000_000  # tables, and room for others


@dataclass(frozen=True, slots=True)
class Options:
    """How a run works.

    Args:
        write: Names of `medvit.duties.WRITERS`.
        batch_size: Cases answered at once.
        workers: Processes that read and write; 0 does both in this one, which no budget protects then.
        precision: ``32``, or ``bf16`` for half-precision arithmetic.
        device: ``cpu``, ``cuda``, ….
        stop_on_error: End the run at the first input that is rejected or fails.
        resume: Go on with a run in the same folder.
        modality: Answer only these modalities; all of the system's when empty.
        series: Answer only these Series Instance UIDs; all when empty.
        shard: Which part of the inputs is this run's, counted from 1, and how many parts there are.
        synthetic_geometry: Whether objects of radiographs may carry an invented plane, see `medvit.result.Run`.
        told: What the user says about all inputs, by option, as `medvit.tasks.system.System.told` keeps it.
    """

    write: tuple[str, ...] = ("csv", "heat", "sr", "sc", "geojson", "gallery", "png", "nifti")
    batch_size: int = 16
    workers: int = 0
    precision: str = "32"
    device: str = "cpu"
    stop_on_error: bool = False
    resume: bool = False
    modality: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)
    synthetic_geometry: bool = False
    told: Mapping[str, str] = field(default_factory=dict)


def refuse_small_disk(out: Path, found: Sequence[Found], write: Sequence[str]) -> None:
    """Refuse a run whose results will not fit on the disk, as far as headers tell.

    Raises:
        Halted: With the bytes that are missing.
    """
    needed = SPARE_BYTES
    for one in found:
        if one.case and not one.refusal:
            needed += CASE_BYTES + _pixels(one.case) * sum(BYTES_A_PIXEL.get(name, 0) for name in write)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise Halted(
            f"{out} lies on a disk with {free / 1e9:.1f} GB free; the results may need {needed / 1e9:.1f} GB. Make room, "
            "write less (--write), or choose another folder, then use --resume."
        )


def _pixels(case: Case) -> int:
    """What the header says, and no more than a file of this size can hold: one that lies must not stop the others."""
    told = len(case.files) * int(case.header.get("rows") or 0) * int(case.header.get("columns") or 0) or UNKNOWN_PIXELS
    try:
        return min(told, PIXELS_A_BYTE * sum(file.stat().st_size for file in case.files))
    except OSError:  # it is gone meanwhile
        return 0


def settings_of(system: str, checkpoint: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What an answer depends on; a run goes on only with the same."""
    return {
        "system": system,
        "checkpoint": dict(checkpoint),
        "write": sorted(options.write),
        "precision": options.precision,
        "batch_size": options.batch_size,
        "modality": sorted(options.modality),
        "series": sorted(options.series),
        "shard": list(options.shard),
        "synthetic_geometry": options.synthetic_geometry,
        **options.told,
    }


def begin(out: Path, settings: dict[str, Any], inputs: Sequence[Path], options: Options) -> dict[str, Any]:
    """What ``run.json`` says from the start; a run that goes on keeps its beginning.

    Raises:
        MedvitError: When the folder holds another run.
    """
    file = out / "run.json"
    run = {
        "notice": NOTICE,
        "medvit": __version__,
        "settings": settings,
        "inputs": [str(path) for path in inputs],
        "device": options.device,
        "workers": options.workers,
        "guarded": options.workers > 0,
        "budgets": {name: value for name, value in vars(budgets).items() if name.isupper()},
        "started": _now().isoformat().replace("+00:00", "Z"),
        "seconds": 0.0,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    if file.exists():
        if not options.resume:
            raise MedvitError(f"{out} already holds a run. Go on with it by --resume, or choose another folder.")
        run |= _earlier(file, settings)
    write_text(file, json.dumps(run, indent=2) + "\n")
    return run


def note_found(out: Path, run: dict[str, Any], found: int) -> None:
    """Say in ``run.json`` how many inputs there are, so that whoever watches the run knows how far it is."""
    run["inputs_found"] = found
    write_text(out / "run.json", json.dumps(run, indent=2) + "\n")


def _now() -> datetime:
    """The time that a run's objects carry: now, or what SOURCE_DATE_EPOCH says, so that a rerun repeats their bytes."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(fixed) if fixed.isdecimal() else int(time.time()), UTC)


def _earlier(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that goes on keeps of its beginning; another run is refused."""
    try:
        then = json.loads(file.read_text(encoding="utf-8"))
        before, kept = then["settings"], {"started": then["started"], "seconds": float(then["seconds"])}
        datetime.fromisoformat(kept["started"])
    except (ValueError, KeyError, TypeError):
        raise MedvitError(f"{file} is damaged, so nobody knows what answered here. Choose another folder.") from None
    changed = [key for key in {**settings, **before} if before.get(key) != settings.get(key)]
    if changed:
        raise MedvitError(f"{file.parent} holds a run with another {', '.join(changed)}. Choose another folder.")
    return kept


def close(out: Path, run: dict[str, Any], found: Sequence[Found], journal: Journal, worked_s: float) -> dict[str, int]:
    """Derive tables and report from the records, and say in ``run.json`` how the run ended, after so many seconds more."""
    ended = sorted((one.source, one.key) for one in found if journal.status(one.key))
    keys = [key for _, key in ended]
    journal.settle(keys)
    counted = Counter(journal.status(key) for key in keys)
    counts = {"inputs": len(found), **{status: counted[status] for status in STATUSES}}
    if len(keys) < len(found):
        counts["unfinished"] = len(found) - len(keys)
    run |= {"counts": counts, "seconds": round(run["seconds"] + worked_s, 3)}
    write_tables(journal.read(keys), out, run["settings"]["system"], NOTICE)
    write_summary(journal.read(keys), run, out)
    write_text(out / "run.json", json.dumps(run, indent=2) + "\n")
    return counts

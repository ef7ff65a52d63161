"""Answer folders of cases: every input ends with a row, results are whole files, a killed run can go on.

Cases are read by worker processes while the network works on the batch before. Each input leaves a record in
``OUT/records`` once everything else of it is written; the tables are derived from the records.
"""

import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from medvit import NOTICE, __version__
from medvit.atomic import locked, write_text
from medvit.case import Case, Found, digest, scan
from medvit.data.batch import Batch, Sample
from medvit.errors import MedvitError, Rejected, Skipped, Unanswered
from medvit.result import Result
from medvit.tasks.system import System
from medvit.weights import file_digest
from medvit.writers import Writer
from medvit.writers.heat import write_heat
from medvit.writers.table import findings_of, write_tables

log = logging.getLogger(__name__)

WRITERS: dict[str, Writer | None] = {"csv": None, "heat": write_heat}  # the tables are always written
STATUSES = ("ok", "skipped", "rejected", "failed")
VERSIONS = ("torch", "lightning", "numpy", "pydicom", "pillow")


@dataclass(frozen=True, slots=True)
class Options:
    """How a run works; none of it changes an answer except ``precision``.

    Args:
        write: Names of `WRITERS`.
        batch_size: Cases answered at once.
        workers: Processes that read cases; 0 reads in this one.
        precision: ``32``, or ``bf16`` for half-precision arithmetic.
        device: ``cpu``, ``cuda``, ….
        stop_on_error: End the run at the first input that is rejected or fails.
        resume: Go on with a run in the same folder.
    """

    write: tuple[str, ...] = ("csv", "heat")
    batch_size: int = 16
    workers: int = 0
    precision: str = "32"
    device: str = "cpu"
    stop_on_error: bool = False
    resume: bool = False


def predict(
    system: System, checkpoint: Mapping[str, Any], inputs: Sequence[Path], out: Path, options: Options
) -> dict[str, int]:
    """Answer every input and leave the run in ``out``.

    Args:
        system: See `medvit.workflow.load_system`.
        checkpoint: What identifies it: ``name``, ``sha256``, and the card it was saved with.
        inputs: Files and folders.
        out: The run's folder: ``run.json``, ``inputs.csv``, ``results.csv`` and ``cases/``.
        options: How to work.

    Returns:
        How many inputs ended with each of `STATUSES`.

    Raises:
        MedvitError: When the system answers nothing, the folder holds another run, or an input does not exist.
    """
    if not system.answers:
        raise MedvitError(f"{type(system).__name__} pre-trains and answers nothing. Train a system from it first.")
    with locked(out):
        started = time.time()
        settings = _settings(system, checkpoint, options)
        _refuse_other(out, settings, options.resume)
        system = system.to(options.device).eval()
        once = {_key(one.source): one for one in scan(inputs)}  # an input named twice counts once
        found = _without_conflicts([_judged(system, one) for one in once.values()])
        done = {record["key"] for record in read_records(out)} if options.resume else set()
        try:
            for record in _run(system, [one for one in found if _key(one.source) not in done], out, options):
                _write_record(out, record)
                if options.stop_on_error and record["status"] in ("rejected", "failed"):
                    log.warning("%s: %s Stopped, as --on-error stop asks.", record["source"], record["message"])
                    break
        finally:
            kept = {_key(one.source) for one in found}
            records = [record for record in read_records(out) if record["key"] in kept]
            write_tables(records, out, system.identity, NOTICE)
            counts = Counter(record["status"] for record in records)
            told = {"inputs": len(found), **{status: counts[status] for status in STATUSES}}
            _write_run(out, settings, inputs, told, started)
    return told


def _run(system: System, found: Sequence[Found], out: Path, options: Options) -> Iterator[dict[str, Any]]:
    """Records of inputs as they are finished, the unanswered ones first."""
    sources: dict[Path, Case] = {}
    for source, case, refusal in found:
        if refusal:
            yield _record(source, case, refusal, 0.0)
        elif case:
            sources[source] = case
    loader = DataLoader(
        _Reading(system, list(sources.values())),
        options.batch_size,
        num_workers=options.workers,
        collate_fn=list,
        persistent_workers=False,
    )
    clock = time.monotonic()
    paths = iter(sources)
    for read in loader:
        answers = _answer(system, read, options)
        for (case, _), answer in zip(read, answers, strict=True):
            kept = _written(answer, out / "cases" / case.key, options) if isinstance(answer, Result) else answer
            now = time.monotonic()
            yield _record(next(paths), case, kept, now - clock)
            clock = now


class _Reading(Dataset[tuple[Case, Sample | Unanswered]]):
    """Samples of cases, or why there is none; a bad case costs that case alone."""

    def __init__(self, system: System, cases: Sequence[Case]) -> None:
        self.system, self.cases = system, cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Case, Sample | Unanswered]:
        case = self.cases[index]
        try:
            return case, self.system.preprocess(case)
        except Unanswered as refusal:
            return case, refusal
        except Exception as error:  # whatever a reader did not foresee
            return case, Unanswered("unread", f"Reading it failed ({type(error).__name__}).")


@torch.no_grad()
def _answer(
    system: System, read: Sequence[tuple[Case, Sample | Unanswered]], options: Options
) -> list[Result | Unanswered]:
    """Results in order; a batch that fails is answered one by one, so that one case cannot take others with it."""
    samples = [sample for _, sample in read if isinstance(sample, Sample)]
    try:
        results = iter(_predict(system, samples, options) if samples else [])
    except Exception as error:  # out of memory, a layer that refuses a shape, …
        if len(samples) > 1:
            return [_answer(system, [one], options)[0] for one in read]
        results = iter([Unanswered("model", f"The network failed on it ({type(error).__name__}).")])
    return [sample if isinstance(sample, Unanswered) else next(results) for _, sample in read]


def _predict(system: System, samples: Sequence[Sample], options: Options) -> list[Result | Unanswered]:
    half: AbstractContextManager[Any] = nullcontext()
    if options.precision == "bf16":
        half = torch.autocast(options.device.split(":")[0], torch.bfloat16)
    with half:
        results = system.predict_step(Batch(samples).to(options.device))
    return [
        result
        if all(0 <= finding.probability <= 1 for finding in result.findings)
        else Unanswered("not_finite", "The network's answer is no number.")
        for result in results
    ]


def _written(result: Result, folder: Path, options: Options) -> Result | Unanswered:
    """Let the writers work; what cannot be written fails the case and leaves nothing of it."""
    try:
        for name in options.write:
            writer = WRITERS[name]
            if writer:
                writer(result, folder)
    except MedvitError as error:
        return Unanswered("unwritten", f"Its results could not be written: {error}")
    return result


def _judged(system: System, one: Found) -> Found:
    """An input, refused where it is not the system's kind."""
    try:
        if one.case:
            system.refuse(one.case)
    except Unanswered as refusal:
        return one._replace(refusal=refusal)
    return one


def _without_conflicts(found: Sequence[Found]) -> list[Found]:
    """Inputs with the same UID: identical files count once, differing ones not at all."""
    by_uid: dict[str, list[Found]] = {}
    for one in found:
        if one.case and not one.refusal:
            by_uid.setdefault(one.case.uid, []).append(one)
    refused: dict[Path, Unanswered] = {}
    for same in by_uid.values():
        if len(same) > 1:
            if len({file_digest(one.source) for one in same}) > 1:
                conflict = "Another input has the same SOP Instance UID and other content, so neither can be trusted."
                refused |= {one.source: Rejected("uid_conflict", conflict) for one in same}
            else:
                refused |= {one.source: Skipped("duplicate", "The same file was found before.") for one in same[1:]}
    return [one._replace(refusal=refused.get(one.source, one.refusal)) for one in found]


def _key(source: Path) -> str:
    return digest(str(source.absolute()))


def _record(source: Path, case: Case | None, answer: Result | Unanswered, seconds: float) -> dict[str, Any]:
    """What is known of an input, as plain data."""
    refusal = answer if isinstance(answer, Unanswered) else None
    header = case.header if case else {}
    return {
        "key": _key(source),
        "source": str(source),
        "case": case.key if case else "",
        "status": refusal.status if refusal else "ok",
        "reason": refusal.reason if refusal else "",
        "message": str(refusal) if refusal else "",
        "seconds": round(seconds, 3),
        "header": {name: header.get(name, "") for name in ("study_uid", "series_uid", "sop_uid", "modality")},
        "origin": dict(answer.origin) if isinstance(answer, Result) else {},
        "findings": findings_of(answer) if isinstance(answer, Result) else [],
    }


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    write_text(out / "records" / f"{record['key']}.json", json.dumps(record, indent=1) + "\n")


def read_records(out: Path) -> Iterable[dict[str, Any]]:
    """The records of a run, in no particular order; a damaged one counts as not written, so its input is answered anew."""
    for path in (out / "records").glob("*.json"):
        with suppress(ValueError):
            yield json.loads(path.read_text(encoding="utf-8"))


def _settings(system: System, checkpoint: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What an answer depends on; a run goes on only with the same."""
    return {
        "system": system.identity,
        "checkpoint": dict(checkpoint),
        "write": sorted(options.write),
        "precision": options.precision,
        "batch_size": options.batch_size,
    }


def _refuse_other(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Refuse to mix two runs in one folder."""
    file = out / "run.json"
    if not file.exists():
        write_text(file, json.dumps({"settings": settings}) + "\n")
        return
    if not resume:
        raise MedvitError(f"{out} already holds a run. Go on with it by --resume, or choose another folder.")
    try:
        then = json.loads(file.read_text(encoding="utf-8")).get("settings", {})
    except ValueError:
        raise MedvitError(f"{file} is damaged, so nobody knows what answered here. Choose another folder.") from None
    changed = [key for key in settings if then.get(key) != settings[key]]
    if changed:
        raise MedvitError(f"{out} holds a run with another {', '.join(changed)}. Choose another folder.")


def _write_run(
    out: Path, settings: Mapping[str, Any], inputs: Sequence[Path], counts: Mapping[str, int], started: float
) -> None:
    run = {
        "notice": NOTICE,
        "medvit": __version__,
        "settings": settings,
        "inputs": [str(path) for path in inputs],
        "counts": counts,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    write_text(out / "run.json", json.dumps(run, indent=2) + "\n")

"""Answer folders of cases: every input ends with a row, results are whole files, a killed run can go on.

Inputs are discovered (`medvit.discover`), answered in overlapping stages (`medvit.pipeline`), and each leaves a record
once everything else of it is written (`medvit.journal`); the tables and the report are derived from the records.
"""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from medvit import __version__
from medvit.account import Options, begin, close, note_found, refuse_small_disk, settings_of
from medvit.atomic import locked
from medvit.case import digest
from medvit.discover import discover
from medvit.duties import NEED_HEAT, WORK, pool_of
from medvit.errors import Halted, MedvitError, Unanswered
from medvit.found import Found
from medvit.journal import Journal, Record
from medvit.memory import keep_memory
from medvit.pipeline import Pipeline
from medvit.progress import progress
from medvit.result import Result, Run
from medvit.tasks.system import System
from medvit.writers.dicom import refuse_planeless
from medvit.writers.table import distance_of, findings_of, masks_of

log = logging.getLogger(__name__)

TOLD = ("study_uid", "series_uid", "sop_uid", "modality")  # of a case's header, what records and tables hold
BAD = ("rejected", "failed")
RECORDS_AT_ONCE = 1000  # of inputs that get no answer


def predict(
    system: System, checkpoint: Mapping[str, Any], inputs: Sequence[Path], out: Path, options: Options
) -> dict[str, int]:
    """Answer every input and leave the run in ``out``.

    Args:
        system: See `medvit.workflow.load_system`.
        checkpoint: What identifies it: ``name``, ``sha256``, and the card it was saved with.
        inputs: Files, folders and zips.
        out: The run's folder: ``run.json``, ``inputs.csv``, ``results.csv``, ``report.html`` and ``cases/``.
        options: How to work.

    Returns:
        How many inputs ended with each of `STATUSES`.

    Raises:
        MedvitError: When the system answers nothing, the folder holds another run, or an input does not exist.
        Halted: When the disk refuses, or a signal came.
    """
    if not system.answers:
        raise MedvitError(f"{type(system).__name__} pre-trains and answers nothing. Train a system from it first.")
    refuse_planeless(options.write, system.modalities, options.synthetic_geometry)
    system = system.to(options.device).eval()
    system.explains = not NEED_HEAT.isdisjoint(options.write)
    keep_memory()
    clock = time.monotonic()
    with locked(out), _stoppable() as stop:
        told = begin(out, settings_of(system.identity, checkpoint, options), inputs, options)
        shutil.rmtree(out / WORK, ignore_errors=True)
        started = datetime.fromisoformat(told["started"])
        run = Run(type(system).__name__, __version__, checkpoint["sha256"], started, options.synthetic_geometry)
        with (
            Journal(out / "records.jsonl") as journal,
            pool_of(system, options.workers, out, options.write, run) as pool,
        ):
            try:
                found = list(
                    _mine(
                        discover(
                            inputs, pool, system.refuse, options.modality, options.series, out / WORK, system.together
                        ),
                        options.shard,
                    )
                )
                refuse_small_disk(out, found, options.write)
                note_found(out, told, len(found))
                pipeline = Pipeline(system, pool, options.device, options.precision, stop)
                _run(pipeline, found, journal, options)
            finally:
                shutil.rmtree(out / WORK, ignore_errors=True)
            counts = close(out, told, found, journal, time.monotonic() - clock)
    if stop.is_set():
        raise Halted(f"Stopped with {counts['unfinished']} inputs unfinished. Go on with --resume.")
    return counts


def _run(pipeline: Pipeline, found: Sequence[Found], journal: Journal, options: Options) -> None:
    """Give every input that has none a record; stop at the first bad one where that is asked for."""
    todo = [one for one in found if _open(one, journal)]
    with progress(len(todo), "inputs") as advance:
        for records in _records(pipeline, found, todo, pipeline.system.at_once or options.batch_size):
            bad = [i for i, record in enumerate(records) if record["status"] in BAD]
            stopping = options.stop_on_error and bool(bad)
            journal.add(records[: bad[0] + 1] if stopping else records)
            advance(len(records))
            if stopping:
                told = records[bad[0]]
                log.warning("%r: %s Stopped, as --on-error stop asks.", told["source"], told["message"])
                break


def _open(one: Found, journal: Journal) -> bool:
    """Whether an input still needs a record: it has none, it failed, or it is refused for another reason than then."""
    then = journal.status(one.key)
    return then in (None, "failed") or (one.refusal is not None and then != one.refusal.status)


def _records(
    pipeline: Pipeline, found: Sequence[Found], todo: Sequence[Found], batch_size: int
) -> Iterator[list[Record]]:
    """Records of inputs as they are finished, those that get no answer first."""
    refused = [_record(one, one.refusal) for one in todo if one.refusal]
    for start in range(0, len(refused), RECORDS_AT_ONCE):
        yield refused[start : start + RECORDS_AT_ONCE]
    sources = {one.case.key: one for one in found if one.case and not one.refusal}
    wanted = {one.case.key for one in todo if one.case and not one.refusal}
    cases = [one.case for one in sources.values() if one.case]
    batches = (cases[start : start + batch_size] for start in range(0, len(cases), batch_size))
    unfinished = (batch for batch in batches if any(case.key in wanted for case in batch))
    for answers in pipeline.answers(unfinished, wanted):
        yield [_record(sources[case.key], result, seconds) for case, result, seconds in answers]


def _record(one: Found, answer: Result | Unanswered, seconds: float = 0.0) -> Record:
    """What is known of an input, as plain data."""
    refusal = answer if isinstance(answer, Unanswered) else None
    header = one.case.header if one.case else {}
    return {
        "key": one.key,
        "source": one.source,
        "case": one.case.key if one.case else "",
        "status": refusal.status if refusal else "ok",
        "reason": refusal.reason if refusal else "",
        "message": str(refusal) if refusal else "",
        "seconds": round(seconds, 3),
        "header": {name: header.get(name, "") for name in TOLD},
        "origin": dict(answer.origin) if isinstance(answer, Result) else {},
        "findings": findings_of(answer) if isinstance(answer, Result) else [],
        **({"masks": masks_of(answer)} if isinstance(answer, Result) and answer.regions else {}),
        "distance": distance_of(answer) if isinstance(answer, Result) else None,
    }


def _mine(found: Iterable[Found], shard: tuple[int, int]) -> Iterator[Found]:
    """The inputs of one shard; the files of a series stay together."""
    part, parts = shard
    for one in found:
        series = one.case.header.get("series_uid") if one.case else ""
        if int(digest(series) if series else one.key, 16) % parts == part - 1:
            yield one


@contextmanager
def _stoppable() -> Iterator[Event]:
    """Yield what is set when SIGTERM or SIGINT comes; the second signal ends the process at once."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stopping(number: int, frame: FrameType | None) -> None:
        log.warning("Stopping when the cases in hand are finished; a second signal ends it at once.")
        stop.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in before:
            signal.signal(number, stopping)
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

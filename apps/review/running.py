"""How far a run is while `medvit predict` works, and whether it still does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apps.review.runs import Run
from medvit.atomic import LOCK

LOCKS = Path("/proc/locks")
QUIET_S = 300.0  # after which a run whose lock is not seen, since it may be another machine's, counts as stopped


class Progress(NamedTuple):
    """How far a run is: inputs with a record, inputs found (0 where it still looks for them), whether it goes on."""

    done: int
    found: int
    finished: bool
    going: bool


def progress(run: Run) -> Progress:
    """How far a run is; one that ended early is neither finished nor going on."""
    about = run.about
    return Progress(run.done, about.found, about.finished, not about.finished and (is_held(run.folder) or _fresh(run)))


def news(runs: Sequence[Run]) -> str:
    """A calm sentence about the runs that are not finished; "" where all are."""
    told = []
    for run in runs:
        now = progress(run)
        if now.finished:
            continue
        name = f" of {run.name}" if len(runs) > 1 else ""
        far = f"{now.done} of {now.found} inputs" if now.found else "looking for inputs"
        told.append(
            f"run{name} going on, {far}; new cases appear here"
            if now.going
            else f"run{name} seems to have stopped, {far}; `medvit predict … --resume` goes on with it"
        )
    return " · ".join(told)


def is_held(folder: Path) -> bool:
    """Whether a process of this machine holds a run's lock; looked up, since trying the lock could get in the run's way."""
    try:
        wanted = str((folder / LOCK).stat().st_ino)
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    held = (line.split() for line in lines)
    return any(fields[5].rpartition(":")[2] == wanted for fields in held if len(fields) > 5 and fields[1] == "FLOCK")


def _fresh(run: Run) -> bool:
    """Whether something was written a little while ago."""
    try:
        return time.time() - (run.folder / "records.jsonl").stat().st_mtime < QUIET_S
    except OSError:
        return False

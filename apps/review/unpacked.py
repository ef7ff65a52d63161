"""Images that lie in zips: each is unpacked by a worker, under the budgets of `medvit predict`, when somebody looks at it.

What was unpacked lies in ``OUT/review/unpacked``, in a folder a process that only its owner may open, as long as the app
runs; what a killed app left is removed by the next one.
"""

import atexit
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO

from apps.review.runs import Row, unmasked
from medvit.budgets import GIB
from medvit.case import digest
from medvit.errors import Rejected, Unanswered
from medvit.guard import Pool, Reply
from medvit.readers.zips import START, Progress, unpack_member

FOLDER, LOCK, SERIES = "unpacked", ".lock", ".series"
KEPT_BYTES = 1 * GIB
INSIDE = "!/"  # between a zip and the name of its member, see `medvit.discover`


class Unpacked:
    """What one process unpacked of a run's zips.

    Args:
        folder: ``OUT/review``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._own: Path | None = None
        self._held: IO[str] | None = None
        self._kept: dict[str, Path] = {}  # by case, the one asked for last at the end
        self._lock = Lock()
        for other in self.folder.glob("*"):
            _remove_abandoned(other)

    def path(self, row: Row, bases: Sequence[Path], pool: Pool) -> Path | None:
        """The file that a case was answered from, unpacked; None where its zip is not there or does not hold it.

        Raises:
            Unanswered: When the zip is refused, see `medvit.readers.zips`.
        """
        with self._lock:
            known = self._kept.pop(row.case, None)
            if known and known.is_file():
                self._kept[row.case] = known
                return known
            for archive in _archives(row, bases):
                own = self._folder()
                is_series = digest(row.header.get("series_uid", "")) == row.case
                found = self._series(archive, row, own, pool) if is_series else self._member(archive, row, own, pool)
                if found:
                    self._kept[row.case] = found
                    self._forget()
                    return found
        return None

    def _member(self, archive: Path, row: Row, own: Path, pool: Pool) -> Path | None:
        """One file of a zip."""
        try:
            told = pool.submit("member", str(archive), row.key, str(own / row.case), urgent=True).result()
        except Rejected as refusal:
            if refusal.reason == "missing":
                return None
            raise
        return own / Path(str(told.plain)).name

    def _series(self, archive: Path, row: Row, own: Path, pool: Pool) -> Path | None:
        """The first file of a series, with all files of its zip beside it, since its slices may be any of them."""
        folder, progress, first = own / f"{row.case}{SERIES}", START, None
        while not progress.done:
            more, how_far = pool.submit("unpack", str(archive), str(folder), *progress, urgent=True).result().plain
            for name, file, _ in more:
                if file and key_of(archive, name) == row.key:
                    first = folder / Path(str(file)).name
            progress = Progress(*how_far)
        return first

    def _folder(self) -> Path:
        """The folder of this process."""
        if self._own is None or not self._own.is_dir():
            own = self.folder / uuid.uuid4().hex[:12]
            own.mkdir(mode=0o700, parents=True)
            self._held = (own / LOCK).open("w")
            fcntl.flock(self._held, fcntl.LOCK_EX)
            atexit.register(shutil.rmtree, own, ignore_errors=True)
            self._own = own
        return self._own

    def _forget(self) -> None:
        """Remove what was asked for longest ago until the rest fits; whoever is reading it goes on reading."""
        sizes = {case: _size(path) for case, path in self._kept.items()}
        total = sum(sizes.values())
        for case in list(self._kept)[:-1]:
            if total <= KEPT_BYTES:
                break
            total -= sizes[case]
            gone = self._kept.pop(case)
            if gone.parent.name.endswith(SERIES):
                shutil.rmtree(gone.parent, ignore_errors=True)
            else:
                gone.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes of what was unpacked for a case."""
    files = path.parent.iterdir() if path.parent.name.endswith(SERIES) else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def key_of(archive: Path | str, name: str) -> str:
    """The key of an input that is a member of a zip, as `medvit.discover` makes it."""
    return digest(os.path.abspath(f"{archive}{INSIDE}{name}"))  # noqa: PTH100


def member(archive: str, key: str, stem: str) -> Reply:
    """Unpack the member of a zip that an input's key stands for: a digest of the zip's path and the member's name.

    Raises:
        Rejected: When the zip is refused or does not hold it.
        Unanswered: When it cannot be read.
    """
    try:
        return Reply(str(unpack_member(Path(archive), lambda name: key_of(archive, name) == key, Path(stem))))
    except OSError as error:
        raise Unanswered("unreadable", f"The zip cannot be read: {error.strerror}.") from error


def case_of(path: str) -> str:
    """The case that a file was unpacked for, by the name that it was given; "" of any other file."""
    place = Path(path)
    return place.name.partition(".")[0] if place.parent.parent.name == FOLDER else ""


def _archives(row: Row, bases: Sequence[Path]) -> Iterator[Path]:
    """The zips that a case's source may stand for."""
    archive = row.source.partition(INSIDE)[0]
    for base in bases:
        for path in unmasked(base, Path(archive).parts):
            if path.is_file():
                yield Path(os.path.abspath(path))  # noqa: PTH100


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder that no process holds any more."""
    with suppress(OSError), (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)

"""What reviewers decided: rows in SQLite that are only ever added, each sealed to the one before.

A row is on the disk when `Store.append` returns. Every row's hash covers the hash before it, so that a changed, moved or
missing row shows; beside the database `heads.txt` gets a line a row, so that rows cut off at the end show too.

Source: SQLite's WAL mode needs one host and a local disk (sqlite.org/wal.html); reading before writing needs BEGIN IMMEDIATE.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from medvit.errors import Halted, MedvitError

FOLDER = "review"  # in the run's folder
DATABASE, HEADS, LOCK = "decisions.sqlite", "heads.txt", ".lock"
MASKS = "masks"  # readers' own, beside the database; each is vouched for by a row
PATIENCE_S = 30.0  # that a writer waits for others
START = "0" * 64  # the hash before the first row
KINDS = ("decision", "undo", "note", "opened", "shown", "mask", "export", "entered")
LONGEST = 200_000  # characters of a body, which may hold the outline of a mask

_TABLE = """
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, reviewer TEXT NOT NULL, kind TEXT NOT NULL, case_key TEXT NOT NULL,
    finding TEXT NOT NULL, body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS by_finding ON log (case_key, reviewer, finding, seq);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
"""


class Entry(NamedTuple):
    """One row: who did what about which finding of which case, when.

    ``body`` holds the rest as JSON: of a decision ``verdict``, ``reading``, ``note``, what the AI had said, seconds, ….
    """

    seq: int
    at: str
    reviewer: str
    kind: str
    case: str
    finding: str
    body: str
    previous: str
    hash: str

    @property
    def said(self) -> dict[str, Any]:
        """The body as a dictionary."""
        told = json.loads(self.body)
        return told if isinstance(told, dict) else {}


DECIDED = ("decision", "undo")
MASK = ("mask",)


class Conflict(MedvitError):
    """The same reviewer has decided about this finding, or painted its mask, elsewhere meanwhile; ``entry`` is that row."""

    def __init__(self, entry: Entry | None, kind: str = "decision") -> None:
        super().__init__(
            "You have painted on this mask in another window meanwhile. Look at it, then paint again."
            if kind == "mask"
            else "You have decided about this finding in another window meanwhile. Look at it, then decide again."
        )
        self.entry = entry


def seal(entry: Entry) -> str:
    """The hash of a row: SHA-256 over all its other columns, that of the row before included."""
    return hashlib.sha256(json.dumps(entry[:-1], separators=(",", ":")).encode()).hexdigest()


class Store:
    """The decisions about one run.

    Args:
        out: The run's folder; the database lies in ``OUT/review``.

    Raises:
        Halted: When it cannot be opened or written.
    """

    def __init__(self, out: Path) -> None:
        self.folder = Path(out) / FOLDER
        self.path, self.heads = self.folder / DATABASE, self.folder / HEADS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Halted(
                f"{self.folder} cannot be made: {error.strerror}. Decisions need a place beside the run."
            ) from error
        with self._open() as base:
            base.execute("PRAGMA journal_mode=WAL")
            base.executescript(_TABLE)

    def append(
        self,
        reviewer: str,
        kind: str,
        case: str = "",
        finding: str = "",
        body: Mapping[str, Any] | None = None,
        after: int | None = None,
    ) -> Entry:
        """Add a row and wait until it lies on the disk.

        Args:
            reviewer: Who, as the session knows it.
            kind: One of `KINDS`.
            case: The case's key; "" where the row is about none.
            finding: The finding's name; "" where the row is about none.
            body: What else there is to say, plain JSON.
            after: The number of the reviewer's last decision or undo about this finding that was on the screen (of a mask: of
                its last row of that kind), 0 for none; None where it does not matter.

        Raises:
            Conflict: When there is a later one than ``after``; nothing is written.
            Halted: When the disk refuses.
        """
        if kind not in KINDS or not reviewer:
            raise MedvitError(f"A row needs a reviewer and one of {', '.join(KINDS)}, not {reviewer!r} and {kind!r}.")
        text = json.dumps(dict(body or {}), sort_keys=True, separators=(",", ":"))
        if len(text) > LONGEST:
            raise MedvitError("This is too long to be kept. Shorten it.")
        with self._open() as base, self._turn():  # in this order: whoever closes last tidies up, which takes time
            base.execute("BEGIN IMMEDIATE")  # from here on nobody else writes
            if after is not None:
                latest = _latest(base, reviewer, case, finding, MASK if kind == "mask" else DECIDED)
                if (latest.seq if latest else 0) != after:
                    base.execute("ROLLBACK")
                    raise Conflict(latest, kind)
            last = base.execute("SELECT seq, hash FROM log ORDER BY seq DESC LIMIT 1").fetchone() or (0, START)
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            entry = Entry(last[0] + 1, at, reviewer, kind, case, finding, text, last[1], "")
            entry = entry._replace(hash=seal(entry))
            base.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", entry)
            base.execute("COMMIT")
            self._witness(entry)
        return entry

    def since(self, seq: int = 0) -> list[Entry]:
        """All rows after that number, in order."""
        with self._open() as base:
            return [Entry(*row) for row in base.execute("SELECT * FROM log WHERE seq > ? ORDER BY seq", (seq,))]

    def latest(self, reviewer: str, case: str, finding: str) -> Entry | None:
        """The last decision or undo of a reviewer about a finding."""
        with self._open() as base:
            return _latest(base, reviewer, case, finding)

    def head(self) -> tuple[int, str]:
        """How many rows there are and the hash of the last: what to note elsewhere, see `medvit review --verify --head`."""
        with self._open() as base:
            found = base.execute("SELECT seq, hash FROM log ORDER BY seq DESC LIMIT 1").fetchone()
        return (int(found[0]), str(found[1])) if found else (0, START)

    def sound(self) -> str:
        """What SQLite finds wrong with the file; "" where nothing is."""
        with self._open() as base:
            found = [str(row[0]) for row in base.execute("PRAGMA integrity_check")]
        return "" if found == ["ok"] else "; ".join(found[:3])

    def back_up(self, keep: int = 7) -> Path:
        """A whole copy of today's beginning in ``OUT/review/backups``; the last ones are kept."""
        folder = self.folder / "backups"
        folder.mkdir(exist_ok=True)
        copy = folder / f"{datetime.now(UTC):%Y%m%d}.sqlite"
        if not copy.exists():
            part = copy.with_suffix(f".{os.getpid()}.part")
            part.unlink(missing_ok=True)
            with self._open() as base:
                base.execute("VACUUM INTO ?", (str(part),))
            part.rename(copy)
        for old in sorted(folder.glob("*.sqlite"))[:-keep]:
            old.unlink()
        return copy

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one's turn: writers queue in the kernel, which is fairer than trying again and again."""
        try:
            queue = (self.folder / LOCK).open("a")
        except OSError as error:
            raise Halted(f"{self.folder} cannot be written: {error.strerror}. Nothing was changed.") from error
        with queue:
            fcntl.flock(queue, fcntl.LOCK_EX)  # let go by the kernel when the process ends, however it ends
            yield

    def _witness(self, entry: Entry) -> None:
        """Note a committed row in a file of its own; where a crash comes before this, the file is only behind."""
        line = f"{entry.seq} {entry.hash}\n".encode()
        try:
            descriptor = os.open(self.heads, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Halted(f"{self.heads} cannot be written: {error.strerror}. The decision itself is kept.") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call's own, so that sessions share nothing."""
        try:
            base = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)
        except sqlite3.Error as error:
            raise Halted(f"{self.path} cannot be opened: {error}.") from error
        try:
            base.execute("PRAGMA synchronous=FULL")
            yield base
        except sqlite3.Error as error:
            raise Halted(f"{self.path} refuses: {error}. Nothing was changed; try again.") from error
        finally:
            base.close()


def _latest(
    base: sqlite3.Connection, reviewer: str, case: str, finding: str, kinds: Sequence[str] = DECIDED
) -> Entry | None:
    row = base.execute(
        "SELECT * FROM log WHERE case_key = ? AND reviewer = ? AND finding = ? "
        f"AND kind IN ({', '.join('?' * len(kinds))}) ORDER BY seq DESC LIMIT 1",
        (case, reviewer, finding, *kinds),
    ).fetchone()
    return Entry(*row) if row else None

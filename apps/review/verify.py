"""Whether the log of decisions is whole: every row in its place, unchanged, and none missing at the end."""

import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from apps.review.store import DATABASE, FOLDER, HEADS, MASKS, START, Entry, seal
from medvit.errors import MedvitError

HEAD = re.compile(r"(\d+):([0-9a-f]{64})")
TOLD = 20  # faults that are told


class Verdict(NamedTuple):
    """How many rows there are, the hash of the last, and every fault as a sentence."""

    rows: int
    head: str
    faults: tuple[str, ...]


def verify(out: Path, noted: str = "") -> Verdict:
    """Check the log of a run from its first row to its last.

    Args:
        out: The run's folder.
        noted: ``COUNT:HASH`` as an export or an earlier check gave it; the log must still hold that row.

    Raises:
        MedvitError: When there is no log, or ``noted`` is no head.
    """
    path = Path(out) / FOLDER / DATABASE
    if not path.is_file():
        raise MedvitError(f"{out} holds no decisions yet. Start `medvit review {out}` and decide about a case.")
    faults: list[str] = []
    hashes: list[str] = []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            damage = [str(row[0]) for row in base.execute("PRAGMA integrity_check")]
            if damage != ["ok"]:
                faults.append(f"The file is damaged: {damage[0]}.")
            rows = (Entry(*row) for row in base.execute("SELECT * FROM log ORDER BY seq"))
            previous = START
            for place, entry in enumerate(rows, 1):
                if entry.seq != place:
                    faults.append(f"Row {place} is missing: row {entry.seq} stands in its place.")
                    break  # every row behind it would say the same
                faults += _faults(entry, place, previous)
                faults += _mask_faults(entry, path.parent / MASKS)
                previous = entry.hash
                hashes.append(entry.hash)
    except sqlite3.Error as error:
        faults.append(f"The file cannot be read as a database: {error}.")
    heads = _heads(path.with_name(HEADS))
    if hashes and not heads:
        faults.append(f"{HEADS} is missing or empty, so rows cut off at the end would not show.")
    if noted:
        found = HEAD.fullmatch(noted)
        if not found:
            raise MedvitError(
                f"--head {noted} is no head; it looks like 12:0a1b… with 64 digits, as an export says it."
            )
        heads.append((int(found[1]), found[2]))
    for count, digest in heads:
        if count > len(hashes):
            faults.append(f"Row {count} is missing: rows were cut off at the end ({len(hashes)} are left).")
            break
        if count and hashes[count - 1] != digest:
            faults.append(f"Row {count} is another one than was committed: the log was rewritten from there on.")
            break
    return Verdict(len(hashes), hashes[-1] if hashes else START, tuple(faults[:TOLD]))


def _faults(entry: Entry, place: int, previous: str) -> list[str]:
    if seal(entry) != entry.hash:
        return [f"Row {place} was changed: its seal does not fit its content."]
    if entry.previous != previous:
        return [f"Row {place} does not follow the row before it: a row was exchanged or moved."]
    return []


def _mask_faults(entry: Entry, folder: Path) -> list[str]:
    """Whether the mask that a row vouches for is there and unchanged."""
    if entry.kind != "mask":
        return []
    try:
        name, digest = str(entry.said["file"]), str(entry.said["sha256"])
        if hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest() == digest:
            return []
    except OSError:
        return [f"The mask of row {entry.seq} is missing."]
    except (ValueError, KeyError):
        return [f"Row {entry.seq} vouches for no mask."]
    return [f"The mask of row {entry.seq} was changed: its file is another one than was kept."]


def _heads(path: Path) -> list[tuple[int, str]]:
    """The lines of ``heads.txt``; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="ascii", errors="replace").split("\n")[:-1]
    parts = (line.split(" ") for line in lines)
    return [(int(part[0]), part[1]) for part in parts if len(part) == 2 and part[0].isdecimal()]

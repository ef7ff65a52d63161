"""Decisions are never lost, never changed and never out of order without showing."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from apps.review.readings import Board, reading_of, verdict_of
from apps.review.store import Conflict, Store
from apps.review.verify import verify
from medvit.cli import DONE, NOTHING, WRONG, main
from medvit.errors import Halted, MedvitError

WRITER = """
import sys
from pathlib import Path
from apps.review.store import Store
store = Store(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    entry = store.append(sys.argv[2], "decision", f"{number:016x}", "Mass", {"verdict": "accept"})
    print(entry.seq, entry.hash, flush=True)
"""


def writer(out: Path, name: str, count: int) -> "subprocess.Popen[str]":
    """A process that writes decisions and prints each row once it is committed."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def filled(out: Path, rows: int = 40) -> Store:
    store = Store(out)
    for number in range(rows):
        store.append(
            f"r{number % 3}", "decision", f"{number % 7:016x}", "Mass", {"verdict": "accept", "note": f"n{number}"}
        )
    return store


def test_a_decision_is_there_when_the_call_returns_and_for_whoever_opens_the_folder_next(tmp_path):
    entry = Store(tmp_path).append(
        "anna", "decision", "c" * 16, "Mass", {"verdict": "reject", "note": "a rib"}, after=0
    )
    (back,) = Store(tmp_path).since()
    assert back == entry and back.said == {"verdict": "reject", "note": "a rib"}
    assert verify(tmp_path).faults == ()


def test_many_threads_and_processes_lose_nothing(tmp_path):
    store = Store(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        done = list(
            pool.map(
                lambda n: store.append(f"r{n % 16}", "decision", f"{n:016x}", "Mass", {"verdict": "accept"}), range(96)
            )
        )
    others = [writer(tmp_path, f"p{number}", 30) for number in range(3)]
    printed = [process.communicate()[0].splitlines() for process in others]
    rows = store.since()
    assert len(rows) == 96 + 90 == verify(tmp_path).rows
    assert {entry.hash for entry in done} <= {row.hash for row in rows}
    assert all((row.case, row.reviewer) in {(entry.case, entry.reviewer) for entry in done} for row in rows[:96])
    assert {line.split()[1] for lines in printed for line in lines} <= {row.hash for row in rows}
    assert verify(tmp_path).faults == ()


def kill_writers(out: Path, kills: int, seed: int) -> int:
    """Kill writers at random moments; the number of rows that they had announced, all of which must be there."""
    draw, announced = random.Random(seed), []
    for start in range(0, kills, 4):
        team = [writer(out, f"k{start + number}", 10_000) for number in range(min(4, kills - start))]
        for process in team:
            assert process.stdout is not None
            announced.append(process.stdout.readline())  # each has written at least once
        time.sleep(draw.uniform(0, 0.05))
        for process in team:
            process.send_signal(signal.SIGKILL)
        announced += [line for process in team for line in process.communicate()[0].splitlines(True)]
    told = {line.split()[1] for line in announced if line.endswith("\n")}
    assert told <= {row.hash for row in Store(out).since()}
    return len(told)


@pytest.mark.slow
def test_writers_that_are_killed_leave_a_sound_log_with_all_they_announced(tmp_path):
    assert kill_writers(tmp_path, 4, 1) >= 4
    assert Store(tmp_path).sound() == "" and verify(tmp_path).faults == ()
    Store(tmp_path).append("anna", "decision", "0" * 16, "Mass", {})
    assert verify(tmp_path).faults == ()


@pytest.mark.kills
def test_forty_killed_writers_leave_a_sound_log(tmp_path):
    assert kill_writers(tmp_path, 40, 2) >= 40
    assert Store(tmp_path).sound() == "" and verify(tmp_path).faults == ()


def forge(out: Path, *statements: str) -> None:
    """Change the database as its owner can, past the triggers."""
    with closing(sqlite3.connect(out / "review/decisions.sqlite", isolation_level=None)) as base:
        base.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;" + ";".join(statements))


FORGERIES = {
    "a verdict": ("UPDATE log SET body = replace(body, 'accept', 'reject') WHERE seq = 17", "Row 17 was changed"),
    "a name": ("UPDATE log SET reviewer = 'eve' WHERE seq = 3", "Row 3 was changed"),
    "a time": ("UPDATE log SET at = '2026-01-01T00:00:00.000Z' WHERE seq = 40", "Row 40 was changed"),
    "a row taken out": ("DELETE FROM log WHERE seq = 20", "Row 20 is missing"),
    "the end cut off": ("DELETE FROM log WHERE seq > 35", "Row 36 is missing"),
    "everything cut off": ("DELETE FROM log", "Row 1 is missing"),
    "two rows exchanged": (
        "UPDATE log SET seq = -1 WHERE seq = 8; UPDATE log SET seq = 8 WHERE seq = 9; UPDATE log SET seq = 9 WHERE seq = -1",
        "Row 8 was changed",
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_what_was_forged_is_named_by_its_row(tmp_path, kind, capsys):
    filled(tmp_path)
    statement, told = FORGERIES[kind]
    forge(tmp_path, statement)
    assert any(fault.startswith(told) for fault in verify(tmp_path).faults)
    assert main(["review", str(tmp_path), "--verify"]) == NOTHING
    assert "NOT whole" in capsys.readouterr().out


def test_a_log_that_was_written_anew_shows_by_its_heads_and_by_a_head_noted_elsewhere(tmp_path):
    filled(tmp_path / "a")
    rows, head, _ = verify(tmp_path / "a")
    filled(tmp_path / "b", 41)  # a whole chain of its own
    for name in ("decisions.sqlite", "decisions.sqlite-wal", "decisions.sqlite-shm"):
        (tmp_path / "a/review" / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "b/review/decisions.sqlite", tmp_path / "a/review")
    assert "another one than was committed" in verify(tmp_path / "a").faults[0]
    shutil.copy(tmp_path / "b/review/heads.txt", tmp_path / "a/review")
    assert verify(tmp_path / "a").faults == ()  # who owns all files can do this; a head kept elsewhere tells
    assert "another one than was committed" in verify(tmp_path / "a", f"{rows}:{head}").faults[0]


def test_ordinary_statements_can_neither_change_nor_remove_rows(tmp_path):
    store = filled(tmp_path, 3)
    with closing(sqlite3.connect(store.path)) as base:
        for statement in ("UPDATE log SET reviewer = 'eve'", "DELETE FROM log"):
            with pytest.raises(sqlite3.IntegrityError, match="only added"):
                base.execute(statement)


def test_a_second_window_of_a_reviewer_is_told_and_writes_nothing(tmp_path):
    store = Store(tmp_path)
    first = store.append("anna", "decision", "a" * 16, "Mass", {"verdict": "accept"}, after=0)
    store.append("ben", "decision", "a" * 16, "Mass", {"verdict": "reject"}, after=0)  # another reviewer is no conflict
    with pytest.raises(Conflict) as refused:
        store.append("anna", "decision", "a" * 16, "Mass", {"verdict": "reject"}, after=0)
    assert refused.value.entry == first and len(store.since()) == 2
    store.append("anna", "decision", "a" * 16, "Mass", {"verdict": "reject"}, after=first.seq)


def test_the_board_follows_the_store_and_undoing_brings_back_what_was_said_before(tmp_path):
    store, board = Store(tmp_path), Board(Store(tmp_path))
    store.append("anna", "decision", "a" * 16, "Mass", {"verdict": "accept", "reading": "present"})
    store.append("anna", "decision", "a" * 16, "Mass", {"verdict": "reject", "reading": "absent"})
    assert board.refresh().of("a" * 16, "anna")["Mass"].verdict == "reject"
    store.append("anna", "undo", "a" * 16, "Mass")
    assert board.refresh().of("a" * 16, "anna")["Mass"].verdict == "accept"
    assert board.counts() == {"a" * 16: {"anna": 1}} and board.of("a" * 16, "ben") == {}
    store.append("anna", "undo", "a" * 16, "Mass")
    store.append("anna", "undo", "a" * 16, "Mass")  # one too many is harmless
    assert board.refresh().of("a" * 16, "anna") == {}


def test_a_reading_and_a_verdict_say_the_same_in_both_directions():
    for positive in (True, False):
        for verdict in ("accept", "reject", "uncertain"):
            assert verdict_of(reading_of(verdict, positive), positive) == verdict


def test_the_command_says_that_a_log_is_whole_and_what_its_head_is(tmp_path, capsys):
    store = filled(tmp_path, 5)
    assert main(["review", str(tmp_path), "--verify"]) == DONE
    assert "{}:{}".format(*store.head()) in capsys.readouterr().out
    assert main(["review", str(tmp_path), "--verify", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)[str(tmp_path)]["rows"] == 5
    assert main(["review", str(tmp_path / "nowhere"), "--verify"]) == WRONG
    assert main(["review", str(tmp_path), "--verify", "--head", "nonsense"]) == WRONG


def test_a_backup_is_a_whole_log_of_its_own(tmp_path):
    store = filled(tmp_path / "a", 5)
    copy = store.back_up()
    (tmp_path / "b/review").mkdir(parents=True)
    shutil.copy(copy, tmp_path / "b/review/decisions.sqlite")
    shutil.copy(store.heads, tmp_path / "b/review")
    assert verify(tmp_path / "b").faults == () and verify(tmp_path / "b").rows == 5


def test_what_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(MedvitError, match="too long"):
        Store(tmp_path).append("anna", "decision", "a" * 16, "Mass", {"note": "x" * 300_000})
    with pytest.raises(MedvitError, match="needs a reviewer"):
        Store(tmp_path).append("", "decision")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Halted, match="cannot be made"):
        Store(tmp_path / "file")

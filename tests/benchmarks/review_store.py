"""What the log of decisions stands: 1,000 concurrent writes, 40 killed writers, 1,000 forgeries of the log or of the file.

python tests/benchmarks/review_store.py
"""

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from apps.review.store import Store  # noqa: E402
from apps.review.verify import verify  # noqa: E402

PROCESSES, EACH, THREADS = 10, 50, 25


def writes(out: Path) -> None:
    """500 decisions of ten processes and 500 of 25 threads, all at once."""
    from test_review_store import writer

    store, waited = Store(out), []

    def write(number: int) -> None:
        begun = time.perf_counter()
        store.append(f"t{number % THREADS}", "decision", f"{number:016x}", "Mass", {"verdict": "accept"})
        waited.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    team: list[subprocess.Popen[str]] = [writer(out, f"p{number}", EACH) for number in range(PROCESSES)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, range(PROCESSES * EACH)))
    printed = sum(len(process.communicate()[0].splitlines()) for process in team)
    seconds, verdict = time.perf_counter() - begun, verify(out)
    waited.sort()
    print(
        f"concurrent writes: {printed + len(waited)} announced, {verdict.rows} committed, {len(verdict.faults)} faults, "
        f"{seconds:.1f} s, median {1000 * waited[len(waited) // 2]:.0f} ms, p99 {1000 * waited[int(len(waited) * 0.99)]:.0f} ms"
    )


def kills(out: Path) -> None:
    """40 writers killed at random moments."""
    from test_review_store import kill_writers

    announced = kill_writers(out, 40, 7)
    verdict = verify(out)
    print(
        f"40 kill -9: {announced} announced and all there, {verdict.rows} rows, integrity {Store(out).sound() or 'ok'}, "
        f"{len(verdict.faults)} faults"
    )


def forgeries(out: Path, count: int = 1000, rows: int = 200) -> None:
    """Random edits, exchanges, removals and cuts of a log, other databases in its place, no heads; how many were noticed."""
    store, draw = Store(out), random.Random(1)
    older = []  # as a copy of an evening would be
    for number in range(rows):
        store.append(
            f"r{number % 5}", "decision", f"{number % 40:016x}", "Mass", {"verdict": "accept", "note": str(number)}
        )
        if number % 20 == 9:
            older.append(out / f"older_{number}.sqlite")
            with closing(sqlite3.connect(store.path)) as base:
                base.execute("VACUUM INTO ?", (str(older[-1]),))
    foreign = Store(out / "other")  # a whole chain of its own, and as long
    for number in range(rows):
        foreign.append(f"r{number % 5}", "decision", f"{number % 40:016x}", "Mass", {"verdict": "reject"})
    for one in (store, foreign):
        with closing(sqlite3.connect(one.path)) as base:
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    columns = ("at", "reviewer", "kind", "case_key", "finding", "body", "previous", "hash")
    kinds = ("edit", "exchange", "removal", "cut", "another database", "an older copy", "no heads")
    noticed: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for _ in range(count):
        kind, row, other = draw.choice(list(noticed)), draw.randint(1, rows), draw.randint(1, rows - 1)
        other += other >= row
        forged = out / "forged"
        shutil.rmtree(forged, ignore_errors=True)
        shutil.copytree(store.folder, forged / "review")
        if kind in kinds[4:]:
            if kind == "no heads":
                (forged / "review/heads.txt").unlink()
            else:
                for name in ("decisions.sqlite", "decisions.sqlite-wal", "decisions.sqlite-shm"):
                    (forged / "review" / name).unlink(missing_ok=True)
                chosen = foreign.path if kind == "another database" else draw.choice(older)
                shutil.copy(chosen, forged / "review/decisions.sqlite")
            noticed[kind].append(bool(verify(forged).faults))
            continue
        with closing(sqlite3.connect(forged / "review/decisions.sqlite", isolation_level=None)) as base:
            base.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;")
            if kind == "edit":
                base.execute(f"UPDATE log SET {draw.choice(columns)} = 'x' || seq WHERE seq = ?", (row,))
            elif kind == "exchange":
                for before, after in ((row, -1), (other, row), (-1, other)):
                    base.execute("UPDATE log SET seq = ? WHERE seq = ?", (after, before))
            elif kind == "removal":
                base.execute("DELETE FROM log WHERE seq = ?", (row,))
            else:
                base.execute("DELETE FROM log WHERE seq >= ?", (row,))
        noticed[kind].append(bool(verify(forged).faults))
    print("forgeries noticed: " + ", ".join(f"{kind} {sum(found)} of {len(found)}" for kind, found in noticed.items()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        writes(Path(folder) / "writes")
        kills(Path(folder) / "kills")
        forgeries(Path(folder) / "forgeries")

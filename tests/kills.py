"""Kill, or refuse the disk to, a run of ``medvit predict`` at a chosen system call, and compare what a resumed run leaves.

The run is forked from a process that has everything imported, so that hundreds of points take minutes; strace attaches to
it before it begins.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CALLS = ("openat", "write", "pwrite64", "fsync", "ftruncate", "rename", "mkdir", "unlink", "unlinkat", "rmdir")
TOUCHES = re.compile(r"^(?:\d+ +)?(\w+)\(")
ATTACH_S, RUN_S = 10, 120


class Point(NamedTuple):
    """The n-th use of a system call, counted from 1, and what it touches."""

    call: str
    nth: int
    path: str


@dataclass(frozen=True)
class Runner:
    """Runs the command in forks of this process.

    Args:
        words: What follows ``medvit``, without ``-o``.
        folder: For what the runs leave.
    """

    words: Sequence[str]
    folder: Path

    def run(self, out: Path, *more: str, inject: str = "", trace: Path | None = None) -> int:
        """The exit status of a run, negative for a signal; ``inject`` is strace's, ``trace`` where its log goes."""
        child = os.fork()
        if not child:
            self._child(out, more, stop=bool(inject or trace))
        if not (inject or trace):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.waitpid(child, os.WUNTRACED)
        command = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={','.join(CALLS)}", "-p", str(child)]
        command += ["-o", str(trace or self.folder / "trace"), *(["-e", f"inject={inject}"] if inject else [])]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            for line in strace.stderr or ():
                if "attached" in line:
                    break
            os.kill(child, signal.SIGCONT)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            strace.wait(RUN_S)
        return status

    def _child(self, out: Path, more: Sequence[str], stop: bool) -> None:
        from medvit.cli import main

        code = 99
        try:
            with (self.folder / "log").open("ab", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if stop:
                os.kill(os.getpid(), signal.SIGSTOP)
            code = main([*self.words, "-o", str(out), *more])
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def points(self, out: Path) -> list[Point]:
        """Every system call of an undisturbed run, by its main thread, that changes something under ``out``."""
        trace = self.folder / "points"
        assert self.run(out, trace=trace) in (0, 3)
        counts = dict.fromkeys(CALLS, 0)
        points = []
        lines = trace.read_text(errors="replace").splitlines()
        main_thread = lines[0].split()[0]
        for line in lines:
            found = TOUCHES.match(line)
            if not found or line.split()[0] != main_thread:
                continue
            call = found[1]
            counts[call] += 1
            changes = call != "openat" or "O_CREAT" in line or "O_WRONLY" in line or "O_RDWR" in line
            if changes and str(out) in line:
                touched = re.findall(re.escape(str(out)) + r"/?([^\">,]*)", line)
                points.append(Point(call, counts[call], touched[-1]))
        return points


def tree(out: Path) -> dict[str, bytes | list[list[str]]]:
    """Every file of a run with its bytes; what tells the time is left out."""
    return {str(path.relative_to(out)): _content(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _content(path: Path) -> bytes | list[list[str]]:
    if path.name in ("run.json", "report.html"):
        return b""
    if path.name == "inputs.csv":
        with path.open(newline="") as file:
            return [row[:-1] for row in csv.reader(file)]
    if path.name == "records.jsonl":
        return re.sub(rb'"seconds": [0-9.e-]+', b"", path.read_bytes())
    return path.read_bytes()


def outcomes(runner: Runner, points: Sequence[Point], fault: str, good: Path) -> Iterator[tuple[Point, str]]:
    """Each point with what was wrong after a fault there and a resumed run; "" where nothing was.

    Args:
        runner: Of the run that left ``good``.
        points: Where the fault strikes.
        fault: ``signal=KILL`` or ``error=EIO``, as strace takes it.
        good: What an undisturbed run left.
    """
    wanted = tree(good)
    for number, point in enumerate(points):
        out = good.with_name(f"{good.name}.{number}")
        # The path of a run is in no file, but in strace's log: the same length keeps the calls the same.
        (runner.folder / "log").unlink(missing_ok=True)
        status = runner.run(out, inject=f"{point.call}:{fault}:when={point.nth}")
        told = (runner.folder / "log").read_text(errors="replace")
        wrong = []
        if "KILL" in fault and status != -signal.SIGKILL:
            wrong.append(f"it was not killed but ended with {status}")
        if "Traceback" in told:
            wrong.append(told[told.index("Traceback") :][-300:])
        torn = [path for path in out.rglob("*.csv") if not path.read_bytes().endswith(b"\n")] if out.exists() else []
        wrong += [f"{path.name} is torn" for path in torn]
        again = runner.run(out, "--resume")
        if again not in (0, 3):
            wrong.append(f"the resumed run ended with {again}: {(runner.folder / 'log').read_text()[-300:]}")
        else:
            left = tree(out)
            wrong += [f"{name} differs" for name in wanted.keys() | left.keys() if wanted.get(name) != left.get(name)]
        shutil.rmtree(out, ignore_errors=True)
        yield point, "; ".join(wrong)

"""Work on untrusted bytes in processes of its own: one that dies, hangs or fills the memory costs its input alone.

A duty is a function that a worker process runs. What goes in is pickled, since the parent is trusted; for what comes out
see `medvit.reply`.
"""

import faulthandler
import gc
import math
import multiprocessing
import os
import queue
import resource
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from medvit.budgets import ADDRESS_BYTES, CPU_S, LOAD_S, REPLY_BYTES, WALL_S, WRITTEN_BYTES
from medvit.errors import MedvitError, Rejected, Unanswered
from medvit.memory import keep_memory
from medvit.reply import Reply as Reply
from medvit.reply import answered, received, refused, sent, understood

PROCESSES = multiprocessing.get_context("forkserver")  # workers inherit nothing but what `preload` names
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
KEPT_MIB = 256  # of freed memory by an idle worker
STARTING = threading.Lock()  # two threads at once must neither start nor reap processes

Duty = Callable[..., Reply]
Load = Callable[..., Mapping[str, Duty]]


class Limits(NamedTuple):
    """What one worker process may use, see `medvit.budgets`."""

    address_bytes: int = ADDRESS_BYTES
    cpu_s: float = CPU_S
    wall_s: float = WALL_S
    written_bytes: int = WRITTEN_BYTES
    reply_bytes: int = REPLY_BYTES
    load_s: float = LOAD_S


LIMITS = Limits()


def preload(modules: Sequence[str]) -> None:
    """Import modules once for all workers that are started later, so that each starts quickly."""
    PROCESSES.set_forkserver_preload(["medvit.uncollected", *modules])
    with STARTING, _for_children():
        forkserver.ensure_running()


class Inline:
    """A worker that works in this process: no protection, for debugging, tests and ``--workers 0``."""

    def __init__(self, load: Load, *arguments: Any) -> None:
        self.duties = load(*arguments)

    def call(self, duty: str, *arguments: Any) -> Reply:
        """See `Worker.call`."""
        try:
            return self.duties[duty](*arguments)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise understood(error) from None

    def close(self) -> None:
        """Nothing is held."""


class Worker:
    """A process that does duties, one call at a time; it starts with the first call and is replaced once it has died.

    Args:
        load: Makes the duties, by name, in the process; it is pickled on the way there.
        arguments: What ``load`` is given.
        limits: What the process may use.
    """

    def __init__(self, load: Load, *arguments: Any, limits: Limits = LIMITS) -> None:
        self.load, self.arguments, self.limits = load, arguments, limits
        self._process: ForkServerProcess | None = None
        self._line: Connection | None = None
        self._broken = ""

    def call(self, duty: str, *arguments: Any) -> Reply:
        """Do a duty and wait for its answer.

        Raises:
            Unanswered: What the duty raised; ``unread`` for an exception that it did not foresee, ``oom`` when memory ran
                out, ``time_budget`` when it took too long, ``crashed`` when the process died.
            MedvitError: What the duty raised, or when the duties cannot be loaded.
        """
        line = self._started()
        deadline = time.monotonic() + self.limits.wall_s
        try:
            line.send((duty, arguments))
            outcome = received(line, deadline, self.limits.reply_bytes)
        except (TimeoutError, BlockingIOError):
            self.close()
            raise Rejected("time_budget", f"It took longer than {self.limits.wall_s:g} s.") from None
        except OSError:
            self._explain_death()
        except ValueError:
            self.close()
            raise Rejected("crashed", "The process that worked on it answered nonsense.") from None
        if isinstance(outcome, Reply):
            return outcome
        if isinstance(outcome, Unanswered) and outcome.reason == "oom":
            self.close()  # and its memory with it
        raise outcome

    def kill(self) -> None:
        """End the process, also while another thread waits for it."""
        process = self._process
        if process:
            process.kill()

    def close(self) -> None:
        """End the process and forget it; the next call starts another."""
        with STARTING:
            if self._process:
                self._process.kill()
                self._process.join()
            if self._line:
                self._line.close()
            self._line = self._process = None

    def _started(self) -> Connection:
        if self._line:
            return self._line
        if self._broken:
            raise MedvitError(self._broken)
        line, theirs = PROCESSES.Pipe()
        with socket.socket(fileno=os.dup(line.fileno())) as wire:  # a stopped process must not stop us while we send
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", math.ceil(self.limits.wall_s), 0))
        with theirs, STARTING, _for_children():
            forkserver.ensure_running()
            arguments = (theirs, self.load, self.arguments, self.limits)
            self._process = PROCESSES.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
        self._line = line
        weakref.finalize(self, self._process.kill)  # runs before the interpreter would wait for it
        try:
            loaded = received(line, time.monotonic() + self.limits.load_s, 0)
        except (OSError, ValueError):
            loaded = MedvitError(
                'It died or hung. A script of your own needs `if __name__ == "__main__":` around its work.'
            )
        if not isinstance(loaded, Reply):
            self.close()
            self._broken = f"A worker process cannot be started. {loaded}"
            raise MedvitError(self._broken)
        return line

    def _explain_death(self) -> NoReturn:
        with STARTING:
            if self._process:
                self._process.join(5)
        code = self._process.exitcode if self._process else None
        self.close()
        if code == -signal.SIGXCPU:
            raise Rejected("time_budget", f"It took more than {self.limits.cpu_s:g} s of computing.")
        if code == -signal.SIGKILL:  # we do not kill before we look: the system was out of memory
            raise Unanswered("oom", "The process that worked on it was killed, most likely for want of memory.")
        name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        raise Rejected("crashed", f"The process that worked on it died ({name}).")


class Pool:
    """Workers that share a queue of calls.

    Args:
        workers: How many; 0 works in this process when a call is submitted.
        load: See `Worker`.
        arguments: See `Worker`.
        limits: See `Worker`.
    """

    def __init__(self, workers: int, load: Load, *arguments: Any, limits: Limits = LIMITS) -> None:
        self.workers = workers
        self._inline = None if workers else Inline(load, *arguments)
        self._calls: queue.PriorityQueue[tuple[int, int, _Call | None]] = queue.PriorityQueue()
        self._number = count()
        self._closed = False
        self._team = [Worker(load, *arguments, limits=limits) for _ in range(workers)]
        self._threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self._team]
        for thread in self._threads:
            thread.start()

    def submit(self, duty: str, *arguments: Any, urgent: bool = False) -> Future[Reply]:
        """Queue a call; an urgent one goes before all that are not.

        Returns:
            What `Worker.call` returns or raises, some time later.
        """
        call = _Call(Future(), duty, arguments)
        if self._closed:
            call.future.cancel()
        elif self._inline:
            self._do(call, self._inline)
        else:
            self._calls.put((1 - urgent, next(self._number), call))
        return call.future

    def close(self) -> None:
        """End the workers at once; calls that are not finished are cancelled."""
        self._closed = True
        for worker in self._team:
            self._calls.put((-1, next(self._number), None))
            worker.kill()
        for thread in self._threads:
            thread.join(5)
        with suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()[2]
                if call:
                    call.future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, worker: Worker) -> None:
        while (call := self._calls.get()[2]) is not None:
            self._do(call, worker)
        worker.close()

    def _do(self, call: "_Call", worker: Worker | Inline) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            call.future.set_result(worker.call(call.duty, *call.arguments))
        except BaseException as error:
            call.future.set_exception(CancelledError() if self._closed else error.with_traceback(None))
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise


class _Call(NamedTuple):
    future: Future[Reply]
    duty: str
    arguments: tuple[Any, ...]


@contextmanager
def _for_children() -> Iterator[None]:
    """Processes started meanwhile compute on one thread each, and are deaf to Ctrl-C, which is for their parent."""
    resource_tracker.ensure_running()  # whose start would open the ears again
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# The worker's side.


def _serve(line: Connection, load: Load, arguments: tuple[Any, ...], limits: Limits) -> None:
    """Do what comes over the line until it is closed."""
    _settle(limits)
    try:
        duties = load(*arguments)
    except Exception as error:  # no input was seen yet, so its text is ours
        sent(line, refused(MedvitError(f"{type(error).__name__}: {error}")))
        return
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    _limit(resource.RLIMIT_AS, _mapped_bytes() + limits.address_bytes)
    sent(line, answered(Reply, None))
    with suppress(EOFError, OSError):
        while True:
            duty, arguments = line.recv()
            _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + limits.cpu_s))
            sent(line, answered(duties[duty], *arguments))


def _settle(limits: Limits) -> None:
    """Make this process quiet, mortal, of one thread and deaf to what is meant for its parent."""
    keep_memory(KEPT_MIB)
    gc.enable()  # the fork server does without, see `preload`
    os.environ |= dict.fromkeys(ONE_THREAD, "1")  # where the fork server was started for others, it is not said yet
    faulthandler.disable()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for stream in (1, 2):  # codecs print what they read
            os.dup2(nowhere.fileno(), stream)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits.written_bytes)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _mapped_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_bytes().split()[0]) * resource.getpagesize() if statm.exists() else 0

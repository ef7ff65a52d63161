"""Worker processes: what a duty may do to them, and what the parent notices of it."""

import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import Halted, MedvitError, Rejected, Skipped, Unanswered
from medvit.guard import LIMITS, Inline, Pool, Reply, Worker
from medvit.reply import DTYPES, SIZE, received

TIGHT = LIMITS._replace(cpu_s=1, wall_s=2, address_bytes=2**29, written_bytes=2**20, reply_bytes=2**20)
SECRET = "ZZSECRET^Name"
KINDS = {kind.__name__: kind for kind in (Unanswered, Skipped, Rejected)}


class Panic(BaseException):
    """Like pyo3_runtime.PanicException, which is no Exception."""


def duties(factor: int = 1):
    return {
        "twice": lambda number: Reply(2 * factor * number),
        "pid": lambda: Reply(os.getpid()),
        "slow_pid": lambda: Reply(time.sleep(0.3) or os.getpid()),
        "arrays": lambda *arrays: Reply("shapes", arrays),
        "panic": lambda: throw(Panic(SECRET)),
        "unforeseen": lambda: throw(ZeroDivisionError(SECRET)),
        "unpacked": lambda: Reply({1, 2}),
        "refuse": lambda kind: throw(KINDS[kind]("truncated", "It is cut.")),
        "halt": lambda: throw(Halted("The disk is full.")),
        "forbid": lambda: throw(MedvitError("No such folder.")),
        "die": lambda number: os.kill(os.getpid(), number),
        "leave": lambda: os._exit(3),
        "segfault": lambda: ctypes.string_at(0),
        "sleep": time.sleep,
        "spin": lambda: spin(),
        "bloat": lambda: Reply(len(bytearray(2**40))),
        "bloat_slowly": lambda: Reply(len([bytearray(2**20) for _ in range(2**20)])),
        "print": lambda: Reply(os.write(1, SECRET.encode()) + os.write(2, SECRET.encode())),
        "core": lambda: Reply(resource.getrlimit(resource.RLIMIT_CORE)[0]),
        "environment": lambda: Reply(os.environ.get("OMP_NUM_THREADS")),
        "descriptors": lambda: Reply(
            [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(3, 64) if is_open(fd)]
        ),
        "write": lambda path: Reply(Path(path).write_bytes(bytes(2**21))),
        "deep": lambda: Reply(deep()),
    }


def throw(error):
    raise error


def spin():
    while True:
        pass


def deep():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def is_open(fd):
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def broken(words):
    raise ImportError(words)


def dies():
    os._exit(5)


@pytest.fixture(scope="module")
def worker():
    worker = Worker(duties, limits=TIGHT)
    yield worker
    worker.close()


def refusal(worker, duty, *arguments) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        worker.call(duty, *arguments)
    assert SECRET not in str(caught.value)
    return caught.value


def is_well(worker) -> bool:
    return worker.call("twice", 4).plain == 8


def test_a_worker_answers_from_another_process(worker) -> None:
    assert worker.call("twice", 21).plain == 42
    pid = worker.call("pid").plain
    assert pid != os.getpid()
    assert worker.call("pid").plain == pid


def test_what_the_duties_are_made_from_arrives() -> None:
    assert Inline(duties, 5).call("twice", 1).plain == 10
    worker = Worker(duties, 5)
    assert worker.call("twice", 1).plain == 10
    worker.close()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_arrive_as_they_were(worker, dtype) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, shape).astype(dtype) for shape in ((3, 4, 5), (0, 7), (), (1,))]
    reply = worker.call("arrays", *arrays)
    for there, back in zip(arrays, reply.arrays, strict=True):
        assert back.dtype == there.dtype
        np.testing.assert_array_equal(back, there)
        assert back.flags.writeable


def test_arrays_in_any_order_of_bytes_and_axes_arrive(worker) -> None:
    there = np.arange(24, dtype=">u2").reshape(4, 6).T[::-1]
    np.testing.assert_array_equal(worker.call("arrays", there).arrays[0], there)


def test_arrays_of_objects_and_texts_do_not_leave_a_worker(worker) -> None:
    for array in (np.array([None]), np.array(["a"]), np.zeros(2, complex)):
        with pytest.raises(Unanswered):
            worker.call("arrays", array)
        assert is_well(worker)


def test_more_than_a_reply_may_hold_does_not_leave_a_worker(worker) -> None:
    assert refusal(worker, "arrays", np.zeros(2**20 + 1, np.uint8)).reason == "crashed"
    assert is_well(worker)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("inline", [True, False])
def test_a_refusal_arrives_with_its_kind_and_words(worker, kind, inline) -> None:
    caught = refusal(Inline(duties) if inline else worker, "refuse", kind.__name__)
    assert type(caught) is kind
    assert (caught.reason, str(caught)) == ("truncated", "It is cut.")


def test_what_ends_a_run_arrives_as_that(worker) -> None:
    for one in (worker, Inline(duties)):
        with pytest.raises(Halted, match="The disk is full"):
            one.call("halt")
        with pytest.raises(MedvitError, match="No such folder"):
            one.call("forbid")


@pytest.mark.parametrize("duty", ["panic", "unforeseen", "unpacked"])
def test_whatever_a_duty_raises_is_contained_and_only_its_type_told(worker, duty) -> None:
    pid = worker.call("pid").plain
    caught = refusal(worker, duty)
    assert (caught.status, caught.reason) == ("failed", "unread")
    assert {"panic": "Panic", "unforeseen": "ZeroDivisionError", "unpacked": "TypeError"}[duty] in str(caught)
    assert worker.call("pid").plain == pid


def test_inline_contains_a_panic_too_but_not_the_users_own_interruption() -> None:
    assert refusal(Inline(duties), "panic").reason == "unread"
    with pytest.raises(KeyboardInterrupt):
        Inline(lambda: {"stop": lambda: throw(KeyboardInterrupt())}).call("stop")


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (signal.SIGSEGV, "rejected", "crashed"),
        (signal.SIGABRT, "rejected", "crashed"),
        (signal.SIGKILL, "failed", "oom"),
        (signal.SIGXCPU, "rejected", "time_budget"),
    ],
)
def test_a_workers_death_costs_one_call(worker, number, status, reason) -> None:
    pid = worker.call("pid").plain
    caught = refusal(worker, "die", number)
    assert (caught.status, caught.reason) == (status, reason)
    assert is_well(worker)
    assert worker.call("pid").plain != pid


def test_a_crash_inside_a_library_and_a_silent_exit_cost_one_call(worker) -> None:
    assert refusal(worker, "segfault").reason == "crashed"
    assert "exit code 3" in str(refusal(worker, "leave"))
    assert is_well(worker)


def test_a_worker_that_says_nothing_is_ended(worker) -> None:
    started = time.monotonic()
    assert refusal(worker, "sleep", 60).reason == "time_budget"
    assert time.monotonic() - started < TIGHT.wall_s + 3
    assert is_well(worker)


def test_a_worker_that_was_stopped_is_ended_even_while_it_is_sent_something_large(worker) -> None:
    os.kill(worker.call("pid").plain, signal.SIGSTOP)
    assert refusal(worker, "arrays", np.zeros(2**25)).reason == "time_budget"
    assert is_well(worker)


def test_a_worker_that_computes_for_too_long_is_ended_by_its_own_limit() -> None:
    worker = Worker(duties, limits=TIGHT._replace(wall_s=30))
    started = time.monotonic()
    assert refusal(worker, "spin").reason == "time_budget"
    assert time.monotonic() - started < 15
    worker.close()


def test_seconds_of_computing_count_anew_for_each_call() -> None:
    worker = Worker(lambda_free_duties, limits=TIGHT._replace(wall_s=30))
    pid = worker.call("pid").plain
    for _ in range(4):
        worker.call("busy", 0.5)
    assert worker.call("pid").plain == pid
    worker.close()


def lambda_free_duties():
    def busy(seconds):
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return Reply(None)

    return {"busy": busy, "pid": lambda: Reply(os.getpid())}


@pytest.mark.parametrize("duty", ["bloat", "bloat_slowly"])
def test_memory_that_is_not_there_fails_one_call(worker, duty) -> None:
    caught = refusal(worker, duty)
    assert (caught.status, caught.reason) == ("failed", "oom")
    assert is_well(worker)


def test_a_file_larger_than_may_be_written_fails_its_call(worker, tmp_path) -> None:
    assert refusal(worker, "write", str(tmp_path / "large")).reason == "unread"
    assert (tmp_path / "large").stat().st_size <= TIGHT.written_bytes
    assert is_well(worker)


def test_what_is_too_deep_for_json_fails_its_call(worker) -> None:
    assert refusal(worker, "deep").reason == "unread"
    assert is_well(worker)


def test_what_a_worker_prints_is_seen_nowhere(worker, capfd) -> None:
    assert worker.call("print").plain == 2 * len(SECRET)
    assert SECRET not in "".join(capfd.readouterr())


def test_a_worker_leaves_no_core_computes_on_one_thread_and_holds_no_file_of_its_parent(worker, tmp_path) -> None:
    with (tmp_path / "private").open("wb"):
        before = dict(os.environ)
        fresh = Worker(duties)
        assert fresh.call("core").plain == 0
        assert fresh.call("environment").plain == "1"
        assert not any("private" in place for place in fresh.call("descriptors").plain)
        fresh.close()
        assert dict(os.environ) == before


def test_a_workers_signals_are_its_parents_business(worker) -> None:
    pid = worker.call("pid").plain
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert worker.call("pid").plain == pid


def test_ctrl_c_while_workers_import_is_their_parents_business(tmp_path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(0.5)\nprint('done')"
    )
    code = "from medvit.guard import preload\npreload(['slow'])\nimport time\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}, start_new_session=True,
    ) as parent:  # fmt: skip
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        said = parent.communicate(timeout=20)
    assert said[1].count("Traceback") == 1 and "slow.py" not in said[1]  # the parent's own
    assert said[0] == "done\n"


def test_duties_that_cannot_be_loaded_are_an_error_once_and_for_all() -> None:
    worker = Worker(broken, "No module named 'pixels'")
    for _ in range(2):
        with pytest.raises(MedvitError, match="ImportError: No module named 'pixels'"):
            worker.call("twice", 1)
        assert worker._process is None
    with pytest.raises(MedvitError, match="cannot be started"):
        Worker(dies).call("twice", 1)


def test_a_worker_that_is_not_in_a_call_dies_with_its_parent() -> None:
    code = (
        "import os, sys, time\nsys.path.insert(0, 'tests')\nfrom medvit.guard import Worker\nimport test_guard\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker(test_guard.duties)\n    print(worker.call('pid').plain, flush=True)\n    {then}"
    )
    for then in ("os.kill(os.getpid(), 9)", "worker.call('sleep', 50)", "pass", "1 / 0"):
        with subprocess.Popen(
            [sys.executable, "-c", code.replace("{then}", then)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1],
        ) as parent:  # fmt: skip
            pid = int(parent.stdout.readline())
            if "sleep" in then:
                time.sleep(0.5)
                parent.kill()
            parent.wait(10)
        deadline = time.monotonic() + 5
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(pid), then


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_pool_does_calls_side_by_side() -> None:
    with Pool(2, duties) as pool:
        assert [pool.submit("twice", n).result().plain for n in range(20)] == list(range(0, 40, 2))
        pids = [pool.submit("slow_pid") for _ in range(2)]
        assert len({pid.result().plain for pid in pids}) == 2


def test_a_pool_does_urgent_calls_first() -> None:
    with Pool(1, duties) as pool:
        done = []
        futures = [("busy", pool.submit("slow_pid"))]
        while not futures[0][1].running():
            time.sleep(0.01)
        futures += [("later", pool.submit("twice", n)) for n in range(5)]
        futures.append(("urgent", pool.submit("twice", 9, urgent=True)))
        for name, future in futures:
            future.add_done_callback(lambda _, name=name: done.append(name))
        for _, future in futures:
            future.result()
        assert done == ["busy", "urgent", *["later"] * 5]


def test_a_pool_goes_on_when_one_of_its_workers_dies() -> None:
    with Pool(2, duties, limits=TIGHT) as pool:
        futures = [pool.submit("die", signal.SIGSEGV) if n % 5 == 0 else pool.submit("twice", n) for n in range(20)]
        for n, future in enumerate(futures):
            if n % 5 == 0:
                assert future.exception().reason == "crashed"
            else:
                assert future.result().plain == 2 * n


def test_a_pool_that_is_closed_cancels_what_is_not_finished_at_once() -> None:
    pool = Pool(1, duties)
    pool.submit("pid").result()
    futures = [pool.submit("sleep", 50) for _ in range(3)]
    time.sleep(0.1)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 3
    for future in (*futures, pool.submit("pid")):
        with pytest.raises(CancelledError):
            future.result(1)
    assert threading.active_count() < 20


def test_a_pool_without_workers_works_in_this_process() -> None:
    with Pool(0, duties) as pool:
        assert pool.submit("pid").result().plain == os.getpid()
        assert pool.submit("refuse", "Skipped").exception().reason == "truncated"


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 8,
        SIZE.pack(5) + b"12345",
        SIZE.pack(2) + b"[]",
        SIZE.pack(2) + b"{}",
        SIZE.pack(10) + b"x",
        SIZE.pack(200_000) + b"[" * 200_000,
        *(
            SIZE.pack(len(head)) + head + bytes(64)
            for head in (
                json.dumps({"plain": 1, "arrays": arrays}).encode()
                for arrays in (
                    [["|O", [1]]], [["<f4", [-1, -4]]], [["<f4", [2**40]]], [["<f4", [0, 2**80]]], [["<f4", "ab"]],
                    [["|V8", [1]]], [[["<f4"], [1]]], 7, [[1]], [["<f4", [True, 1.5]]], [["<f4", [1] * 100]],
                )
            )
        ),
        SIZE.pack(16) + b'{"kind": "exec"}',
        SIZE.pack(17) + b'{"kind": ["Halt"]',
    ],
)  # fmt: skip
def test_nonsense_counts_as_a_death(sent) -> None:
    here, there = Pipe()
    threading.Thread(target=lambda: (there.send_bytes, os.write(there.fileno(), sent), there.close())).start()
    with pytest.raises((OSError, ValueError)):
        received(here, time.monotonic() + 5, 2**20)


def test_truth_values_are_none_but_two() -> None:
    here, there = Pipe()
    head = json.dumps({"plain": 1, "arrays": [["|b1", [2]]]}).encode()
    os.write(there.fileno(), struct.pack("<Q", len(head)) + head + b"\x01\x07")
    with pytest.raises((OSError, ValueError)):
        received(here, time.monotonic() + 5, 2**20)


def test_a_call_costs_well_under_a_millisecond_more() -> None:
    worker = Worker(duties)
    worker.call("twice", 1)
    calls = []
    for _ in range(300):
        started = time.perf_counter()
        worker.call("twice", 1)
        calls.append(time.perf_counter() - started)
    assert sorted(calls)[150] < 0.001
    worker.close()

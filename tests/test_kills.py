"""A run that is killed, or whose disk refuses, at any moment goes on to the very bytes of an undisturbed one.

A few points a kind of fault run always; ``pytest -m kills`` runs every one and kills at random moments too.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import kills
import pytest
import tiny
from pydicom.uid import EnhancedSRStorage

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed: apt-get install strace")
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")
FEW = 12  # points of each fault in every test run
RANDOM_KILLS = 60


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    """Four films that are answered, one that is cut short, a report and a letter."""
    from conftest import _make_film

    folder = tmp_path_factory.mktemp("inbox")
    for index in range(4):
        _make_film(folder / f"{index}.dcm", tiny.draw(300 + index, True, bool(index % 2)), bits=8)
    cut = _make_film(folder / "cut.dcm", tiny.draw(310, True, False), bits=8)
    cut.write_bytes(cut.read_bytes()[:-600])
    _make_film(folder / "report.dcm", tiny.draw(311, True, False), bits=8, Modality="SR", SOPClassUID=EnhancedSRStorage)
    (folder / "letter.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def striker(trained, inbox, tmp_path_factory):
    """A process of its own, since it forks, with an undisturbed run behind it; see `_strike`."""
    words = ["predict", str(trained.checkpoint), str(inbox), "--workers", "0", "--batch-size", "2", "--precision", "32"]
    with tiny.Command.context.Pool(1) as pool:
        pool.apply(_begin, (words, tmp_path_factory.mktemp("struck")))
        yield pool


UNDISTURBED = {}  # in the striker's process: how runs are started, and the points of the undisturbed one


def _begin(words, folder):
    os.environ["SOURCE_DATE_EPOCH"] = "1800000000"
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from medvit.cli import main

    torch.set_num_threads(1)
    assert main([*words, "-o", f"{folder}/warm-up", "--write", "csv,sr"]) == 3  # no gradients: forks could not have any
    runner = kills.Runner(words, folder)
    UNDISTURBED.update(runner=runner, good=folder / "run", points=runner.points(folder / "run"))


def _strike(fault, few):
    """How many points there are, and what went wrong at some or all of them."""
    runner, good, points = (UNDISTURBED[name] for name in ("runner", "good", "points"))
    chosen = points if not few else random.Random(fault).sample(points, few)
    return len(points), [(point, wrong) for point, wrong in kills.outcomes(runner, chosen, fault, good) if wrong]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_struck_at_a_few_points_goes_on_to_the_same_bytes(striker, fault) -> None:
    points, wrong = striker.apply(_strike, (fault, FEW))
    assert points > 100 and wrong == []


@pytest.mark.kills
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_struck_at_every_point_goes_on_to_the_same_bytes(striker, fault) -> None:
    points, wrong = striker.apply(_strike, (fault, 0))
    print(f"{fault}: {points} points", *wrong, sep="\n")
    assert wrong == []


def command(trained, inbox, out, *more):
    words = [
        "predict",
        trained.checkpoint,
        inbox,
        "-o",
        out,
        "--workers",
        2,
        "--batch-size",
        1,
        "--precision",
        "32",
        *more,
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1800000000"}
    return subprocess.Popen(
        [sys.executable, "-m", "medvit", *map(str, words)], env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def random_kills(trained, inbox, folder, times, seed):
    good = folder / "good"
    started = time.monotonic()
    assert command(trained, inbox, good).wait() == 3
    whole_s = time.monotonic() - started
    draw = random.Random(seed)
    survived = 0
    for turn in range(times):
        out = folder / f"run{turn}"
        for number, more in enumerate(((), ("--resume",))[: 2 - turn % 2]):
            process = command(trained, inbox, out, *(more if out.joinpath("run.json").exists() else ()))
            time.sleep(draw.uniform(0.3, 1) * whole_s)
            if (turn + number) % 2:
                os.killpg(process.pid, signal.SIGKILL)  # the workers too
            else:
                process.kill()
            survived += process.wait() == -signal.SIGKILL
        last = command(trained, inbox, out, *(("--resume",) if out.joinpath("run.json").exists() else ()))
        _, err = last.communicate()
        assert last.returncode == 3, err
        assert kills.tree(out) == kills.tree(good), turn
        shutil.rmtree(out)
    return survived


@pytest.mark.slow
def test_a_run_with_workers_killed_at_random_goes_on_to_the_same_bytes(trained, inbox, tmp_path) -> None:
    random_kills(trained, inbox, tmp_path, 1, 0)  # the command alone, then the resumed one with its workers


@pytest.mark.kills
def test_sixty_random_kills_leave_the_same_bytes(trained, inbox, tmp_path) -> None:
    survived = random_kills(trained, inbox, tmp_path, RANDOM_KILLS, 1)
    print(f"{survived} kills")

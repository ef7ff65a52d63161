"""Reading, answering and writing overlap, in an order and in batches that no interruption changes."""

import time
from dataclasses import replace
from threading import Barrier, Event, Lock

import numpy as np
import pytest
import torch

from medvit.case import Case
from medvit.codes import labels_of
from medvit.data.batch import Batch, Sample
from medvit.data.inputs import packed
from medvit.errors import Halted, Rejected, Unanswered
from medvit.guard import Pool, Reply
from medvit.image import Fit
from medvit.lanes import LANES
from medvit.pipeline import AHEAD, Pipeline
from medvit.result import Finding, Result
from medvit.tasks.system import System

FIT = Fit((4, 4), (2, 2), (0.0, 0.0, 4.0, 4.0))


class Means(System):
    """Answers with the mean of a case's pixels and remembers its batches."""

    labels = labels_of(["Mass"])

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        self.batches.append([case.uid for case in batch.cases])
        means = batch.x.mean(dim=(1, 2, 3)).tolist()
        return [
            Result(case, (Finding(self.labels[0], mean),), origin=origin)
            for case, mean, origin in zip(batch.cases, means, batch.origins, strict=True)
        ]


class Desk:
    """Duties that keep a log of what they were asked, and fail as they are told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, list[Exception]] = {}

    def duties(self):
        return {"read": self.read, "write": self.write}

    def read(self, case: Case) -> Reply:
        self.log.append(f"read {case.uid}")
        self._fail(f"read {case.uid}")
        x = torch.from_numpy(np.full((1, 2, 2), int(case.uid) / 100, np.float32))
        return packed(Sample(x, torch.empty(0), case, FIT, {"window": "none"}), 0.25)

    def write(self, result: Result) -> Reply:
        self.log.append(f"write {result.case.uid}")
        self._fail(f"write {result.case.uid}")
        return Reply({"left out": {"sr": "no study"} if result.case.uid == "3" else {}, "seconds": 0.5})

    def _fail(self, what: str) -> None:
        if self.fails.get(what):
            raise self.fails[what].pop(0)


def cases(count: int) -> list[Case]:
    return [Case(str(index), "DX", ()) for index in range(count)]


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def pipeline(desk, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: LANES)
    return Pipeline(Means(), Pool(0, desk.duties), "cpu", "32", Event())


def answers(pipeline, batches, wanted=None):
    every = {case.key for batch in batches for case in batch}
    found = pipeline.answers(batches, every if wanted is None else {case.key for case in wanted})
    return [answer for answers in found for answer in answers]


def test_cases_are_answered_in_order_with_their_seconds_and_origin(pipeline):
    batches = [cases(5)[:3], cases(5)[3:]]
    told = answers(pipeline, batches)
    assert [answer.case.uid for answer in told] == ["0", "1", "2", "3", "4"]
    assert [answer.result.findings[0].probability for answer in told] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert {answer.seconds for answer in told} == {0.75}
    assert told[2].result.origin == {"window": "none"}
    assert told[3].result.origin == {"window": "none", "no sr": "no study"}


def test_reading_stays_a_few_batches_ahead_and_no_more(pipeline, desk):
    batches = [[case] for case in cases(10)]
    first = next(pipeline.answers(batches, {case.key for case in cases(10)}))
    assert first[0].case.uid == "0"
    assert sum(line.startswith("read") for line in desk.log) == 2 * AHEAD + LANES + 1
    assert sum(line.startswith("write") for line in desk.log) == AHEAD + 1


def test_batches_are_answered_side_by_side(pipeline):
    class Meeting(Means):
        barrier = Barrier(LANES)

        def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
            self.barrier.wait(10)  # a batch that is answered alone fails here
            return super().predict_step(batch)

    told = answers(replace(pipeline, system=Meeting()), [[case] for case in cases(2 * LANES)])
    assert all(isinstance(answer.result, Result) for answer in told)


def test_a_system_that_bounds_its_batches_answers_one_at_a_time(pipeline):
    class Heavy(Means):
        at_once = 1
        busy = Lock()

        def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
            assert self.busy.acquire(blocking=False)
            time.sleep(0.01)
            self.busy.release()
            return super().predict_step(batch)

    told = answers(replace(pipeline, system=Heavy()), [[case] for case in cases(2 * LANES)])
    assert all(isinstance(answer.result, Result) for answer in told)


def test_what_is_not_wanted_is_computed_with_its_batch_but_neither_written_nor_told(pipeline, desk):
    told = answers(pipeline, [cases(4)], wanted=cases(4)[2:])
    assert [answer.case.uid for answer in told] == ["2", "3"]
    assert pipeline.system.batches == [["0", "1", "2", "3"]]
    assert [line for line in desk.log if "write" in line] == ["write 2", "write 3"]


def test_a_case_that_cannot_be_read_or_written_costs_itself_alone(pipeline, desk):
    desk.fails = {"read 1": [Rejected("truncated", "It is cut.")], "write 2": [Unanswered("unwritten", "No.")]}
    told = answers(pipeline, [cases(4)])
    reasons = [answer.result.reason if isinstance(answer.result, Unanswered) else "" for answer in told]
    assert reasons == ["", "truncated", "unwritten", ""]


def test_a_case_that_runs_out_of_memory_is_tried_again_alone_after_all_others(pipeline, desk):
    desk.fails = {"read 1": [MemoryError()], "write 2": [Unanswered("oom", "Killed.")]}
    told = answers(pipeline, [cases(3), [Case("7", "DX", ())]])
    assert [answer.case.uid for answer in told] == ["0", "7", "1", "2"]
    assert all(isinstance(answer.result, Result) for answer in told)
    assert sorted(pipeline.system.batches[:2]) == [["0", "2"], ["7"]]  # side by side
    assert pipeline.system.batches[2:] == [["1"], ["2"]]


def test_a_case_that_never_fits_into_memory_fails_after_one_more_try(pipeline, desk):
    desk.fails = {"read 1": [MemoryError(), MemoryError(), MemoryError()]}
    told = answers(pipeline, [cases(2)])
    assert [answer.case.uid for answer in told] == ["0", "1"]
    assert (told[1].result.status, told[1].result.reason) == ("failed", "oom")
    assert len(desk.fails["read 1"]) == 1


def test_a_disk_that_refuses_halts_everything(pipeline, desk):
    desk.fails = {"write 1": [Halted("The disk is full.")]}
    with pytest.raises(Halted, match="The disk is full"):
        answers(pipeline, [[case] for case in cases(8)])
    assert desk.log.count("write 7") == 0


def test_when_it_shall_stop_the_cases_in_hand_are_written_and_nothing_more_is_read(pipeline, desk):
    found = pipeline.answers([[case] for case in cases(20)], {case.key for case in cases(20)})
    told = next(found)
    pipeline.stop.set()
    told += [answer for answers in found for answer in answers]
    written = [line for line in desk.log if line.startswith("write")]
    assert [f"write {answer.case.uid}" for answer in told] == written
    assert len(written) == AHEAD + LANES + 1 and "read 19" not in desk.log

"""Read, answer, write: three stages of a run that overlap, with bounded queues between them.

Worker processes read the next batches and write the last ones while the network, here, works on a few. A batch is the same
cases in the same order however often a run was interrupted, so that it answers the same to the last bit.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile
from threading import Event
from typing import Any, NamedTuple, TypeVar

import torch

from medvit.case import Case
from medvit.data.batch import Batch, Sample
from medvit.errors import Unanswered
from medvit.guard import Pool, Reply
from medvit.lanes import lanes_of
from medvit.result import Result
from medvit.tasks.system import System

AHEAD = 2  # batches that are read, and batches that are written, beside those that are answered

T = TypeVar("T")


class Answer(NamedTuple):
    """What became of a case, and how many seconds of work it took."""

    case: Case
    result: Result | Unanswered
    seconds: float


class _Answering(NamedTuple):
    cases: list[Case]
    seconds: list[float]  # that reading took
    results: Future[list[Result | Unanswered]]


class _Writing(NamedTuple):
    answer: Answer
    files: Future[Reply] | None  # None where there is nothing to write


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of a run.

    Args:
        system: Its networks lie on ``device``.
        pool: Worker processes with the duties ``read`` and ``write``.
        device: ``cpu``, ``cuda``, ….
        precision: ``32``, or ``bf16`` for half-precision arithmetic.
        stop: When it is set, what is in hand is finished and nothing more begun.
        keeps: Whether answers keep their maps and scores of tiles once those are written.
    """

    system: System
    pool: Pool
    device: str
    precision: str
    stop: Event
    keeps: bool = False

    def answers(self, batches: Iterable[Sequence[Case]], wanted: Set[str]) -> Iterator[list[Answer]]:
        """Answers batch by batch in order, each when all it writes lies on the disk.

        A case for which memory did not suffice is read again alone, after all others.

        Args:
            batches: Cases that are answered together.
            wanted: Keys of those whose answers are written and given back.

        Raises:
            Halted: When the disk refuses.
        """
        starved: list[Case] = []
        for answers in self._overlapped(batches, wanted):
            starved += [answer.case for answer in answers if _reason(answer) == "oom"]
            yield [answer for answer in answers if _reason(answer) != "oom"]
        for case in starved:
            if not self.stop.is_set():
                yield from self._overlapped([[case]], wanted)

    def _overlapped(self, batches: Iterable[Sequence[Case]], wanted: Set[str]) -> Iterator[list[Answer]]:
        lanes, threads = self._lanes()
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads,)) as network:
            reading = _ahead((self._reading(cases) for cases in self._while_wanted(batches)), AHEAD)
            answering = _ahead((self._answering(read, network) for read in self._while_wanted(reading)), lanes)
            writing = _ahead((self._writing(answered, wanted) for answered in answering), AHEAD)
            yield from map(_finished, writing)

    def _lanes(self) -> tuple[int, int]:
        """How many batches are answered side by side, and by how many threads each."""
        return (1, torch.get_num_threads()) if self.system.at_once else lanes_of(self.device)

    def _while_wanted(self, stage: Iterable[T]) -> Iterator[T]:
        return takewhile(lambda _: not self.stop.is_set(), stage)

    def _reading(self, cases: Sequence[Case]) -> list[tuple[Case, Future[Reply]]]:
        """Have a batch read."""
        return [(case, self.pool.submit("read", case)) for case in cases]

    def _answering(self, reading: Sequence[tuple[Case, Future[Reply]]], network: Executor) -> _Answering:
        """Wait until a batch is read and have it answered."""
        read = [self._sample(case, future) for case, future in reading]
        samples = [sample for sample, _ in read]
        results = network.submit(answer, self.system, samples, self.device, self.precision)
        return _Answering([case for case, _ in reading], [seconds for _, seconds in read], results)

    def _writing(self, answering: _Answering, wanted: Set[str]) -> list[_Writing]:
        """Wait until a batch is answered and have its results written."""
        writing = []
        for case, seconds, result in zip(answering.cases, answering.seconds, answering.results.result(), strict=True):
            if case.key in wanted:
                bare = replace(result, read=None) if isinstance(result, Result) else None  # a system does not travel
                files = self.pool.submit("write", bare, urgent=True) if bare else None
                kept = bare if bare and self.keeps else replace(bare, heatmaps=(), tiles=None) if bare else result
                writing.append(_Writing(Answer(case, kept, seconds), files))
        return writing

    def _sample(self, case: Case, future: Future[Reply]) -> tuple[Sample | Unanswered, float]:
        try:
            reply = future.result()
            with torch.no_grad(), half(self.device, self.precision):  # some look at what they read by a network
                return self.system.collect(case, reply, self.pool)
        except Unanswered as refusal:
            return refusal, 0.0


def _ahead(begun: Iterable[T], depth: int) -> Iterator[T]:
    """What is begun, in order, each when ``depth`` more are begun after it."""
    waiting: deque[T] = deque()
    for one in begun:
        waiting.append(one)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def _finished(writing: Sequence[_Writing]) -> list[Answer]:
    """Wait until a batch is written; a disk that refuses halts the run."""
    answers = []
    for answered, files in writing:
        try:
            answers.append(_with_files(answered, files.result().plain) if files else answered)
        except Unanswered as refusal:
            answers.append(answered._replace(result=refusal))
    return answers


def _with_files(answered: Answer, told: Mapping[str, Any]) -> Answer:
    """An answer whose files are written, with what was left out of them and why."""
    case, result, seconds = answered
    if isinstance(result, Result) and told["left out"]:
        left_out = {f"no {name}": why for name, why in told["left out"].items()}
        result = replace(result, origin={**result.origin, **left_out})
    return Answer(case, result, seconds + told["seconds"])


def _reason(answered: Answer) -> str:
    return answered.result.reason if isinstance(answered.result, Unanswered) else ""


@torch.no_grad()
def answer(
    system: System, read: Sequence[Sample | Unanswered], device: str, precision: str
) -> list[Result | Unanswered]:
    """Results in order; a batch that fails is answered one by one, so that one case cannot take others with it."""
    samples = [sample for sample in read if isinstance(sample, Sample)]
    try:
        results = iter(_predicted(system, samples, device, precision) if samples else [])
    except Exception as error:  # out of memory, a layer that refuses a shape, …
        if len(samples) > 1:
            return [answer(system, [one], device, precision)[0] for one in read]
        results = iter([Unanswered("model", f"The network failed on it ({type(error).__name__}).")])
    return [sample if isinstance(sample, Unanswered) else next(results) for sample in read]


def half(device: str, precision: str) -> AbstractContextManager[Any]:
    """Arithmetic of a precision: ``32``, or ``bf16``."""
    return torch.autocast(device.split(":")[0], torch.bfloat16) if precision == "bf16" else nullcontext()


def _predicted(system: System, samples: Sequence[Sample], device: str, precision: str) -> list[Result | Unanswered]:
    with half(device, precision):
        results = system.predict_step(Batch(samples).to(device))
    return [
        result
        if all(
            0 <= share <= 1 for share in (*(f.probability for f in result.findings), *(r.score for r in result.regions))
        )
        else Unanswered("not_finite", "The network's answer is no number.")
        for result in results
    ]

"""Every input of the corpus through the guarded path of a night's run: discovery's header, then the reader."""

import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from corpus import Bad

from medvit.errors import Rejected, Skipped, Unanswered
from medvit.guard import Duty, Reply, Worker
from medvit.readers import headers
from medvit.readers.radiograph import read_radiograph

MODALITIES = ("CR", "DX", "")  # "" for pictures
SKIPPED = frozenset({"modality", "not_an_image", "dicomdir", "sop_class"})
SECONDS = 20  # of one input, also on a machine that does other things
GROWTH = 200 * 2**20  # bytes, of this process


def duties() -> Mapping[str, Duty]:
    """What the worker does with a file: its header as in discovery, its pixels as a chest film."""

    def read(file: str) -> Reply:
        path = Path(file)
        kind, *told = headers.headers([(file, path.name, path.stat().st_size)]).plain[0]
        if kind in ("Skipped", "Rejected", "Unanswered"):
            raise {"Skipped": Skipped}.get(kind, Rejected if kind == "Rejected" else Unanswered)(*told)
        modality = told[0][headers.FACT_NAMES.index("modality")] if kind == "dicom" else ""
        if kind == "zip" or (kind == "dicom" and modality not in MODALITIES[:2]):
            raise Skipped("modality", "Its modality is another.")
        image = read_radiograph(path)
        return Reply([image.spacing, *image.pixels.shape[1:], float(image.pixels.min()), float(image.pixels.max())])

    return {"read": read}


class Outcome:
    """What became of an input."""

    def __init__(self, worker: Worker, bad: Bad) -> None:
        self.bad, began = bad, time.monotonic()
        self.reason, self.status, self.message, self.plain = "ok", "ok", "", None
        try:
            self.plain = worker.call("read", str(bad.path)).plain
        except Unanswered as refusal:
            self.reason, self.status, self.message = refusal.reason, refusal.status, str(refusal)
        self.seconds = time.monotonic() - began


@pytest.fixture(scope="module")
def outcomes(corpus: list[Bad]) -> Iterator[list[Outcome]]:
    """Of the whole corpus, in one worker that is replaced when it dies."""
    worker = Worker(duties)
    Outcome(worker, corpus[0])  # the worker starts, which is not the first input's fault
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = [Outcome(worker, bad) for bad in corpus]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    worker.close()
    assert grown < GROWTH
    print(Counter(outcome.reason for outcome in found))
    yield found


def test_the_corpus_is_large_and_most_of_it_must_be_refused(outcomes) -> None:
    refused = [outcome for outcome in outcomes if "ok" not in outcome.bad.expected]
    assert len(outcomes) >= 350
    assert len(refused) >= 0.7 * len(outcomes)
    assert len({outcome.bad.name for outcome in outcomes}) == len(outcomes)


@pytest.mark.slow
def test_every_input_ends_as_it_should(outcomes) -> None:
    wrong = [
        (found.bad.name, found.reason, found.message) for found in outcomes if found.reason not in found.bad.expected
    ]
    assert wrong == []


def test_every_refusal_has_the_status_of_its_reason_and_a_sentence(outcomes) -> None:
    for found in outcomes:
        if found.reason != "ok":
            assert found.status == ("skipped" if found.reason in SKIPPED else "rejected"), found.bad.name
            assert found.message.endswith("."), found.bad.name


def test_no_input_takes_long_or_ends_its_worker(outcomes) -> None:
    assert [found.bad.name for found in outcomes if found.seconds > SECONDS] == []
    assert not {"time_budget", "crashed", "oom", "unread"} & {found.reason for found in outcomes}


def test_what_cannot_be_a_spacing_gives_none(outcomes) -> None:
    without = [found for found in outcomes if "no_spacing" in found.bad.name]
    assert len(without) >= 12
    assert [found.plain[0] for found in without] == [None] * len(without)


def test_films_that_are_answered_have_pixels_from_0_to_1(outcomes) -> None:
    for found in outcomes:
        if found.reason == "ok":
            *_, low, high = found.plain
            assert 0 <= low < high <= 1, found.bad.name


def test_no_message_quotes_what_a_file_says(outcomes) -> None:
    hostile = ("passwd", "HYPERLINK", "script", "Injected", "SMITH", "Yamada", "DROP TABLE", "\u202e", "Film^Test")
    assert [found.bad.name for found in outcomes if any(word in found.message for word in hostile)] == []

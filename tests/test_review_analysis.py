"""The analysis page: readers against the AI, the evaluation report beside them, and reports that are not to be believed."""

import json
import math
from pathlib import Path

import pytest
from answers import RUN
from conftest import _make_film
from review_runs import leave_films

from apps.review.comparison import against, apart, majority, readings
from apps.review.desk import Settings
from apps.review.evaluated import report_of
from apps.review.kappa import wilson
from apps.review.readings import Board
from apps.review.runs import NONE, Run
from apps.review.store import Store

ANSWERS = ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3), (0.8, 0.1, 0.1), (0.2, 0.1, 0.1))  # Mass, Effusion, Nodule; threshold 0.5
SCRIPT = Path(__file__).parents[1] / "apps/review/app.py"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A run over four films and what anna and ben decided: Mass confirmed, missed, rejected, and rightly left alone."""
    out = leave_films(tmp_path_factory.mktemp("read") / "films", _make_film, ANSWERS)
    run, store = Run(out).refresh(), Store(out)
    cases = list(run.rows)

    def decided(who, case, finding, verdict, reading, blind=False):
        body = {"verdict": verdict, "reading": reading, "blind": blind, "seconds": 3.0, "visit": who}
        store.append(who, "decision", cases[case], finding, body)

    decided("anna", 0, "Mass", "accept", "present")
    decided("ben", 0, "Mass", "accept", "present", blind=True)
    decided("anna", 0, "Nodule", "uncertain", "uncertain")
    decided("anna", 1, NONE, "reject", "present")
    store.append("anna", "note", cases[1], NONE, {"note": "", "corrected": "Mass"})
    decided("anna", 2, "Mass", "reject", "absent", blind=True)
    decided("ben", 3, NONE, "accept", "absent")
    return run, Board(store).refresh()


def test_readers_count_by_what_they_decided_and_by_what_they_wrote(read):
    run, board = read
    found = {one.finding: one for one in against(run, readings(run, board))}
    mass = found["Mass"]
    assert (mass.both, mass.ai_only, mass.readers_only, mass.neither, mass.unclear) == (1, 1, 1, 1, 0)
    assert mass.blind == 1 and mass.decided == 4  # a case counts as blind when all of its readers were
    assert mass.sensitivity == wilson(1, 2) and mass.specificity == wilson(1, 2) and mass.confirmed == wilson(1, 2)
    assert mass.kappa.value == 0.0 and mass.kappa.cases == 4
    assert (found["Nodule"].unclear, found["Nodule"].neither) == (1, 1)
    assert found["Effusion"].neither == 1 and math.isnan(found["Effusion"].sensitivity[0])


def test_most_readers_count_and_a_tie_is_unclear():
    assert majority(["present", "present", "absent"]) == "present" and majority(["present", "absent"]) == ""
    assert majority(["uncertain", "uncertain", "absent"]) == "absent" and majority([]) == ""


def test_shares_lie_apart_where_their_intervals_do():
    assert apart((0.2, 0.1, 0.3), (0.5, 0.4, 0.6)) == "below" and apart((0.9, 0.8, 1.0), (0.5, 0.4, 0.6)) == "above"
    assert apart((0.4, 0.3, 0.5), (0.5, 0.4, 0.6)) == "" and apart((math.nan,) * 3, (0.5, 0.4, 0.6)) == ""


def report(weights=RUN.digest, evaluated="2026-11-21T10:00:00+00:00", threshold=0.5):
    """What ``evaluation.json`` holds, as far as the page reads it."""
    label = {
        "known": 40, "positives": 10, "measures": {"auroc": [0.81, 0.7, 0.9], "auprc": [None, None, None]},
        "points": {"youden": {"threshold": threshold, "tp": 8, "fn": 2, "fp": 6, "tn": 24}},
    }  # fmt: skip
    heads = {
        "cases": 5, "importance": [[0.1, 0.0], [0.3, -0.1]], "distance": [[0.2, 0.3], [0.4, 0.1]],
        "patterns": [{"heads": 4, "map": [[0.0, 1.0], [1.0, 0.0]]}],
    }  # fmt: skip
    return {
        "checkpoint": {"sha256": weights}, "system": "ThoraxMAE 0.1.0", "split": "test", "table": "cases.csv", "cases": 40,
        "patients": 31, "evaluated": evaluated, "labels": {"Mass": label}, "attention": heads,
    }  # fmt: skip


def write(path, told):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


def test_the_newest_report_about_these_weights_is_found_beside_the_run(read):
    run, _ = read
    beside = run.folder.parent
    assert report_of(run, [])[0] is None and "medvit evaluate" in report_of(run, [])[1]
    write(beside / "evaluation/mine/evaluation.json", report())
    write(beside / "evaluation.json", report(weights="00" * 32, evaluated="2026-11-25"))
    newer = write(beside / "later/evaluation.json", report(evaluated="2026-11-22"))
    found, missing = report_of(run, [])
    assert found.file == newer.resolve() and missing == ""
    measured = found.measured("Mass", 0.5)
    assert measured.sensitivity == wilson(8, 10) and measured.specificity == wilson(24, 30)
    assert measured.auroc == (0.81, 0.7, 0.9) and (measured.positives, measured.cases) == (10, 40)
    other = found.measured("Mass", 0.6)  # at another threshold nothing was counted
    assert math.isnan(other.sensitivity[0]) and other.auroc[0] == 0.81 and found.measured("Hernia", 0.5) is None


@pytest.mark.parametrize("content", [
    "", "[]", "nothing", "[" * 100_000, json.dumps({**report(), "labels": 3}), json.dumps({**report(), "checkpoint": None}),
    json.dumps(report(weights="00" * 32)), None,
], ids=["empty", "a list", "words", "deep", "no labels", "no checkpoint", "other weights", "not there"])  # fmt: skip
def test_a_report_that_is_none_or_about_other_weights_is_left_aside_with_a_sentence(read, tmp_path, content):
    run, _ = read
    file = tmp_path / "given.json"
    if content is not None:
        write(file, content)
    found, said = report_of(run, [file])
    assert found is None and "given.json" in said and said.endswith(".")


def test_the_page_sets_the_report_beside_the_readers_and_says_what_it_is_not(read, tmp_path):
    pytest.importorskip("streamlit")
    from streamlit.testing.v1 import AppTest

    run, _ = read
    file = write(tmp_path / "<b>given.json", report())
    page = AppTest.from_file(str(SCRIPT), default_timeout=60)
    settings = Settings((str(run.folder),), (str(tmp_path),), workers=0, evaluations=(str(file),))
    page.secrets["review"] = settings.plain()
    page.user = {"reviewer": "anna", "role": "reviewer"}
    page.query_params.update({"view": "analysis"})
    page.run()
    assert not page.exception, page.exception
    words = " ".join(part.proto.body for part in page.get("html"))
    assert "0.80 (0.49 to 0.94)" in words and "0.50 (0.09 to 0.91)" in words and "0.81 (0.70 to 0.90)" in words
    assert "other cases" in words and "too high" in words and "What attention does" in words
    captions = " ".join(str(picture.proto) for picture in page.get("image"))
    assert all(caption in captions for caption in ("Rise of the loss", "Distance that a head", "Pattern of 4 heads"))

"""Several readers: who still has to read what, how far they agree, how long they take, and what a blind reader said first."""

import math
import random
import shutil
from pathlib import Path

import pytest
from review_runs import leave_films

pytest.importorskip("streamlit")
from test_review_app import html_of, opened, press

from apps.review.agreement_page import by_finding, pairs, times
from apps.review.kappa import fleiss
from apps.review.readings import READINGS, Board
from apps.review.runs import Run
from apps.review.store import Store
from apps.review.worklist import Chosen, lines

ANSWERS = tuple((0.9, 0.2, 0.1) for _ in range(12))  # a mass in every film


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    from conftest import _make_film

    return leave_films(tmp_path_factory.mktemp("readers"), _make_film, ANSWERS)


@pytest.fixture
def out(answered, tmp_path):
    """A run that nobody has read."""
    return Path(shutil.copytree(answered, tmp_path / "out"))


def read(out: Path, who: str, case: str, reading: str, seconds: float = 5.0, visit: str = "a") -> None:
    verdict = {"present": "accept", "absent": "reject"}.get(reading, "uncertain")
    body = {"verdict": verdict, "reading": reading, "seconds": seconds, "visit": visit}
    Store(out).append(who, "decision", case, "Mass", body)


def test_a_case_for_two_readers_is_asked_of_a_third_only_until_two_have_read_it(out):
    run = Run(out).refresh()
    cases = list(run.rows)
    board = Board(Store(out))

    def needed(who):
        chosen = Chosen((run.key,), state="needed", readers=2)
        return {line.row.case for line in lines({run.key: run}, {run.key: board.refresh()}, chosen, who)}

    read(out, "anna", cases[0], "present")
    assert needed("anna") == set(cases[1:]) and needed("ben") == set(cases)
    read(out, "ben", cases[0], "absent")
    assert needed("clara") == set(cases[1:]) and needed("ben") == set(cases[1:])
    Store(out).append("ben", "undo", cases[0], "Mass")
    assert needed("clara") == set(cases)


def test_fleiss_kappa_is_of_cases_with_as_many_readings_whoever_gave_them(out):
    draw, cases = random.Random(3), list(Run(out).refresh().rows)
    given = []
    for number, case in enumerate(cases[:9]):
        first = draw.choice(("present", "absent"))
        two = (first, first if number % 3 else draw.choice(READINGS))
        for who, reading in zip(draw.sample(("anna", "ben", "clara"), 2), two, strict=True):
            read(out, who, case, reading)
        given.append(two)
    read(out, "anna", cases[9], "present")  # read by one alone: says nothing of agreement
    told = pairs(by_finding(Board(Store(out)).refresh())["Mass"], "Mass")
    last = told[-1]
    assert last.readers == "any 2 of 3 (Fleiss)" and last.kappa.cases == 9
    wanted = fleiss(given, READINGS)
    assert last.kappa.value == pytest.approx(wanted.value) and last.kappa.low <= last.kappa.value <= last.kappa.high
    assert {pair.readers for pair in told[:-1]} <= {"anna and ben", "anna and clara", "ben and clara"}


def test_the_agreement_page_tells_kappas_with_intervals_and_the_time_of_each_reader(out):
    cases = list(Run(out).refresh().rows)
    for number, case in enumerate(cases):
        for who in ("anna", "ben", "clara"):
            read(out, who, case, "absent" if number % 3 == 0 or (who == "ben" and number == 1) else "present", 10.0)
    page = opened(out, query={"view": "agreement"})
    told = " ".join(html_of(page)).replace("&#39;", "'")
    assert "all 3 (Fleiss)" in told and "anna and ben" in told and " to " in told
    assert "120" in told or "2.0 min" in told  # twelve cases of ten seconds


def test_the_time_of_a_case_is_that_of_all_visits_each_to_its_last_decision(out):
    run = Run(out).refresh()
    case = next(iter(run.rows))
    read(out, "anna", case, "present", 7.0, "morning")
    read(out, "anna", case, "absent", 9.5, "morning")  # of the same visit: not added up
    read(out, "anna", case, "present", 4.0, "evening")
    read(out, "ben", case, "present", 2.0)
    board = Board(Store(out)).refresh()
    assert board.seconds(case, "anna") == 13.5 and board.seconds(case, "ben") == 2.0
    assert times(run, board) == [("anna", 1, 13.5, 13.5), ("ben", 1, 2.0, 2.0)]


def test_what_a_blind_reader_said_first_stays_in_the_log_when_the_answer_changed_their_mind(out):
    run = Run(out).refresh()
    case = next(iter(run.rows))
    page = opened(out, query={"view": "case", "run": run.key, "case": case}, blind=True)
    press(press(page, "rest"), "reveal")
    page.session_state["chosen"] = "Mass"
    page.run()
    press(page, "do_accept")
    rows = [(row.kind, row.finding, row.said.get("reading"), row.said.get("blind")) for row in Store(out).since()]
    mass = [row for row in rows if row[1] == "Mass"]
    assert mass == [("decision", "Mass", "absent", True), ("decision", "Mass", "present", False)]
    assert rows.index(("shown", "", None, None)) < rows.index(mass[1])
    (made,) = [one for _, _, finding, one in Board(Store(out)).refresh().everything() if finding == "Mass"]
    assert (made.reading, made.blind) == ("present", False) and not math.isnan(made.seconds)

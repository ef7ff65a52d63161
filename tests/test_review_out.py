"""What leaves the app: kappas that other tools agree with, tables, and reports that are VERIFIED by their reader."""

import csv
import io
import json
import math
import random
import shutil
import subprocess

import pydicom
import pytest
from review_runs import leave_films

from apps.review.desk import Settings, desk
from apps.review.export import as_csv, as_json, export, sign
from apps.review.kappa import cohen, fleiss, wilson
from apps.review.readings import READINGS
from apps.review.verify import verify
from medvit.cli import DONE, main

ANSWERS = ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3))


@pytest.fixture
def office(tmp_path, make_film):
    """A desk over two films about which anna and ben have decided."""
    out = leave_films(tmp_path, make_film, ANSWERS)
    opened = desk(Settings((str(out),), (str(tmp_path),), workers=0))
    (run,) = opened.runs.values()
    first = next(iter(run.rows))
    seen = {"probability": 0.9, "threshold": 0.5, "positive": True, "system": "ThoraxMAE", "model": "3a" * 8}
    store = opened.stores[run.key]
    for reviewer, verdict, reading in (("anna", "accept", "present"), ("ben", "reject", "absent")):
        store.append(
            reviewer, "decision", first, "Mass", {"verdict": verdict, "reading": reading, "seen": seen, "seconds": 4.0}
        )
    store.append("anna", "decision", first, "Nodule", {"verdict": "uncertain", "reading": "uncertain", "seen": seen})
    store.append("ben", "note", first, "Mass", {"note": "=HYPERLINK(1)", "corrected": "Nodule"})
    opened.boards[run.key].refresh()
    return opened, run, first


def test_cohens_kappa_is_that_of_scikit_learn_and_its_interval_holds_it():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(1)
    one = [draw.choice(READINGS) for _ in range(80)]
    two = [reading if draw.random() < 0.7 else draw.choice(READINGS) for reading in one]
    found = cohen(one, two, READINGS)
    assert found.value == pytest.approx(metrics.cohen_kappa_score(one, two), abs=1e-12)
    assert found.low < found.value < found.high and found.cases == 80
    assert found.agreement == pytest.approx(sum(a == b for a, b in zip(one, two, strict=True)) / 80)
    assert cohen(one, one, READINGS).value == 1.0
    assert math.isnan(cohen(["absent"] * 5, ["absent"] * 5, READINGS).value)  # nothing but chance is possible


def test_fleiss_kappa_is_that_of_a_worked_example():
    counts = [  # Wikipedia's example after Fleiss: 10 subjects, 14 raters, 5 kinds; kappa 0.210
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    cases = [[str(kind) for kind, count in enumerate(row) for _ in range(count)] for row in counts]
    found = fleiss(cases, [str(kind) for kind in range(5)])
    assert found.value == pytest.approx(0.210, abs=5e-4) and found.low < found.value < found.high
    with pytest.raises(ValueError, match="same number"):
        fleiss([["a"], ["a", "b"]], ["a", "b"])


def test_a_share_has_wilsons_interval():
    assert wilson(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert math.isnan(wilson(0, 0)[0])


def test_tables_hold_every_standing_decision_and_nothing_that_a_spreadsheet_would_run(office, tmp_path):
    opened, run, first = office
    board, store = opened.boards[run.key], opened.stores[run.key]
    rows = list(csv.DictReader(io.StringIO(as_csv(run, board))))
    assert [(row["finding"], row["reviewer"], row["reading"]) for row in rows] == [
        ("Mass", "anna", "present"), ("Mass", "ben", "absent"), ("Nodule", "anna", "uncertain")
    ]  # fmt: skip
    assert rows[1]["note"] == "'=HYPERLINK(1)" and rows[1]["corrected"] == "Nodule" and rows[0]["case"] == first
    told = json.loads(as_json(run, board, store))
    assert len(told["log"]) == 4 and told["head"] == "{}:{}".format(*store.head())
    head = export(run, board, store, tmp_path / "given", "anna")
    assert verify(run.folder, head).faults == ()
    assert sorted(path.name for path in (tmp_path / "given").iterdir()) == ["decisions_out.csv", "decisions_out.json"]


def test_a_signed_report_is_verified_by_its_reader_and_follows_the_ais_report(office):
    opened, run, first = office
    path = sign(opened, run, first, "anna")
    report, before = pydicom.dcmread(path), pydicom.dcmread(run.folder / "cases" / first / "report_sr.dcm")
    assert (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) == ("VERIFIED", "COMPLETE", "FINAL")
    assert report.VerifyingObserverSequence[0].VerifyingObserverName == "anna"
    (study,) = report.PredecessorDocumentsSequence
    referred = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert referred == before.SOPInstanceUID != report.SOPInstanceUID and report.PatientName == before.PatientName
    from apps.review.signing import read_verified

    assert read_verified(report) == [["Mass", "present"], ["Nodule", "uncertain"]]
    other = pydicom.dcmread(sign(opened, run, first, "ben"))
    assert read_verified(other) == [["Mass", "absent"]] and other.SOPInstanceUID != report.SOPInstanceUID
    assert "should be: Nodule; =HYPERLINK(1)" in str(other.to_json())
    assert pydicom.dcmread(sign(opened, run, first, "anna")).SOPInstanceUID == report.SOPInstanceUID
    assert sign(opened, run, list(run.rows)[1], "anna") is None  # nothing is decided there
    assert [entry.kind for entry in opened.stores[run.key].since()].count("export") == 3
    if shutil.which("dciodvfy"):
        told = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr
        assert not [line for line in told.splitlines() if line.startswith("Error")], told


def test_the_command_exports_without_starting_the_app(office, tmp_path, capsys):
    _, run, _ = office
    assert main(["review", str(run.folder), "--export", str(tmp_path / "x")]) == DONE
    assert "head" in capsys.readouterr().out and (tmp_path / "x/decisions_out.csv").exists()

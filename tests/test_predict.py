"""Answering folders: every input accounted for, whole files, the same bytes after a crash, and nobody named."""

import csv
import hashlib
import json
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tiny
import torch
from PIL import Image as Pillow
from pydicom.uid import EnhancedSRStorage, MRImageStorage

from medvit.account import STATUSES
from medvit.atomic import locked
from medvit.cli import main
from medvit.pipeline import answer
from medvit.systems.thorax_mae import ThoraxMAE

RESULT_COLUMNS = (
    "case", "study_uid", "series_uid", "sop_uid", "modality", "source",
    "label", "code", "probability", "threshold", "positive",
    "distance", "distance_limit", "out_of_distribution", "system", "notice",
)  # fmt: skip
# What becomes of each file of `mixed`.
MIXED = {
    "good_0.dcm": ("ok", ""),
    "good_1.dcm": ("ok", ""),
    "deep/good_2.dcm": ("ok", ""),
    "twin_of_good_1.dcm": ("ok", ""),
    "truncated.dcm": ("rejected", "truncated"),
    "report.pdf": ("skipped", "not_an_image"),
    "text.dcm": ("rejected", "not_dicom"),
    "mr.dcm": ("skipped", "modality"),
    "lateral.dcm": ("skipped", "view"),
    "hand.dcm": ("skipped", "body_part"),
    "sr.dcm": ("skipped", "modality"),
    "same_again.dcm": ("skipped", "duplicate"),
    "conflict_a.dcm": ("rejected", "uid_conflict"),
    "conflict_b.dcm": ("rejected", "uid_conflict"),
    "empty": ("skipped", "not_an_image"),
    "empty.dcm": ("rejected", "not_dicom"),
    "blank.dcm": ("rejected", "no_contrast"),
}
PLAIN = ("--write", "csv,heat", "--precision", "32")
PATIENT = {"PatientName": f"{tiny.SECRET}1^Name", "PatientID": f"{tiny.SECRET}2", "PatientBirthDate": "19010203",
           "AccessionNumber": f"{tiny.SECRET}3"}  # fmt: skip


@pytest.fixture(scope="session")
def film_writer():
    from conftest import _make_film

    def write(path, seed, mass=True, effusion=False, **elements):
        elements = {"bits": 8, **PATIENT, **elements}
        return _make_film(path, tiny.draw(seed, mass, effusion), **elements)

    return write


@pytest.fixture(scope="session")
def films(film_writer, tmp_path_factory):
    """Eight good films, half of them with a mass."""
    folder = tmp_path_factory.mktemp("inbox") / "films"
    for index in range(8):
        film_writer(folder / f"{index}.dcm", 100 + index, bool(index % 2), bool(index // 2 % 2))
    return folder


@pytest.fixture(scope="session")
def mixed(film_writer, tmp_path_factory):
    """One of everything, see `MIXED`."""
    folder = tmp_path_factory.mktemp("inbox") / "mixed"
    good = [film_writer(folder / name, 200 + n, n > 0) for n, name in enumerate(list(MIXED)[:3])]
    inverted = pydicom.dcmread(good[1])
    stored = inverted.pixel_array
    from conftest import _make_film

    _make_film(folder / "twin_of_good_1.dcm", 255 - stored, "MONOCHROME1", bits=8, **PATIENT)
    whole = film_writer(folder / "truncated.dcm", 210).read_bytes()
    (folder / "truncated.dcm").write_bytes(whole[:-900])
    (folder / "report.pdf").write_bytes(b"%PDF-1.7\n" + tiny.SECRET.encode())
    (folder / "text.dcm").write_text("a letter, not an image")
    film_writer(folder / "mr.dcm", 211, Modality="MR", SOPClassUID=MRImageStorage)
    film_writer(folder / "lateral.dcm", 212, ViewPosition="LL")
    film_writer(folder / "hand.dcm", 213, BodyPartExamined="HAND")
    film_writer(folder / "sr.dcm", 214, Modality="SR", SOPClassUID=EnhancedSRStorage, PixelData=None)
    (folder / "same_again.dcm").write_bytes(good[0].read_bytes())
    for index, name in enumerate(("conflict_a.dcm", "conflict_b.dcm")):
        film_writer(folder / name, 215 + index, SOPInstanceUID="2.25.77")
    (folder / "empty").touch()
    (folder / "empty.dcm").touch()
    _make_film(folder / "blank.dcm", np.full((40, 40), 7), bits=8, **PATIENT)
    return folder


def predict(trained, *words):
    return main(["predict", str(trained.checkpoint), *PLAIN, *map(str, words)])


@pytest.fixture(scope="session")
def answered(trained, films, tmp_path_factory):
    """An undisturbed run on `films`."""
    out = tmp_path_factory.mktemp("out") / "films"
    assert predict(trained, films, "-o", out, "--workers", 0, "--batch-size", 1) == 0
    return out


@pytest.fixture(scope="session")
def answered_mixed(trained, mixed, tmp_path_factory):
    """A run on `mixed`, by the real command: its folder and how it ended."""
    out = tmp_path_factory.mktemp("out") / "mixed"
    done = tiny.medvit(
        "predict", trained.checkpoint, *PLAIN, mixed, "-o", out, "--workers", 0, "--json", cwd=trained.folder
    )
    return out, done


def but_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_run_json_says_what_answered_with_what_and_how_often(trained, films, answered):
    run = json.loads((answered / "run.json").read_text())
    assert run["counts"] == {"inputs": 8, "ok": 8, "skipped": 0, "rejected": 0, "failed": 0}
    checkpoint = run["settings"]["checkpoint"]
    assert checkpoint["sha256"] == hashlib.sha256(trained.checkpoint.read_bytes()).hexdigest()
    assert checkpoint["system"] == "ThoraxMAE" and run["settings"]["system"].startswith("ThoraxMAE ")
    assert run["inputs"] == [str(films)]
    assert {"python", "torch", "numpy", "pydicom"} <= run["versions"].keys()
    assert run["seconds"] > 0 and run["started"].endswith("Z")
    assert "Research use only" in run["notice"]


def test_every_input_has_a_row_and_every_case_a_row_a_label(films, answered):
    inputs = tiny.read_rows(answered / "inputs.csv")
    assert list(inputs[0]) == ["source", "case", "status", "reason", "message", "seconds"]
    assert [row["source"] for row in inputs] == sorted(map(str, films.iterdir()))
    with (answered / "results.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == RESULT_COLUMNS
    results = tiny.read_rows(answered / "results.csv")
    assert [(row["case"], row["label"]) for row in results] == [
        (row["case"], label) for row in inputs for label in tiny.LABELS
    ]
    for row in results:
        header = pydicom.dcmread(row["source"], stop_before_pixels=True)
        assert row["sop_uid"] == header.SOPInstanceUID and row["study_uid"] == header.StudyInstanceUID
        assert row["series_uid"] == header.SeriesInstanceUID and row["modality"] == "DX"
        assert row["case"] == hashlib.sha256(header.SOPInstanceUID.encode()).hexdigest()[:16]
        assert 0 <= float(row["probability"]) <= 1
        assert row["code"].startswith("SCT:") and "Research use only" in row["notice"]


def test_a_finding_is_positive_from_the_thresholds_of_the_checkpoint(trained, answered):
    thresholds = torch.load(trained.checkpoint, weights_only=True)["medvit"]["thresholds"]
    for row in tiny.read_rows(answered / "results.csv"):
        assert float(row["threshold"]) == pytest.approx(thresholds[row["label"]], abs=1e-6)
        assert row["positive"] == str(int(float(row["probability"]) >= thresholds[row["label"]]))


def test_heat_maps_are_there_for_positive_findings_and_only_for_those(answered):
    rows = tiny.read_rows(answered / "results.csv")
    assert {row["positive"] for row in rows} == {"0", "1"}
    expected = {
        f"cases/{row['case']}/heat_{row['label']}.{kind}"
        for row in rows for kind in ("npz", "png") if row["positive"] == "1"
    }  # fmt: skip
    assert {str(path.relative_to(answered)) for path in answered.glob("cases/*/*")} == expected
    for name in expected:
        if name.endswith("png"):
            with Pillow.open(answered / name) as picture:
                assert picture.size == (tiny.SIDE, tiny.SIDE)
        else:
            with np.load(answered / name, allow_pickle=False) as heat:
                assert heat["values"].shape == (4, 4) and heat["values"].min() >= 0
                assert heat["source"].tolist() == [tiny.SIDE, tiny.SIDE]


def test_an_inverted_film_has_the_same_probabilities(answered_mixed):
    rows = tiny.read_rows(answered_mixed[0] / "results.csv")
    by_name = {name: [float(row["probability"]) for row in rows if Path(row["source"]).name == name]
               for name in ("good_1.dcm", "twin_of_good_1.dcm", "good_0.dcm")}  # fmt: skip
    assert by_name["twin_of_good_1.dcm"] == pytest.approx(by_name["good_1.dcm"], abs=1e-4)
    assert by_name["good_0.dcm"] != pytest.approx(by_name["good_1.dcm"], abs=1e-4)


def test_a_header_value_that_is_no_uid_reaches_neither_table_nor_log(trained, film_writer, tmp_path, capfd):
    film_writer(tmp_path / "in" / "odd.dcm", 3, StudyInstanceUID=f"{tiny.SECRET}^NAME".encode())
    assert predict(trained, tmp_path / "in", "-o", tmp_path / "out", "--workers", 0) == 0
    told = capfd.readouterr()
    assert tiny.SECRET not in told.out + told.err
    assert all(
        tiny.SECRET.encode() not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


def test_every_kind_of_input_is_accounted_for_with_its_reason(mixed, answered_mixed):
    out, done = answered_mixed
    rows = tiny.read_rows(out / "inputs.csv")
    told = {str(Path(row["source"]).relative_to(mixed)): (row["status"], row["reason"]) for row in rows}
    assert told == MIXED
    assert all(row["message"] for row in rows if row["status"] != "ok")
    assert done.code == 3
    counts = json.loads(done.out)  # JSON and nothing else
    assert counts["inputs"] == len(MIXED) == sum(counts[status] for status in STATUSES)
    assert counts == json.loads((out / "run.json").read_text())["counts"]
    assert "Traceback" not in done.err and "Warning" not in done.err


def test_no_file_and_no_log_names_a_patient(answered, answered_mixed):
    out, done = answered_mixed
    assert tiny.SECRET not in done.err + done.out
    for path in (*out.rglob("*"), *answered.rglob("*")):
        assert tiny.SECRET not in path.name
        if path.is_file():
            assert tiny.SECRET.encode() not in path.read_bytes(), path
            assert b"19010203" not in path.read_bytes(), path
        if path.suffix == ".npz":
            with np.load(path) as heat:
                assert tiny.SECRET not in str(heat["about"])
        if path.suffix == ".png":
            with Pillow.open(path) as picture:
                assert tiny.SECRET not in str(picture.info)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_byte(trained, films, answered, tmp_path, workers):
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", workers, "--batch-size", 1) == 0
    assert (tmp_path / "out/results.csv").read_bytes() == (answered / "results.csv").read_bytes()


def test_the_batch_size_changes_no_answer(trained, films, answered, tmp_path):
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0) == 0
    one, other = (tiny.read_rows(folder / "results.csv") for folder in (tmp_path / "out", answered))
    for mine, theirs in zip(one, other, strict=True):
        assert float(mine["probability"]) == pytest.approx(float(theirs["probability"]), abs=1e-5)
        assert mine["case"] == theirs["case"] and mine["positive"] == theirs["positive"]


def test_both_files_of_a_run_answer_alike(trained, films, answered, tmp_path):
    words = [
        "predict",
        *PLAIN,
        trained.run / "model.safetensors",
        films,
        "-o",
        tmp_path / "o",
        "--workers",
        0,
        "--batch-size",
        1,
    ]
    assert main(list(map(str, words))) == 0
    assert (tmp_path / "o/results.csv").read_bytes() == (answered / "results.csv").read_bytes()


def test_only_tables_are_written_when_that_is_asked_for(trained, films, tmp_path):
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0, "--write", "csv") == 0
    assert not (tmp_path / "out/cases").exists()
    assert len(tiny.read_rows(tmp_path / "out/results.csv")) == 16


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(trained, films, answered, tmp_path):
    out = tmp_path / "out"
    words = ["predict", trained.checkpoint, films, "-o", out, *PLAIN, "--workers", 0, "--batch-size", 1]
    command = tiny.Command(*words, cwd=trained.folder)
    while command.process.is_alive() and lines(out / "records.jsonl") < 2:
        time.sleep(0.001)
    command.process.kill()
    assert command.wait().code == -9
    assert 2 <= lines(out / "records.jsonl") < 8 and not (out / "results.csv").exists()
    assert predict(trained, *words[2:], "--resume") == 0
    assert (out / "results.csv").read_bytes() == (answered / "results.csv").read_bytes()
    mine, theirs = (but_seconds(tiny.read_rows(folder / "inputs.csv")) for folder in (out, answered))
    assert mine == theirs
    assert not list(out.rglob(".*.part"))
    assert tree(out) == tree(answered)


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def tree(out):
    """Every file of a run but those that tell the time, with its bytes."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("run.json", "inputs.csv", "records.jsonl", "report.html")
    }


@pytest.mark.parametrize("damage", ["records lost", "record torn", "run.json torn", "tables lost"])
def test_a_damaged_run_goes_on_to_the_same_bytes_or_says_why_not(trained, films, answered, tmp_path, damage, capsys):
    out = tmp_path / "out"
    words = (films, "-o", out, "--workers", 0, "--batch-size", 1)
    assert predict(trained, *words) == 0
    records = out / "records.jsonl"
    if damage == "records lost":
        records.write_text("".join(records.read_text().splitlines(keepends=True)[3:]))
        (out / "results.csv").unlink()
    elif damage == "record torn":
        records.write_text(records.read_text()[30:])
    elif damage == "run.json torn":
        (out / "run.json").write_text((out / "run.json").read_text()[:50])
        assert predict(trained, *words, "--resume") == 2
        assert "run.json" in capsys.readouterr().err
        return
    else:
        (out / "inputs.csv").unlink()
    assert predict(trained, *words, "--resume") == 0
    assert tree(out) == tree(answered)
    assert len(tiny.read_rows(out / "inputs.csv")) == 8


def test_a_folder_with_a_run_is_refused_without_resume_and_with_another_checkpoint(trained, films, answered, capsys):
    assert predict(trained, films, "-o", answered) == 2
    assert f"{answered} already holds a run" in capsys.readouterr().err
    other = [
        "predict",
        *PLAIN,
        str(trained.run / "last.ckpt"),
        str(films),
        "-o",
        str(answered),
        "--batch-size",
        "1",
        "--resume",
    ]
    assert main(other) == 2
    assert "a run with another checkpoint" in capsys.readouterr().err
    assert predict(trained, films, "-o", answered, "--resume", "--write", "csv", "--batch-size", 1) == 2
    assert "a run with another write" in capsys.readouterr().err


def test_two_runs_in_one_folder_at_the_same_time_are_refused(trained, films, tmp_path, capsys):
    with locked(tmp_path / "out"):
        assert predict(trained, films, "-o", tmp_path / "out") == 2
    assert "Another run is writing" in capsys.readouterr().err
    assert not (tmp_path / "out/run.json").exists()


def test_shards_share_the_inputs_and_together_are_the_whole(trained, mixed, answered_mixed, tmp_path):
    parts = []
    for part in (1, 2, 3):
        out = tmp_path / f"out{part}"
        assert predict(trained, mixed, "-o", out, "--workers", 0, "--shard", f"{part}/3") in (0, 1, 3)
        parts += tiny.read_rows(out / "inputs.csv")
    whole = tiny.read_rows(answered_mixed[0] / "inputs.csv")
    assert sorted(map(str, but_seconds(parts))) == sorted(map(str, but_seconds(whole)))


def test_only_the_modalities_and_series_asked_for_are_answered(trained, films, mixed, tmp_path):
    series = str(pydicom.dcmread(films / "3.dcm").SeriesInstanceUID)
    assert predict(trained, films, "-o", tmp_path / "one", "--workers", 0, "--series", f"{series},2.25.1") == 0
    rows = tiny.read_rows(tmp_path / "one/inputs.csv")
    assert [Path(row["source"]).name for row in rows if row["status"] == "ok"] == ["3.dcm"]
    assert {row["reason"] for row in rows if row["status"] != "ok"} == {"filtered"}
    assert predict(trained, films, "-o", tmp_path / "two", "--workers", 0, "--modality", "CR") == 0
    assert {row["reason"] for row in tiny.read_rows(tmp_path / "two/inputs.csv")} == {"filtered"}


def test_the_films_of_a_zip_are_answered_like_those_of_a_folder(trained, films, answered, tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for path in films.iterdir():
            archive.write(path, f"inner/{path.name}")
    out = tmp_path / "out"
    assert predict(trained, tmp_path / "films.zip", "-o", out, "--workers", 0, "--batch-size", 1) == 0
    rows = tiny.read_rows(out / "inputs.csv")
    assert rows[0]["source"] == f"{tmp_path}/films.zip!/inner/0.dcm" and len(rows) == 8
    mine, theirs = (tiny.read_rows(folder / "results.csv") for folder in (out, answered))
    assert [(row["case"], row["probability"]) for row in mine] == [(row["case"], row["probability"]) for row in theirs]
    assert not (out / ".work").exists()


def test_a_disk_that_is_too_small_is_refused_before_the_run_and_the_run_goes_on_later(
    trained, films, tmp_path, monkeypatch, capsys
):
    words = (films, "-o", tmp_path / "out", "--workers", 0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        assert predict(trained, *words) == 1
    assert "0.0 GB free; the results may need" in capsys.readouterr().err
    assert predict(trained, *words, "--resume") == 0
    assert len(tiny.read_rows(tmp_path / "out/inputs.csv")) == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_at_a_whole_record_and_it_goes_on_to_the_same_bytes(
    trained, films, answered, tmp_path, number
):
    out = tmp_path / "out"
    words = ["predict", trained.checkpoint, films, "-o", out, *PLAIN, "--workers", 0, "--batch-size", 1]
    command = tiny.Command(*words, cwd=trained.folder)
    while command.process.is_alive() and lines(out / "records.jsonl") < 1:
        time.sleep(0.001)
    os.kill(command.process.pid, number)
    done = command.wait()
    assert done.code == 1 and "Go on with --resume" in done.err and "Traceback" not in done.err
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert counts["inputs"] == counts["ok"] + counts["unfinished"] == 8 and counts["unfinished"] > 0
    assert len(tiny.read_rows(out / "inputs.csv")) == counts["ok"]
    assert predict(trained, *words[2:], "--resume") == 0
    assert tree(out) == tree(answered)


def test_an_input_that_failed_is_tried_again_by_a_resumed_run(trained, films, answered, tmp_path, monkeypatch):
    read = ThoraxMAE.read
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ThoraxMAE, "read", lambda self, case: read(self, case) if case.files[0].stem != "2" else 1 / 0)
        assert predict(trained, films, "-o", out, "--workers", 0, "--batch-size", 1) == 3
    assert predict(trained, films, "-o", out, "--workers", 0, "--batch-size", 1, "--resume") == 0
    assert tree(out) == tree(answered)


def test_two_runs_begun_at_the_same_time_write_the_same_objects(trained, films, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    for name, workers in (("one", 0), ("two", 2)):
        words = ("predict", trained.checkpoint, films, "-o", tmp_path / name, "--workers", workers, "--precision", "32")
        assert main(list(map(str, words))) == 0
    one, two = (tree(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert sum(name.endswith(".dcm") for name in one) == 16


def test_an_input_named_twice_counts_once(trained, films, tmp_path, capsys):
    words = (films, films / "0.dcm", films, "-o", tmp_path / "out", "--workers", 0, "--json")
    assert predict(trained, *words) == 0
    assert json.loads(capsys.readouterr().out) == {"inputs": 8, "ok": 8, "skipped": 0, "rejected": 0, "failed": 0}


def test_on_error_stop_ends_at_the_first_bad_input_and_keeps_what_is_done(trained, mixed, tmp_path, caplog):
    out = tmp_path / "out"
    assert predict(trained, mixed, "-o", out, "--workers", 0, "--on-error", "stop") == 1  # nothing was answered yet
    assert "Stopped, as --on-error stop asks" in caplog.text and str(mixed) in caplog.text
    rows = tiny.read_rows(out / "inputs.csv")
    assert sum(row["status"] in ("rejected", "failed") for row in rows) == 1 and len(rows) < len(MIXED)
    assert predict(trained, mixed, "-o", out, "--workers", 0, "--resume") == 3
    assert len(tiny.read_rows(out / "inputs.csv")) == len(MIXED)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_case_that_the_network_fails_on_costs_that_case_alone(trained, films, tmp_path, monkeypatch, batch_size):
    answer = ThoraxMAE.predict_step

    def fails_on_three(self, batch, index=0):
        if any(case.files[0].name == "3.dcm" for case in batch.cases):
            raise RuntimeError(f"{tiny.SECRET}: out of memory")
        return answer(self, batch, index)

    monkeypatch.setattr(ThoraxMAE, "predict_step", fails_on_three)
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0, "--batch-size", batch_size) == 3
    rows = tiny.read_rows(tmp_path / "out/inputs.csv")
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["failed"] + ["ok"] * 4
    assert rows[3]["reason"] == "model" and "RuntimeError" in rows[3]["message"]
    assert tiny.SECRET not in rows[3]["message"]


def test_an_answer_that_is_no_number_fails_that_case_alone(trained, films, tmp_path, monkeypatch):
    seen = ThoraxMAE.inputs

    def not_a_number(self, batch):
        x = seen(self, batch).clone()
        for index, case in enumerate(batch.cases):
            if case.files[0].name == "3.dcm":
                x[index] = torch.nan
        return x

    monkeypatch.setattr(ThoraxMAE, "inputs", not_a_number)
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0) == 3
    rows = tiny.read_rows(tmp_path / "out/inputs.csv")
    assert [row["reason"] for row in rows] == ["", "", "", "not_finite", "", "", "", ""]
    assert len(tiny.read_rows(tmp_path / "out/results.csv")) == 14


def test_a_reader_that_fails_in_an_unforeseen_way_costs_that_case_alone(trained, films, tmp_path, monkeypatch):
    read = ThoraxMAE.read

    def fails(self, case):
        if case.files[0].name == "5.dcm":
            raise ZeroDivisionError(tiny.SECRET)
        return read(self, case)

    monkeypatch.setattr(ThoraxMAE, "read", fails)
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0) == 3
    row = tiny.read_rows(tmp_path / "out/inputs.csv")[5]
    assert (row["status"], row["reason"]) == ("failed", "unread") and tiny.SECRET not in row["message"]


def test_a_heat_map_that_cannot_be_written_fails_its_case(trained, films, tmp_path, monkeypatch):
    from medvit.duties import WRITERS
    from medvit.errors import MedvitError

    def full(result, folder, run):
        raise MedvitError("The disk is full.")

    monkeypatch.setitem(WRITERS, "heat", full)
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0) == 1
    rows = tiny.read_rows(tmp_path / "out/inputs.csv")
    assert {(row["status"], row["reason"]) for row in rows} == {("failed", "unwritten")}


def test_half_precision_answers_nearly_the_same(trained, films, answered, tmp_path):
    assert predict(trained, films, "-o", tmp_path / "out", "--workers", 0, "--precision", "bf16") == 0
    for one, other in zip(*(tiny.read_rows(out / "results.csv") for out in (tmp_path / "out", answered)), strict=True):
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=0.02)


def test_pictures_are_answered_like_the_films_they_show(trained, films, answered, tmp_path):
    stored = pydicom.dcmread(films / "1.dcm").pixel_array
    Pillow.fromarray(stored).save(tmp_path / "film.png")
    assert predict(trained, tmp_path / "film.png", "-o", tmp_path / "out", "--workers", 0) == 0
    mine = [float(row["probability"]) for row in tiny.read_rows(tmp_path / "out/results.csv")]
    theirs = [float(row["probability"]) for row in tiny.read_rows(answered / "results.csv") if "1.dcm" in row["source"]]
    assert mine == pytest.approx(theirs, abs=1e-4)


def test_a_film_that_no_object_can_refer_to_is_answered_and_the_record_says_so(trained, film_writer, tmp_path):
    film_writer(tmp_path / "in" / "a.dcm", 5, StudyInstanceUID=None)
    words = ("predict", trained.checkpoint, tmp_path / "in", "-o", tmp_path / "out", "--workers", 0)
    assert main(list(map(str, words))) == 0
    (record,) = map(json.loads, (tmp_path / "out/records.jsonl").read_text().splitlines())
    assert "StudyInstanceUID is missing" in record["origin"]["no sr"] and "no sc" in record["origin"]
    assert len(record["findings"]) == 2 and not list(tmp_path.glob("out/cases/*/*.dcm"))


def test_file_names_that_no_text_can_hold_are_answered_too(trained, films, tmp_path):
    inbox = tmp_path / "in"
    inbox.mkdir()
    for index, name in enumerate((b"bad\xff\xfe.dcm", b"new\nline.dcm", b"=cmd.dcm", b'comma,quote".dcm')):
        with open(bytes(inbox) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write((films / f"{index}.dcm").read_bytes())
    assert predict(trained, inbox, "-o", tmp_path / "out", "--workers", 0) == 0
    assert len(tiny.read_rows(tmp_path / "out/inputs.csv")) == 4
    assert len(tiny.read_rows(tmp_path / "out/results.csv")) == 8


def test_results_come_in_the_order_of_the_cases(trained, films):
    from medvit.data.batch import Batch
    from medvit.discover import find_cases
    from medvit.workflow import load_system

    system = load_system(trained.checkpoint)
    cases = find_cases(films, system.modalities)
    samples = [system.preprocess(case) for case in cases]
    results = answer(system, samples, "cpu", "32")
    assert [result.case for result in results] == [case for case in cases]
    with torch.no_grad():
        logits = system(system.inputs(Batch(samples)))
    for result, row in zip(results, (logits / system.trust.temperature).sigmoid().tolist(), strict=True):
        assert [finding.probability for finding in result.findings] == pytest.approx(row, abs=1e-6)

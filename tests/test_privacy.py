"""Nobody's name leaves a film: seeded values of every kind turn up in nothing that medvit writes or says.

Written DICOM objects repeat the patient and the study, as the standard demands, and nothing else. The columns that name the
source hold the path that the user gave; no other place does, but for the sentence that names the file to look at.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import canaries
import pydicom
import pytest
import tiny
from PIL import Image as Pillow

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # while films are seeded

# Run in every process of a command by Python itself: readers and writers that fail in the ways that tell most.
SABOTAGE = """
import os, pathlib, signal, sys, time
import medvit.readers.radiograph as radiograph
import medvit.writers.capture as capture

class Loud(BaseException):
    pass

def secret(path):
    return str(path.read_bytes()[128:9000]) + " ZZSECRET99 " + str(path)

def act(path, how):
    if how == "raise":
        raise ValueError(secret(path))
    if how == "base":
        raise Loud(secret(path))
    if how == "nested":
        try:
            raise KeyError(secret(path))
        except KeyError as error:
            raise RuntimeError(secret(path)) from error
    if how == "oserror":
        raise OSError(5, secret(path), secret(path))
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "aborted":
        sys.stderr.write(secret(path))
        os.write(2, secret(path).encode())
        os.abort()
    if how == "loud":
        import logging, warnings
        warnings.warn(secret(path))
        logging.getLogger("pydicom").error(secret(path))
        logging.getLogger("PIL").error(secret(path))
        print(secret(path))
        os.write(1, secret(path).encode())
    if how == "slow":
        time.sleep(4)

read, write = radiograph.read_radiograph, capture.write_capture

def read_radiograph(path):
    act(path, path.stem.partition(" ")[0])
    return read(path)

def write_capture(result, folder, run):
    path = result.case.files[0]
    act(path, path.stem.partition(" ")[0].removeprefix("write-"))
    return write(result, folder, run)

radiograph.read_radiograph, capture.write_capture = read_radiograph, write_capture
"""
CRASHES = (
    "raise",
    "base",
    "nested",
    "oserror",
    "killed",
    "aborted",
    "loud",
    "write-raise",
    "write-base",
    "write-aborted",
)


class Place:
    """Where a command works: nothing it writes can lie outside."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.inputs = folder / "in"
        for name in ("work", "home", "tmp", "in"):
            (folder / name).mkdir()
        self.said = ""

    def start(self, *words: object, sabotaged: bool = False) -> subprocess.Popen[str]:
        (self.folder / "hooks").mkdir(exist_ok=True)
        (self.folder / "hooks/sitecustomize.py").write_text(SABOTAGE)
        places = {"HOME": self.folder / "home", "TMPDIR": self.folder / "tmp", "XDG_CACHE_HOME": self.folder / "home"}
        paths = [Path(__file__).parents[1], *([self.folder / "hooks"] if sabotaged else [])]
        environment = {**os.environ, **{name: str(path) for name, path in places.items()},
                       "PYTHONPATH": os.pathsep.join(map(str, reversed(paths)))}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "medvit", *map(str, words)],
            cwd=self.work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def medvit(self, *words: object, sabotaged: bool = False) -> int:
        process = self.start(*words, sabotaged=sabotaged)
        out, err = process.communicate(timeout=400)
        self.said += out + err
        return process.returncode

    def leaks(self) -> list[tuple[str, list[str]]]:
        """What was said, written and named that should not have been."""
        said = [("said", hits)] if (hits := canaries.found(self.said.encode(), canaries.words())) else []
        return said + canaries.leaks(self.work, self.folder / "home", self.folder / "tmp")


@pytest.fixture(scope="module")
def answered(trained, tmp_path_factory) -> Place:
    """A run on seeded inputs of every kind that writes everything."""
    place = Place(tmp_path_factory.mktemp("privacy"))
    canaries.inbox(place.inputs)
    code = place.medvit(
        "predict", trained.checkpoint, place.inputs, "-o", "out", "--write", "csv,heat,sr,sc,pm,seg",
        "--synthetic-geometry", "--workers", 1,
    )  # fmt: skip
    assert code == 3, place.said
    return place


def statuses(place: Place, out: str = "out") -> dict[str, dict[str, str]]:
    return {Path(row["source"]).name: row for row in tiny.read_rows(place.work / out / "inputs.csv")}


def test_a_film_is_seeded_with_at_least_sixty_values(tmp_path) -> None:
    path = canaries.film(tmp_path / "one.dcm", 1)
    content = path.read_bytes()
    numbers = {
        content[at + len(tiny.SECRET) :][:2] for at in range(len(content)) if content.startswith(b"ZZSECRET", at)
    }
    assert len(numbers) >= 85
    assert all(value.encode() in content for value in canaries.NUMBERS.values())


@pytest.mark.parametrize(
    "content",
    [
        b"..zzSecret01", "ZZSECRET01".encode("utf-16"), b"%5A%5A%53%45%43%52%45%54", b"5a5a534543524554",
        b"&#90;&#90;&#83;&#69;&#67;&#82;&#69;&#84;", b"x WlpTRUNSRVQ=", b"AFpaU0VDUkVU", b"AABaWlNFQ1JFVA==", b"19010203",
        "Müller^Jörg".encode(), json.dumps("山田^太郎").encode(),
    ],
)  # fmt: skip
def test_the_search_finds_a_value_in_every_form(content) -> None:
    assert canaries.found(content, canaries.words())
    assert not canaries.found(b"nothing of the kind", canaries.words())


@pytest.mark.slow
def test_the_seeded_inputs_are_of_every_kind(answered) -> None:
    rows = statuses(answered).values()
    assert {row["status"] for row in rows} >= {"ok", "skipped", "rejected"}
    assert sum(row["status"] == "ok" for row in rows) >= 8
    assert len({row["reason"] for row in rows}) >= 10
    kinds = {path.name.partition("_")[0] + path.suffix for path in answered.work.glob("out/cases/*/*")}
    assert kinds >= {"heat.npz", "heat.png", "report.dcm", "capture.dcm"}
    assert (answered.work / "out/report.html").is_file()


@pytest.mark.slow
def test_no_seeded_value_is_written_or_said_about_inputs_of_any_kind(answered) -> None:
    assert answered.leaks() == []


@pytest.mark.slow
def test_written_objects_repeat_the_patient_and_nothing_that_is_private(answered) -> None:
    written = sorted(answered.work.glob("out/cases/*/report_sr.dcm"))
    good = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: pydicom.dcmread(path, stop_before_pixels=True)
        for path in answered.inputs.rglob("* good *.dcm")
    }
    matched = 0
    for path in written:
        report = pydicom.dcmread(path)
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        film = good.get(evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        if film:
            matched += 1
            assert str(report.PatientName) == str(film.PatientName) and report.PatientID == film.PatientID
        assert b"ZZSECRET" not in path.read_bytes()[:128]
        assert not any(element.tag.is_private for element in report)
    assert matched == len(canaries.CHARACTERS)


@pytest.mark.slow
def test_a_picture_is_answered_without_its_texts(answered) -> None:
    rows = statuses(answered)
    for name in (f"{canaries.PATH} film.png", f"{canaries.PATH} film.jpg"):
        assert rows[name]["status"] == "ok"
        for path in (answered.work / "out/cases" / rows[name]["case"]).glob("*.png"):
            with Pillow.open(path) as picture:
                assert tiny.SECRET not in repr(picture.info)


@pytest.fixture(scope="module")
def crashed(trained, tmp_path_factory) -> Place:
    """A run in which readers and writers fail as loudly as they can."""
    place = Place(tmp_path_factory.mktemp("crashes"))
    for number, how in enumerate(("fine", *CRASHES)):
        canaries.film(place.inputs / canaries.PATH / f"{how} {canaries.PATH}.dcm", number)
    place.medvit("predict", trained.checkpoint, place.inputs, "-o", "out", "--workers", 1, sabotaged=True)
    return place


@pytest.mark.slow
def test_no_seeded_value_is_written_or_said_when_readers_and_writers_crash(crashed) -> None:
    ended = {name.partition(" ")[0]: row["status"] for name, row in statuses(crashed).items()}
    assert ended.keys() == {"fine", *CRASHES}, crashed.said
    assert ended["fine"] == "ok" and ended["loud"] == "ok"
    assert all(ended[how] in ("rejected", "failed") for how in CRASHES if how != "loud")
    assert crashed.leaks() == []


@pytest.mark.slow
def test_no_seeded_value_is_written_or_said_without_guarded_processes(trained, tmp_path) -> None:
    place = Place(tmp_path)
    for number, how in enumerate(("fine", "raise", "base", "nested", "oserror")):
        canaries.film(place.inputs / canaries.PATH / f"{how} {canaries.PATH}.dcm", number)
    place.medvit("predict", trained.checkpoint, place.inputs, "-o", "out", "--workers", 0, sabotaged=True)
    assert place.leaks() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_half_way_leaves_no_seeded_value(trained, tmp_path, number) -> None:
    place = Place(tmp_path)
    for index, how in enumerate(("a", "b", "c", "d", "slow", "z")):
        canaries.film(place.inputs / canaries.PATH / f"{how} {canaries.PATH}.dcm", index)
    process = place.start(
        "predict", trained.checkpoint, place.inputs, "-o", "out", "--workers", 1, "--batch-size", 1, sabotaged=True
    )
    for _ in range(600):
        if list(place.work.glob("out/cases/*")) or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None and list(place.work.glob("out/cases/*"))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    place.said = out + err
    assert process.returncode != 0
    assert place.leaks() == []
    place.medvit(
        "predict", trained.checkpoint, place.inputs, "-o", "out", "--workers", 1, "--batch-size", 1, "--resume"
    )
    assert place.leaks() == [] and not list(place.work.rglob("*.part"))


@pytest.mark.slow
def test_stopping_at_an_error_tells_the_file_and_nothing_that_is_in_it(trained, tmp_path) -> None:
    place = Place(tmp_path)
    canaries.film(place.inputs / f"{canaries.PATH}.dcm", 1, Rows=b"ZZSECRET77")
    place.medvit("predict", trained.checkpoint, place.inputs, "-o", "out", "--workers", 1, "--on-error", "stop")
    assert f"{canaries.PATH}.dcm" in place.said
    assert place.leaks() == []


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Place:
    """A short training on seeded films, names in the table too."""
    place = Place(tmp_path_factory.mktemp("training"))
    rows: list[tuple[Any, ...]] = []
    for number in range(12):
        path = f"{canaries.PATH} {number}.dcm"
        canaries.film(place.inputs / path, number)
        split = "train" if number < 8 else "val"
        rows.append((path, f"{tiny.SECRET}{number}", split, number % 2, number // 2 % 2))
    tiny.write_table(place.inputs / "cases.csv", rows)
    data = {"table": str(place.inputs / "cases.csv"), "batch_size": 4}
    for name, tree in (("pre.yaml", tiny.PRETRAIN), ("fine.yaml", tiny.FINETUNE)):
        tiny.write_workflow(place.work / name, tree, data=data, trainer={"max_epochs": 1})
    assert place.medvit("train", "fine.yaml") == 0, place.said
    return place


@pytest.mark.slow
def test_no_seeded_value_is_written_or_said_in_training(taught) -> None:
    assert list(taught.work.rglob("*.ckpt")) and list(taught.work.rglob("*.safetensors"))
    assert taught.leaks() == []
    assert canaries.PATH not in taught.said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["films that cannot be read", "a patient in two splits", "a missing film"])
def test_a_training_with_a_fault_says_nothing_that_is_in_a_film(taught, tmp_path, what) -> None:
    place = Place(tmp_path)
    rows = [[f"{canaries.PATH} {n}.dcm", f"{tiny.SECRET}{n}", "train" if n < 8 else "val", n % 2, 0] for n in range(12)]
    for row in rows:
        (place.inputs / row[0]).write_bytes((taught.inputs / row[0]).read_bytes())
    if what == "films that cannot be read":
        canaries.film(place.inputs / rows[0][0], 0, Rows=b"ZZSECRET77", WindowCenter=b"ZZSECRET78")
        (place.inputs / rows[1][0]).rename(place.inputs / f"raise {canaries.PATH}.dcm")
        rows[1][0] = f"raise {canaries.PATH}.dcm"
    if what == "a patient in two splits":
        rows[0][1] = rows[-1][1]
    if what == "a missing film":
        (place.inputs / rows[0][0]).unlink()
    table = tiny.write_table(place.inputs / "cases.csv", rows)
    tiny.write_workflow(place.work / "pre.yaml", tiny.PRETRAIN, data={"table": str(table)}, trainer={"max_epochs": 1})
    code = place.medvit("train", "pre.yaml", sabotaged=True)
    if what.startswith("a patient") or what.startswith("a missing"):
        assert code == 2, place.said
    else:
        assert code == 0 and place.said.count(" is left out") == 2, place.said
    assert place.leaks() == []

"""Pull and push against a real archive."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import orthanc
import pydicom
import pytest
import tiny
from orthanc import URL, Orthanc
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from medvit import push as pushing
from medvit.archive import Archive, Away
from medvit.case import digest
from medvit.cli import DONE, NOTHING, PARTLY, main
from medvit.push import data_digest, differences
from medvit.readers.dicom import open_dicom

COUNT = 24


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield running
    running.close()


@pytest.fixture
def archive(server, monkeypatch):
    """The server, empty; the test lives in its network and knows its password."""
    if server.process.poll() is not None:
        server.start()
    for study in server.ask("/studies"):
        server.ask(f"/studies/{study}", "DELETE")
    monkeypatch.setenv("MEDVIT_DICOMWEB_USER", orthanc.USER)
    monkeypatch.setenv("MEDVIT_DICOMWEB_PASSWORD", orthanc.PASSWORD)
    monkeypatch.setattr("medvit.archive.FIRST_PAUSE_S", 0.01)
    with server.network.inside():
        yield server


@pytest.fixture
def out(tmp_path, make_film):
    """A folder like those of ``medvit predict``: two objects a case, two cases a study."""
    for index in range(COUNT):
        make_film(
            tmp_path / f"out/cases/{index // 2:04d}/{('report_sr', 'capture_sc')[index % 2]}.dcm",
            tiny.draw(index, True, False),
            bits=8,
            StudyInstanceUID=f"2.25.{1 + index // 4}",
            SeriesInstanceUID=f"2.25.{1 + index // 4}.{index % 2}",
            PatientName=f"{tiny.SECRET}^{index}",
            PatientID=f"{tiny.SECRET}{index // 4}",
            StudyDate=f"202601{1 + index // 4:02d}",
            Modality=("DX", "CR")[index % 2],
        )
    return tmp_path / "out"


@pytest.fixture
def run(capsys, caplog):
    """The command: exit code, counts, what it said to people."""

    def command(*words):
        caplog.clear()
        code = main([*map(str, words), "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err + caplog.text

    return command


def statuses(out):
    """Object to how it stands, by the journal."""
    records = map(json.loads, (out / "push.jsonl").read_text().splitlines())
    return {record["file"]: record["status"] for record in records}


def test_every_object_is_pushed_and_verified_and_a_second_push_sends_nothing(archive, out, run):
    assert run("push", out, URL)[:2] == (DONE, {"verified": COUNT, "conflict": 0, "refused": 0, "waiting": 0})
    assert archive.count() == COUNT
    assert set(statuses(out).values()) == {"verified"} and len(statuses(out)) == COUNT
    said = (out / "push.jsonl").read_text()
    archive.kill()  # who is not asked cannot be sent anything
    assert run("push", out, URL)[:2] == (DONE, {"verified": COUNT, "conflict": 0, "refused": 0, "waiting": 0})
    assert (out / "push.jsonl").read_text() == said


def test_what_the_archive_already_holds_is_compared_and_not_sent(archive, out, run):
    for path in out.glob("cases/*/*.dcm"):
        archive.keep(path)
    before = archive.ask("/changes?last")["Last"]
    assert run("push", out, URL)[:2] == (DONE, {"verified": COUNT, "conflict": 0, "refused": 0, "waiting": 0})
    assert archive.ask("/changes?last")["Last"] == before
    assert "sent" not in (out / "push.jsonl").read_text()


def test_a_push_goes_on_where_a_dying_archive_ended_it(archive, out, monkeypatch):
    monkeypatch.setattr(pushing, "BATCH_OBJECTS", 5)
    client = Archive(URL, pause=lambda _: None)
    store, calls = client.store, []

    def dying(datasets):
        calls.append(len(datasets))
        if len(calls) == 3:
            archive.kill()
        return store(datasets)

    monkeypatch.setattr(client, "store", dying)
    assert pushing.push(client, out) == {"verified": 10, "conflict": 0, "refused": 0, "waiting": COUNT - 10}
    archive.start()
    assert pushing.push(Archive(URL), out)["verified"] == archive.count() == COUNT
    assert len(calls) == 3


def test_an_archive_that_is_away_costs_nothing_but_the_run(archive, out, run):
    archive.kill()
    code, counts, said = run("push", out, URL)
    assert (code, counts) == (NOTHING, None)
    assert f"{URL} does not answer. What is left waits: run the same command again to go on." in said
    assert set(statuses(out).values()) == {"waiting"}
    archive.start()
    assert run("push", out, URL)[0] == DONE


def test_a_killed_push_goes_on(archive, out, run):
    for kill_at in (1, 3, 4):  # lines of the journal: waiting at once, then in batches
        patient = "import medvit.push as p, sys; p.BATCH_OBJECTS = 2; from medvit.cli import main; sys.exit(main())"
        process = subprocess.Popen([sys.executable, "-c", patient, "push", str(out), URL], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if (out / "push.jsonl").exists() and (out / "push.jsonl").read_text().count("sent") >= kill_at:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.wait()
    code, counts, _ = run("push", out, URL)
    assert (code, counts["verified"], archive.count()) == (DONE, COUNT, COUNT)
    assert not (out / ".push.part").exists()


def test_an_archive_that_keeps_its_first_object_of_a_uid_is_a_conflict(archive, out, run):
    path = sorted(out.glob("cases/*/*.dcm"))[3]
    archive.keep(path)
    film = pydicom.dcmread(path)
    film.PixelData = bytes(len(film.PixelData))
    film.StudyDescription = tiny.SECRET
    film.save_as(path)
    code, counts, said = run("push", out, URL)
    assert (code, counts) == (PARTLY, {"verified": COUNT - 1, "conflict": 1, "refused": 0, "waiting": 0})
    assert f"{path.relative_to(out)}: conflict: " in said and "(differs in StudyDescription, PixelData)" in said
    assert statuses(out)[str(path.relative_to(out))] == "conflict"
    assert tiny.SECRET not in said + (out / "push.jsonl").read_text()


def test_a_uid_that_the_archive_holds_under_another_patient_is_told(archive, out, run):
    path = sorted(out.glob("cases/*/*.dcm"))[3]
    film = pydicom.dcmread(path)
    film.PatientID = "SOMEBODY-ELSE"
    film.save_as(out / "other.dcm")
    archive.keep(out / "other.dcm")
    code, counts, said = run("push", out, URL)
    assert code == PARTLY and counts["verified"] == COUNT - 1
    assert (
        f"{path.relative_to(out)}: conflict: " in said and "(differs in PatientID)" in said and "SOMEBODY" not in said
    )


def test_a_wrong_password_is_a_sentence_without_it(archive, out, tmp_path, run, monkeypatch):
    monkeypatch.setenv("MEDVIT_DICOMWEB_PASSWORD", "guessed-wrong")
    for words in (("push", out, URL), ("pull", URL, "-o", tmp_path / "in", "--limit", 1)):
        code, counts, said = run(*words)
        assert (code, counts) == (NOTHING, None)
        assert "refuses the user (401)" in said and "MEDVIT_DICOMWEB_PASSWORD" in said
        assert "guessed" not in said and "Traceback" not in said


def test_what_is_pulled_equals_what_was_kept_and_is_not_pulled_again(archive, out, tmp_path, run):
    sent = {pydicom.dcmread(path).SOPInstanceUID: path for path in out.glob("cases/*/*.dcm")}
    for path in sent.values():
        archive.keep(path)
    folder = tmp_path / "in"
    words = ("pull", URL, "-o", folder, "--modality", "DX,CR")
    counts = {"fetched": COUNT, "kept": 0, "refused": 0, "broken_off": 0}
    assert run(*words)[:2] == (DONE, counts)
    assert {path.name for path in folder.glob("*.dcm")} == {f"{digest(uid)}.dcm" for uid in sent}
    for uid, path in sent.items():
        assert (folder / f"{digest(uid)}.dcm").read_bytes() == path.read_bytes()
    assert tiny.SECRET not in (folder / "pull.jsonl").read_text()
    (folder / f"{digest(min(sent))}.dcm").write_bytes(b"damaged since")
    (folder / f"{digest(max(sent))}.dcm").unlink()
    (folder / ".0123.dcm.part").touch()  # of a run that was killed
    assert run(*words)[:2] == (DONE, {"fetched": 2, "kept": COUNT - 2, "refused": 0, "broken_off": 0})
    assert len(list(folder.glob("*.dcm"))) == COUNT and not list(folder.glob(".*.part"))


@pytest.mark.parametrize(
    "words, count",
    [
        (("--study", "2.25.3"), 4),
        (("--study", "2.25.3", "--series", "2.25.3.1"), 2),
        (("--study", "2.25.999"), 0),
        (("--patient-id", f"{tiny.SECRET}1"), 4),
        (("--patient-id", f"{tiny.SECRET}1", "--modality", "CR"), 2),
        (("--modality", "MG"), 0),
        (("--date", "20260102-20260103"), 8),
        (("--date", "20260105-"), 8),
        (("--date", "-20260101"), 4),
        (("--date", "20260106"), 4),
        (("--limit", "7"), 7),
    ],
)
def test_a_pull_brings_what_was_asked_for(archive, out, tmp_path, run, words, count):
    for path in out.glob("cases/*/*.dcm"):
        archive.keep(path)
    code, counts, said = run("pull", URL, "-o", tmp_path / "in", *words)
    assert (code, counts["fetched"], tiny.SECRET in said) == (DONE, count, False)
    assert len(list((tmp_path / "in").glob("*.dcm"))) == count


def test_a_series_of_many_pages_is_pulled_whole(archive, out, tmp_path, run, monkeypatch):
    monkeypatch.setattr("medvit.archive.PAGE", 5)
    for path in out.glob("cases/*/*.dcm"):
        film = pydicom.dcmread(path)
        film.StudyInstanceUID, film.SeriesInstanceUID, film.PatientID = "2.25.7", "2.25.7.1", "P"
        film.save_as(path)
        archive.keep(path)
    assert run("pull", URL, "-o", tmp_path / "in", "--study", "2.25.7")[1]["fetched"] == COUNT


def test_a_compressed_film_comes_as_it_is(archive, tmp_path, make_film, run):
    film = make_film(tmp_path / "rle.dcm", tiny.draw(1, True, True), bits=8, syntax=RLELossless)
    archive.keep(film)
    run("pull", URL, "-o", tmp_path / "in", "--limit", 1)
    (fetched,) = (tmp_path / "in").glob("*.dcm")
    assert pydicom.dcmread(fetched).file_meta.TransferSyntaxUID == RLELossless
    assert fetched.read_bytes() == film.read_bytes()


def test_a_pull_that_lost_its_archive_goes_on(archive, out, tmp_path, monkeypatch):
    from medvit.pull import Query, pull

    for path in out.glob("cases/*/*.dcm"):
        archive.keep(path)
    client = Archive(URL, pause=lambda _: None)
    fetch, calls = client.fetch, []

    def dying(place, path):
        calls.append(place)
        if len(calls) == 10:
            archive.kill()
        fetch(place, path)

    monkeypatch.setattr(client, "fetch", dying)
    query = Query(date="20260101-20261231")
    assert pull(client, tmp_path / "in", query) == {"fetched": 9, "kept": 0, "refused": 0, "broken_off": 1}
    with pytest.raises(Away):
        pull(client, tmp_path / "in", query)
    archive.start()
    assert pull(Archive(URL), tmp_path / "in", query) == {"fetched": 15, "kept": 9, "refused": 0, "broken_off": 0}


def test_the_archive_listens_in_no_network_but_its_own(archive):
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=True).stdout
    assert f":{orthanc.PORT}" in listening
    outside = subprocess.run(
        ["nsenter", f"--net=/proc/{os.getppid()}/ns/net", "ss", "-ltn"], capture_output=True, text=True, check=True
    )
    assert f":{orthanc.PORT}" not in outside.stdout


def test_two_encodings_of_a_data_set_are_equal_and_any_other_value_is_not(tmp_path, make_film):
    film = make_film(tmp_path / "film.dcm", np.arange(64).reshape(8, 8), bits=8)
    other = pydicom.dcmread(film)
    other.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "same.dcm", other, implicit_vr=True, little_endian=True)
    assert data_digest(film) != data_digest(tmp_path / "same.dcm")
    assert differences(open_dicom(film), open_dicom(tmp_path / "same.dcm")) == []
    del other.BodyPartExamined
    other.Rows, other.Columns, other.StudyID = 4, 16, "new"
    pydicom.dcmwrite(tmp_path / "other.dcm", other, implicit_vr=True, little_endian=True)
    found = differences(open_dicom(film), open_dicom(tmp_path / "other.dcm"))
    assert found == ["BodyPartExamined", "StudyID", "Rows", "Columns"]


@pytest.mark.parametrize(
    "words, said",
    [
        ((), "Say which objects"),
        (("--study", "../../etc"), "--study ../../etc is no UID"),
        (("--series", "1.2"), "--series needs --study"),
        (("--date", "yesterday"), "--date yesterday is no date"),
        (("--patient-id", "*"), "--patient-id must be one identifier"),
        (("--limit", "0"), "--limit must be at least 1"),
    ],
)
def test_a_pull_that_nobody_can_mean_is_refused(tmp_path, capsys, words, said):
    assert main(["pull", "http://localhost:9", "-o", str(tmp_path / "in"), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_objects_is_refused(tmp_path, capsys):
    assert main(["push", str(tmp_path), "http://localhost:9"]) == 2
    (tmp_path / "cases").mkdir()
    assert main(["push", str(tmp_path), "http://localhost:9"]) == 2
    said = capsys.readouterr().err
    assert "holds no answers" in said and "holds no DICOM objects" in said


def test_a_foreign_file_among_the_objects_is_refused(tmp_path, capsys):
    (tmp_path / "cases/a").mkdir(parents=True)
    (tmp_path / "cases/a/notes.dcm").write_text("no DICOM")
    assert main(["push", str(tmp_path), "http://localhost:9"]) == 2
    assert "notes.dcm was not written by `medvit predict`" in capsys.readouterr().err

"""Inputs found in folders, files and zips: what is taken, what is refused, in which order and how it is shown."""

import os
import random
import re
import signal
import socket
import stat
import struct
import subprocess
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tiny_volumes
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medvit.atomic import LOCK, locked
from medvit.case import Case, digest
from medvit.discover import DUTIES, discover, find_cases, read_case, scan
from medvit.errors import Halted, MedvitError, Rejected, Skipped, Unanswered
from medvit.found import Found
from medvit.guard import LIMITS, Pool
from medvit.pull import INBOX_LOCK
from medvit.readers import headers, zips
from medvit.readers.headers import duties

RAMP = np.add.outer(np.arange(24), np.arange(20)) * 50
PNG = b"\x89PNG\r\n\x1a\n"
BLACK = (1 << 20) * b"\0"


def scanned(*inputs: Path, unpack_to: Path | None = None) -> dict[str, Found]:
    """What is found, by its path below the first input."""
    found = list(scan(inputs, Pool(0, duties), unpack_to))
    names = [one.source.removeprefix(f"{inputs[0]}/") for one in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def discovered(*inputs: Path, refuse=lambda case: None, pool: Pool | None = None, **words) -> dict[str, str]:
    """How every input ends, by its path below the first input."""
    found = discover(inputs, pool or Pool(0, duties), refuse, **words)
    names = [one.source.removeprefix(f"{inputs[0]}/") for one in found]
    assert len({one.key for one in found}) == len(found)
    return dict(zip(names, map(reason_of, found), strict=True))


def reason_of(one: Found) -> str:
    return f"{one.refusal.status} {one.refusal.reason}" if one.refusal else ""


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def refusal(path: Path) -> Unanswered:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Unanswered) as caught:
            read_case(path)
    return caught.value


def test_a_case_keeps_the_header_and_nothing_of_the_patient(make_film, tmp_path) -> None:
    path = make_film(
        tmp_path / "a.dcm", RAMP, PatientName="ZZSECRET", PatientID="ZZSECRET", PatientBirthDate="19010203"
    )
    case = read_case(path)
    film = pydicom.dcmread(path)
    assert (case.uid, case.modality, case.files) == (film.SOPInstanceUID, "DX", (path,))
    assert case.header["study_uid"] == film.StudyInstanceUID
    assert case.header["body_part"] == "CHEST"
    assert case.header["view"] == "PA"
    assert "ZZSECRET" not in repr(case)
    assert "19010203" not in repr(case)


def test_a_key_is_16_hex_digits_that_follow_the_uid_and_not_the_path(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "smith-john.dcm", RAMP)
    copy = tmp_path / "elsewhere.dcm"
    copy.write_bytes(path.read_bytes())
    first, second = read_case(path), read_case(copy)
    assert re.fullmatch("[0-9a-f]{16}", first.key)
    assert first.key == second.key
    assert read_case(make_film(tmp_path / "other.dcm", RAMP)).key != first.key
    picture = Case(str(tmp_path / "smith-john.png"), "", (tmp_path / "smith-john.png",))
    assert re.fullmatch("[0-9a-f]{16}", picture.key)
    assert not any(part in picture.key for part in ("smith", "john", "png"))


def test_a_scan_is_sorted_and_leaves_links_and_devices_out(make_film, tmp_path) -> None:
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", "c.dcm"):
        make_film(tmp_path / "in" / name, RAMP)
    make_film(tmp_path / "outside" / "z.dcm", RAMP)
    (tmp_path / "in" / "aa-link.dcm").symlink_to(tmp_path / "outside" / "z.dcm")
    (tmp_path / "in" / "b" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "folder.dcm").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.dcm")
    found = scanned(tmp_path / "in")
    assert [(name, reason_of(one)) for name, one in found.items()] == [
        ("a.dcm", ""),
        ("aa-link.dcm", "skipped link"),
        ("b/1.dcm", ""),
        ("b/2.dcm", ""),
        ("b/loop", "skipped link"),
        ("c.dcm", ""),
        ("pipe.dcm", "skipped not_a_file"),
    ]
    assert all(bool(one.case) == (one.refusal is None) for one in found.values())


def test_a_scan_names_every_file_that_is_no_case(make_film, tmp_path) -> None:
    make_film(tmp_path / "film.dcm", RAMP)
    (tmp_path / "notes.txt").write_text("no film")
    (tmp_path / "text.dcm").write_text("no film either")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "picture.PNG").write_bytes(PNG)
    found = scanned(tmp_path)
    assert {name: one.refusal.reason for name, one in found.items() if one.refusal} == {
        "notes.txt": "not_an_image",
        "text.dcm": "not_dicom",
        "empty.dcm": "not_dicom",
    }
    assert {name: one.refusal.status for name, one in found.items() if one.refusal} == {
        "notes.txt": "skipped",
        "text.dcm": "rejected",
        "empty.dcm": "rejected",
    }
    assert {name: one.case.modality for name, one in found.items() if one.case} == {"film.dcm": "DX", "picture.PNG": ""}


def test_a_dicom_file_needs_no_suffix(make_film, tmp_path) -> None:
    assert read_case(make_film(tmp_path / "IM000001", RAMP)).modality == "DX"


def test_a_file_with_an_odd_name_is_found(make_film, tmp_path) -> None:
    odd = [os.fsdecode(b"bad\xff\xfe.dcm"), "new\nline.dcm", "=SUM(A1).dcm", "\u202egpj.dcm"]
    for name in odd:
        make_film(tmp_path / name, RAMP)
    assert sorted(case.files[0].name for case in find_cases(tmp_path, ["DX"])) == sorted(odd)
    assert re.fullmatch("[0-9a-f]{16}", Case(os.fsdecode(b"/bad\xff.png"), "", ()).key)


def test_a_preamble_without_content_is_rejected(tmp_path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM")
    assert isinstance(refusal(path), Rejected)
    assert refusal(path).reason == "transfer_syntax"


def test_a_header_cut_at_any_byte_is_read_or_rejected_but_never_raises_otherwise(make_film, tmp_path) -> None:
    data = make_film(tmp_path / "film.dcm", RAMP).read_bytes()
    path = tmp_path / "cut.dcm"
    reasons = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in range(132, 900):
            path.write_bytes(data[:length])
            try:
                read_case(path)
            except Rejected as rejected:
                reasons.add(rejected.reason)
    assert "no_sop_uid" in reasons
    assert reasons <= {"no_sop_uid", "transfer_syntax", "truncated"}


def test_a_mutated_header_is_read_or_rejected_but_never_raises_otherwise(make_film, tmp_path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "mutant.dcm"
    reasons = set()
    for name, syntax in (("plain", {}), ("deflated", {"syntax": DeflatedExplicitVRLittleEndian})):
        data = make_film(tmp_path / f"{name}.dcm", RAMP, **syntax).read_bytes()
        for _ in range(300):
            mutant = bytearray(data)
            for place in rng.integers(132, min(900, len(data)), 5):
                mutant[place] = rng.integers(256)
            path.write_bytes(mutant)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read_case(path)
                except Rejected as rejected:
                    reasons.add(rejected.reason)
    assert {"truncated", "sop_uid"} <= reasons


def test_a_film_without_a_sop_uid_is_rejected(make_film, tmp_path) -> None:
    assert refusal(make_film(tmp_path / "a.dcm", RAMP, SOPInstanceUID=None)).reason == "no_sop_uid"


def test_a_file_that_cannot_be_opened_fails_and_the_scan_goes_on(make_film, tmp_path, monkeypatch) -> None:
    for name in ("a.dcm", "b.dcm"):
        make_film(tmp_path / name, RAMP)
    opened = os.open

    def locked(path, *args, **kwargs):
        if str(path).endswith("a.dcm"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", locked)
    first, second = scanned(tmp_path).values()
    assert first.refusal is not None
    assert (first.refusal.status, first.refusal.reason) == ("failed", "unreadable")
    assert "Permission denied" in str(first.refusal)
    assert second.case is not None


def test_a_scan_of_something_that_is_not_there_or_neither_file_nor_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(MedvitError, match="is not there"):
        scanned(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MedvitError, match="neither a file nor a folder"):
        scanned(tmp_path / "pipe")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch) -> None:
    def locked(folder: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(MedvitError, match=f"{tmp_path} cannot be listed: Permission denied"):
        scanned(tmp_path)


def test_cases_are_found_by_modality(make_film, tmp_path) -> None:
    make_film(tmp_path / "a.dcm", RAMP)
    make_film(tmp_path / "b.dcm", RAMP, Modality="CT")
    (tmp_path / "c.png").write_bytes(PNG)
    (tmp_path / "d.txt").write_bytes(b"")
    assert [case.files[0].name for case in find_cases(tmp_path, ["DX", "CR"])] == ["a.dcm"]
    assert [case.files[0].name for case in find_cases(tmp_path, ["DX", ""])] == ["a.dcm", "c.png"]
    assert [case.modality for case in find_cases(tmp_path / "b.dcm", ["CT"])] == ["CT"]


def test_links_and_special_files_get_a_row_and_are_never_opened(make_film, tmp_path) -> None:
    make_film(tmp_path / "in" / "a.dcm", RAMP)
    os.mkfifo(tmp_path / "in" / "fifo")
    os.mknod(tmp_path / "in" / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3)) if os.geteuid() == 0 else None
    (tmp_path / "in" / "loop").symlink_to(".")
    (tmp_path / "in" / "dangling.dcm").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "in" / "socket"))
        told = discovered(tmp_path / "in")
    assert told.pop("null", "skipped not_a_file") == "skipped not_a_file"
    assert told == {
        "a.dcm": "",
        "dangling.dcm": "skipped link",
        "fifo": "skipped not_a_file",
        "loop": "skipped link",
        "socket": "skipped not_a_file",
    }


def test_a_folder_that_medvit_wrote_is_one_row_and_an_inbox_that_it_filled_is_not(make_film, tmp_path) -> None:
    make_film(tmp_path / "a.dcm", RAMP)
    for folder, lock in (("out", LOCK), ("inbox", INBOX_LOCK)):
        make_film(tmp_path / folder / "cases" / "b.dcm", RAMP)
        with locked(tmp_path / folder, lock):
            pass
    told = {"a.dcm": "", f"inbox/{INBOX_LOCK}": "skipped not_an_image", "inbox/cases/b.dcm": ""}
    assert discovered(tmp_path) == told | {"out": "skipped results"}
    assert discovered(tmp_path / "out")["cases/b.dcm"] == ""  # given by its name


def test_a_link_that_is_given_is_followed(make_film, tmp_path) -> None:
    make_film(tmp_path / "in" / "a.dcm", RAMP)
    (tmp_path / "link.dcm").symlink_to(tmp_path / "in" / "a.dcm")
    (tmp_path / "folder").symlink_to(tmp_path / "in")
    assert reason_of(scanned(tmp_path / "link.dcm")[str(tmp_path / "link.dcm")]) == ""
    assert [one.source for one in scanned(tmp_path / "folder").values()] == [str(tmp_path / "folder" / "a.dcm")]


def test_a_file_that_was_replaced_by_a_link_or_pipe_is_not_opened(make_film, tmp_path) -> None:
    film = make_film(tmp_path / "a.dcm", RAMP)
    (tmp_path / "link.dcm").symlink_to(film)
    os.mkfifo(tmp_path / "pipe.dcm")
    for name in ("link.dcm", "pipe.dcm"):
        kind, reason, _ = headers.headers([(str(tmp_path / name), name, film.stat().st_size)]).plain[0]
        assert (kind, reason) == ("Rejected", "not_a_file")


def test_an_input_given_twice_or_within_another_counts_once(make_film, tmp_path, monkeypatch) -> None:
    for name in ("in/a.dcm", "in/deep/b.dcm", "in/deeper/c.dcm"):
        make_film(tmp_path / name, RAMP)
    (tmp_path / "again").symlink_to("in")
    top = tmp_path / "in"
    for inputs in (
        (top, top), (top, top / "deep"), (top / "deep", top), (top, top / "deep" / "b.dcm", tmp_path / "again"),
        (top / "a.dcm", top / "a.dcm", top, tmp_path / "in/../in/deep"),
    ):  # fmt: skip
        assert sorted(Path(name).name for name in discovered(*inputs)) == ["a.dcm", "b.dcm", "c.dcm"]
    monkeypatch.chdir(top)
    assert list(scanned(Path(), top)) == ["a.dcm", "deep/b.dcm", "deeper/c.dcm"]
    monkeypatch.chdir(top / "deep")
    assert [one.source for one in scanned(Path("b.dcm"), Path("../a.dcm")).values()] == ["b.dcm", "../a.dcm"]


def test_a_folder_deep_inside_that_cannot_be_listed_is_a_row(make_film, tmp_path, monkeypatch) -> None:
    for name in ("a/1.dcm", "b/2.dcm", "c/3.dcm"):
        make_film(tmp_path / name, RAMP)
    listed = os.scandir

    def locked(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", locked)
    found = scanned(tmp_path)
    assert {name: reason_of(one) for name, one in found.items()} == {
        "a/1.dcm": "",
        "b": "failed unreadable",
        "c/3.dcm": "",
    }
    assert "Permission denied" in str(found["b"].refusal)


def test_folders_within_folders_are_no_matter_of_recursion(make_film, tmp_path) -> None:
    film = make_film(tmp_path / "film.dcm", RAMP).read_bytes()
    (tmp_path / "in").mkdir()
    here = os.open(tmp_path / "in", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    with os.fdopen(os.open("x.dcm", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
        file.write(film)
    os.close(here)
    assert list(discovered(tmp_path / "in").values()) == [""]
    subprocess.run(["rm", "-rf", tmp_path / "in"], check=True)  # too deep for Python


def test_a_file_that_grows_or_vanishes_meanwhile_is_a_row(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "a.dcm", RAMP)
    grown, gone = (str(path), "a.dcm", path.stat().st_size - 1), (str(tmp_path / "b.dcm"), "b.dcm", 9)
    first, second = headers.headers([grown, gone]).plain
    assert first[:2] == ["Unanswered", "changing"]
    assert second[:2] == ["Unanswered", "unreadable"]


def test_a_directory_of_other_files_is_skipped(make_film, tmp_path) -> None:
    from pydicom.fileset import FileSet

    needed = {"StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1", "SeriesNumber": 1, "InstanceNumber": 1}
    make_film(tmp_path / "film.dcm", RAMP, **needed)
    media = FileSet()
    media.add(tmp_path / "film.dcm")
    media.write(tmp_path / "in", use_existing=False)
    told = discovered(tmp_path / "in")
    assert told.pop("DICOMDIR") == "skipped dicomdir"
    assert list(told.values()) == [""]


def test_other_modalities_and_series_than_those_asked_for_are_skipped(make_film, tmp_path) -> None:
    for name, modality, series in (("a", "DX", "2.25.1"), ("b", "CR", "2.25.1"), ("c", "CR", "2.25.2")):
        make_film(tmp_path / f"{name}.dcm", RAMP, Modality=modality, SeriesInstanceUID=series)
    (tmp_path / "d.png").write_bytes(PNG)
    skip = "skipped filtered"
    assert sorted(discovered(tmp_path).values()) == [""] * 4
    assert discovered(tmp_path, modality=("CR",)) == {"b.dcm": "", "c.dcm": "", "a.dcm": skip, "d.png": skip}
    assert discovered(tmp_path, series=("2.25.1",)) == {"a.dcm": "", "b.dcm": "", "c.dcm": skip, "d.png": skip}
    assert discovered(tmp_path, modality=("CR", "DX"), series=("2.25.2",))["c.dcm"] == ""


def test_what_the_system_refuses_is_refused_with_its_words(make_film, tmp_path) -> None:
    def refuse(case: Case) -> None:
        if case.modality != "DX":
            raise Skipped("modality", "It is no film.")

    make_film(tmp_path / "a.dcm", RAMP)
    make_film(tmp_path / "b.dcm", RAMP, Modality="CT")
    assert discovered(tmp_path, refuse=refuse) == {"a.dcm": "", "b.dcm": "skipped modality"}


def test_cases_to_answer_come_first_by_study_series_and_instance_the_others_by_path(make_film, tmp_path) -> None:
    places = [("1.2", "1.9", 10, "z"), ("1.2", "1.9", 9, "y"), ("1.2", "1.1", 77, "x"), ("1.1", "1.5", 3, "w")]
    places += [("1.1", "1.5", None, "v"), ("1.1", "1.5", 3, "u")]
    random.Random(0).shuffle(places)
    for study, series, number, name in places:
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": f"1.{ord(name)}"}
        make_film(tmp_path / f"{name}.dcm", RAMP, InstanceNumber=number, **uids)
    (tmp_path / "b.txt").touch()
    (tmp_path / "a.txt").touch()
    assert list(discovered(tmp_path)) == [*(f"{name}.dcm" for name in "vuwxyz"), "a.txt", "b.txt"]


def test_a_uid_found_again_is_skipped_when_the_bytes_are_the_same_and_else_nobody_is_answered(
    make_film, tmp_path
) -> None:
    first = make_film(tmp_path / "in" / "a.dcm", RAMP)
    (tmp_path / "in" / "copy.dcm").write_bytes(first.read_bytes())
    os.link(first, tmp_path / "in" / "hardlink.dcm")
    for name, pixels, extra in (("e", RAMP, {}), ("f", RAMP + 1, {}), ("g", RAMP, {}), ("h", RAMP, {"StudyID": "7"})):
        make_film(
            tmp_path / "in" / f"{name}.dcm", pixels, SOPInstanceUID="2.25.8" if name in "ef" else "2.25.9", **extra
        )
    conflict = "rejected uid_conflict"
    told = discovered(tmp_path / "in")
    assert told == {
        "a.dcm": "", "copy.dcm": "skipped duplicate", "hardlink.dcm": "skipped duplicate",
        "e.dcm": conflict, "f.dcm": conflict, "g.dcm": conflict, "h.dcm": conflict,
    }  # fmt: skip


def test_hard_links_are_not_read_to_be_compared(make_film, tmp_path) -> None:
    first = make_film(tmp_path / "a.dcm", RAMP)
    os.link(first, tmp_path / "b.dcm")
    pool = Pool(0, lambda: {**DUTIES, "content": None})
    assert discovered(tmp_path, pool=pool) == {"a.dcm": "", "b.dcm": "skipped duplicate"}


def test_a_copy_that_cannot_be_read_fails_and_the_other_is_answered(make_film, tmp_path) -> None:
    first = make_film(tmp_path / "a.dcm", RAMP)
    (tmp_path / "b.dcm").write_bytes(first.read_bytes())

    def content(file: str):
        if file.endswith("a.dcm"):
            raise Unanswered("unreadable", "It cannot be read.")
        return headers.content(file)

    pool = Pool(0, lambda: {**DUTIES, "content": content})
    assert discovered(tmp_path, pool=pool) == {"b.dcm": "", "a.dcm": "failed unreadable"}


def test_refused_cases_are_no_party_to_a_conflict(make_film, tmp_path) -> None:
    for name, modality in (("a", "DX"), ("b", "CT")):
        make_film(tmp_path / f"{name}.dcm", RAMP, SOPInstanceUID="2.25.8", Modality=modality)
    assert discovered(tmp_path, modality=("DX",)) == {"a.dcm": "", "b.dcm": "skipped filtered"}


def test_parts_of_a_path_that_name_the_patient_are_not_shown(make_film, tmp_path) -> None:
    patient = {"PatientName": "Zzsecret^Ægirson", "PatientID": "MRN-778899", "SpecificCharacterSet": "ISO_IR 192"}
    plain = {"PatientName": "Other^Who", "PatientID": "4711"}
    make_film(tmp_path / "in/films of ZZSECRET, A/0.dcm", RAMP, **patient)
    make_film(tmp_path / "in/films of ZZSECRET, A/other.x", RAMP)
    make_film(tmp_path / "in/y/778899.dcm", RAMP, **patient)
    make_film(tmp_path / "in/y/\u00c6GIRSON.dcm", RAMP, **patient)
    make_film(tmp_path / "in/y/4711.dcm", RAMP, **plain)
    (tmp_path / "in/films of ZZSECRET, A/notes.txt").touch()
    found = discover([tmp_path / "in"], Pool(0, duties), lambda case: None)
    shown = sorted(one.source.removeprefix(f"{tmp_path}/in/") for one in found)
    folder = f"~{digest('films of ZZSECRET, A')}"
    assert shown == sorted(
        [f"{folder}/0.dcm", f"{folder}/notes.txt", f"{folder}/other.x", "y/4711.dcm"]
        + [f"y/~{digest(name)}" for name in ("778899.dcm", "\u00c6GIRSON.dcm")]
    )
    assert "ZZSECRET" in str({one.case.files for one in found if one.case})  # they can still be opened


@pytest.mark.parametrize(
    ("name", "patient", "shown"),
    [
        ("lee_ann.dcm", "Lee^Ann", False), ("lee.dcm", "Lee^Ann", True), ("leeann.dcm", "Lee^Ann", True),
        ("CT2_JPLL.dcm", "CT2^CompressedSamples", True), ("anonymous-1.dcm", "Anonymous", True),
        ("schmidt1.dcm", "SCHMIDT^EVA", False), ("0012.dcm", "4711^0012", True), ("x20012x.dcm", "20012", False),
        ("Mu\u0308ller.dcm", "M\u00fcller", False),
    ],
)  # fmt: skip
def test_a_long_word_or_two_short_ones_name_a_patient(make_film, tmp_path, name, patient, shown) -> None:
    make_film(tmp_path / name, RAMP, PatientName=patient, SpecificCharacterSet="ISO_IR 192", PatientID="")
    (found,) = scanned(tmp_path).values()
    assert found.source == f"{tmp_path}/{name if shown else '~' + digest(name)}"


def test_what_the_user_typed_is_shown_as_it_was_typed(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "ZZSECRET/ZZSECRET.dcm", RAMP, PatientName="ZZSECRET")
    assert [one.source for one in scanned(path).values()] == [str(path)]
    assert [one.source for one in scanned(path.parent).values()] == [f"{path.parent}/~{digest('ZZSECRET.dcm')}"]


def test_the_name_of_a_patient_does_not_leave_the_worker(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "a.dcm", RAMP, PatientName="ZZSECRET^Name", PatientID="ZZSECRET1")
    assert "ZZSECRET" not in str(headers.headers([(str(path), "a.dcm", path.stat().st_size)]))


def hostile() -> dict:
    """Duties that a file's name brings down."""

    def falling(files):
        for file, *_ in files:
            if "crash" in Path(file).name:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "hang" in Path(file).name:
                signal.pause()
        return headers.headers(files)

    return {**DUTIES, "headers": falling}


def nonsense() -> dict:
    """Duties of a worker that was taken over."""
    answers = [
        "nothing",
        7,
        [["exec", "a", "b"]],
        [["dicom", ["x"], []]],
        [["dicom", 5]],
        [[]],
        {"a": 1},
        [[[1]]],
        None,
    ]
    return {**DUTIES, "headers": lambda files: headers.Reply(answers.pop(0))}


def test_a_file_that_kills_or_hangs_its_worker_costs_itself_alone(make_film, tmp_path) -> None:
    for index in range(100):
        make_film(tmp_path / f"{index:03d}.dcm", RAMP)
    for bad in ("020crash.dcm", "030hang.dcm", "090crash.dcm"):
        make_film(tmp_path / bad, RAMP)
    with Pool(2, hostile, limits=LIMITS._replace(wall_s=1)) as pool:
        found = list(scan([tmp_path], pool))
    assert [one.source for one in found] == sorted(one.source for one in found)
    assert {Path(one.source).name: reason_of(one) for one in found if one.refusal} == {
        "020crash.dcm": "rejected crashed",
        "030hang.dcm": "rejected time_budget",
        "090crash.dcm": "rejected crashed",
    }
    assert sum(one.case is not None for one in found) == 100


def test_nonsense_from_a_worker_is_a_row(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "a.dcm", RAMP)
    pool = Pool(0, nonsense)
    for _ in range(9):
        (found,) = scan([path], pool)
        assert found.case is None
        assert reason_of(found) in ("rejected crashed", "failed unread")


def test_processes_find_what_this_process_finds(make_film, tmp_path) -> None:
    for index in range(150):
        make_film(tmp_path / "in" / f"{index % 7}" / f"{index}.dcm", RAMP + index)
    (tmp_path / "in" / "text.dcm").write_text("no film")
    zipped(tmp_path / "in" / "some.zip", a=b"1", b=b"2")
    with Pool(2, duties) as pool:
        apart = discovered(tmp_path / "in", pool=pool, unpack_to=tmp_path / "one")
    assert list(apart.items()) == list(discovered(tmp_path / "in", unpack_to=tmp_path / "two").items())


def test_duties_that_cannot_be_loaded_end_a_scan(make_film, tmp_path) -> None:
    make_film(tmp_path / "a.dcm", RAMP)
    with Pool(1, broken) as pool, pytest.raises(MedvitError, match="ImportError"):
        list(scan([tmp_path], pool))


def broken():
    raise ImportError("No module named 'pixels'")


def test_the_members_of_a_zip_are_inputs_of_their_own(make_film, tmp_path) -> None:
    film = make_film(tmp_path / "film.dcm", RAMP).read_bytes()
    (tmp_path / "in").mkdir()
    archive = zipped(
        tmp_path / "in" / "a.zip",
        **{"deep__film.dcm": film, "x.png": PNG, "notes.txt": b"-", "..__..__out.dcm": film, "in.zip": b"PK\3\4"},
    )
    with zipfile.ZipFile(archive, "a") as more:
        more.mkdir("folder")
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        more.writestr(link, "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    assert discovered(tmp_path / "in", unpack_to=tmp_path / "work") == {
        "a.zip!/deep/film.dcm": "", "a.zip!/x.png": "", "a.zip!/../../out.dcm": "skipped duplicate",
        "a.zip!/notes.txt": "skipped not_an_image", "a.zip!/in.zip": "skipped nested_zip",
        "a.zip!/link.dcm": "skipped link",
    }  # fmt: skip
    written = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "work") for path in written)
    assert all(re.fullmatch(r"[0-9]{4}(\.[a-z]+)?", path.name) for path in written if path.is_file())
    found = scanned(archive, unpack_to=tmp_path / "work")
    picture = next(one for one in found.values() if one.source.endswith("png"))
    assert (picture.source, picture.case.uid) == (f"{archive}!/x.png", f"{archive}!/x.png")
    assert picture.case.files[0].read_bytes() == PNG


def test_a_zip_without_a_place_to_unpack_it_is_skipped(tmp_path) -> None:
    zipped(tmp_path / "a.zip", a=b"1")
    assert discovered(tmp_path) == {"a.zip": "skipped zip"}
    assert find_cases(tmp_path, [""]) == []


def bad_zips(folder: Path) -> dict[str, str]:
    """Zips that nobody should unpack, and why."""
    whole = zipped(folder / "whole.zip", a=random.Random(0).randbytes(5000), b=b"b" * 50).read_bytes()
    (folder / "whole.zip").unlink()
    (folder / "cut.zip").write_bytes(whole[:-30])
    (folder / "flipped.zip").write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    encrypted, method = bytearray(whole), bytearray(whole)
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        encrypted[whole.index(signature) + flags] |= 1
        method[whole.index(signature) + flags + 2] = 99
    (folder / "encrypted.zip").write_bytes(encrypted)
    (folder / "method.zip").write_bytes(method)
    zipped(folder / "bomb.zip", a=BLACK * 8)
    zipped(folder / "many.zip", **{f"n{index}": b"" for index in range(2001)})
    with zipfile.ZipFile(folder / "empty.zip", "w"):
        pass
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "twins.zip", "w") as twins:
        warnings.simplefilter("ignore")
        twins.writestr("a", "1")
        twins.writestr("a", "2")
    # A member that unpacks to more than it declares.
    lie = bytearray(zipped(folder / "lie.zip", a=random.Random(0).randbytes(4 << 20)).read_bytes())
    struct.pack_into("<L", lie, lie.index(b"PK\1\2") + 24, 10)
    (folder / "lie.zip").write_bytes(lie)
    return {
        "cut.zip": "rejected zip_damaged", "flipped.zip": "rejected zip_damaged", "encrypted.zip": "rejected zip_encrypted",
        "method.zip": "rejected zip_method", "bomb.zip": "rejected zip_bomb", "many.zip": "rejected zip_bomb",
        "empty.zip": "rejected zip_empty", "twins.zip": "rejected zip_damaged", "lie.zip": "rejected zip_damaged",
    }  # fmt: skip


def test_a_bad_zip_is_one_row_and_leaves_nothing(make_film, tmp_path) -> None:
    make_film(tmp_path / "in" / "good.dcm", RAMP)
    expected = bad_zips(tmp_path / "in")
    with Pool(1, duties) as pool:
        assert discovered(tmp_path / "in", pool=pool, unpack_to=tmp_path / "work") == {
            "good.dcm": "",
            **dict(sorted(expected.items())),
        }
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_a_bomb_counts_as_unpacked_not_as_declared(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zips, "_judge", lambda members, packed: None)
    archive = zipped(tmp_path / "a.zip", a=BLACK * 3, b=BLACK)
    with pytest.raises(Rejected) as caught:
        zips.unpack(archive, tmp_path / "work")
    assert caught.value.reason == "zip_bomb"


def test_a_mutated_zip_is_unpacked_or_rejected_but_never_raises_otherwise(tmp_path) -> None:
    rng = np.random.default_rng(0)
    whole = zipped(tmp_path / "a.zip", a=rng.bytes(300), b__c=b"b" * 500).read_bytes()
    reasons = set()
    for index in range(600):
        mutant = bytearray(whole[: rng.integers(1, len(whole))] if index % 4 == 0 else whole)
        for place in rng.integers(0, len(mutant), 3):
            mutant[place] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(mutant)
        try:
            zips.unpack(tmp_path / "a.zip", tmp_path / "work")
        except Rejected as rejected:
            reasons.add(rejected.reason)
    assert "zip_damaged" in reasons


def test_a_zip_is_unpacked_in_several_calls_when_it_takes_long(make_film, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(zips, "PATIENCE_S", -1)
    archive = zipped(tmp_path / "a.zip", a=b"1")
    assert zips.unpack(archive, tmp_path / "work") == ([], zips.Progress(0, 0, False))
    clock = iter(range(1000))
    monkeypatch.setattr(zips, "PATIENCE_S", 2)
    monkeypatch.setattr(zips.time, "monotonic", lambda: next(clock))
    film = make_film(tmp_path / "film.dcm", RAMP).read_bytes()
    zipped(tmp_path / "b.zip", **{f"{index}.png": film[:index] for index in range(9)})
    found = scanned(tmp_path / "b.zip", unpack_to=tmp_path / "work")
    assert [one.case.files[0].read_bytes() for one in found.values()] == [film[:index] for index in range(9)]


def test_a_full_disk_ends_the_scan(tmp_path, monkeypatch) -> None:
    archive = zipped(tmp_path / "a.zip", a=b"1")
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "0000").symlink_to("/dev/full")
    with pytest.raises(Halted, match="No space left"):
        zips.unpack(archive, tmp_path / "work")


def test_slices_of_a_series_are_one_volume_where_they_are_to_be_answered(make_film, tmp_path) -> None:
    volume, _ = tiny_volumes.block()
    for number in (1, 2):
        tiny_volumes.write_series(tmp_path / "in" / f"s{number}", volume)
    make_film(tmp_path / "in" / "film.dcm", RAMP)
    tiny_volumes.write_nifti(tmp_path / "in" / "v.nii.gz", volume)
    found = discover([tmp_path / "in"], Pool(0, duties), lambda case: None)
    cases = [one.case for one in found if one.case and not one.refusal]
    assert sorted((case.modality, len(case.files)) for case in cases) == [("CT", 5), ("CT", 5), ("DX", 1), ("NIFTI", 1)]
    assert {reason_of(one) for one in found} == {"", "skipped series_part"} and len(found) == 12
    for case in cases:
        if case.modality == "CT":
            assert case.uid == case.header["series_uid"] and case.files[0].parent == case.files[-1].parent

    def films_only(case: Case) -> None:
        if case.modality != "DX":
            raise Skipped("modality", "Another modality.")

    found = discover([tmp_path / "in"], Pool(0, duties), films_only)
    assert sorted(reason_of(one) for one in found) == ["", *["skipped modality"] * 11]


def test_volumes_in_a_zip_keep_their_kind(tmp_path) -> None:
    volume, _ = tiny_volumes.block()
    data = tiny_volumes.write_nifti(tmp_path / "v.nii.gz", volume).read_bytes()
    archive = zipped(tmp_path / "in.zip", **{"a.nii.gz": data})
    (found,) = scanned(archive, unpack_to=tmp_path / "unpacked").values()
    assert found.case and found.case.modality == "NIFTI" and found.case.files[0].name.endswith(".nii.gz")

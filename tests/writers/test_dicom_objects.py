"""What all written DICOM objects must hold: judged by dciodvfy, pydicom and bytes."""

import logging
import os
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
from answers import PROBABILITIES, RUN, answer, dicom_errors, pixels
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medvit.case import UID, Case
from medvit.errors import MedvitError, Unanswered
from medvit.result import Result
from medvit.writers import dicom
from medvit.writers.capture import write_capture
from medvit.writers.parametric import write_parametric
from medvit.writers.report import write_report
from medvit.writers.segmentation import write_segmentation
from medvit.writers.source import PATIENT, STUDY

WRITERS = (write_report, write_capture, write_parametric, write_segmentation)
NAMES = ["capture_sc.dcm", "map_pm_Mass.dcm", "map_pm_Pneumothorax.dcm", "report_sr.dcm", "seg.dcm"]
FULL = {
    "PatientName": "Doe^Jane", "PatientID": "P-17", "PatientBirthDate": "19630211", "PatientSex": "F",
    "StudyDate": "20260301", "StudyTime": "101530.5", "AccessionNumber": "A-1", "StudyID": "S-1",
    "ReferringPhysicianName": "Ward^3", "StudyDescription": "Chest PA", "PatientAge": "063Y",
    "PatientOrientation": ["L", "F"], "ImagerPixelSpacing": [0.143, 0.143], "InstanceNumber": 4,
    "Manufacturer": "Maker", "ManufacturerModelName": "Model", "SoftwareVersions": ["1.2", "3"],
    "TimezoneOffsetFromUTC": "+0530", "IssuerOfPatientID": "Hospital",
}  # fmt: skip
KANJI = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
CHARSETS = {  # name of the set, bytes of the name, how it must read afterwards
    "ISO_IR 192": ("Müller^Ünal^李".encode(), "Müller^Ünal^李"),
    "ISO_IR 100": ("Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "ISO_IR 144": ("Жуков".encode("iso8859-5"), "Жуков"),
    "\\ISO 2022 IR 87": (KANJI, "Yamada^Tarou=山田^太郎"),
    "GB18030": ("乗俓^小东".encode("gb18030"), "乗俓^小东"),  # the first two hold the byte of a backslash
    "ISO IR 100": ("Müller^Jörg".encode("latin-1"), "Müller^Jörg"),  # often misspelt so
    "": ("Müller^Jörg".encode(), "Müller^Jörg"),  # undeclared UTF-8
    "ISO_IR 999": ("Müller^Jörg".encode("latin-1"), "Müller^Jörg"),  # unknown
    "ISO_IR 6": (b"M\xfcller^J", "Müller^J"),
}
HOSTILE = {
    "PatientName": b"A" * 60_000,
    "PatientID": b"1\r\n2026-01-01 INFO forged\x00\x1b[31m",
    "AccessionNumber": b"=HYPERLINK(1)\\second\\third\\fourth value",
    "PatientBirthDate": b"yesterday",
    "PatientSex": b"<script>",
    "StudyDate": b"20260231",
    "StudyTime": b"256199",
    "StudyID": "\u202egpj.exe\u2066".encode(),
    "PatientAge": b"old",
    "InstanceNumber": b"-5",
    "TimezoneOffsetFromUTC": b"+9900",
    "ImagerPixelSpacing": b"0\\nan",
    "PatientOrientation": b"up\\down\\x",
    "Manufacturer": b"M\r\nM" * 4000,
    "StudyDescription": b"\xff\xfe\x00" * 10,
    "SpecificCharacterSet": b"ISO_IR 100",
}
FILMS = {
    "DX, 12 bits, full header": FULL,
    "8 bits": {"bits": 8},
    "16 bits": {"bits": 16},
    "MONOCHROME1": {"photometric": "MONOCHROME1"},
    "CR": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "Modality": "CR", "ViewPosition": "AP"},
    "no patient": {"PatientName": None, "PatientID": None, "BodyPartExamined": None},
    "empty patient": {"PatientName": "", "PatientID": ""},
    "identity removed": {"PatientIdentityRemoved": "YES"},
    "paired part": {"BodyPartExamined": "HAND", "Laterality": "R"},
    "implicit": {"syntax": ImplicitVRLittleEndian, **FULL},
    "big endian": {"syntax": ExplicitVRBigEndian, **FULL},
    "compressed": {"syntax": RLELossless},
    "hostile header": HOSTILE,
}


@pytest.fixture
def film(make_film, tmp_path):
    def make(bits: int = 12, **more) -> Path:
        path = make_film(tmp_path / "in/film.dcm", pixels(bits), bits=bits, **more)
        if more.get("StudyTime") == HOSTILE["StudyTime"]:  # a set that no library writes
            path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"zlib_codec"))
        return path

    return make


def write(result: Result, folder: Path, run=RUN) -> dict[str, Path]:
    return {path.name: path for writer in WRITERS for path in writer(result, folder, run)}


@pytest.mark.parametrize("header", FILMS.values(), ids=FILMS)
def test_dciodvfy_finds_no_error_in_any_object_about_any_film(film, tmp_path, header) -> None:
    written = write(answer(film(**header)), tmp_path / "out")
    assert sorted(written) == NAMES
    assert {name: dicom_errors(path) for name, path in written.items()} == {name: [] for name in NAMES}


def test_patient_and_study_are_those_of_the_film_and_series_and_object_are_new(film, tmp_path) -> None:
    path = film(**FULL)
    source = pydicom.dcmread(path)
    objects = [pydicom.dcmread(file) for file in write(answer(path), tmp_path).values()]
    for written in objects:
        for keyword in (*PATIENT, *STUDY, "StudyInstanceUID", "StudyDescription", "PatientAge", "IssuerOfPatientID"):
            assert written[keyword].value == source[keyword].value, keyword
        assert written.SpecificCharacterSet == "ISO_IR 192"
        assert written.InstanceNumber == 4
        assert "NOT FOR DIAGNOSIS" in written.SeriesDescription
        assert (written.Manufacturer, written.ManufacturerModelName) == ("medvit", "ThoraxMAE")
        assert written.SoftwareVersions == "0.1.0"
        assert written.DeviceSerialNumber == RUN.digest
        assert 9000 < written.SeriesNumber < 9200
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        uids = {str(written[keyword].value) for written in objects} | {str(source[keyword].value)}
        assert len(uids) == len(objects) + 1
        assert all(UID.fullmatch(uid) for uid in uids)


def test_every_object_names_the_equipment_that_made_answered_and_wrote_it(film, tmp_path) -> None:
    path = film(**FULL)
    for file in write(answer(path), tmp_path).values():
        made, answered, wrote = pydicom.dcmread(file).ContributingEquipmentSequence
        assert [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in (made, answered, wrote)] == [
            "109101", "109102", "109102",
        ]  # fmt: skip
        assert (made.Manufacturer, made.ManufacturerModelName) == ("Maker", "Model")
        assert (answered.Manufacturer, answered.ManufacturerModelName) == ("medvit", "ThoraxMAE")
        assert answered.DeviceUID == dicom.device_uid(RUN)
        assert answered.DeviceSerialNumber == RUN.digest
        assert answered.ContributionDateTime == "20260301223015+0000"
        assert "not for diagnosis" in answered.ContributionDescription
        assert "ContributionDateTime" not in wrote


def test_the_device_uid_changes_with_the_weights_and_only_then() -> None:
    later = RUN._replace(started=datetime(2027, 1, 1, tzinfo=UTC))
    assert dicom.device_uid(later) == dicom.device_uid(RUN)
    assert dicom.device_uid(RUN._replace(digest="4b" * 32)) != dicom.device_uid(RUN)


def test_objects_are_replaced_by_reruns_and_stand_beside_those_of_other_weights(film, tmp_path) -> None:
    path = film()
    uid = {}
    for name, run in {
        "first": RUN,
        "again": RUN._replace(started=datetime(2027, 1, 1, tzinfo=UTC)),
        "other": RUN._replace(digest="4b" * 32),
    }.items():
        files = write(answer(path), tmp_path / name, run).values()
        uid[name] = [(written.SeriesInstanceUID, written.SOPInstanceUID) for written in map(pydicom.dcmread, files)]
    assert uid["first"] == uid["again"]
    assert not {one for pair in uid["first"] for one in pair} & {one for pair in uid["other"] for one in pair}


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [("+0530", "20260302", "040015"), ("-0800", "20260301", "143015"), ("", "20260301", "223015")],
)
def test_times_are_those_of_the_run_in_the_time_zone_of_the_film(film, tmp_path, offset, date, time) -> None:
    path = film(**({"TimezoneOffsetFromUTC": offset} if offset else {}))
    local = RUN._replace(started=RUN.started.astimezone(timezone(timedelta(hours=3))))
    for file in write(answer(path), tmp_path, local).values():
        written = pydicom.dcmread(file)
        assert (written.ContentDate, written.ContentTime) == (date, time)
        assert (written.InstanceCreationDate, written.InstanceCreationTime) == (date, time)
        assert written.get("TimezoneOffsetFromUTC", "") == offset


@pytest.mark.parametrize("header", [FULL, HOSTILE, {}], ids=["full", "hostile", "plain"])
def test_writing_twice_gives_the_same_bytes(film, tmp_path, header) -> None:
    path = film(**header)
    first, second = write(answer(path), tmp_path / "a"), write(answer(path), tmp_path / "b")
    assert {name: file.read_bytes() for name, file in first.items()} == {
        name: file.read_bytes() for name, file in second.items()
    }


ANOTHER = """
import sys
from pathlib import Path
sys.path[:0] = ["tests"]
from answers import RUN, answer
from medvit.writers import capture, parametric, report, segmentation
result, folder = answer(Path(sys.argv[1])), Path(sys.argv[2])
for write in (
    report.write_report, capture.write_capture, parametric.write_parametric, segmentation.write_segmentation
):
    write(result, folder, RUN)
"""


@pytest.mark.slow
def test_another_process_in_another_time_zone_writes_the_same_bytes(film, tmp_path) -> None:
    path = film(**FULL)
    here = write(answer(path), tmp_path / "here")
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", ANOTHER, path, tmp_path / "there"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, file in here.items():
        assert (tmp_path / "there" / name).read_bytes() == file.read_bytes(), name


def test_the_preamble_is_zero_and_the_meta_information_is_ours(film, tmp_path) -> None:
    for file in write(answer(film()), tmp_path).values():
        content = file.read_bytes()
        assert content[:132] == bytes(128) + b"DICM"
        meta = pydicom.dcmread(file).file_meta
        assert (meta.ImplementationClassUID, meta.ImplementationVersionName) == (dicom.IMPLEMENTATION, "MEDVIT")


@pytest.mark.parametrize("charset", CHARSETS)
def test_names_of_all_scripts_survive(film, tmp_path, charset) -> None:
    stored, name = CHARSETS[charset]
    path = film(SpecificCharacterSet=charset.encode() if charset else None, PatientName=stored)
    assert stored in path.read_bytes()
    for file in write(answer(path), tmp_path / "out").values():
        written = pydicom.dcmread(file)
        assert written.SpecificCharacterSet == "ISO_IR 192"
        assert str(written.PatientName) == name
        assert name.encode() in file.read_bytes()


def test_bytes_that_are_no_text_become_marks_and_not_an_error(film, tmp_path) -> None:
    path = film(SpecificCharacterSet=b"ISO_IR 192", PatientName=b"Ok^\xff\xfe")
    written = pydicom.dcmread(write(answer(path), tmp_path)["report_sr.dcm"])
    assert str(written.PatientName).startswith("Ok^\ufffd")


def test_hostile_text_is_cut_and_cleaned(film, tmp_path) -> None:
    path = film(**HOSTILE)
    for file in write(answer(path), tmp_path).values():
        written = pydicom.dcmread(file)
        assert written.PatientName == "A" * 64
        assert written.PatientID == "1  2026-01-01 INFO forged  [31m"
        assert written.AccessionNumber == "=HYPERLINK(1)sec"
        assert written.StudyID == "gpj.exe"
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            assert written[keyword].value in ("", None)
        assert "PatientAge" not in written
        assert "TimezoneOffsetFromUTC" not in written
        assert written.InstanceNumber == 1
        assert len(written.ContributingEquipmentSequence[0].Manufacturer) <= 64
        assert file.stat().st_size < 500_000


def test_nothing_of_the_patient_is_warned_about_or_logged(film, tmp_path, caplog) -> None:
    secret = "ZZSECRET"
    names = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDescription")
    broken = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "PatientAge")
    path = film(**dict.fromkeys((*names, *broken), f"{secret}\\x".encode()))
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        write(answer(path), tmp_path)
    assert secret in path.read_bytes().decode("latin-1")
    assert not [str(warning.message) for warning in heard if secret in str(warning.message)]
    assert secret not in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        {"StudyInstanceUID": None}, {"SeriesInstanceUID": None}, {"StudyInstanceUID": b"../../etc"},
        {"SOPInstanceUID": b"1.2.ZZSECRET"}, {"SOPClassUID": b"1.2.3.4.5"},
    ],
    ids=["no study", "no series", "study is no UID", "object is no UID", "unknown class"],
)  # fmt: skip
def test_a_film_that_cannot_be_referred_to_is_refused_in_a_sentence(film, tmp_path, header) -> None:
    path = film(**header)
    for writer in WRITERS:
        with pytest.raises(Unanswered) as refusal:
            writer(answer(path), tmp_path / "out", RUN)
        assert refusal.value.reason == "no_reference"
        assert "ZZSECRET" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_about_a_picture_no_object_is_written(tmp_path, suffix) -> None:
    assert write(answer(tmp_path / f"picture{suffix}"), tmp_path / "out") == {}


def test_without_an_answer_nothing_is_written(film, tmp_path) -> None:
    assert write(Result(Case("u", "DX", (film(),))), tmp_path / "out") == {}
    assert write_capture(answer(film(), read=False), tmp_path / "out", RUN) == []


@pytest.mark.parametrize("writer", [write_parametric, write_segmentation])
def test_a_radiograph_lies_on_no_plane_unless_one_is_asked_for(film, tmp_path, writer) -> None:
    with pytest.raises(Unanswered, match="--synthetic-geometry") as refusal:
        writer(answer(film(**FULL)), tmp_path / "out", RUN._replace(synthetic_geometry=False))
    assert refusal.value.reason == "no_plane"
    assert not (tmp_path / "out").exists()


def test_objects_that_need_a_plane_are_refused_before_the_run() -> None:
    with pytest.raises(MedvitError, match="--write pm,seg: radiographs lie on no plane"):
        dicom.refuse_planeless(("sr", "pm", "seg"), ("CR", "DX", ""), False)
    dicom.refuse_planeless(("sr", "pm", "seg"), ("CR", "DX", ""), True)
    dicom.refuse_planeless(("sr", "sc", "heat"), ("CR", "DX", ""), False)
    dicom.refuse_planeless(("pm", "seg"), ("CT",), False)


def test_an_object_that_does_not_read_back_is_not_left(film, tmp_path) -> None:
    written = pydicom.dcmread(write(answer(film()), tmp_path / "a")["report_sr.dcm"])
    for holds in (lambda back: False, lambda back: back.PatientID == "another"):
        with pytest.raises(Unanswered, match="read back"):
            dicom.write_object(tmp_path / "b/report_sr.dcm", written, holds)
    assert list((tmp_path / "b").iterdir()) == []


def test_private_codes_are_said_openly(film, tmp_path) -> None:
    for file in write(answer(film()), tmp_path).values():
        (scheme,) = pydicom.dcmread(file).CodingSchemeIdentificationSequence
        assert scheme.CodingSchemeDesignator == "99MEDVIT"
        assert "medvit" in scheme.CodingSchemeName


def test_uids_are_uuids_under_2_25() -> None:
    uid = dicom.derived_uid("a", "b")
    assert uid == dicom.derived_uid("a", "b") != dicom.derived_uid("ab")
    number = int(uid.removeprefix("2.25."))
    assert number < 2**128
    assert number >> 76 & 0xF == 5  # PS3.5 B.2 asks for a UUID, and this is what its version says


@pytest.mark.real
@pytest.mark.parametrize("name", ["RG1_J2KR.dcm"])
def test_real_films_get_objects_without_errors(tmp_path, name) -> None:
    path = Path(__file__).parents[3] / "shared/data/cxr/open/dicom" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    result = answer(path)
    shape = result.read(result.case).pixels.shape[1:]
    fits = [heat._replace(fit=type(heat.fit)(shape, (32, 32), (0, 0, *shape))) for heat in result.heatmaps]
    big = Result(result.case, result.findings, (), tuple(fits), read=result.read)
    written = write(big, tmp_path)
    assert sorted(written) == NAMES[:-1]
    assert [error for file in written.values() for error in dicom_errors(file)] == []


def test_the_probabilities_of_the_answer_are_probabilities() -> None:
    assert np.isfinite(PROBABILITIES).all()

"""The structured report, judged by highdicom, DCMTK and PixelMed."""

import re
from dataclasses import replace

import pydicom
import pytest
from answers import LABELS, PROBABILITIES, RUN, answer, pixels, said_by, tool
from highdicom.sr import srread
from pydicom.sr.codedict import codes

from medvit.codes import labels_of
from medvit.result import Distance, Finding
from medvit.writers import dicom
from medvit.writers.report import read_report, write_report

PIXELMED = "/usr/share/java/pixelmed.jar"
ALLOWED = (
    # Its TID 1501 has no qualitative evaluations of other names than its own, which the standard leaves open.
    re.compile(r"^Warning: [\d.]+: .*CODE \(705057003,SCT,\"Presence\"\): Content Item not in template$"),
    # Its context group 100 is that of 2019; the code is in today's.
    re.compile(r"^Error: .*Code \(43468-8,LN,\"XR unspecified body region\"\) not found in context group 100$"),
)


@pytest.fixture
def film(make_film, tmp_path):
    return make_film(tmp_path / "in/film.dcm", pixels(), PatientName="Doe^Jane", StudyDate="20260301")


@pytest.fixture
def report(film, tmp_path):
    (path,) = write_report(answer(film), tmp_path / "out", RUN)
    return path


def test_the_report_is_complete_unverified_and_preliminary(report) -> None:
    written = pydicom.dcmread(report)
    assert report.name == "report_sr.dcm"
    assert written.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert written.Modality == "SR"
    assert (written.CompletionFlag, written.VerificationFlag, written.PreliminaryFlag) == (
        "COMPLETE", "UNVERIFIED", "PRELIMINARY",
    )  # fmt: skip
    assert "VerifyingObserverSequence" not in written
    assert written.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert written.SeriesDescription == "AI findings, RESEARCH USE ONLY, NOT FOR DIAGNOSIS"


def test_highdicom_reads_every_label_with_probability_threshold_and_presence(report, film) -> None:
    groups = srread(report).content.get_image_measurement_groups()
    assert len(groups) == 14
    for group, label, probability in zip(groups, LABELS, PROBABILITIES, strict=True):
        assert group.finding_type.value == label.code.value
        assert group.finding_type.scheme_designator == label.code.scheme
        (said,) = group.get_measurements(name=codes.DCM.Probability)
        assert said.value == round(probability, 6)
        assert said.unit == codes.UCUM.NoUnits
        (threshold,) = group.get_measurements(name=dicom.term("threshold"))
        assert threshold.value == 0.5
        (presence,) = group.get_qualitative_evaluations(name=dicom.term("presence"))
        assert presence.value == (codes.SCT.Present if probability >= 0.5 else codes.SCT.Absent)
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == pydicom.dcmread(film).SOPInstanceUID


def test_findings_have_tracking_uids_of_their_own_that_reruns_repeat(report, film, tmp_path) -> None:
    again = write_report(answer(film), tmp_path / "again", RUN._replace(started=RUN.started.replace(year=2027)))[0]
    uids = []
    for path in (report, again):
        groups = srread(path).content.get_image_measurement_groups()
        uids.append([group.tracking_uid for group in groups])
        assert [group.tracking_identifier for group in groups] == [f"medvit {label.name}" for label in LABELS]
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == 14


def test_the_observer_is_the_system_with_its_weights(report) -> None:
    written = srread(report)
    (observer,) = written.content.get_observer_contexts(observer_type=codes.DCM.Device)
    attributes = observer.observer_identifying_attributes
    assert attributes.uid == dicom.device_uid(RUN)
    assert (attributes.name, attributes.manufacturer_name, attributes.model_name) == (
        "ThoraxMAE",
        "medvit",
        "ThoraxMAE",
    )
    assert attributes.serial_number == RUN.digest


def test_the_film_is_the_evidence_and_the_only_one(report, film) -> None:
    source = pydicom.dcmread(film)
    assert srread(report).get_evidence() == [
        (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID, source.SOPClassUID)
    ]


def test_the_procedure_is_the_film_and_not_the_algorithm(report, make_film, tmp_path) -> None:
    assert "43468-8" in said_by([tool("dsrdump"), report])
    scan = make_film(tmp_path / "in/scan.dcm", pixels(), Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    (path,) = write_report(answer(scan), tmp_path / "scan", RUN)
    assert "363679005" in said_by([tool("dsrdump"), path])


def test_dcmtk_shows_who_answered_and_every_finding(report) -> None:
    said = said_by([tool("dsrdump"), "+Pl", report])
    assert said.count('"Algorithm Name")="ThoraxMAE"') == 14
    assert said.count('"Algorithm Version")="0.1.0"') == 14
    assert said.count(f'"Algorithm Parameters")="weights_sha256={RUN.digest}"') == 14
    assert '"Observer Type")=(121007,DCM,"Device")' in said
    assert '"Probability")="0.831235" (1,UCUM,"no units")' in said
    for label in LABELS:
        assert f'({label.code.value},{label.code.scheme},"{label.code.meaning}")' in said


@pytest.mark.slow
def test_pixelmed_finds_no_fault_with_the_template_but_the_allowed(report) -> None:
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprOp", "TotalOp", "ExprGrp")]
    java = [tool("java"), "-Djava.awt.headless=true", *limits, "-cp", tool(PIXELMED)]
    said = said_by([*java, "com.pixelmed.validate.DicomSRValidator", report]).splitlines()
    assert "Found Root Template TID_1500 (MeasurementReport)" in said
    assert "Root Template Validation Complete" in said
    faults = [line for line in said if not any(rule.match(line) for rule in ALLOWED)]
    assert [line for line in faults if re.match("Error|Warning|Exception|.*Abort", line)] == []


def test_a_report_says_what_was_answered_also_for_odd_labels(film, tmp_path) -> None:
    odd = labels_of(["Käse & more", "x" * 80, "Hernia"])
    found = tuple(
        Finding(label._replace(threshold=0.123456789), probability)
        for label, probability in zip(odd, (0.2, 1e-9, 0), strict=True)
    )
    (path,) = write_report(replace(answer(film), findings=found), tmp_path, RUN)
    assert read_report(pydicom.dcmread(path)) == {
        "medvit Käse & more": (0.2, 0.123457, True),
        f"medvit {'x' * 57}": (0.0, 0.123457, False),
        "medvit Hernia": (0.0, 0.123457, False),
    }


def test_a_report_carries_nothing_of_the_film_answered_before(make_film, tmp_path) -> None:
    paths = [
        make_film(tmp_path / f"in/{n}.dcm", pixels(), PatientName=f"Patient^{n}", PatientID=f"ID{n}") for n in (1, 2)
    ]
    first, second = (write_report(answer(path), tmp_path / path.stem, RUN)[0] for path in paths)
    alone = write_report(answer(paths[1]), tmp_path / "alone", RUN)[0]
    assert second.read_bytes() == alone.read_bytes()
    source = pydicom.dcmread(paths[0])
    for value in ("Patient^1", "ID1", source.SOPInstanceUID, source.SeriesInstanceUID, source.StudyInstanceUID):
        assert value.encode() in first.read_bytes()
        assert value.encode() not in second.read_bytes()


@pytest.mark.parametrize("value", [1.2, 3.4])
def test_the_last_group_says_how_far_the_film_lies_from_the_training_cases(film, tmp_path, value) -> None:
    (path,) = write_report(replace(answer(film), distance=Distance(value, 2.0)), tmp_path / "far", RUN)
    *findings, last = srread(path).content.get_image_measurement_groups()
    assert len(findings) == 14
    assert (last.finding_type.value, last.tracking_identifier) == ("UNLIKE-TRAINING", "medvit out of distribution")
    (said,) = last.get_measurements(name=dicom.term("distance"))
    (threshold,) = last.get_measurements(name=dicom.term("threshold"))
    assert (said.value, threshold.value) == (value, 2.0) and not last.get_measurements(name=codes.DCM.Probability)
    presence = [one.value for one in last.get_qualitative_evaluations(name=dicom.term("presence"))]
    assert presence == [dicom.term("present" if value > 2 else "absent")]
    assert read_report(pydicom.dcmread(path))["medvit out of distribution"] == (value, 2.0, value > 2)

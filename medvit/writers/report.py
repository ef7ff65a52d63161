"""The answer for machines: a structured report with every label, its probability and its threshold.

highdicom builds a mould of the report once for a run, with validation of every item; a film's report is the mould with the
film's references and probabilities filled in, which is several times faster.

Source: DICOM PS3.3 A.35.13 (Comprehensive 3D SR), PS3.16 TID 1500 and 1501; IHE AI Results, qualitative findings.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pydicom
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from medvit.codes import TERMS, Label
from medvit.result import Result, Run
from medvit.writers import dicom
from medvit.writers.source import PATIENT, STUDY, Source, open_source

REPORT = dicom.Kind("report", 9001, "AI findings")
DIGITS = 6  # of a probability, as in results.csv
NOWHERE = "2.25.0"  # in a mould, where a film's UID will stand

Said = dict[str, tuple[float, float, bool]]
UNLIKE = "out of distribution"  # what the group is tracked by that says how far the case lies from the training cases


class Row(NamedTuple):
    """What a group of the report says: a number, the threshold that it is compared with, and whether it reaches that."""

    label: Label
    number: float
    positive: bool
    measure: str = "probability"


def write_report(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``report_sr.dcm``: a Comprehensive 3D SR that is complete, unverified and preliminary.

    Nothing is written about a picture, or where there are no findings.
    """
    source = open_source(result.case) if result.findings else None
    if source is None:
        return []
    how = "radiograph" if source.evidence.get("Modality", "") in dicom.PROJECTIONS else "imaging"
    rows = _rows(result)
    mould = _mould(tuple((row.label, row.measure) for row in rows), run, how)
    report = pydicom.dcmread(BytesIO(mould))
    _fill(report, rows, source, run)
    dicom.sign(report, source, run)
    said = {dicom.tracking(source, run, row.label.name)[0]: _numbers(row) for row in rows}
    return [dicom.write_object(folder / "report_sr.dcm", report, lambda back: read_report(back) == said)]


def _rows(result: Result) -> list[Row]:
    """The findings, then the distance from the training cases where the checkpoint knows them."""
    rows = [Row(finding.label, finding.probability, finding.positive) for finding in result.findings]
    if result.distance:
        value, limit = result.distance
        rows.append(Row(Label(UNLIKE, TERMS["unlike"], limit), value, result.distance.far, "distance"))
    return rows


def _numbers(row: Row) -> tuple[float, float, bool]:
    return round(row.number, DIGITS), round(row.label.threshold, DIGITS), row.positive


@lru_cache(maxsize=2)
def _mould(labels: tuple[tuple[Label, str], ...], run: Run, how: str) -> bytes:
    """A report about no film with the probability 0 for each label, encoded.

    Args:
        labels: What the system answers, each with the term of `medvit.codes.TERMS` that its number is.
        run: Who answers.
        how: How the film was made, one of `medvit.codes.TERMS` that is in CID 100: never what the algorithm did.
    """
    nowhere = Dataset()
    nowhere.StudyInstanceUID = nowhere.SeriesInstanceUID = nowhere.SOPInstanceUID = NOWHERE
    nowhere.SOPClassUID = SecondaryCaptureImageStorage
    for keyword in (*PATIENT, *STUDY):
        setattr(nowhere, keyword, None)
    source = Source(nowhere, {})
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=dicom.device_uid(run),
        name=run.system,
        manufacturer_name=dicom.MAKER,
        model_name=run.system,
        serial_number=run.digest,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=dicom.term(how),
        imaging_measurements=[_group(label, measure, source, run) for label, measure in labels],
    )
    report = sr.Comprehensive3DSR(
        evidence=[nowhere],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **dicom.identify(source, run, REPORT),
    )
    report.SpecificCharacterSet = dicom.CHARACTERS  # as `sign` will say: what stays as it is is not encoded again
    file = BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _group(label: Label, measure: str, source: Source, run: Run) -> sr.MeasurementsAndQualitativeEvaluations:
    """One finding. Source: TID 1501."""
    name, uid = dicom.tracking(source, run, label.name)
    algorithm = sr.AlgorithmIdentification(
        name=run.system,
        version=run.version,
        parameters=[f"weights_sha256={run.digest}"],
        family=codes.DCM.ArtificialIntelligence,
    )
    numbers = {measure: 0.0, "threshold": round(label.threshold, DIGITS)}
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
        finding_type=dicom.concept(label.code),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(dicom.term(what), number, dicom.term("no units")) for what, number in numbers.items()
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(dicom.term("presence"), dicom.term("absent"))],
        source_images=[sr.SourceImageForMeasurementGroup(source.evidence.SOPClassUID, source.evidence.SOPInstanceUID)],
    )


def _fill(report: Dataset, rows: Sequence[Row], source: Source, run: Run) -> None:
    """Put a film's references and answers into a mould."""
    evidence = source.evidence
    for name, value in dicom.identify(source, run, REPORT).items():
        setattr(report, dicom.NAMED[name], value)
    report.StudyInstanceUID = evidence.StudyInstanceUID
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    study = report.CurrentRequestedProcedureEvidenceSequence[0]
    study.StudyInstanceUID = evidence.StudyInstanceUID
    series = study.ReferencedSeriesSequence[0]
    series.SeriesInstanceUID = evidence.SeriesInstanceUID
    _refer(series.ReferencedSOPSequence[0], evidence)
    groups, place = _groups(report)
    for row, group in zip(rows, groups, strict=True):
        items = group.ContentSequence
        _, items[place[codes.DCM.TrackingUniqueIdentifier.value]].UID = dicom.tracking(source, run, row.label.name)
        number = items[place[TERMS["probability"].value]].MeasuredValueSequence[0]
        number.NumericValue = number.FloatingPointValue = round(row.number, DIGITS)
        present = dicom.term("present" if row.positive else "absent")
        items[place[TERMS["presence"].value]].ConceptCodeSequence = [present]
        _refer(items[place[codes.DCM.SourceOfMeasurement.value]].ReferencedSOPSequence[0], evidence)


def _refer(item: Dataset, evidence: Dataset) -> None:
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = evidence.SOPClassUID, evidence.SOPInstanceUID


def _groups(report: Dataset) -> tuple[Sequence[Dataset], Mapping[str, int]]:
    """The measurement groups, and where in each the item of a name's code lies: in a report of ours the same place."""
    imaging = next(item for item in report.ContentSequence if _code(item) == codes.DCM.ImagingMeasurements.value)
    groups = imaging.ContentSequence
    return groups, {_code(item): index for index, item in enumerate(groups[0].ContentSequence)}


def _code(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _number(measured: Dataset) -> float:
    """The number that both of its forms say; NaN, which equals nothing, where they differ."""
    number = float(measured.NumericValue)
    return number if number == measured.FloatingPointValue else math.nan


def read_report(report: Dataset) -> Said:
    """What a report of ours says: Tracking Identifier to probability, threshold and whether it is present."""
    said = {}
    groups, place = _groups(report)
    for group in groups:
        items = group.ContentSequence
        probability, threshold = (
            _number(items[place[TERMS[what].value]].MeasuredValueSequence[0]) for what in ("probability", "threshold")
        )
        presence = items[place[TERMS["presence"].value]].ConceptCodeSequence[0].CodeValue
        name = str(items[place[codes.DCM.TrackingIdentifier.value]].TextValue)
        said[name] = (probability, threshold, presence == TERMS["present"].value)
    return said

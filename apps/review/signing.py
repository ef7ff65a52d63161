"""A report of what a reader decided: Comprehensive 3D SR, final, VERIFIED by them, with the AI's report as predecessor.

Source: DICOM PS3.3 C.17.2 (SR document general: verification, predecessor documents), PS3.16 TID 1500, 1501, CID 240.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pydicom
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medvit.case import Case
from medvit.codes import Code
from medvit.errors import Unreferable
from medvit.guard import Reply
from medvit.result import Run
from medvit.writers import dicom
from medvit.writers.source import Source, open_source

SERIES = 9011
PRESENCE = {"present": "present", "absent": "absent"}
ORGANIZATION = "not stated"


def write_verified(
    film: str,
    case: str,
    before: str,
    path: str,
    reviewer: str,
    readings: Sequence[Sequence[str]],
    told: Mapping[str, str],
) -> Reply:
    """Write the report; a duty of a worker process, see `apps.review.pictures.duties`.

    Args:
        film: The film's file.
        case: Its key.
        before: The AI's report of it.
        path: Where to.
        reviewer: Who decided and signs.
        readings: Finding, code, reading, verdict, note and corrected label of each.
        told: ``system``, ``version`` and ``digest`` of the AI, ``at`` and ``hash`` of the last decision.

    Raises:
        Unreferable: For a film that no DICOM object can refer to.
    """
    source = open_source(Case("", "", (Path(film),)))
    if source is None:
        raise Unreferable("picture", "Only films from DICOM have reports.")
    signed = datetime.fromisoformat(told["at"])
    run = Run(told["system"], told["version"], told["digest"], signed)
    predecessor = pydicom.dcmread(before)
    kind = dicom.Kind(f"verified {reviewer} {told['hash']}", SERIES, "Verified findings")
    observer = sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name=f"{reviewer}^"))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=dicom.term(
            "radiograph" if source.evidence.get("Modality", "") in dicom.PROJECTIONS else "imaging"
        ),
        imaging_measurements=[_group(reading, source, run) for reading in readings],
    )
    report = sr.Comprehensive3DSR(
        evidence=[source.evidence],
        content=content,
        is_complete=True,
        is_final=True,
        is_verified=True,
        verifying_observer_name=f"{reviewer}^",
        verifying_organization=ORGANIZATION,
        previous_versions=[predecessor],
        **dicom.identify(source, run, kind),
    )
    dicom.sign(report, source, run, "Answered by a neural network, read and decided by a person.")
    for item in report.VerifyingObserverSequence:
        item.VerifyingObserverName = reviewer
        item.VerificationDateTime = signed.strftime("%Y%m%d%H%M%S+0000")
    said = [[one[0], one[2]] for one in readings]
    dicom.write_object(Path(path), report, lambda back: read_verified(back) == said)
    return Reply({"sop": str(report.SOPInstanceUID), "case": case})


def _group(reading: Sequence[str], source: Source, run: Run) -> sr.MeasurementsAndQualitativeEvaluations:
    """One finding as the reader decided it, under the tracking UID that the AI's finding has."""
    finding, code, said, verdict, note, corrected = reading
    name, uid = dicom.tracking(source, run, finding)
    scheme, _, value = code.partition(":")
    presence = dicom.term(PRESENCE[said]) if said in PRESENCE else dicom.coded(codes.SCT.Undetermined)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
        finding_type=dicom.concept(Code(value, scheme, finding)),
        qualitative_evaluations=[sr.QualitativeEvaluation(dicom.term("presence"), presence)],
        source_images=[sr.SourceImageForMeasurementGroup(source.evidence.SOPClassUID, source.evidence.SOPInstanceUID)],
    )
    words = [f"AI finding: {verdict}", *([f"should be: {corrected}"] if corrected else []), *([note] if note else [])]
    comment = sr.TextContentItem(codes.DCM.Comment, "; ".join(words)[:1024], sr.RelationshipTypeValues.CONTAINS)
    group[0].ContentSequence.append(comment)
    return group


def read_verified(report: Dataset) -> list[list[str]]:
    """What such a report says: finding and reading of each group."""
    imaging = next(
        item for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurements.value
    )  # fmt: skip
    words = {dicom.term("present").value: "present", dicom.term("absent").value: "absent"}
    found = []
    for group in imaging.ContentSequence:
        held = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
        name = str(held[codes.DCM.TrackingIdentifier.value].TextValue).removeprefix(f"{dicom.MAKER} ")
        presence = held[dicom.term("presence").value].ConceptCodeSequence[0].CodeValue
        found.append([name, words.get(presence, "uncertain")])
    return found

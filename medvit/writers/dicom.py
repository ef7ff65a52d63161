"""What every written DICOM object shares: its UIDs, who answered and when, and that it reads back.

Source: DICOM PS3.3 C.12.1 (SOP common), C.7.5 (equipment); IHE AI Results (contributing equipment).
"""

import hashlib
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as Standard

from medvit import NOTICE
from medvit.atomic import whole
from medvit.codes import PRIVATE, TERMS, Code
from medvit.errors import MedvitError, Unanswered, Unreferable
from medvit.result import Run
from medvit.writers.source import REFERENCE, Source

MAKER = "medvit"
CHARACTERS = "ISO_IR 192"  # UTF-8
IMPLEMENTATION = "2.25.253417650114106530312871219286573026419"
WARNING = "RESEARCH USE ONLY, NOT FOR DIAGNOSIS"
NEED_PLANE = ("pm", "seg")  # objects whose pixels lie on a plane in space
SYNTHETIC = "SYNTHETIC GEOMETRY for viewers, NOT FOR MEASURING"
HOW_PLANE = (
    f"Leave {' and '.join(NEED_PLANE)} out of --write, or add --synthetic-geometry: a plane is invented for viewers, which the "
    "objects say, and nothing may be measured on it."
)
PROJECTIONS = frozenset({"CR", "DX", "DR", "MG", "PX", "IO", "RF", "RG", "XA"})  # modalities without such a plane

# What `identify` says, by the names of highdicom's builders and by the standard's.
NAMED = {
    "series_instance_uid": "SeriesInstanceUID",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "sop_instance_uid": "SOPInstanceUID",
    "instance_number": "InstanceNumber",
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "software_versions": "SoftwareVersions",
    "device_serial_number": "DeviceSerialNumber",
}


class Kind(NamedTuple):
    """A kind of written object: its name in UIDs, the number of its series and how the series is called."""

    name: str
    series_number: int
    title: str


def derived_uid(*parts: str) -> str:
    """A UID that the parts always lead to. Source: DICOM PS3.5 annex B.2 (UUID under 2.25)."""
    digest = hashlib.sha256("\0".join((MAKER, *parts)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def device_uid(run: Run) -> str:
    """The Device UID of a system with its weights."""
    return derived_uid("device", run.system, run.digest)


def tracking(source: Source, run: Run, label: str) -> tuple[str, str]:
    """Tracking Identifier and UID of a finding: the same in every object and every rerun."""
    return f"{MAKER} {label}"[:64], derived_uid("finding", source.evidence.SOPInstanceUID, run.digest, label)


def identify(source: Source, run: Run, kind: Kind) -> dict[str, Any]:
    """What a builder needs to know of an object: its UIDs, its series and its maker."""
    evidence = source.evidence
    return {
        "series_instance_uid": derived_uid("series", evidence.SeriesInstanceUID, run.digest, kind.name),
        "series_number": kind.series_number,
        "series_description": f"{kind.title}, {WARNING}"[:64],
        "sop_instance_uid": derived_uid("object", evidence.SOPInstanceUID, run.digest, kind.name),
        "instance_number": max(int(evidence.get("InstanceNumber") or 1), 1),
        "manufacturer": MAKER,
        "manufacturer_model_name": run.system,
        "software_versions": run.version,
        "device_serial_number": run.digest[:64],
    }


def sign(dataset: Dataset, source: Source, run: Run, told: str = "") -> None:
    """Say whose film the object is about and who made it when, the same way in every run.

    Times are those of the run's start: in the source's time zone where it names one, else in UTC. ``told`` says what was done;
    without it, that a network answered alone.
    """
    meta = dataset.file_meta
    meta.ImplementationClassUID, meta.ImplementationVersionName = pydicom.uid.UID(IMPLEMENTATION), "MEDVIT"
    dataset.SpecificCharacterSet = CHARACTERS
    for keyword, value in source.identity.items():
        dataset.add_new(keyword, dictionary_VR(keyword), value)  # never into an element that the evidence shares
    started = run.started.astimezone(_zone(source.identity.get("TimezoneOffsetFromUTC", "")))
    for date, time in (
        ("InstanceCreationDate", "InstanceCreationTime"),
        ("ContentDate", "ContentTime"),
        ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    ):
        if date in dataset:
            setattr(dataset, date, started.strftime("%Y%m%d"))
            setattr(dataset, time, started.strftime("%H%M%S"))
    for item in (*dataset.get("DimensionOrganizationSequence", ()), *dataset.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = derived_uid("dimensions", dataset.SOPInstanceUID)  # the builder draws one
    dataset.ContributingEquipmentSequence = _equipment(source, run, told)
    dataset.CodingSchemeIdentificationSequence = [
        CodingSchemeIdentificationItem(
            PRIVATE, name="Private codes of medvit", responsible_organization="medvit, an open-source project"
        )
    ]


def name_body_part(image: Dataset, source: Source) -> None:
    """Say of an image which part and side it shows, as far as the source does."""
    for keyword in ("BodyPartExamined", "Laterality"):
        if keyword in source.evidence:
            setattr(image, keyword, source.evidence[keyword].value)
    if "BodyPartExamined" not in image and "Laterality" not in image:
        image.Laterality = ""  # unknown, and the part might be a paired one


def _zone(offset: str) -> timezone:
    if not offset:
        return UTC
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))


def _equipment(source: Source, run: Run, told: str) -> list[ContributingEquipment]:
    """What made the film, what answered it and what wrote the object. Source: IHE AI Results, DICOM CID 7005."""
    when = run.started.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
    answered = ContributingEquipment(
        MAKER,
        codes.DCM.ProcessingEquipment,
        manufacturer_model_name=run.system,
        software_versions=run.version,
        device_serial_number=run.digest[:64],
        contribution_datetime=when,
        contribution_description=f"{told or 'Answered by a neural network, no human in between.'} {NOTICE}",
    )
    answered.DeviceUID = device_uid(run)
    wrote = ContributingEquipment.for_highdicom()
    del wrote.ContributionDateTime  # it would be the time of writing
    made = [ContributingEquipment.for_image_acquisition(source.evidence)] if "Manufacturer" in source.evidence else []
    return [*made, answered, wrote]


def placed(source: Source, shape: tuple[int, ...], run: Run) -> tuple[Dataset, str]:
    """The evidence of a film on its plane in space, its own or an invented one, and what a reader must know of that.

    The invented plane is where OHIF puts a film that says nothing, so that the map lies over it there: the axial one at
    the origin, though no film is axial; the letters that a viewer draws at its edges mean nothing. Pixels are as far apart
    as the film says, which for radiographs is on the detector. Its frame of reference is the same in every object about
    the film.

    Args:
        source: The film's header.
        shape: Rows and columns of the film.
        run: Whether it invents planes.

    Raises:
        Unreferable: When there is none and none may be invented.
    """
    image = Dataset()
    image.update(source.evidence)
    image.Rows, image.Columns = shape
    image.SliceThickness = image.get("SliceThickness", 1)  # asked for by the builder; a frame of ours has no neighbours
    if "PixelSpacing" in image and "ImagePositionPatient" in image:
        return image, "Plane of the source image"
    if not run.synthetic_geometry:
        raise Unreferable("no_plane", f"It lies on no plane in space. {HOW_PLANE}")
    image.PixelSpacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing") or [1, 1]
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    image.FrameOfReferenceUID = derived_uid("plane", image.SOPInstanceUID)
    return image, SYNTHETIC


def algorithm(run: Run) -> AlgorithmIdentificationSequence:
    """Name, version and weights of the system. Source: DICOM PS3.3 section 10.16."""
    return AlgorithmIdentificationSequence(
        name=run.system,
        version=run.version,
        family=codes.DCM.ArtificialIntelligence,
        source=MAKER,
        parameters={"weights_sha256": run.digest},
    )


def concept(code: Code) -> CodedConcept:
    """A code as an item of a DICOM sequence."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def coded(code: Standard) -> CodedConcept:
    """One of pydicom's codes as an item of a DICOM sequence."""
    return CodedConcept.from_code(code)


def term(name: str) -> CodedConcept:
    """One of the concepts of `medvit.codes.TERMS`."""
    return concept(TERMS[name])


def refuse_planeless(write: Collection[str], modalities: Collection[str], synthetic_geometry: bool) -> None:
    """Refuse, before a run begins, objects that its films cannot have.

    Args:
        write: What the user asked to be written.
        modalities: What the system answers.
        synthetic_geometry: Whether the user asked for an invented plane.

    Raises:
        MedvitError: When an object needs a plane in space and the system answers nothing but projections.
    """
    asked = [name for name in NEED_PLANE if name in write]
    if asked and not synthetic_geometry and PROJECTIONS & set(modalities) and set(modalities) <= {*PROJECTIONS, ""}:
        raise MedvitError(
            f"--write {','.join(asked)}: radiographs lie on no plane in space, which these objects need. {HOW_PLANE}"
        )


def write_object(path: Path, dataset: Dataset, holds: Callable[[Dataset], bool]) -> Path:
    """Write an object whole, and only when it reads back as it was meant.

    Args:
        path: Where to.
        dataset: The object.
        holds: Whether the object that was read back holds the answer.

    Raises:
        Unanswered: When it does not.
    """
    keywords = (*REFERENCE, "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "SeriesNumber")
    with whole(path) as part:
        dataset.save_as(part, enforce_file_format=True)
        back = pydicom.dcmread(part)
        if any(back.get(keyword) != dataset.get(keyword) for keyword in keywords) or not holds(back):
            raise Unanswered("unwritten", f"{path.name} does not read back as it was meant. Please report this.")
    return path

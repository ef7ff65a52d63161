"""The header of the film that was answered, as far as written objects repeat it.

Patient and study are copied as the standard asks, but as text of our own making: decoded, without control characters, cut to
what the standard allows, to be written as UTF-8. The library that builds the objects never sees them, since its warnings
would quote them.

Source: DICOM PS3.3 C.7.1 (patient), C.7.2 (study), PS3.5 section 6.1 (character sets) and 6.2 (lengths of values).
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from medvit.case import CLIPS, NIFTI, PICTURES, SLIDES, UID, Case
from medvit.errors import Unreferable
from medvit.readers.survey import survey

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")  # written empty where unknown, as is STUDY
STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")
MORE = (  # written where known
    "IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDescription",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName", "InstitutionName",
)  # fmt: skip
REFERENCE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
LATERALITY = ("Laterality", "ImageLaterality")
PLANE = ("PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")
OTHER = ("SpecificCharacterSet", "Modality", "BodyPartExamined", "InstanceNumber", "PatientOrientation")
WANTED = (*PATIENT, *STUDY, *MORE, *EQUIPMENT, *REFERENCE, *LATERALITY, *PLANE, *OTHER)

LONGEST = {"LO": 64, "SH": 16, "PN": 64, "CS": 16, "IS": 12, "UI": 64}  # characters a value
ALLOWED = {
    "PatientSex": r"[MFO]",
    "PatientIdentityRemoved": r"YES|NO",
    "Laterality": r"[RL]",
    "ImageLaterality": r"[RLUB]",
    "TimezoneOffsetFromUTC": r"[+-](0\d|1[0-4])[0-5]\d",
    "PatientAge": r"\d{3}[DWMY]",
    "InstanceNumber": r"\d{1,9}",
}
CLOCK = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
JOINERS = "\u200c\u200d"  # letters of names in several scripts lean on them


class Source(NamedTuple):
    """The header of the film that was answered.

    Args:
        evidence: What the builder of objects needs: references, equipment, laterality, geometry; nobody's name.
        identity: Patient and study, clean text by keyword.
    """

    evidence: Dataset
    identity: Mapping[str, str]


def open_source(case: Case) -> Source | None:
    """The header of a case's first file; None for a picture, video or slide of another format: no DICOM object can refer to it.

    Raises:
        Unreferable: When the header has no UIDs that an object could refer to.
    """
    if case.files[0].name.lower().endswith((*CLIPS, *PICTURES, *SLIDES, *NIFTI)):
        return None
    raw = _raw_values(case.files[0])
    encodings = _encodings(raw.get("SpecificCharacterSet", b""))
    text = {keyword: _clean(keyword, _decode(value, encodings)) for keyword, value in raw.items()}
    for keyword in REFERENCE:
        if not UID.fullmatch(text.get(keyword, "")):
            raise Unreferable(
                "no_reference", f"Its {keyword} is missing or no UID, so that no DICOM object can refer to it."
            )
    if pydicom.uid.UID(text["SOPClassUID"]).type != "SOP Class":
        raise Unreferable("no_reference", "Its SOP class is none of the standard's; no DICOM object can refer to it.")
    identity = {keyword: text.get(keyword, "") for keyword in (*PATIENT, *STUDY)}
    identity |= {keyword: text[keyword] for keyword in MORE if text.get(keyword)}
    if identity.get("PatientIdentityRemoved") == "YES":
        identity.setdefault("DeidentificationMethod", "See the source image")
    return Source(_evidence(text), identity)


def _raw_values(path: Path) -> dict[str, bytes]:
    """Values of the wanted elements as they lie in the file; all of them are text."""
    tags = {tag_for_keyword(keyword) or 0: keyword for keyword in WANTED}
    found = survey(path, tags, max(tags) + 1).values
    return {keyword: found[tag] for tag, keyword in tags.items() if tag in found}


def _evidence(text: Mapping[str, str]) -> Dataset:
    evidence = Dataset()
    for keyword in (*PATIENT, *STUDY):
        setattr(evidence, keyword, None)
    for keyword in (*REFERENCE, *EQUIPMENT, *LATERALITY, "Modality", "BodyPartExamined", "InstanceNumber"):
        if text.get(keyword):
            setattr(evidence, keyword, text[keyword])
    sides = text.get("PatientOrientation", "").split("\\")
    if len(sides) == 2 and all(re.fullmatch(r"[A-Z]{1,3}", side) for side in sides):
        evidence.PatientOrientation = sides
    for keyword, count in (("PixelSpacing", 2), ("ImagerPixelSpacing", 2)):
        numbers = _numbers(text.get(keyword, ""), count)
        if numbers and min(numbers) > 0:
            setattr(evidence, keyword, numbers)
    position = _numbers(text.get("ImagePositionPatient", ""), 3)
    orientation = _numbers(text.get("ImageOrientationPatient", ""), 6)
    if position and orientation and UID.fullmatch(text.get("FrameOfReferenceUID", "")):
        evidence.FrameOfReferenceUID = text["FrameOfReferenceUID"]
        evidence.ImagePositionPatient, evidence.ImageOrientationPatient = position, orientation
    return evidence


def _numbers(text: str, count: int) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(abs(number) < 1e5 for number in numbers) else None


def _encodings(raw: bytes) -> list[str]:
    """Python's encodings for a Specific Character Set; none where no value of it is known."""
    names = [name.strip() for name in raw.decode("ascii", "replace").split("\\")]
    names = [re.sub(r"^ISO[ _-]?(2022[ _-])?IR[ _-]?(\d+)$", _spelled, name) for name in names]
    known = [name for name in names if name in python_encoding]
    return list(convert_encodings(known)) if any(known) else []


def _spelled(found: re.Match[str]) -> str:
    return f"ISO 2022 IR {found[2]}" if found[1] else f"ISO_IR {found[2]}"


def _decode(value: bytes, encodings: list[str]) -> str:
    """Text of a whole value, so that a multi-byte character may hold the byte of a backslash; never an error."""
    if not encodings:  # undeclared or unknown: what is valid UTF-8 nearly always is, and Latin-1 is always valid
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return decode_bytes(value, encodings, {ord(c) for c in "\r\n\t\f^="})


def _clean(keyword: str, text: str) -> str:
    """A value as the standard allows it; "" where it does not allow it at all."""
    vr = dictionary_VR(keyword)
    several = keyword in PLANE or keyword == "PatientOrientation"
    text = "".join(_character(c) for c in text if several or c != "\\").strip()
    if vr == "DA":
        return _date(text.replace(".", ""))
    if vr == "TM":
        clock = text.replace(":", "")
        return clock if CLOCK.fullmatch(clock) else ""
    if keyword in ALLOWED:
        return text if re.fullmatch(ALLOWED[keyword], text) else ""
    if vr == "CS" and not several:
        return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else ""
    if vr == "PN":
        groups = ["^".join(group.split("^")[:5])[: LONGEST["PN"]].strip() for group in text.split("=")[:3]]
        return "=".join(groups).rstrip("=")
    return text if several else text[: LONGEST.get(vr, 64)].strip()


def _character(c: str) -> str:
    category = unicodedata.category(c)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return c if category[0] != "C" or c in JOINERS else ""  # no surrogates, no reversed directions


def _date(text: str) -> str:
    try:
        return datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d") if len(text) == 8 else ""
    except ValueError:
        return ""

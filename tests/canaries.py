"""Films full of values that must turn up nowhere, and the search for them in whatever form they might turn up."""

import base64
import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from conftest import _make_film
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, EncapsulatedPDFStorage, EnhancedSRStorage
from tiny import SECRET, draw

PATH = "ZZPATH"  # in names of files and folders, which only the columns that name the source may hold
BIRTH = "19010203"
NUMBERS = {"PatientBirthDate": BIRTH, "PatientBirthTime": "031927.265358", "PatientTelephoneNumbers": "0177-5550199-31",
           "PatientWeight": "73.31337", "PatientSize": "1.7313377"}  # fmt: skip
# Text that is seeded with SECRET and a number; what the reader or a viewer needs is left alone.
NAMES = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson",
    "ReferringPhysicianName", "ConsultingPhysicianName", "PhysiciansOfRecord", "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy", "OperatorsName", "RequestingPhysician", "NamesOfIntendedRecipientsOfResults",
    "ScheduledPerformingPhysicianName", "HumanPerformerName", "VerifyingObserverName", "PersonName",
)  # fmt: skip
TEXTS = (
    "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription",
    "ProtocolName", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "DeviceSerialNumber", "PatientAddress", "MilitaryRank", "BranchOfService", "CountryOfResidence",
    "RegionOfResidence", "EthnicGroup", "Occupation", "PatientReligiousPreference", "PatientComments",
    "AdditionalPatientHistory", "MedicalAlerts", "Allergies", "MedicalRecordLocator", "InsurancePlanIdentification",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "RequestingService", "RequestedProcedureID",
    "RequestedProcedureDescription", "PerformedProcedureStepID", "PerformedProcedureStepDescription",
    "AdmittingDiagnosesDescription", "AdmissionID", "CurrentPatientLocation", "PatientInstitutionResidence",
    "PatientState", "ReasonForTheRequestedProcedure", "IdentifyingComments", "ImageComments", "DerivationDescription",
    "ResponsibleOrganization", "DetectorID", "PlateID", "CassetteID", "SpecialNeeds", "VisitComments", "StudyComments",
    "ServiceEpisodeID", "RouteOfAdmissions", "PerformedStationAETitle", "RetrieveAETitle", "TextString", "TextValue",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "ManufacturerModelName",
)  # fmt: skip
# Character sets with a name in each whose bytes are not those of UTF-8, and with one whose are.
CHARACTERS = {
    "ISO_IR 192": "Ünïcödé^山田",
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 144": "Иванова",
    "GB18030": "王^小东",
    "ISO 2022 IR 6\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎",
}
UNDECODED = ("Müller^Jörg", "Иванова", "王^小东", "山田^太郎", "Ünïcödé")

# Elements of written objects that repeat the source: PS3.3 C.7.1.1, C.7.2.1, and the device in contributing equipment.
COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyID",
    "AccessionNumber", "StudyDescription", "ReferringPhysicianName", "ContributingEquipmentSequence",
)  # fmt: skip


class Seeds:
    """Values, each with a number of its own."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"{SECRET}{self.count:02d}"


def seed(path: Path, characters: str = "ISO_IR 192") -> int:
    """Fill a film with values and return how many; its UIDs, pixels and what says how to read them stay."""
    new, film = Seeds(), pydicom.dcmread(path)
    film.SpecificCharacterSet = characters.split("\\")
    for keyword in NAMES:
        setattr(film, keyword, f"{new()}^{CHARACTERS[characters]}")
    for keyword in TEXTS:
        setattr(film, keyword, [new()] if dictionary_VR(keyword) == "UT" else new())
    for keyword, value in NUMBERS.items():
        setattr(film, keyword, value)
        new.count += 1
    film.RequestAttributesSequence = [_item(ScheduledProcedureStepID=new(), ScheduledProcedureStepDescription=new())]
    film.OtherPatientIDsSequence = [_item(PatientID=new()), _item(PatientID=new(), IssuerOfPatientID=new())]
    code = _item(CodeValue=new(), CodingSchemeDesignator="99X", CodeMeaning=new())
    film.OperatorIdentificationSequence = [_item(PersonIdentificationCodeSequence=[code], InstitutionName=new())]
    modified = _item(PatientName=new(), PatientID=new())
    deep = _item(ModifiedAttributesSequence=[modified], ModifyingSystem=new(), SourceOfPreviousValues=new())
    film.OriginalAttributesSequence = [deep]
    private = film.private_block(0x0009, new(), create=True)
    private.add_new(0x01, "LO", new())
    private.add_new(0x02, "PN", f"{new()}^Private")
    private.add_new(0x03, "UN", new().encode())
    private.add_new(
        0x04, "SQ", Sequence([_item(PatientName=new(), RequestAttributesSequence=[_item(TextValue=new())])])
    )
    film.private_block(0x0029, new(), create=True).add_new(0x10, "OB", new().encode() + b"\0" * 2)
    film.add_new(0x60000010, "US", 8)  # an overlay
    film.add_new(0x60000022, "LO", new())
    film.add_new(0x60001500, "LO", new())
    film.add_new(0x60004000, "LT", new())
    film.add_new(0x00104000, "LT", new())
    film.add_new(0xFFFCFFFC, "OB", new().encode())
    film.file_meta.SourceApplicationEntityTitle = new()
    film.file_meta.SendingApplicationEntityTitle = new()
    film.file_meta.PrivateInformationCreatorUID = "2.25.9"
    film.file_meta.PrivateInformation = new().encode()
    film.preamble = f"II*\0{new()}".encode().ljust(128, b"\0")
    film.save_as(path)
    return new.count


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def film(
    path: Path, number: int, characters: str = "ISO_IR 192", pixels: np.ndarray | None = None, **more: Any
) -> Path:
    """A seeded film; ``more`` as for `conftest.make_film`, written after the seeds, so that headers may lie."""
    drawn = draw(number, bool(number % 2), True) if pixels is None else pixels
    _make_film(path, drawn, bits=8)
    seed(path, characters)
    if more:
        from conftest import _set

        seeded = pydicom.dcmread(path)
        for keyword, value in more.items():
            _set(seeded, keyword, value)
        seeded.save_as(path)
    return path


def inbox(folder: Path) -> Path:
    """Seeded inputs of every kind: good, rejected, damaged, unreadable, of other kinds, pictures, an archive."""
    home = folder / f"{PATH}1^Doe" / f"{PATH}2"
    for number, characters in enumerate(CHARACTERS):
        film(home / f"{PATH}3 good {number}.dcm", number, characters)
    raw = SECRET.encode() + b"77"
    lies: dict[str, dict[str, Any]] = {
        "modality": {"Modality": raw}, "body": {"BodyPartExamined": raw}, "view": {"ViewPosition": raw},
        "photometric": {"PhotometricInterpretation": raw}, "rows": {"Rows": raw}, "frames": {"NumberOfFrames": raw},
        "window": {"WindowCenter": raw, "WindowWidth": raw}, "rescale": {"RescaleSlope": raw, "RescaleIntercept": raw},
        "voi": {"VOILUTFunction": raw, "WindowCenter": 9, "WindowWidth": 9}, "spacing": {"PixelSpacing": raw},
        "sop": {"SOPInstanceUID": raw}, "study": {"StudyInstanceUID": raw}, "class": {"SOPClassUID": raw},
        "pixels": {"PixelData": None}, "columns": {"Columns": raw}, "charset": {"SpecificCharacterSet": raw},
        "age": {"PatientAge": raw, "PatientBirthDate": raw, "StudyDate": raw, "TimezoneOffsetFromUTC": raw},
        "sr": {"Modality": "SR", "SOPClassUID": EnhancedSRStorage, "PixelData": None},
        "pdf": {"Modality": "DOC", "SOPClassUID": EncapsulatedPDFStorage, "PixelData": None, "EncapsulatedDocument": raw},
    }  # fmt: skip
    for number, (name, elements) in enumerate(lies.items(), 20):
        film(home / "lies" / f"{PATH} {name}.dcm", number, **elements)
    whole = film(home / f"{PATH} a.dcm", 60).read_bytes()
    (home / f"{PATH} again.dcm").write_bytes(whole)
    for name, content in {
        "truncated.dcm": whole[:-800], "headless.dcm": whole[:900], "garbage.dcm": whole[:132] + raw * 300,
        "swapped.dcm": whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"),
        "unknown.dcm": whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
        "deflated.dcm": whole.replace(b"1.2.840.10008.1.2.1\0", DeflatedExplicitVRLittleEndian.encode()[:20].ljust(20)),
        "letter.pdf": b"%PDF-1.7 " + raw, "text.dcm": raw, "broken.png": b"\x89PNG\r\n\x1a\n" + raw * 9,
        "broken.jpg": b"\xff\xd8\xff\xfe\0\x20" + raw * 9, "broken.zip": b"PK\x03\x04" + raw * 9,
    }.items():  # fmt: skip
        (home / f"{PATH} {name}").write_bytes(content)
    pictures(home)
    with zipfile.ZipFile(home / f"{PATH}.zip", "w") as archive:
        archive.comment = raw
        archive.write(film(folder.parent / "outside.dcm", 90), f"{PATH}9/inner.dcm")
    return folder


def pictures(home: Path) -> None:
    """A PNG and a JPEG with every kind of text that they can carry."""
    raw, info = SECRET + "88", PngInfo()
    info.add_text("Comment", raw)
    info.add_itxt("Description", raw)
    info.add_text("Packed", raw * 20, zip=True)
    picture = Pillow.fromarray(draw(70, True, False))
    exif = picture.getexif()
    exif[0x010E], exif[0x013B] = raw, raw  # description and artist
    picture.save(home / f"{PATH} film.png", pnginfo=info, exif=exif)
    picture.save(home / f"{PATH} film.jpg", exif=exif, comment=raw.encode(), quality=95)


def forms(word: str) -> list[bytes]:
    """A word as it might be written; all but the base64 ones in lower case."""
    text = word.lower()
    return [
        text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be"), text.encode("utf-32-le"),
        word.encode().hex().encode(), "".join(f"%{ord(c):02x}" for c in word).encode(),
        "".join(f"\\x{ord(c):02x}" for c in word).encode(), "".join(f"\\u{ord(c):04x}" for c in word).encode(),
        "".join(f"&#{ord(c)};" for c in word).encode(), "".join(f"&#x{ord(c):x};" for c in word).encode(),
    ]  # fmt: skip


def encoded(word: str) -> list[bytes]:
    """A word inside text that was encoded by base64, wherever it began."""
    return [base64.b64encode(b"\0" * skip + word.encode())[(4 if skip else 0) :][:8] for skip in range(3)]


def words() -> list[str]:
    """What is searched for in files: seeds, numbers that stand for a person, and names in other letters."""
    return [SECRET, *NUMBERS.values(), "1901-02-03", "03.02.1901"]


def found(content: bytes, wanted: list[str]) -> list[str]:
    """Which of the words some bytes hold, in any form."""
    lower = content.lower()
    hits = [word for word in wanted if any(form in lower for form in forms(word))]
    hits += [f"{word} in base64" for word in wanted if any(form in content for form in encoded(word))]
    if wanted and wanted[0] == SECRET:
        hits += [name for name in UNDECODED if name.encode() in content or json.dumps(name)[1:-1].encode() in content]
    return hits


def layers(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file and of what is packed in it; of a written DICOM object, all but what it must copy."""
    if path.name.endswith(".dcm.part"):
        return  # an object that a kill cut short; the next run in the folder takes it away
    content = path.read_bytes()
    if path.suffix == ".dcm":
        written = pydicom.dcmread(path)
        for keyword in COPIED:
            if keyword in written:
                del written[keyword]
        rest = io.BytesIO()
        written.save_as(rest)
        yield str(path), rest.getvalue()
        return
    yield str(path), content
    if zipfile.is_zipfile(path):  # npz and ckpt
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path}:{name}", name.encode() + archive.read(name)
    if path.suffix == ".png":
        with Pillow.open(path) as picture:
            yield f"{path}:texts", repr(picture.info).encode()


def without_sources(path: Path) -> bytes:
    """A file without the fields that name the input."""
    text = path.read_bytes()
    if path.name == "run.json":
        return json.dumps(json.loads(text) | {"inputs": []}).encode()
    if path.name == "records.jsonl":
        return b"".join(json.dumps(json.loads(line) | {"source": ""}).encode() for line in text.splitlines())
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text.decode(), newline=""))
        return repr([{**row, "source": "", "path": ""} for row in rows]).encode()
    return text


def leaks(*folders: Path) -> list[tuple[str, list[str]]]:
    """Files with seeded values in them or in their names, and which."""
    told = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder)).encode()
            told.append((f"name of {path}", found(name, [*words(), PATH])))
            if path.is_file() and not path.is_symlink():
                told += [(layer, found(content, words())) for layer, content in layers(path)]
                told.append((f"{path} but for sources", found(without_sources(path), [PATH])))
    return [(where, hits) for where, hits in told if hits]

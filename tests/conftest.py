"""Tiny DICOM films for every test."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom
import pytest
import tiny
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

# Whatever medvit writes it syncs to the disk, which takes 10 ms a file; tests write into memory where there is room for it.
MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


class MakeFilm(Protocol):
    """See `make_film`."""

    def __call__(
        self,
        path: Path,
        pixels: np.ndarray,
        photometric: str = "MONOCHROME2",
        bits: int = 12,
        signed: bool = False,
        syntax: str = ExplicitVRLittleEndian,
        **keyword_elements: Any,
    ) -> Path: ...


@pytest.fixture
def make_film() -> MakeFilm:
    """Writes a valid DX film and returns its path.

    Args of what it returns:
        path: Where to; parents are made. UIDs derive from it.
        pixels: Stored values (H, W), or (H, W, 3) for colour, or (frames, H, W) beside ``NumberOfFrames``.
        photometric: Photometric Interpretation.
        bits: Bits Stored; up to 8 are allocated 8 bits, others 16.
        signed: Pixel Representation.
        syntax: Transfer syntax; the pixels are compressed where it asks for that and pydicom has an encoder.
        keyword_elements: Further elements by keyword, written last, so that a header may lie. None takes an element
            out; bytes of a textual or numeric element are written as they are, valid or not.
    """
    return _make_film


def _make_film(
    path: Path,
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    bits: int = 12,
    signed: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    **keyword_elements: Any,
) -> Path:
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    allocated = 8 if bits <= 8 else 16
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    for level in ("Study", "Series", "SOP"):
        number = int.from_bytes(hashlib.sha256(f"{level} {path}".encode("utf-8", "surrogateescape")).digest()[:16])
        setattr(film, f"{level}InstanceUID", UID(f"2.25.{number}"))
    film.PatientName, film.PatientID = "Doe^Jane", "DOE-0001"
    film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", "PA"
    film.PresentationIntentType = "FOR PRESENTATION"
    film.Rows, film.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    film.SamplesPerPixel, film.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour:
        film.PlanarConfiguration = 0
    film.BitsAllocated, film.BitsStored, film.HighBit = allocated, bits, bits - 1
    film.PixelRepresentation = int(signed)
    content = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    film.PixelData = content + b"\0" * (len(content) % 2)
    film["PixelData"].VR = "OB" if allocated == 8 else "OW"
    if UID(syntax).is_encapsulated:
        film.compress(UID(syntax), generate_instance_uid=False)
    else:
        film.file_meta.TransferSyntaxUID = UID(syntax)
    for keyword, value in keyword_elements.items():
        _set(film, keyword, value)
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID
    film.file_meta.MediaStorageSOPInstanceUID = film.get("SOPInstanceUID", "2.25.1")
    path.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(path, enforce_file_format=True)
    return path


def _set(film: Dataset, keyword: str, value: Any) -> None:
    tag, vr = Tag(tag_for_keyword(keyword) or 0), dictionary_VR(keyword)
    if value is None:
        film.pop(tag, None)
    elif isinstance(value, bytes) and vr not in ("OB", "OW", "UN", "OB or OW"):
        value += b" " * (len(value) % 2)
        film[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    else:
        with pydicom.config.disable_value_validation():
            setattr(film, keyword, value)


@dataclass(frozen=True)
class Trained:
    """A folder with tiny films, ``pre.yaml`` and ``fine.yaml``, both trained into ``runs`` by one command."""

    folder: Path
    err: str

    @property
    def run(self) -> Path:
        """What fine.yaml left."""
        return self.folder / "runs" / "fine"

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint of fine.yaml."""
        return self.run / "best.ckpt"


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny films, a table and two workflows; the test split holds a file that nobody can read."""
    folder = tmp_path_factory.mktemp("work")
    rows: list[tuple[object, ...]] = []
    for index, split in enumerate(["train"] * 24 + ["val"] * 12 + ["test"] * 2):
        mass, effusion = index % 2, index // 2 % 2
        path, patient = f"films/{index:02d}.dcm", f"{tiny.SECRET}{index // 2}"
        pixels = tiny.draw(index, bool(mass), bool(effusion))
        _make_film(folder / path, pixels, bits=8, PatientName=f"{tiny.SECRET}^Name", PatientID=patient)
        rows.append((path, patient, split, mass, "" if index == 5 else effusion))
    (folder / "films/unreadable.dcm").write_bytes(b"nothing that anybody could read")
    tiny.write_table(folder / "cases.csv", [*rows, ("films/unreadable.dcm", f"{tiny.SECRET}X", "test", 1, 0)])
    tiny.write_workflow(folder / "pre.yaml", tiny.PRETRAIN)
    tiny.write_workflow(folder / "fine.yaml", tiny.FINETUNE)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Every bad input of `corpus.cases` in one folder, where nothing may change them."""
    from corpus import cases

    return cases(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def trained(work: Path) -> Trained:
    """The two workflows of `work`, trained by the real command."""
    done = tiny.medvit("train", "fine.yaml", cwd=work)
    assert done.code == 0, done.err
    assert done.out == "runs/fine/best.ckpt\n"
    return Trained(work, done.err)

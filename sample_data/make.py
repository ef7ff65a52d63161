"""Makes the sample data: synthetic, seeded, of no patient.

    python sample_data/make.py [films] [slides] [smears] [clips] [volumes] [-o FOLDER] [--seed 0]

Without a kind every kind is made. The same seed gives the same bytes.
"""

import argparse
import csv
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from brushes import Plane
from chest_findings import LABELS, SIZE, Anatomy, Box
from paint_clips import paint_clip
from paint_films import paint_film
from paint_organs import LABELS as ORGAN_LABELS
from paint_organs import Abdomen, paint_abdomen
from paint_smears import Cell
from plan_clips import CLIPS, VIDEOS, plan_clips, write_clip, write_video
from plan_clips import LABELS as CLIP_LABELS
from plan_organs import VOLUMES, plan_volumes, write_nifti, write_series
from plan_slides import SLIDES, plan_slides, write_slide
from plan_smears import SMEARS, plan_smears, write_smear, write_stack

HERE = Path(__file__).parent
FILMS = 300
POSITIVE = 0.27  # share of films with a finding, for each finding
NORMAL = 0.25  # share of films without any
MOST = 3  # findings on one film
UNKNOWN = 0.03  # share of labels left blank in the training split
DETECTORS_MM = (350.0, 400.0, 430.0)
STUDY_DATE = "20240102"
VIEW_CODES = {"PA": ("272479007", "postero-anterior"), "AP": ("399348003", "antero-posterior")}


@dataclass(frozen=True)
class Film:
    """One film before it is painted."""

    number: int
    patient: int
    exam: int  # counts the films of one patient
    split: str
    view: str
    sex: str
    age: int  # years
    findings: frozenset[str]
    unknown: frozenset[str]  # labels left blank in the table
    seed: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:04d}.dcm"

    @property
    def patient_id(self) -> str:
        """A patient identifier nobody could take for a real one."""
        return f"SAMPLE-{self.patient:04d}"


def uid(*parts: object) -> UID:
    """A UID that depends on nothing but its parts."""
    digest = hashlib.sha256("/".join(map(str, ("medvit sample data", *parts))).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV with Unix line ends."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def share_patients(rng: np.random.Generator, films: int) -> list[tuple[int, int, str]]:
    """Deals films to patients of one to three films, and patients to splits; returns (patient, exam, split) a film."""
    counts = [int(count) for count in rng.permutation(np.resize([1, 2, 3], films))]
    patients: list[int] = []
    while sum(patients) < films:
        patients.append(min(counts.pop(), films - sum(patients)))
    room = {"val": films // 6, "test": films // 6, "train": films}
    split_of = {}
    for patient in rng.permutation(len(patients)):
        split = next(name for name, left in room.items() if left >= patients[patient])
        room[split] -= patients[patient]
        split_of[int(patient)] = split
    return [(patient, exam, split_of[patient]) for patient, count in enumerate(patients) for exam in range(count)]


def deal_findings(rng: np.random.Generator, films: int) -> list[set[str]]:
    """Gives every finding to the same share of films, leaves a share of films normal, and mixes the rest freely."""
    found: list[set[str]] = [set() for _ in range(films)]
    ill = [found[index] for index in rng.permutation(films)[round(NORMAL * films) :]]
    labels = [str(label) for label in rng.permutation(list(LABELS) * round(POSITIVE * films))]
    for count, label in enumerate(labels):
        without = [film for film in ill if label not in film]
        sparse = [film for film in without if len(film) < (1 if count < len(ill) else MOST)]
        pool = sparse or without
        pool[rng.integers(len(pool))].add(label)
    return found


def plan_films(seed: int = 0, films: int = FILMS) -> list[Film]:
    """Decides everything about every film but its pixels; findings are drawn apart from all the rest."""
    rng = np.random.default_rng([seed, 1])
    shared = share_patients(rng, films)
    findings: list[set[str]] = [set() for _ in shared]
    for split in ("train", "val", "test"):
        members = [number for number, row in enumerate(shared) if row[2] == split]
        for number, found in zip(members, deal_findings(rng, len(members)), strict=True):
            findings[number] = found
    sexes = rng.choice(["F", "M"], size=films)
    ages = rng.integers(21, 90, size=films)
    blank = rng.random((films, len(LABELS))) < UNKNOWN
    return [
        Film(
            number=number,
            patient=patient,
            exam=exam,
            split=split,
            view=str(rng.choice(["PA", "AP"], p=[0.7, 0.3])),
            sex=str(sexes[patient]),
            age=int(ages[patient]),
            findings=frozenset(findings[number]),
            unknown=frozenset(np.array(LABELS)[blank[number]].tolist() if split == "train" else ()),
            seed=seed,
        )
        for number, (patient, exam, split) in enumerate(shared)
    ]


def stored_pixels(brightness: Plane, window: tuple[int, int], inverted: bool) -> npt.NDArray[np.uint8]:
    """Stored values of a film: brightness 0..1 spread over the window, dark bone where inverted (MONOCHROME1)."""
    low, high = window
    shown = 1.0 - brightness if inverted else brightness
    return np.rint(low + (high - low) * np.clip(shown, 0.0, 1.0)).astype(np.uint8)


def code_item(value: str, meaning: str) -> Dataset:
    """One SNOMED CT code as a sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def film_header(film: Film) -> Dataset:
    """Patient, study, series and equipment of a film; every tag that does not speak of its pixels."""
    head = Dataset()
    head.SOPClassUID = DigitalXRayImageStorageForPresentation
    head.SOPInstanceUID = uid("film", film.seed, film.number, "instance")
    head.SeriesInstanceUID = uid("film", film.seed, film.number, "series")
    head.StudyInstanceUID = uid("film", film.seed, film.number, "study")
    head.PatientID, head.PatientName = film.patient_id, f"SAMPLE^{film.patient:04d}"
    head.PatientSex, head.PatientAge, head.PatientBirthDate = film.sex, f"{film.age:03d}Y", ""
    head.StudyDate = head.SeriesDate = head.ContentDate = head.AcquisitionDate = STUDY_DATE
    head.StudyTime = head.SeriesTime = head.ContentTime = head.AcquisitionTime = f"{8 + film.exam:02d}0000"
    head.StudyID, head.AccessionNumber, head.ReferringPhysicianName = f"{film.number:04d}", "", ""
    head.SeriesNumber, head.InstanceNumber, head.AcquisitionNumber = 1, 1, 1
    head.Modality, head.PresentationIntentType = "DX", "FOR PRESENTATION"
    head.StudyDescription, head.SeriesDescription = "medvit sample data", "synthetic, no patient"
    head.Manufacturer = "medvit sample data"
    head.ImageType, head.BurnedInAnnotation, head.LossyImageCompression = ["ORIGINAL", "PRIMARY", ""], "NO", "00"
    head.BodyPartExamined, head.ImageLaterality, head.ViewPosition = "CHEST", "U", film.view
    head.PatientOrientation = ["L", "F"]
    head.AnatomicRegionSequence = [code_item("816094009", "Chest")]
    head.PositionerType = "NONE"
    head.ViewCodeSequence = [code_item(*VIEW_CODES[film.view])]
    head.ViewCodeSequence[0].ViewModifierCodeSequence = []
    head.AcquisitionContextSequence = []
    head.DerivationDescription = "computed, not exposed"
    return head


def film_pixels(film: Film) -> tuple[Dataset, list[tuple[str, Box]]]:
    """The image tags of a film, and label and box of its lesions."""
    rng = np.random.default_rng([film.seed, 2, film.number])
    body = Anatomy.draw(np.random.default_rng([film.seed, 3, film.patient]))
    inverted, marker = bool(rng.random() < 1 / 3), str(rng.choice(["L", "R"]))
    side_mm, window = float(rng.choice(DETECTORS_MM)), (int(rng.integers(0, 16)), int(rng.integers(230, 256)))
    brightness, boxes = paint_film(set(film.findings), film.sex, film.view, marker, side_mm, body, rng)
    image = Dataset()
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    image.Rows = image.Columns = SIZE
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelIntensityRelationship, image.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "US"
    image.WindowCenter, image.WindowWidth = (window[0] + window[1] + 1) / 2, window[1] - window[0] + 1
    image.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    image.ImagerPixelSpacing = [round(side_mm / SIZE, 4)] * 2
    image.DetectorType, image.DetectorConfiguration = "SCINTILLATOR", "AREA"
    image.add_new("PixelData", "OB", stored_pixels(brightness, window, inverted).tobytes())
    return image, boxes


def write_film(film: Film, folder: Path) -> list[tuple[str, Box]]:
    """Paints and writes one film; returns label and box of its lesions."""
    dataset = film_header(film)
    image, boxes = film_pixels(film)
    dataset.update(image)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = uid("implementation"), "MEDVIT_SAMPLE"
    dataset.file_meta = meta
    dataset.save_as(folder / film.name, enforce_file_format=True)
    return boxes


def make_films(folder: Path, seed: int = 0, films: int = FILMS) -> None:
    """Writes chest films with cases.csv (labels 1, 0, blank = unknown) and boxes.csv (0-based, half open pixels)."""
    folder.mkdir(parents=True, exist_ok=True)
    cases: list[list[object]] = []
    boxes: list[list[object]] = []
    for film in plan_films(seed, films):
        found = write_film(film, folder)
        boxes += [[film.name, label, *box] for label, box in found if label not in film.unknown]
        known = ["" if label in film.unknown else int(label in film.findings) for label in LABELS]
        cases.append([film.name, film.patient_id, film.split, film.view, film.sex, film.age, *known])
    write_table(folder / "cases.csv", ["path", "patient_id", "split", "view", "sex", "age", *LABELS], cases)
    write_table(folder / "boxes.csv", ["path", "label", "x_min", "y_min", "x_max", "y_max"], boxes)


def make_slides(folder: Path, seed: int = 0, slides: int = SLIDES) -> None:
    """Writes slide pyramids with their masks and cases.csv (tumour 1 or 0, one row a slide)."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_slides(seed, slides)
    for slide in plan:
        write_slide(slide, folder)
    rows = [[slide.name, slide.patient_id, slide.split, slide.mask_name, int(slide.share > 0)] for slide in plan]
    write_table(folder / "cases.csv", ["path", "patient_id", "split", "mask", "tumour"], rows)


def make_smears(folder: Path, seed: int = 0, smears: int = SMEARS) -> None:
    """Writes smears with cases.csv (malignant 1 or 0, one row a smear) and cells.csv (every cell), and a stack of planes."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_smears(seed, smears)
    cells = [(smear, cell) for smear in plan for cell in write_smear(smear, folder)]
    rows = [[smear.name, smear.patient_id, smear.split, int(smear.malignant > 0)] for smear in plan]
    write_table(folder / "cases.csv", ["path", "patient_id", "split", "malignant"], rows)
    header = ["path", "patient_id", "split", "x", "y", "class"]
    write_table(folder / "cells.csv", header, [[s.name, s.patient_id, s.split, *_place(c)] for s, c in cells])
    (folder / "stack").mkdir(exist_ok=True)
    stacked = write_stack(folder / "stack" / "field.tif", seed)
    write_table(folder / "stack" / "cells.csv", ["x", "y", "class", "plane"], [[*_place(c), c.plane] for c in stacked])


def _place(cell: Cell) -> list[object]:
    return [round(cell.x, 1), round(cell.y, 1), cell.kind]


def make_clips(folder: Path, seed: int = 0, clips: int = CLIPS) -> None:
    """Writes clips of eyes with cases.csv (labels 1, 0, blank = not asked), some test clips as videos where PyAV is there."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_clips(seed, clips)
    videos = [clip.number for clip in plan if clip.split == "test"][:VIDEOS]
    with_videos = importlib.util.find_spec("av") is not None
    for clip in plan:
        frames = paint_clip(clip.eye)
        write_clip(clip, frames, folder, uid)
        if clip.number in videos and with_videos:
            (folder / "videos").mkdir(exist_ok=True)
            write_video(folder / "videos" / clip.name.replace(".dcm", ".mp4"), frames)
    write_table(folder / "cases.csv", ["path", "patient_id", "split", *CLIP_LABELS], [clip.row for clip in plan])


def make_volumes(folder: Path, seed: int = 0, volumes: int = VOLUMES) -> None:
    """Writes volumes of an abdomen with masks, cases.csv and boxes.csv (every organ's middle slice); one more as a series."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes: list[list[object]] = []
    plan = plan_volumes(seed, volumes)
    for planned in plan:
        volume, mask = paint_abdomen(planned.abdomen)
        write_nifti(folder / planned.name, volume)
        write_nifti(folder / planned.mask_name, mask)
        if planned.split == "test":
            boxes += [[planned.name, *box] for box in _boxes(mask)]
    volume, mask = paint_abdomen(Abdomen(seed + 900))
    write_series(folder / "series", volume, uid)
    boxes += [["series", *box] for box in _boxes(mask)]
    rows = [[planned.name, planned.patient_id, planned.split, planned.mask_name] for planned in plan]
    write_table(folder / "cases.csv", ["path", "patient_id", "split", "mask"], rows)
    write_table(folder / "boxes.csv", ["path", "label", "x_min", "y_min", "x_max", "y_max", "slice"], boxes)


def _boxes(mask: npt.NDArray[np.uint8]) -> list[list[object]]:
    """A box around every organ on the slice that shows most of it, a pixel larger on each side."""
    boxes: list[list[object]] = []
    for number, label in enumerate(ORGAN_LABELS, start=1):
        at = int((mask == number).sum(axis=(1, 2)).argmax())
        rows, columns = np.nonzero(mask[at] == number)
        boxes.append([label, columns.min() - 1, rows.min() - 1, columns.max() + 2, rows.max() + 2, at])
    return boxes


KINDS: dict[str, Callable[[Path, int], None]] = {
    "films": make_films,
    "slides": make_slides,
    "smears": make_smears,
    "clips": make_clips,
    "volumes": make_volumes,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the kinds asked for, each in its own folder."""
    parser = argparse.ArgumentParser(description="Make medvit's synthetic sample data.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"out of: {', '.join(KINDS)} (default: all)")
    parser.add_argument("-o", type=Path, dest="output", default=HERE, help="where to write (default: beside this file)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.kinds) - set(KINDS))
    if unknown:
        parser.error(f"unknown kind {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    for kind in chosen.kinds or KINDS:
        KINDS[kind](chosen.output / kind, chosen.seed)


if __name__ == "__main__":
    main()

"""Tables and folders of images with masks: which image goes with which mask, and which patient is in which split.

Source: MedSAM's preparation: npz of ``imgs`` and ``gts`` a volume, or folders ``imgs`` and ``gts`` of ``CASE-slice.npy``;
DB-SAM's ``npy_images`` and ``npy_gts``.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from medvit.case import (
    DICOM_SUFFIXES,
    NIFTI,
    PICTURES,
    SPLITS,
    VOLUME,
    Case,
    check_files,
    check_patients,
    pseudonym,
    read_csv,
)
from medvit.errors import MedvitError, Unanswered
from medvit.readers.scan import ARRAYS
from medvit.readers.survey import read_facts

log = logging.getLogger(__name__)

MaskLayout = Literal["medvit", "folders", "medsam"]
MASK_FOLDERS = ("masks", "labels")
MEDSAM_FOLDERS = (("imgs", "gts"), ("npy_images", "npy_gts"))
SHARES = (0.7, 0.1, 0.2)  # train, val and test of folders that name no split; ours
SPLIT_SEED = 42
SLICE = re.compile(r"(.*)-\d+$")  # MedSAM: CASE-slice


def read_masked(layout: MaskLayout, table: Path | str, patient: str | None = None) -> dict[str, list[Case]]:
    """Read a table or folder of images with masks.

    Args:
        layout: See `medvit.data.scans.Masks`.
        table: The file or folder.
        patient: What in a file's name is its patient, for folders.

    Returns:
        Split to cases.

    Raises:
        MedvitError: For an image without a mask, a mask without an image, a patient in two splits, and for what is missing.
    """
    table = Path(table)
    if layout == "medvit":
        splits = _table(table)
    elif not table.is_dir():
        raise MedvitError(f"{table} is no folder. data.kind {layout} needs one.")
    else:
        pairs = _named_alike(table, _of_folders(table)) if layout == "folders" else _medsam(table)
        splits = _dealt([_case(image, (image,), mask, _patient(image, patient, layout)) for image, mask in pairs])
    check_files(table, splits)
    check_patients(table, splits)
    return splits


def read_folder(folder: Path) -> list[Case]:
    """Every image of a folder with its mask: folders of equal names, or as MedSAM prepares them; dealt to no splits.

    Raises:
        MedvitError: For an image without a mask, a mask without an image, and for what is missing.
    """
    layout: MaskLayout = "folders" if (folder / "images").is_dir() else "medsam"
    pairs = _named_alike(folder, _of_folders(folder)) if layout == "folders" else _medsam(folder)
    return [_case(image, (image,), mask, _patient(image, None, layout)) for image, mask in pairs]


def _case(uid: Path, files: tuple[Path, ...], mask: Path, patient: str, modality: str | None = None) -> Case:
    return Case(
        str(uid.resolve()), _modality(files[0]) if modality is None else modality, files, mask=mask, patient=patient
    )


def _modality(file: Path) -> str:
    """As discovery would have it."""
    name = file.name.lower()
    if name.endswith(NIFTI):
        return VOLUME
    if name.endswith((*PICTURES, *ARRAYS)):
        return ""
    try:
        return read_facts(file)[0]["modality"]
    except Unanswered as refusal:
        raise MedvitError(f"{file}: {refusal}") from None


def _table(table: Path) -> dict[str, list[Case]]:
    splits: dict[str, list[Case]] = defaultdict(list)
    for number, row in enumerate(read_csv(table, ("path", "patient_id", "split", "mask")), 2):
        where = f"{table}:{number}"
        if row["split"] not in SPLITS:
            raise MedvitError(f"{where}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}.")
        if not row["mask"]:
            raise MedvitError(f"{where}: {row['path']} has no mask, so nothing can be learned from it. Leave it out.")
        path, mask = table.parent / row["path"], table.parent / row["mask"]
        for one in (path, mask):
            if not one.exists():
                raise MedvitError(f"{where}: {one} is not there. Paths are relative to the table's folder.")
        files = tuple(sorted(_files(path))) if path.is_dir() else (path,)
        if not files:
            raise MedvitError(f"{where}: the folder {path} holds no files.")
        patient = pseudonym(row["patient_id"]) if row["patient_id"] else ""
        splits[row["split"]].append(_case(path, files, mask, patient, row.get("modality") or None))
    return dict(splits)


def _files(folder: Path) -> list[Path]:
    every = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    named = [file for file in every if file.suffix.lower() in DICOM_SUFFIXES]
    return named or every


def _of_folders(root: Path) -> tuple[Path, Path]:
    masks = [root / name for name in MASK_FOLDERS if (root / name).is_dir()]
    if not (root / "images").is_dir() or not masks:
        raise MedvitError(
            f"{root} holds no folders images and {' or '.join(MASK_FOLDERS)}. Give the folder that they lie in."
        )
    return root / "images", masks[0]


def _named_alike(root: Path, folders: tuple[Path, Path]) -> list[tuple[Path, Path]]:
    """Files of two folders whose names are the same but for their ends.

    Raises:
        MedvitError: When one stands alone.
    """
    images, masks = ({_stem(file): file for file in sorted(folder.iterdir()) if file.is_file()} for folder in folders)
    for here, there, told in ((images, masks, "no mask"), (masks, images, "no image")):
        alone = sorted(here.keys() - there.keys())
        if alone:
            more = f" ({len(alone)} of {len(here)} files)" if len(alone) > 1 else ""
            raise MedvitError(f"{here[alone[0]]} has {told} of the same name{more}. Take it out or add the other file.")
    if not images:
        raise MedvitError(f"{folders[0]} holds no files.")
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _stem(file: Path) -> str:
    return re.sub(r"(\.nii)?\.gz$|\.[^.]*$", "", file.name, flags=re.IGNORECASE)


def _medsam(root: Path) -> list[tuple[Path, Path]]:
    for folders in MEDSAM_FOLDERS:
        if all((root / name).is_dir() for name in folders):
            return _named_alike(root, (root / folders[0], root / folders[1]))
    files = sorted(root.rglob("*.npz"))
    if not files:
        raise MedvitError(
            f"{root} holds neither npz files nor the folders {' or '.join(' and '.join(f) for f in MEDSAM_FOLDERS)}."
        )
    return [(file, file) for file in files]


def _patient(image: Path, pattern: str | None, layout: MaskLayout) -> str:
    stem = _stem(image)
    if pattern is not None:
        try:
            found = re.search(pattern, image.name)
            return pseudonym((found.groups() or (found[0],))[0]) if found else pseudonym(stem)
        except (re.error, IndexError) as error:
            raise MedvitError(f"data.patient is no regular expression: {error}.") from None
    slices = SLICE.fullmatch(stem) if layout == "medsam" else None
    return pseudonym(slices[1] if slices else stem)


def _dealt(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Patients to splits in fixed shares, by a fixed seed."""
    by_patient: Mapping[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    patients = sorted(by_patient)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(patients))
    ends = [0, *(np.cumsum(SHARES) * len(patients)).round().astype(int)]
    if len(patients) < 3:
        raise MedvitError(f"There are {len(patients)} patients; three at least are needed for train, val and test.")
    ends[1] = min(ends[1], len(patients) - 2)
    ends[2] = max(ends[2], ends[1] + 1)
    log.info("%d patients are dealt to train, val and test as %s, by a fixed seed.", len(patients), SHARES)
    return {
        split: [case for index in sorted(order[start:end]) for case in by_patient[patients[index]]]
        for split, start, end in zip(SPLITS, ends, ends[1:], strict=False)
    }

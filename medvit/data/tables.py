"""Tables to cases: medvit's own and those of the public chest sets, behind one entry; CheXpert and MIMIC-CXR-JPG."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from medvit.case import SPLITS, Case, check_files, pseudonym, read_csv, read_table
from medvit.data.nih import check_names, checked, is_validation, read_nih, read_nih_boxes
from medvit.errors import MedvitError

__all__ = ["Kind", "Uncertainty", "read_chexpert", "read_dataset", "read_mimic", "read_nih", "read_nih_boxes"]

Kind = Literal["medvit", "nih", "chexpert", "mimic"]
Uncertainty = Literal["ones", "zeros", "ignore", "paper"]

# Finding to column: what the CheXpert labeller reads from a report, in both sets.
COLUMNS = {
    "No Finding": "No Finding",
    "Enlarged Cardiomediastinum": "Enlarged Cardiomediastinum",
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Lung Opacity",
    "Lung Lesion": "Lung Lesion",
    "Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Effusion": "Pleural Effusion",
    "Pleural Other": "Pleural Other",
    "Fracture": "Fracture",
    "Support Devices": "Support Devices",
}
UNCERTAIN = -1.0
CELLS = {"": 0.0, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": UNCERTAIN, "-1.0": UNCERTAIN}
# What the thorax MAE release makes of an uncertain finding in CheXpert.
PAPER = {"Edema": 1.0, "Atelectasis": 1.0, "Cardiomegaly": 0.0, "Consolidation": 0.0, "Effusion": 0.0}
# Share of CheXpert's training patients that become validation; ours, the paper names none.
CHEXPERT_VAL_SHARE = 0.05
CHEXPERT_VIEWS = ("Frontal", "Lateral")
CHEXPERT_ROOTS = ("CheXpert-v1.0-small/", "CheXpert-v1.0/")
MIMIC_VIEWS = ("AP", "PA")
MIMIC_SPLITS = {"train": "train", "validate": "val", "test": "test"}
# What a kind of table takes beside the table, and why.
TAKES = {
    "medvit": ("boxes",),
    "nih": ("images", "lists", "boxes"),
    "chexpert": ("images", "uncertainty"),
    "mimic": ("images", "uncertainty"),
}
WHY = {
    "images": "The table names the films but not their folder",
    "lists": "The table does not split the films; the folder of NIH's or the paper's lists does",
    "uncertainty": f"The table has uncertain findings (-1) and every policy ({', '.join(get_args(Uncertainty))}) "
    "trains another model, so there is no default",
}
log = logging.getLogger(__name__)


def read_dataset(
    kind: Kind,
    table: Path | str,
    labels: Sequence[str],
    images: Path | str | None = None,
    lists: Path | str | None = None,
    uncertainty: Uncertainty | None = None,
    boxes: Path | str | None = None,
) -> dict[str, list[Case]]:
    """Read the table of a data set.

    Args:
        kind: Whose layout it has: medvit's own (see `read_table`) or that of a public chest set.
        table: The CSV file (medvit, nih) or the folder of the CSV files (chexpert, mimic).
        labels: Findings to read, by medvit's names.
        images: Folder of the films; for all but medvit, whose table has the paths.
        lists: Folder of the lists that split the films; for nih.
        uncertainty: What becomes of -1; for chexpert and mimic.
        boxes: Table of boxes; for medvit and nih, where wanted.

    Returns:
        Split (train, val, test) to cases.

    Raises:
        MedvitError: For a companion that is missing or of no use, and for whatever the reader refuses.
    """
    check_names([kind], tuple(TAKES), "data.kind")
    _check_companions(kind, {"images": images, "lists": lists, "uncertainty": uncertainty, "boxes": boxes})
    if images is not None and lists is not None:
        return read_nih(Path(table), Path(images), Path(lists), labels, Path(boxes) if boxes is not None else None)
    if images is not None and uncertainty is not None:
        read = read_chexpert if kind == "chexpert" else read_mimic
        return read(Path(table), Path(images), labels, uncertainty)
    return read_table(table, labels, boxes)


def _check_companions(kind: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is None and name in TAKES[kind] and name in WHY:
            raise MedvitError(f"data.{name} is missing for a table of the kind {kind!r}. {WHY[name]}: set data.{name}.")
        if value is not None and name not in TAKES[kind]:
            raise MedvitError(f"data.{name} is set, but a table of the kind {kind!r} has no use for it. Remove it.")


def read_chexpert(
    table: Path, images: Path, labels: Sequence[str], uncertainty: Uncertainty, views: Sequence[str] = ("Frontal",)
) -> dict[str, list[Case]]:
    """Read CheXpert; a blank cell is absent (0) under every policy.

    Args:
        table: Folder of ``train.csv`` and ``valid.csv``.
        images: Folder of ``train/`` and ``valid/``.
        labels: Some of `COLUMNS`.
        uncertainty: -1 becomes 1 (``ones``), 0 (``zeros``), unknown (``ignore``) or, for the five findings that the
            paper reads, what it makes of each (``paper``: see `PAPER`).
        views: Frontal, Lateral or both.

    Returns:
        Split to cases. As in the paper ``valid.csv`` is test; `CHEXPERT_VAL_SHARE` of the patients of ``train.csv``
        become validation, where the paper selects on its test set.

    Raises:
        MedvitError: For a finding that the policy does not decide, a cell out of range, a missing film, a patient in
            two splits.

    Source: Irvin et al., AAAI 2019; the policy of the thorax MAE release.
    """
    splits = chexpert_cases(table, images, labels, uncertainty, views)
    check_files(table, splits)
    return splits


def chexpert_cases(
    table: Path, images: Path, labels: Sequence[str], uncertainty: Uncertainty, views: Sequence[str] = ("Frontal",)
) -> dict[str, list[Case]]:
    """The cases of `read_chexpert`, whether or not their films are there."""
    check_names(views, CHEXPERT_VIEWS, "views")
    decisions = _decisions(labels, uncertainty)
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *(COLUMNS[label] for label in labels))
    top = images.resolve()
    decided: Counter[str] = Counter()
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for file in (table / "train.csv", table / "valid.csv"):
        for number, row in enumerate(read_csv(file, columns), 2):
            if row["Frontal/Lateral"] not in views:
                continue
            where = f"{file}:{number}"
            values = _findings(row, decisions, decided, where)
            patient = re.search(r"patient\d+(?=/)", row["Path"])
            if not patient:
                raise MedvitError(f"{where}: Path is {row['Path']!r}; it must have a folder patientNNNNN.")
            split = "val" if is_validation(patient[0], CHEXPERT_VAL_SHARE) else "train"
            path = top / _without_root(row["Path"])
            header = {"view": row["AP/PA"] or row["Frontal/Lateral"], "sex": row["Sex"], "age": row["Age"]}
            case = Case(str(path), "", (path,), values, patient=pseudonym(patient[0]), header=header)
            splits["test" if file.name == "valid.csv" else split].append(case)
    log.info("%s: valid.csv is test; validation is %.1f %% of train.csv's patients.", table, 100 * CHEXPERT_VAL_SHARE)
    _log_policy(table, uncertainty, labels, decided)
    return checked(table, splits)


def _without_root(path: str) -> str:
    """A path of CheXpert below the folder of the release."""
    for root in CHEXPERT_ROOTS:
        path = path.removeprefix(root)
    return path


def read_mimic(table: Path, images: Path, labels: Sequence[str], uncertainty: Uncertainty) -> dict[str, list[Case]]:
    """Read the AP and PA films of MIMIC-CXR-JPG; a blank cell is absent (0) under every policy.

    Args:
        table: Folder of ``mimic-cxr-2.0.0-{split,metadata,chexpert}.csv.gz``.
        images: Folder of ``p10/`` … ``p19/``, that is of ``pXX/pSUBJECT/sSTUDY/DICOM_ID.jpg``.
        labels: Some of `COLUMNS`; "No Finding" = 1 makes all others absent, Support Devices among them.
        uncertainty: As in `read_chexpert`, but ``paper`` leaves -1 unknown, as its release does for this set.

    Returns:
        Split to cases. The films of a study that the labeller left out have no labels.

    Raises:
        MedvitError: For a cell out of range, a missing film, a patient in two splits.

    Source: Johnson et al., MIMIC-CXR-JPG 2.0.0, PhysioNet; the policy of the thorax MAE release.
    """
    splits = mimic_cases(table, images, labels, uncertainty)
    check_files(table, splits)
    return splits


def mimic_cases(table: Path, images: Path, labels: Sequence[str], uncertainty: Uncertainty) -> dict[str, list[Case]]:
    """The cases of `read_mimic`, whether or not their films are there."""
    studies = _mimic_studies(table, labels, uncertainty)
    rows = read_csv(table / "mimic-cxr-2.0.0-metadata.csv.gz", ("dicom_id", "ViewPosition"))
    views = {row["dicom_id"]: row["ViewPosition"] for row in rows if row["ViewPosition"] in MIMIC_VIEWS}
    del rows  # a few hundred megabytes
    file = table / "mimic-cxr-2.0.0-split.csv.gz"
    top = images.resolve()
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    bare = 0
    for number, row in enumerate(read_csv(file, ("dicom_id", "study_id", "subject_id", "split")), 2):
        dicom, study, subject = row["dicom_id"], row["study_id"], row["subject_id"]
        if dicom not in views:
            continue
        check_names([row["split"]], tuple(MIMIC_SPLITS), f"{file}:{number}: split")
        values = studies.get(study, {})
        bare += study not in studies
        path = top / f"p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
        case = Case(str(path), "", (path,), values, patient=pseudonym(subject), header={"view": views[dicom]})
        splits[MIMIC_SPLITS[row["split"]]].append(case)
    log.info("%s: %d AP and PA films have no labels, for the labeller left their studies out.", table, bare)
    return checked(table, splits)


def _mimic_studies(table: Path, labels: Sequence[str], uncertainty: Uncertainty) -> dict[str, dict[str, float]]:
    """Study to its findings."""
    decisions = _decisions(labels, "ignore" if uncertainty == "paper" else uncertainty)
    file = table / "mimic-cxr-2.0.0-chexpert.csv.gz"
    decided: Counter[str] = Counter()
    studies = {}
    columns = ("study_id", "No Finding", *(COLUMNS[label] for label in labels))
    for number, row in enumerate(read_csv(file, columns), 2):
        if CELLS.get(row["No Finding"]) == 1.0:
            row.update(dict.fromkeys(set(COLUMNS.values()) - {"No Finding"}, ""))
        studies[row["study_id"]] = _findings(row, decisions, decided, f"{file}:{number}")
    _log_policy(file, uncertainty, labels, decided)
    return studies


def _decisions(labels: Sequence[str], uncertainty: Uncertainty) -> dict[str, float | None]:
    """What an uncertain cell of each finding becomes; None is unknown."""
    check_names(labels, tuple(COLUMNS), "data.labels")
    check_names([uncertainty], get_args(Uncertainty), "data.uncertainty")
    if uncertainty != "paper":
        return dict.fromkeys(labels, {"ones": 1.0, "zeros": 0.0, "ignore": None}[uncertainty])
    open_ones = [label for label in labels if label not in PAPER]
    if open_ones:
        raise MedvitError(
            f"data.uncertainty is 'paper', which decides {', '.join(PAPER)} but not {', '.join(open_ones)}. "
            "Set data.uncertainty to ones, zeros or ignore, or take these out of data.labels."
        )
    return {label: PAPER[label] for label in labels}


def _findings(
    row: Mapping[str, str], decisions: Mapping[str, float | None], decided: Counter[str], where: str
) -> dict[str, float]:
    """The known findings of a row; the uncertain ones are decided and counted."""
    values = {}
    for label, decision in decisions.items():
        cell = row[COLUMNS[label]]
        value = CELLS.get(cell)
        if value is None:
            raise MedvitError(f"{where}: {COLUMNS[label]} is {cell!r}; it must be 1, 0, -1 (uncertain) or empty (0).")
        if value == UNCERTAIN:
            decided[label] += 1
            value = decision
        if value is not None:
            values[label] = value
    return values


def _log_policy(table: Path, uncertainty: str, labels: Sequence[str], decided: Mapping[str, int]) -> None:
    counts = ", ".join(f"{label} {decided[label]}" for label in labels)
    log.info("%s: the policy %r decided the uncertain cells of %s; blank cells are 0.", table, uncertainty, counts)

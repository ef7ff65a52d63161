"""Tables of slides: medvit's own, and Camelyon16 as it is downloaded; folds over patients."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medvit.case import MICROSCOPY, SLIDES, SPLITS, Case, check_files, digest, pseudonym, read_table
from medvit.cell_folders import BAG
from medvit.errors import MedvitError

log = logging.getLogger(__name__)

SlideKind = Literal["medvit", "camelyon16", "pictures"]
VAL_SHARE = 0.1  # of Camelyon16's training slides; ours, the release selects on its test list
REFERENCE = {"normal": 0.0, "tumor": 1.0}
# Corrections of Camelyon16 that its users agree on: https://camelyon17.grand-challenge.org/Data and eva's documentation.
RELABELLED = {"normal_086": 1.0}  # holds tumour; newer copies name it tumor_111
DROPPED = {"test_049": "a duplicate"}
NOT_FOR_PLACES = ("test_114", "test_124")  # not exhaustively annotated: no score of places counts them


def read_slides(
    kind: SlideKind, table: Path, labels: Sequence[str], folds: int = 1, fold: int = 0
) -> dict[str, list[Case]]:
    """The slides of a data set.

    Args:
        kind: ``medvit``: a CSV, see `medvit.case.read_table`; ``camelyon16``: the folder of that set;
            ``pictures``: such a CSV with a row a picture of a cell, of which those of a patient are one bag.
        table: The CSV or the folder.
        labels: Findings to read.
        folds: Into how many parts patients are dealt; 1 leaves the splits of the set.
        fold: Which of them is test, from 0; the next one is validation, all others train.

    Returns:
        Split to cases.

    Raises:
        MedvitError: For what the reader refuses, and for a fold that is not there.
    """
    splits = read_camelyon16(table, labels) if kind == "camelyon16" else read_table(table, labels)
    if kind == "pictures":
        splits = {split: by_patient(table, cases) for split, cases in splits.items()}
    return splits if folds == 1 else folded(splits, folds, fold, labels)


def folded(splits: Mapping[str, Sequence[Case]], folds: int, fold: int, labels: Sequence[str]) -> dict[str, list[Case]]:
    """All cases of a table in the splits of one fold, see `dealt`.

    Raises:
        MedvitError: For a fold that is not there.
    """
    if not 0 <= fold < folds or folds < 3:
        raise MedvitError(f"data.fold is {fold} of data.folds {folds}; there must be at least 3, counted from 0.")
    return dealt([case for cases in splits.values() for case in cases], folds, fold, labels)


def by_patient(table: Path, cases: Sequence[Case]) -> list[Case]:
    """Pictures of cells as bags, one a patient, in the order of their first rows; a picture of nobody is a bag of its own.

    Raises:
        MedvitError: When the rows of a patient differ in their labels.
    """
    bags: dict[str, list[Case]] = {}
    for case in cases:
        bags.setdefault(case.patient or case.uid, []).append(case)
    made = []
    for who, own in bags.items():
        if any(case.labels != own[0].labels for case in own):
            raise MedvitError(
                f"{table}: the pictures of patient {who} have different labels; a bag has one answer. Give all rows of "
                "a patient the same."
            )
        files = tuple(case.files[0] for case in own)
        made.append(replace(own[0], uid=f"pictures of {who} in {table.resolve()}", files=files, header={"bag": BAG}))
    return made


def dealt(cases: Sequence[Case], folds: int, fold: int, labels: Sequence[str] = ()) -> dict[str, list[Case]]:
    """Cases in splits of a cross-validation over patients.

    Patients are dealt in the order of a hash of their pseudonym, first those with any label, then those without, so that every
    fold has its share of both. A fold's test patients neither train nor select.

    Raises:
        MedvitError: When there are fewer patients than folds.
    """
    ill: dict[str, bool] = {}
    for case in cases:
        who = case.patient or case.uid
        ill[who] = ill.get(who, False) or any(case.labels.get(label) == 1 for label in labels)
    if len(ill) < folds:
        raise MedvitError(f"{len(ill)} patients cannot be dealt to {folds} folds. Set data.folds lower.")
    order = sorted(ill, key=lambda who: (not ill[who], digest(f"fold {who}")))
    home = {who: (index - fold) % folds for index, who in enumerate(order)}  # 0 is test, 1 is validation
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for case in cases:
        splits[{0: "test", 1: "val"}.get(home[case.patient or case.uid], "train")].append(case)
    return splits


def read_camelyon16(folder: Path, labels: Sequence[str]) -> dict[str, list[Case]]:
    """Camelyon16: ``normal_*.tif``, ``tumor_*.tif`` and ``test_*.tif`` anywhere under a folder, and ``reference.csv``.

    The official test list stays test; a tenth of the training slides becomes validation, by a hash of their names. Every
    slide counts as a patient of its own, since the set names none. Known errors are put right, see `RELABELLED` and `DROPPED`.

    Args:
        folder: With ``training/normal``, ``training/tumor``, ``testing/images`` and ``testing/reference.csv``, or with all
            slides in ``images``.
        labels: One finding: whether the slide holds a metastasis.

    Raises:
        MedvitError: When there are no slides, no ``reference.csv`` for the test slides, or one of them is not in it.
    """
    if len(labels) > 1:
        raise MedvitError(f"Camelyon16 has one label, not {len(labels)}: set system.labels to one finding.")
    slides = {
        path.stem.lower(): path
        for path in sorted(folder.rglob("*.tif"))
        if path.suffix.lower() in SLIDES and path.stem.lower().startswith(("normal_", "tumor_", "test_"))
        and "mask" not in path.stem.lower()
    }  # fmt: skip
    if not slides:
        raise MedvitError(f"{folder} holds no normal_*.tif, tumor_*.tif or test_*.tif. Give the folder of Camelyon16.")
    reference = _reference(folder) if any(name.startswith("test_") for name in slides) else {}
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for name, path in slides.items():
        if name in DROPPED:
            log.info("%s is left out: it is %s.", path.name, DROPPED[name])
            continue
        test = name.startswith("test_")
        if test and name not in reference:
            raise MedvitError(f"{folder}: reference.csv does not say what {path.name} is.")
        value = reference[name] if test else RELABELLED.get(name, float(name.startswith("tumor_")))
        split = "test" if test else "val" if int(digest(f"validation {name}"), 16) < VAL_SHARE * 16**16 else "train"
        header = {"places": "no" if name in NOT_FOR_PLACES else "yes"}
        case = Case(str(path.resolve()), MICROSCOPY, (path,), dict.fromkeys(labels, value), patient=pseudonym(name),
                    header=header)  # fmt: skip
        splits[split].append(case)
    check_files(folder, splits)
    log.info("%s: %s.", folder, ", ".join(f"{len(cases)} {split}" for split, cases in splits.items()))
    return {split: cases for split, cases in splits.items() if cases}


def _reference(folder: Path) -> Mapping[str, float]:
    """What each test slide is, by name, from the first two columns of ``reference.csv``, with or without a header."""
    tables = sorted(folder.rglob("reference.csv"))
    if not tables:
        raise MedvitError(f"{folder} holds test slides but no reference.csv, which says what they are.")
    found: dict[str, float] = {}
    with tables[0].open(encoding="utf-8-sig") as file:
        for line in file:
            name, _, said = line.strip().partition(",")
            value = REFERENCE.get(said.split(",")[0].strip().strip('"').lower())
            if value is not None:
                found[Path(name.strip().strip('"')).stem.lower()] = value
    if not found:
        raise MedvitError(f"{tables[0]} has no line such as test_001,Tumor.")
    return found

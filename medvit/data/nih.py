"""NIH ChestX-ray14: its table, lists and boxes to cases; and what the readers of the chest sets share."""

import csv
import gzip
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from medvit.case import SPLITS, Box, Case, check_files, check_patients, digest, pseudonym, read_csv
from medvit.codes import LABEL_SETS
from medvit.errors import MedvitError

FINDINGS = LABEL_SETS["nih14"]  # also the order of the 14 columns in the paper's lists
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
PAPER_LISTS = {"train": "train_official.txt", "val": "val_official.txt", "test": "test_official.txt"}
NIH_LISTS = {"train or val": "train_val_list.txt", "test": "test_list.txt"}
# Share of the patients of train_val_list.txt that become validation: that of the paper's films.
VAL_SHARE = 11_212 / 86_524
BOX_HEADER = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]
BOX_FINDINGS = {"Infiltrate": "Infiltration"}
log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A film in a list: its split ("train or val" where NIH leaves it open), its place and the paper's 14 cells."""

    split: str
    where: str
    cells: tuple[str, ...]


def read_nih(
    table: Path, images: Path, lists: Path, labels: Sequence[str], boxes: Path | None = None
) -> dict[str, list[Case]]:
    """Read NIH ChestX-ray14; a finding that "Finding Labels" does not name is absent (0).

    Args:
        table: ``Data_Entry_2017_v2020.csv``.
        images: One flat folder of PNG files, or the one above NIH's ``images_001/images`` … ``images_012/images``.
        lists: Folder of the paper's ``{train,val,test}_official.txt``, which go first, or of NIH's own
            ``train_val_list.txt`` and ``test_list.txt``; then `VAL_SHARE` of the patients become validation.
        labels: Some of `FINDINGS`.
        boxes: ``BBox_List_2017.csv``.

    Returns:
        Split to cases. Films that are in no list are left out.

    Raises:
        MedvitError: For an unknown finding, a list that contradicts the table, a missing film, a patient in two splits.

    Source: Wang et al., CVPR 2017; lists of the thorax MAE release.
    """
    if not images.is_dir():
        raise MedvitError(f"{images} is no folder. Set data.images to the folder that holds the films.")
    top = images.resolve()
    folders = {
        entry.name: folder
        for folder in (top, *sorted(top.glob("images_*/images")))
        for entry in os.scandir(folder)
        if entry.is_file()
    }
    splits = nih_cases(table, images, lists, labels, boxes, folders)
    if any(case.files[0].name not in folders for cases in splits.values() for case in cases):
        check_files(table, splits)
    return splits


def nih_cases(
    table: Path,
    images: Path,
    lists: Path,
    labels: Sequence[str],
    boxes: Path | None = None,
    folders: Mapping[str, Path] | None = None,
) -> dict[str, list[Case]]:
    """The cases of `read_nih`, whether or not the films are there; ``folders`` has a film's folder, else ``images``."""
    check_names(labels, FINDINGS, "data.labels")
    rows = read_csv(table, COLUMNS)
    listed = read_lists(lists)
    _check_once(table, rows, listed)
    marked = read_nih_boxes(boxes) if boxes else {}
    folders, top = folders or {}, images.resolve()
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for number, row in enumerate(rows, 2):
        name, where = row["Image Index"], f"{table}:{number}"
        present = _present(row["Finding Labels"], where)
        if name not in listed:
            continue
        if not row["Patient ID"]:
            raise MedvitError(f"{where}: Patient ID is empty; without it no split by patient can be trusted.")
        split = _split(listed[name], row["Patient ID"], present, where)
        path = folders.get(name, top) / name
        case = Case(
            uid=str(path),
            modality="",
            files=(path,),
            labels={label: float(label in present) for label in labels},
            boxes=tuple(box for box in marked.get(name, ()) if box.label in labels),
            patient=pseudonym(row["Patient ID"]),
            header={"view": row["View Position"], "sex": row["Patient Gender"], "age": row["Patient Age"]},
        )
        splits[split].append(case)
    return checked(table, splits)


def _check_once(table: Path, rows: Sequence[Mapping[str, str]], listed: Mapping[str, Listed]) -> None:
    """Refuse a film with two rows and a listed film without any; count the films without a list."""
    line: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        name = row["Image Index"]
        if name in line:
            raise MedvitError(f"{table}:{number}: {name} has a row already, at line {line[name]}. Remove one of them.")
        line[name] = number
    lost = [name for name in listed if name not in line]
    if lost:
        raise MedvitError(
            f"{listed[lost[0]].where}: {lost[0]} has no row in {table} ({len(lost)} listed films have none). "
            "Use the whole table, or take the films out of the list."
        )
    log.info("%s: %d of %d films are in no list and left out.", table, len(line) - len(listed), len(line))


def read_lists(folder: Path) -> dict[str, Listed]:
    """File name to what the paper's three lists, or else NIH's two, say of it."""
    paper = all((folder / name).is_file() for name in PAPER_LISTS.values())
    names, width = (PAPER_LISTS, len(FINDINGS)) if paper else (NIH_LISTS, 0)
    if not all((folder / name).is_file() for name in names.values()):
        raise MedvitError(
            f"{folder} has neither all of {', '.join(PAPER_LISTS.values())} nor both of "
            f"{', '.join(NIH_LISTS.values())}. Set data.lists to the folder of the lists."
        )
    log.info("%s: the films are split as in %s.", folder, ", ".join(names.values()))
    if not paper:
        log.info("%s: validation is %.1f %% of the patients of train_val_list.txt.", folder, 100 * VAL_SHARE)
    listed: dict[str, Listed] = {}
    for split, file in names.items():
        for number, line in enumerate(_lines(folder / file), 1):
            where = f"{folder / file}:{number}"
            if not line.strip():
                continue
            name, *cells = line.split()
            if len(cells) != width or not {"0", "1"}.issuperset(cells):
                form = f"a file name and {width} columns of 0 or 1" if width else "a file name alone"
                raise MedvitError(f"{where}: {line.strip()!r} must be {form}.")
            if name in listed:
                raise MedvitError(f"{where}: {name} is listed already, at {listed[name].where}. A film has one split.")
            listed[name] = Listed(split, where, tuple(cells))
    return listed


def _present(cell: str, where: str) -> list[str]:
    """The findings that a cell of "Finding Labels" names."""
    names = [] if cell == "No Finding" else cell.split("|")
    check_names(names, FINDINGS, f"{where}: Finding Labels")
    return names


def _split(listed: Listed, patient: str, present: Sequence[str], where: str) -> str:
    """The split of a film, once its list and its row agree on the findings."""
    if listed.split not in SPLITS:
        return "val" if is_validation(patient, VAL_SHARE) else "train"
    if listed.cells:
        said = [name for name, cell in zip(FINDINGS, listed.cells, strict=True) if cell == "1"]
        if set(said) != set(present):
            here, there = "|".join(present) or "No Finding", "|".join(said) or "No Finding"
            raise MedvitError(f"{where} says {here}, {listed.where} says {there}. Use lists and table of one release.")
    return listed.split


def read_nih_boxes(path: Path) -> dict[str, list[Box]]:
    """Read NIH's ``BBox_List_2017.csv``: file name to boxes, in pixels of the 1024 x 1024 PNG.

    Its header splits the brackets across cells and is longer than its rows; "Infiltrate" becomes "Infiltration".

    Raises:
        MedvitError: For another header, an unknown finding, and a box without area or numbers.
    """
    header, *rows = list(csv.reader(_lines(path))) or [[]]
    if header[: len(BOX_HEADER)] != BOX_HEADER:
        raise MedvitError(f"{path}:1: the header must be {','.join(BOX_HEADER)}, not {','.join(header)}.")
    boxes: dict[str, list[Box]] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}:{number}"
        if not row:
            continue
        try:
            x, y, width, height = (float(cell) for cell in row[2:6])
        except ValueError:
            raise MedvitError(f"{where}: x, y, w and h must be four numbers of pixels.") from None
        if not (width > 0 and height > 0):
            raise MedvitError(f"{where}: the box has no area.")
        finding = BOX_FINDINGS.get(row[1], row[1])
        check_names([finding], FINDINGS, f"{where}: Finding Label")
        boxes.setdefault(row[0], []).append(Box(finding, x, y, x + width, y + height))
    return boxes


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, ``.gz`` or plain."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise MedvitError(f"{path} is not there. Give the path of a text file.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MedvitError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def check_names(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse a name that is not known; ``where`` is the file and line or the key that names it."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise MedvitError(f"{where} has the unknown name {name!r}{hint}. Known are {', '.join(known)}.")


def is_validation(patient: str, share: float) -> bool:
    """Whether a patient is of the share that becomes validation: by a hash of the identifier, the same everywhere."""
    return int(digest(f"validation {patient}"), 16) < share * 16**16


def checked(table: Path, splits: Mapping[str, list[Case]]) -> dict[str, list[Case]]:
    """The splits that hold cases, once no patient is in two of them."""
    check_patients(table, splits)
    log.info("%s: %s.", table, ", ".join(f"{len(cases)} {split}" for split, cases in splits.items()))
    return {split: cases for split, cases in splits.items() if cases}

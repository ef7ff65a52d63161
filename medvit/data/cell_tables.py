"""Pictures of single cells with their types: folders of ``<class>_<n>`` files, tables of them, and places on smears.

Every cell belongs to a group, the patient, slide or picture that it came from; no group may lie in two splits. A cell whose
group nobody names is a group of its own, and `read_cells` says how many of those there are.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvit.case import CELL_PICTURES, SPLITS, Case, check_files, check_patients, pseudonym, read_csv
from medvit.cell_folders import two_colours
from medvit.errors import MedvitError

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
CellKind = Literal["folders", "table", "hicervix"]
GROUPS = ("patient_id", "group_id", "source")  # columns that may name a cell's group, first come first served


def read_cells(
    kind: CellKind, path: Path, classes: Sequence[str] = (), *, group: str = "", level: str = "level_3"
) -> dict[str, list[Case]]:
    """The cells of a data set; each case has one label that is 1, the others are 0.

    Args:
        kind: ``folders``: ``<path>/{train,val,test}/<class>_<n>.<suffix>``, or below ``images``; ``table``: a CSV of
            ``path, split, class``, for cells on smears also ``x, y`` (centres in level-0 pixels), and one of `GROUPS` where the
            source is known; ``hicervix``: a folder of ``train.csv, val.csv, test.csv`` of
            ``image_name, level_1, level_2, level_3``.
        path: The folder or the CSV.
        classes: Types that there may be; every type found where none is given.
        group: For folders, a regular expression whose first group, or whole match, in a file's name is the cell's source.
        level: For hicervix, the column that is the type.

    Raises:
        MedvitError: For an unknown type, a group in two splits, a missing file or column, or a set without cells.
    """
    if kind == "folders":
        splits = _folders(path, group)
    elif kind == "table":
        splits = _table(path)
    else:
        splits = _hicervix(path, level)
    found = [name for cases in splits.values() for case in cases for name in case.labels]
    if not found:
        raise MedvitError(
            f"{path} holds no cells. Give a folder of train/<class>_<n>.png, or a table of path, split, class."
        )
    wanted = tuple(classes) or tuple(sorted(set(found)))
    _check_classes(path, found, wanted)
    check_files(path, splits)
    check_patients(path, splits)
    alone = sum(not case.patient for cases in splits.values() for case in cases)
    if alone:
        log.warning("%s: %d of %d cells name no source; each counts as one of its own.", path, alone, len(found))
    return {split: [_one_hot(case, wanted) for case in cases] for split, cases in splits.items() if cases}


def class_of(case: Case) -> str:
    """The type of a cell."""
    return next(name for name, value in case.labels.items() if value == 1)


def centre_of(case: Case) -> tuple[float, float] | None:
    """Where a cell lies on its smear, level-0 pixels; None for a picture of one cell."""
    return (float(case.header["x"]), float(case.header["y"])) if "x" in case.header else None


def check_stains(path: Path, cases: Sequence[Case], pixels: Sequence[Pixels]) -> None:
    """Refuse cells of two stains: colours of their pictures that fall into two far groups.

    Mean colours of pictures that fall into two far groups (see `two_colours`) are two stains where both hold one type.

    Args:
        path: The set, for the message.
        cases: Cells.
        pixels: Their pictures (H, W, 3).

    Raises:
        MedvitError: When they look stained in two ways.
    """
    colours = np.array([picture.reshape(-1, 3).astype(np.float64).mean(axis=0) for picture in pixels])  # (N, 3)
    sides = two_colours(colours)
    if sides is None:
        return
    mixed = {class_of(case) for case, side in zip(cases, sides, strict=True) if side} & {
        class_of(case) for case, side in zip(cases, sides, strict=True) if not side
    }
    if mixed:
        raise MedvitError(
            f"{path} mixes stains: {(~sides).sum()} of {len(sides)} cells are coloured quite unlike the other {sides.sum()}, "
            "within one type. Give each stain its own folder, or say that it is meant (--stains mixed)."
        )


def _folders(root: Path, group: str) -> dict[str, list[Case]]:
    top = root / "images" if (root / "images").is_dir() else root
    try:
        pattern = re.compile(group) if group else None
    except re.error as error:
        raise MedvitError(f"The expression {group!r} for groups is wrong: {error}.") from error
    splits: dict[str, list[Case]] = {}
    for split in SPLITS:
        files = sorted(file for file in (top / split).glob("*") if file.suffix.lower() in CELL_PICTURES)
        splits[split] = [_case(file, _named_class(file), _group(file, pattern)) for file in files]
    return splits


def _named_class(file: Path) -> str:
    name, line, _ = file.stem.rpartition("_")
    if not line or not name:
        raise MedvitError(f"{file} is not named <class>_<n>, so nobody knows its type. Rename it, or use a table.")
    return name


def _group(file: Path, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return ""
    found = pattern.search(file.stem)
    if found is None:
        raise MedvitError(f"{file} does not match the expression {pattern.pattern!r} for its source.")
    return found[1] if pattern.groups else found[0]


def _table(table: Path) -> dict[str, list[Case]]:
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for number, row in enumerate(read_csv(table, ("path", "split", "class")), 2):
        if row["split"] not in SPLITS:
            raise MedvitError(f"{table}:{number}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}.")
        who = next((row[name] for name in GROUPS if row.get(name)), "")
        case = _case(table.parent / row["path"], row["class"], who)
        if row.get("x") or row.get("y"):
            try:
                x, y = float(row["x"]), float(row["y"])
            except (KeyError, ValueError):
                raise MedvitError(f"{table}:{number}: x and y must be level-0 pixels of the cell's centre.") from None
            case = replace(case, uid=f"{case.uid}#{x:g},{y:g}", header={"x": str(x), "y": str(y)})
        splits[row["split"]].append(case)
    return splits


def _hicervix(folder: Path, level: str) -> dict[str, list[Case]]:
    splits: dict[str, list[Case]] = {}
    for split in SPLITS:
        rows = read_csv(folder / f"{split}.csv", ("image_name", level))
        splits[split] = [_case(_picture(folder, split, row["image_name"]), row[level], "") for row in rows]
    return splits


def _picture(folder: Path, split: str, name: str) -> Path:
    beside = folder / split / name
    return beside if beside.is_file() else folder / name


def _case(file: Path, kind: str, group: str) -> Case:
    return Case(str(file.resolve()), "", (file,), {kind: 1.0}, patient=pseudonym(group) if group else "")


def _check_classes(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    unknown = Counter(name for name in found if name not in wanted)
    if unknown:
        name, count = unknown.most_common(1)[0]
        near = get_close_matches(name, wanted, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise MedvitError(
            f"{path} has {count} cells of the type {name!r}{hint}, which is none of {', '.join(wanted)}"
            f"{f', and {len(unknown) - 1} other unknown types' if len(unknown) > 1 else ''}."
        )


def _one_hot(case: Case, classes: Sequence[str]) -> Case:
    return replace(case, labels={name: case.labels.get(name, 0.0) for name in classes})

"""Tables of clips: medvit's own, ERDES's folder of clips and its split tables; names of files that tell the answer are said.

Source: ERDES (OSU PCVLab), whose clips have no patient, whose tasks were split one by one, and whose file names begin with a
number for each class.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medvit.case import CLIPS, SPLITS, ULTRASOUND, Case, check_files, label_value, read_csv, read_table
from medvit.errors import MedvitError

log = logging.getLogger(__name__)

Layout = Literal["medvit", "erdes", "erdes_splits"]

DETACHMENT, MACULA = "Retinal_Detachment", "Macula_Intact_vs_Detached"
AGAINST_NORMAL, AGAINST_PVD, VITREOUS = "Retinal_Detachment_vs_Normal", "Retinal_Detachment_vs_PVD", "PVD_vs_Normal"
# Task of the release to the label whose 1 it is; a label's name says what 1 is, and of what it is told apart.
TASKS = {
    "non_rd_vs_rd": DETACHMENT,
    "normal_vs_rd": AGAINST_NORMAL,
    "pvd_vs_rd": AGAINST_PVD,
    "macula_detached_vs_intact": MACULA,
    "normal_vs_pvd": VITREOUS,
}
# Folder of a class to its labels; what is not named is not asked of such clips.
_DETACHED = {DETACHMENT: 1.0, AGAINST_NORMAL: 1.0, AGAINST_PVD: 1.0}
CLASSES: dict[str, Mapping[str, float]] = {
    "Retinal_Detachment/Macula_Detached/Bilateral": {**_DETACHED, MACULA: 0.0},
    "Retinal_Detachment/Macula_Detached/TD": {**_DETACHED, MACULA: 0.0},
    "Retinal_Detachment/Macula_Intact/ND": {**_DETACHED, MACULA: 1.0},
    "Retinal_Detachment/Macula_Intact/TD": {**_DETACHED, MACULA: 1.0},
    "Non_Retinal_Detachment/Normal": {DETACHMENT: 0.0, AGAINST_NORMAL: 0.0, VITREOUS: 0.0},
    "Non_Retinal_Detachment/Posterior_Vitreous_Detachment": {DETACHMENT: 0.0, AGAINST_PVD: 0.0, VITREOUS: 1.0},
}
# The same of an older copy of the clips, whose folder is called train.
OLDER_CLASSES = {
    "Macula_Detached": CLASSES["Retinal_Detachment/Macula_Detached/TD"],
    "Macula_Intact": CLASSES["Retinal_Detachment/Macula_Intact/TD"],
    "Non_RD": CLASSES["Non_Retinal_Detachment/Normal"],
    "PVD": CLASSES["Non_Retinal_Detachment/Posterior_Vitreous_Detachment"],
}
SHARES = (0.72, 0.08, 0.2)  # train, val and test, as in the release; of every class, once for all tasks
SPLIT_SEED = 42


def read_clips(
    layout: Layout, table: Path | str, labels: Sequence[str], images: Path | str | None = None
) -> dict[str, list[Case]]:
    """Read a table of clips.

    Args:
        layout: ``medvit``: its own CSV (see `medvit.case.read_table`); ``erdes``: the folder of clips by class, split here,
            once for all tasks and of every class alike; ``erdes_splits``: a folder of ``train.csv``, ``val.csv`` and
            ``test.csv`` with ``path,label``, named as its task.
        table: The file or folder.
        labels: Labels to read; the rest is left out.
        images: Folder that the paths of ``erdes_splits`` lie in.

    Returns:
        Split to cases.

    Raises:
        MedvitError: For what is missing, unknown or no table of that layout.
    """
    table = Path(table)
    if (layout == "erdes_splits") != (images is not None):
        raise MedvitError("data.images is the folder of the clips for data.kind erdes_splits, and for that kind only.")
    if layout == "medvit":
        splits = read_table(table, labels)
    else:
        splits = _folder(table) if layout == "erdes" else _split_tables(table, Path(images or ""))
        unknown = sorted(set(labels) - set(TASKS.values()))
        if unknown:
            raise MedvitError(f"ERDES has no label {unknown[0]!r}; it has {', '.join(TASKS.values())}.")
        splits = {split: [_only(case, labels) for case in cases] for split, cases in splits.items()}
    _tell_leak(table, splits)
    return splits


def _only(case: Case, labels: Sequence[str]) -> Case:
    return Case(case.uid, case.modality, case.files, {k: v for k, v in case.labels.items() if k in labels})


def _case(path: Path, labels: Mapping[str, float]) -> Case:
    return Case(str(path.resolve()), ULTRASOUND, (path,), labels)


def _folder(folder: Path) -> dict[str, list[Case]]:
    """The clips of every class in the same shares, so that no task tests on what another one learned from."""
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    for index, (name, labels) in enumerate((CLASSES | OLDER_CLASSES).items()):
        files = sorted(file for file in (folder / name).glob("*") if file.suffix.lower() in (*CLIPS, ".dcm"))
        order = np.random.default_rng((SPLIT_SEED, index)).permutation(len(files))
        ends = [0, *(np.cumsum(SHARES) * len(files)).round().astype(int)]
        for split, start, end in zip(SPLITS, ends, ends[1:], strict=False):
            splits[split] += [_case(files[i], labels) for i in sorted(order[start:end])]
    if not splits["train"]:
        raise MedvitError(f"{folder} holds no clips in {', '.join(CLASSES)}. Give the folder that these lie in.")
    log.info("%s: one split for all tasks, %s; the clips name no patient.", folder, " / ".join(map(str, SHARES)))
    return splits


def _split_tables(folder: Path, images: Path) -> dict[str, list[Case]]:
    """The release's own split of one task."""
    label = TASKS.get(folder.name)
    if label is None:
        raise MedvitError(f"{folder} is none of ERDES's tasks; its name must be one of {', '.join(TASKS)}.")
    splits = {}
    for split in SPLITS:
        file = folder / f"{split}.csv"
        cases = []
        for number, row in enumerate(read_csv(file, ("path", "label")), 2):
            value = label_value(row["label"], f"{file}:{number}: label")
            path = images / row["path"].removeprefix("clips/")
            path = path if path.is_file() else images / row["path"]
            cases.append(_case(path, {} if value is None else {label: value}))
        splits[split] = cases
    check_files(folder, splits)
    log.warning(
        "%s: the published tasks were split one by one. A cascade of two of them tests on clips that it learned from; "
        "data.kind erdes splits once for all.", folder,
    )  # fmt: skip
    return splits


def _tell_leak(table: Path, splits: Mapping[str, Sequence[Case]]) -> None:
    """Warn where the first part of every file's name tells its labels: ERDES's names do."""
    classes: defaultdict[str, set[tuple[tuple[str, float], ...]]] = defaultdict(set)
    cases = [case for several in splits.values() for case in several if case.labels]
    for case in cases:
        prefix, underscore, number = case.files[0].stem.rpartition("_")
        classes[prefix if underscore and number.isdigit() else case.files[0].stem].add(
            tuple(sorted(case.labels.items()))
        )
    told = len({labels for several in classes.values() for labels in several})
    if told > 1 and len(classes) <= len(cases) / 3 and all(len(several) == 1 for several in classes.values()):
        log.warning(
            "%s: the names of the files tell their labels (%s_… is always one class). medvit never looks at names; keep "
            "them from whatever else reads these clips.", table, min(classes),
        )  # fmt: skip

"""Whether a file is the case that it is asked for, and which files belong to it.

A case is told by its SOP or Series Instance UID, or by its path where it has none. Another file in its place is refused, so
that nobody reads one case under the name of another.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from apps.review.unpacked import case_of
from medvit.case import CLIPS, ENHANCED, PICTURES, SLICES, SLIDES, digest
from medvit.errors import Rejected, Unanswered
from medvit.readers.survey import survey

SHOWN = ("Laterality", "ImageLaterality", "ViewPosition", "PatientOrientation", "SeriesNumber", "InstanceNumber",
         "BodyPartExamined", "Modality")  # fmt: skip
INSTANCE, SERIES, KIND = "SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID"
NOT_DICOM = (*PICTURES, *SLIDES, *CLIPS, ".nii", ".gz")
NEIGHBOURS = 20_000  # files of a folder that are looked at for slices of a series


def checked(path: str, case: str) -> dict[str, bytes]:
    """The wanted elements of a DICOM file, none of another, once it has proved to be the case.

    Raises:
        Rejected: When it is another one.
    """
    if path.lower().endswith(NOT_DICOM):
        if case not in (digest(os.path.realpath(path)), case_of(path)):
            raise Rejected(
                "another_file", "Another file lies in its place. Nothing is shown, so that no case is mixed up."
            )
        return {}
    raw = _elements(path)
    if case not in (digest(plain(raw.get(name, b""))) for name in (INSTANCE, SERIES)):
        raise Rejected(
            "another_file", "Another image lies in its place. Nothing is shown, so that no case is mixed up."
        )
    return raw


def files_of(path: str, case: str, count: int = 0) -> tuple[list[Path], str]:
    """The files of a case, and its SOP class, "" for what is not DICOM.

    Slices of a series lie in the folder of the first one.

    Args:
        path: Its first file.
        case: Its key.
        count: Of the slices that were answered; 0 where nobody counted.

    Raises:
        Rejected: When it is another case, or there are not so many slices.
    """
    raw = checked(path, case)
    kind, series = plain(raw.get(KIND, b"")), plain(raw.get(SERIES, b""))
    if kind not in SLICES or digest(series) != case:
        return [Path(path)], kind
    found: dict[str, Path] = {}
    with os.scandir(Path(path).parent) as entries:
        names = sorted(entry.path for _, entry in zip(range(NEIGHBOURS), entries, strict=False) if entry.is_file())
    for name in names:
        try:
            told = _elements(name)
        except Unanswered:  # something else lies there, too
            continue
        if plain(told.get(SERIES, b"")) == series and plain(told.get(KIND, b"")) in SLICES:
            found.setdefault(plain(told.get(INSTANCE, b"")), Path(name))  # a copy counts once
    if count and len(found) != count:
        raise Rejected(
            "missing_slices",
            f"{len(found)} slices of the series lie in its folder and {count} were answered. Put them into one folder.",
        )
    return list(found.values()), kind


def is_stacked(raw: Mapping[str, bytes]) -> bool:
    """Whether these elements of a header are those of slices of CT or MR."""
    return plain(raw.get(KIND, b"")) in (*SLICES, *ENHANCED)


def plain(value: bytes) -> str:
    """A code or number of a header; anything that is none counts as nothing."""
    text = value.decode("ascii", "replace").strip("\0 ")
    return (
        text
        if len(text) <= 64 and text.replace("\\", "").replace("_", "").replace(".", "").replace(" ", "").isalnum()
        else ""
    )


def _elements(path: str) -> dict[str, bytes]:
    tags = {tag_for_keyword(name) or 0: name for name in (*SHOWN, INSTANCE, SERIES, KIND)}
    found = survey(Path(path), tags, max(tags) + 1).values
    return {name: found[tag] for tag, name in tags.items() if tag in found}

"""What a file is, told by its first bytes: the part of discovery that opens files, done by worker processes."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvit.case import BITMAP, CLIPS, NIFTI, PICTURES, SLIDES
from medvit.errors import Unanswered
from medvit.guard import Duty, Reply
from medvit.readers import tiff, zips
from medvit.readers.survey import FACTS, WORD, read_facts, regular_file

FACT_NAMES = (*FACTS, "transfer_syntax")
LONG = 5  # characters of a word that names a patient wherever it stands in a path; shorter ones are everywhere
# Words that stand for a patient's name in headers and name nobody.
NOBODY = frozenset(
    (
        "anonym", "anonymous", "anonymized", "anonymised", "chest", "compressedsamples", "deidentified", "dicom", "image",
        "images", "number", "patient", "pattern", "phantom", "sample", "samples", "series", "study", "subject", "test",
        "unknown",
    )
)  # fmt: skip
BLOCK = 2**20  # bytes


def headers(files: Sequence[tuple[str, str, int]]) -> Reply:
    """What each of some files is.

    Args:
        files: Path to open, the part of the path that may name a patient, and the size in bytes that it is expected to have.

    Returns:
        For each: its kind (``dicom``, ``picture``, ``volume``, ``slide``, ``bitmap``, ``clip``, ``zip`` or a refusal), and what
        that needs.
    """
    return Reply([_header(*file) for file in files])


def _header(file: str, shown: str, size: int) -> list[Any]:
    try:
        told = _told(file, shown)
        if os.stat(file, follow_symlinks=False).st_size != size:  # noqa: PTH116
            raise Unanswered("changing", "It grew or shrank meanwhile. Wait until it is complete, then use --resume.")
        return told
    except Unanswered as refusal:
        return [type(refusal).__name__, refusal.reason, str(refusal)]
    except OSError as error:
        return ["Unanswered", "unreadable", f"It cannot be opened: {error.strerror}."]


def _told(file: str, shown: str) -> list[Any]:
    suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122
    if suffix in PICTURES or suffix == zips.SUFFIX:
        with regular_file(Path(file)) as descriptor:
            start = os.pread(descriptor, 4, 0)
        if suffix in PICTURES:
            return ["picture"]
        if start in zips.MAGIC:
            return ["zip"]
    if file.lower().endswith(NIFTI):
        return ["volume"]
    if suffix == BITMAP:
        return ["bitmap"]
    if suffix in SLIDES:
        return ["slide"]  # by its name alone; who reads it says what is wrong with it
    if suffix in CLIPS:
        return ["clip"]
    facts, words = read_facts(Path(file))
    return ["dicom", [facts[name] for name in FACT_NAMES], _naming(shown, words)]


def _naming(shown: str, words: Iterable[str]) -> list[str]:
    """The parts of a path that name the patient: by a long word of the header, or by two short ones."""
    told = frozenset(map(_folded, words)) - NOBODY
    whole = _folded(shown)
    if not any(word in whole for word in told):
        return []
    return [part for part in shown.split("/") if _names(_folded(part), told)]


def _names(part: str, told: frozenset[str]) -> bool:
    return any(len(word) >= LONG and word in part for word in told) or len(told.intersection(WORD.split(part))) > 1


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def unpack(archive: str, folder: str, *so_far: Any) -> Reply:
    """See `medvit.readers.zips.unpack`."""
    try:
        return Reply(zips.unpack(Path(archive), Path(folder), zips.Progress(*so_far)))
    except OSError as error:
        raise Unanswered("unreadable", f"The zip cannot be read: {error.strerror}.") from error


def content(file: str) -> Reply:
    """SHA-256 of a file, read in blocks."""
    try:
        with regular_file(Path(file), slide=True) as descriptor:
            sha = hashlib.sha256()
            while block := os.read(descriptor, BLOCK):
                sha.update(block)
    except OSError as error:
        raise Unanswered("unreadable", f"It cannot be read: {error.strerror}.") from error
    return Reply(sha.hexdigest())


def cells(files: Sequence[str]) -> Reply:
    """Of each of some pictures of cells its mean colour, of a tiled TIFF that it is a slide, or why it cannot be read."""
    from medvit.readers.sheet import read_picture  # with libraries of slides, that other runs do without

    def told(file: Path) -> list[Any] | str:
        try:
            if tiff.is_tiff(file) and any(page.tiled for page in tiff.pages(file)):
                return "slide"
            return [float(part) for part in read_picture(file).reshape(-1, 3).mean(axis=0)]
        except Unanswered as refusal:
            return [type(refusal).__name__, refusal.reason, str(refusal)]
        except OSError as error:
            return ["Unanswered", "unreadable", f"It cannot be opened: {error.strerror}."]

    return Reply([told(Path(file)) for file in files])


DUTIES: Mapping[str, Duty] = {"headers": headers, "unpack": unpack, "content": content, "cells": cells}


def duties() -> Mapping[str, Duty]:
    """`DUTIES`, to be loaded by a worker of its own."""
    return DUTIES

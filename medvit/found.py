"""What becomes of an input, and which files are one case together: a slide, the cells of a folder, the slices of a series."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from medvit.case import MIRAX, SLICES, WHOLE_SLIDE, Case, digest
from medvit.cell_folders import bagged
from medvit.errors import Skipped, Unanswered
from medvit.guard import Pool


class Found(NamedTuple):
    """One discovered input: a case, or the reason why it gets no answer, or both.

    Args:
        source: Its path as it may be shown: a part that names the patient is replaced by ``~`` and a digest.
        case: What was found.
        refusal: Why it gets no answer.
        path: Its path as it is; that of a zip's member is ``archive.zip!/member``.
        given: Characters of the path that the user typed; those are shown in any case.
        naming: Parts of the path that name the patient.
    """

    source: str
    case: Case | None
    refusal: Unanswered | None
    path: str = ""
    given: int = 0
    naming: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The input in file names and records: a digest of its path."""
        return digest(os.path.abspath(self.path or self.source))  # noqa: PTH100


def place(one: Found) -> tuple[bool, str, str, int, str]:
    """Where an input stands among the others: those to answer first."""
    if one.refusal or not one.case:
        return True, one.path, "", 0, ""
    header = one.case.header
    number = int(header.get("instance") or 0)
    return False, header.get("study_uid", ""), header.get("series_uid", ""), number, one.case.uid


def join_slides(found: Iterable[Found]) -> list[Found]:
    """The files of a slide as one case: of DICOM those of one series in one folder, of MIRAX the folder beside its file."""
    found = list(found)
    folders = {Path(one.path).with_suffix("") for one in found if one.case and one.path.lower().endswith(MIRAX)}
    part = Skipped("slide_part", "It is a part of the .mrxs beside its folder, which is answered as a whole.")
    for index, one in enumerate(found):
        if isinstance(one.refusal, Skipped) and Path(one.path).parent in folders:
            found[index] = one._replace(refusal=part)
    slides: defaultdict[tuple[Path, str], list[int]] = defaultdict(list)
    for index, one in enumerate(found):
        if one.case and one.case.header.get("sop_class") == WHOLE_SLIDE and one.case.header["series_uid"]:
            slides[one.case.files[0].parent, one.case.header["series_uid"]].append(index)
    for (_, series), members in slides.items():
        files = tuple(case.files[0] for index in members if (case := found[index].case))
        first = found[members[0]]
        part = Skipped("slide_part", "It is a part of a slide, which is answered as a whole with its first file.")
        for index in members[1:]:
            found[index] = found[index]._replace(case=None, refusal=part)
        if first.case:
            found[members[0]] = first._replace(case=replace(first.case, uid=series, files=files))
    return found


def join_cells(found: list[Found], together: Callable[[Case], bool], pool: Pool) -> list[Found]:
    """The pictures of one folder as one case, where that is asked for."""
    parts = [i for i, one in enumerate(found) if one.case and not one.refusal and together(one.case)]
    pictures = [(found[index].path, case) for index in parts if (case := found[index].case)]
    for index, answer in zip(parts, bagged(pictures, pool), strict=True):
        if isinstance(answer, Unanswered):
            found[index] = found[index]._replace(case=None, refusal=answer)
        else:
            found[index] = found[index]._replace(case=answer)
    return found


def join_slices(found: list[Found]) -> list[Found]:
    """The answerable slices of one series of CT or MR as one case; the first of them stands for it."""
    series: defaultdict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(found):
        if (
            one.case
            and not one.refusal
            and one.case.header.get("sop_class") in SLICES
            and one.case.header["series_uid"]
        ):
            series[one.case.header["series_uid"]].append(index)
    part = Skipped("series_part", "It is a slice of a series, which is answered as a whole with its first file.")
    for uid, members in series.items():
        files = tuple(case.files[0] for index in members if (case := found[index].case))
        first = found[members[0]]
        if first.case and len(members) > 1:
            found[members[0]] = first._replace(case=replace(first.case, uid=uid, files=files))
            for index in members[1:]:
                found[index] = found[index]._replace(case=None, refusal=part)
    return sorted(found, key=place)

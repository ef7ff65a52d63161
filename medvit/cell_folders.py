"""Pictures of cells that lie in one folder as one case: a patient, or a smear, cell by cell.

Workers open every picture once before anything is answered, so that one that cannot be read costs itself alone.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.case import Case
from medvit.errors import Rejected, Skipped, Unanswered
from medvit.guard import Pool, Reply
from medvit.reply import REFUSALS

CHUNK = 64  # pictures that are opened by one call
STAINS = 3.0  # standard deviations apart that mean colours of one stain may lie
LEAST, SHARE = 10, 0.1  # pictures, and share of them that make a stain
BAG = "pictures"  # header `bag` of such a case
READER = "pictures of cells"  # what its record says of how it was read
SLIDE = "slide"  # what a worker says of a tiled TIFF


def bagged(pictures: Sequence[tuple[str, Case]], pool: Pool) -> list[Case | Unanswered]:
    """What becomes of pictures of cells: of each folder one case, of all its readable pictures.

    Args:
        pictures: The path of each, whose folder counts, and its case.
        pool: Workers with the duty ``cells``.

    Returns:
        For each picture the case of its folder, where it is the first in it by name; else why it is no case of its own: it is
        a part of one, or cannot be read. A tiled TIFF stays what it was.
    """
    told = _opened([str(case.files[0]) for _, case in pictures], pool)
    found: list[Case | Unanswered] = []
    folders: defaultdict[str, list[int]] = defaultdict(list)
    for index, ((path, case), one) in enumerate(zip(pictures, told, strict=True)):
        found.append(case if not isinstance(one, Unanswered) else one)
        if isinstance(one, tuple):
            folders[os.path.abspath(os.path.dirname(path))].append(index)  # noqa: PTH100, PTH120
    for folder, members in folders.items():
        members.sort(key=lambda index: pictures[index][1].files[0])
        files = tuple(pictures[index][1].files[0] for index in members)
        header = {"bag": BAG}
        sides = two_colours(np.array([told[index] for index in members]))
        if sides is not None:
            header["stains"] = (
                f"Its pictures are coloured in two quite different ways ({int((~sides).sum())} and {int(sides.sum())}): two "
                "stains, or two sources."
            )
        found[members[0]] = replace(pictures[members[0]][1], uid=f"cells in {folder}", modality="", files=files,
                                    header=header)  # fmt: skip
        for number, index in enumerate(members[1:], 2):
            found[index] = Skipped(
                "cell_part", f"It is picture {number} of {len(members)} of its folder, which is answered as one case."
            )
    return found


def two_colours(colours: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Whether mean colours (N, 3) of pictures, 0 to 255, fall into two far groups; (N,) which is in which, or None.

    They are split in two where that explains them best. Two groups are each a tenth of the pictures or more, and their means
    lie further apart than `STAINS` times how widely either is spread.
    """
    if len(colours) < LEAST:
        return None
    along = colours @ np.linalg.svd(colours - colours.mean(axis=0), full_matrices=False)[2][0]
    ordered = np.sort(along)
    below = np.arange(1, len(ordered))  # pictures below each cut
    above, sums = len(ordered) - below, ordered.cumsum()
    best = below[np.argmax(below * above * ((sums[-1] - sums[:-1]) / above - sums[:-1] / below) ** 2)]
    low, high = ordered[:best], ordered[best:]
    apart = (high.mean() - low.mean()) / max(low.std(), high.std(), 1.0)
    if min(len(low), len(high)) < len(ordered) * SHARE or apart < STAINS:
        return None
    return np.asarray(along >= high[0])


Opened = tuple[float, float, float] | str | Unanswered


def _opened(files: Sequence[str], pool: Pool) -> list[Opened]:
    """The mean colour of each picture, `SLIDE` for what is none, or why it cannot be read."""
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    calls = [pool.submit("cells", list(chunk)) for chunk in chunks]
    return [one for chunk, call in zip(chunks, calls, strict=True) for one in _told(chunk, call, pool)]


def _told(chunk: Sequence[str], call: Future[Reply], pool: Pool) -> list[Opened]:
    try:
        answers = call.result().plain
    except Unanswered as refusal:  # one of them killed the worker: it shall cost itself alone
        if len(chunk) == 1:
            return [refusal.with_traceback(None)]
        return [one for file in chunk for one in _told([file], pool.submit("cells", [file]), pool)]
    if not isinstance(answers, list) or len(answers) != len(chunk):
        return [Rejected("crashed", "The process that worked on it answered nonsense.")] * len(chunk)
    return [_understood(answer) for answer in answers]


def _understood(answer: Any) -> Opened:
    try:
        if answer == SLIDE:
            return SLIDE
        if isinstance(answer[0], str):
            kind, reason, message = answer
            return REFUSALS[kind](str(reason), str(message))
        red, green, blue = (float(part) for part in answer)
        return red, green, blue
    except (TypeError, ValueError, KeyError, IndexError):
        return Rejected("crashed", "The process that worked on it answered nonsense.")

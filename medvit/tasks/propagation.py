"""Outlines carried from prompted slices to their neighbours, object by object, until a rule says stop.

Source: MedSAM's sparse markers and LiteMedSAM carry the box of the last outline on to the next slice. They have no rule to stop
short of the volume's end, and MedSAM mixes objects; both are different here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.data.prompts import Object, Prompt

END, NOTHING = "end of the volume", "nothing found at the prompt"
Mask = NDArray[np.bool_]
# Masks (H, W) and scores of prompts about a slice, in order.
Answer = Callable[[int, Sequence[Prompt]], Sequence[tuple[Mask, float]]]


class Stop(NamedTuple):
    """When an outline is carried no further.

    Args:
        min_score: Below this score of its own.
        most_change: Where its area is this many times larger or smaller than on the slice before.
        margin: By how much the box for the next slice is larger than the outline on each side, as a share of the longer side
            of the slice; one pixel at least.
    """

    min_score: float = 0.5
    most_change: float = 2.5
    margin: float = 5 / 1024


class Found(NamedTuple):
    """What was found of one object.

    Args:
        mask: (D, H, W).
        score: Mean of the slices' scores by area.
        ends: Why it stops at each end, upwards first.
    """

    mask: Mask
    score: float
    ends: tuple[str, str]


def propagate(objects: Sequence[Object], shape: tuple[int, int, int], answer: Answer, stop: Stop) -> list[Found]:
    """Outline objects on their prompted slices and outwards from there.

    Each object has a state of its own. Upwards it goes from its lowest prompted slice, downwards from its highest; a prompted
    slice is answered by its own prompt, also where the outline had stopped before it.
    """
    states = [_State(one, shape) for one in objects]
    for upwards in (True, False):
        for state in states:
            state.last = None
        for z in range(shape[0]) if upwards else reversed(range(shape[0])):
            asked = [(state, prompt) for state in states if (prompt := state.asks(z, upwards, stop))]
            if asked:
                answers = answer(z, [prompt for _, prompt in asked])
                for (state, _), (mask, score) in zip(asked, answers, strict=True):
                    state.take(z, mask, score, upwards, stop)
    return [state.found() for state in states]


class _State:
    """How far one object has come."""

    def __init__(self, one: Object, shape: tuple[int, int, int]) -> None:
        self.prompts = {prompt.slice: prompt for prompt in one.prompts}
        self.mask = np.zeros(shape, bool)
        self.scores: dict[int, float] = {}
        self.last: int | None = None  # slice that the next one is asked from
        self.ends = [END, END]

    def asks(self, z: int, upwards: bool, stop: Stop) -> Prompt | None:
        """What is asked about a slice; nothing where it is answered, or nothing leads to it."""
        if z in self.prompts and upwards:
            return self.prompts[z]
        if z in self.scores:  # on the way down: what was found on the way up stays
            self.last = z if self.mask[z].any() else None
            self.ends[1] = END if self.last == z else f"slice {z}: {NOTHING}"
            return None
        return None if self.last is None else Prompt(z, around(self.mask[self.last], stop.margin))

    def take(self, z: int, mask: Mask, score: float, upwards: bool, stop: Stop) -> None:
        """Keep an answer, or stop."""
        why = "" if z in self.prompts else _refused(self.mask[self.last or 0], mask, score, stop)
        if why:
            self.last = None
            self.ends[not upwards] = f"slice {z}: {why}"
            return
        self.mask[z], self.scores[z] = mask, score
        self.last = z if mask.any() else None
        self.ends[not upwards] = END if mask.any() else f"slice {z}: {NOTHING}"

    def found(self) -> Found:
        """Where it has come to."""
        areas = {z: int(self.mask[z].sum()) for z in self.scores}
        total = sum(areas.values())
        weighted = sum(score * areas[z] for z, score in self.scores.items())
        score = weighted / total if total else max(self.scores.values(), default=0.0)
        return Found(self.mask, score, (self.ends[0], self.ends[1]))


def _refused(before: Mask, mask: Mask, score: float, stop: Stop) -> str:
    """Why an outline that was carried here does not count; "" where it does."""
    area, last = int(mask.sum()), int(before.sum())
    if not area:
        return "nothing found"
    if score < stop.min_score:
        return f"score {score:.2f} below {stop.min_score:g}"
    if max(area / last, last / area) > stop.most_change:
        return f"area {area / last:.2g} times that of the slice before"
    if not (mask & before).any():
        return "no overlap with the slice before"
    return ""


def around(mask: Mask, share: float) -> tuple[float, float, float, float]:
    """The box x_min, y_min, x_max, y_max around a mask (H, W), larger by a share of the longer side, one pixel at least."""
    margin = max(round(share * max(mask.shape)), 1)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    H, W = mask.shape
    return (
        float(max(columns[0] - margin, 0)),
        float(max(rows[0] - margin, 0)),
        float(min(columns[-1] + 1 + margin, W)),
        float(min(rows[-1] + 1 + margin, H)),
    )

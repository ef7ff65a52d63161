"""Outlines carried through slices: each object by itself, in both directions, until the rule says stop."""

import numpy as np
import pytest

from medvit.data.prompts import Object, Prompt
from medvit.tasks.propagation import Stop, propagate

SHAPE = (9, 20, 20)


def truth(slices: range, at: int = 8, r: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[slices.start : slices.stop, at - r : at + r, at - r : at + r] = True
    return mask


def asked(label: str, *slices: int, box=(4, 4, 12, 12)) -> Object:
    return Object(label, tuple(Prompt(z, box) for z in slices), "box")


class Oracle:
    """Answers with what of a truth lies in the box; keeps what it was asked."""

    def __init__(self, mask: np.ndarray, scores: dict[int, float] | None = None) -> None:
        self.mask, self.scores, self.calls = mask, scores or {}, []

    def __call__(self, z, prompts):
        answers = []
        for prompt in prompts:
            x0, y0, x1, y1 = map(int, prompt.box)
            self.calls.append((z, prompt.box))
            found = np.zeros(SHAPE[1:], bool)
            found[y0:y1, x0:x1] = self.mask[z, y0:y1, x0:x1]
            answers.append((found, self.scores.get(z, 0.9)))
        return answers


def test_an_object_is_followed_both_ways_and_ends_where_nothing_is_found() -> None:
    oracle = Oracle(truth(range(2, 7)))
    (found,) = propagate([asked("a", 4)], SHAPE, oracle, Stop())
    np.testing.assert_array_equal(found.mask, oracle.mask)
    assert found.ends == ("slice 7: nothing found", "slice 1: nothing found")
    assert found.score == pytest.approx(0.9)
    assert [z for z, _ in oracle.calls] == [4, 5, 6, 7, 3, 2, 1]
    assert oracle.calls[1][1] == (3, 3, 13, 13)  # a pixel larger than the last outline


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("score", "score 0.30 below 0.5"),
        ("grow", "area 3.1 times"),
        ("shrink", "area 0.25 times"),
        ("jump", "no overlap"),
    ],
)
def test_it_stops_at_a_low_score_a_sudden_change_of_area_or_a_jump(change: str, words: str) -> None:
    mask, scores = truth(range(9)), {}
    if change == "score":
        scores = {6: 0.3}
    elif change == "grow":
        mask[6] = True
    elif change == "shrink":
        mask[6, :, :] = False
        mask[6, 6:10, 6:10] = True
    else:
        mask[6] = False
        mask[6, 3:13, 3:4] = True
        mask[6, 3:4, 3:13] = mask[6, 12:13, 3:13] = True
    (found,) = propagate([asked("a", 4)], SHAPE, Oracle(mask, scores), Stop(margin=0.16))
    assert words in found.ends[0] and found.ends[0].startswith("slice 6: ")
    assert found.ends[1] == "end of the volume"
    assert not found.mask[6:].any() and found.mask[:6].any(axis=(1, 2)).all()


def test_objects_do_not_know_of_each_other() -> None:
    both = truth(range(1, 8)) | truth(range(3, 5), at=16, r=3)
    one, two = propagate([asked("a", 4), asked("b", 3, box=(13, 13, 19, 19))], SHAPE, Oracle(both), Stop())
    np.testing.assert_array_equal(one.mask, truth(range(1, 8)))
    np.testing.assert_array_equal(two.mask, truth(range(3, 5), at=16, r=3))


def test_a_second_prompt_takes_over_and_bridges_a_gap() -> None:
    mask = truth(range(0, 3)) | truth(range(5, 8))
    oracle = Oracle(mask)
    (found,) = propagate([asked("a", 1, 6)], SHAPE, oracle, Stop())
    np.testing.assert_array_equal(found.mask, mask)
    assert found.ends == ("slice 8: nothing found", "end of the volume")
    assert len([z for z, _ in oracle.calls if z in (1, 6)]) == 2  # prompted slices are answered once


def test_a_prompt_that_finds_nothing_is_told() -> None:
    (found,) = propagate([asked("a", 4)], SHAPE, Oracle(np.zeros(SHAPE, bool)), Stop())
    assert not found.mask.any() and found.ends[0] == "slice 4: nothing found at the prompt"
    assert found.ends[1] == "slice 4: nothing found at the prompt"

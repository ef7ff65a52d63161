"""FROC against what can be counted by hand."""

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.evaluate.froc import FALSE_ALARMS, Found, Froc, found_in_map, found_in_tiles, froc, lesions_of, main_axis

UM = 10.0  # a pixel
SHAPE = (200, 200)  # pixels: 2 mm


def square(*places: tuple[int, int], side: int = 40) -> np.ndarray:
    """A mask with squares of ``side`` pixels at these corners."""
    mask = np.zeros(SHAPE, dtype=bool)
    for row, column in places:
        mask[row : row + side, column : column + side] = True
    return mask


def dots(*found: tuple[int, int, float]) -> np.ndarray:
    """A map with single pixels of these scores."""
    scores = np.zeros(SHAPE, dtype=np.float32)
    for row, column, score in found:
        scores[row, column] = score
    return scores


def scored(maps: list[np.ndarray], masks: list[np.ndarray]) -> Froc:
    return froc([found_in_map(scores, SHAPE, UM) for scores in maps], masks, [UM] * len(masks))


def test_a_curve_counted_by_hand():
    # two lesions on the first slide, one found at 0.9, one at 0.6; false alarms at 0.8 there and at 0.7 on the healthy slide
    masks = [square((10, 10), (130, 130)), square()]
    maps = [dots((30, 30, 0.9), (150, 150, 0.6), (30, 150, 0.8)), dots((100, 100, 0.7))]
    found = scored(maps, masks)
    assert (found.lesions, found.isolated, found.slides) == (2, 0, 2)
    curve = sorted(zip(found.false_alarms.tolist(), found.found.tolist(), strict=True))
    assert curve == [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (1.0, 1.0)]
    # half of the lesions until both false alarms (1 a slide) are let in, then all
    assert found.sensitivity == pytest.approx((0.5, 0.5, 1.0, 1.0, 1.0, 1.0))
    assert found.score == pytest.approx(5 / 6)
    assert len(found.sensitivity) == len(FALSE_ALARMS)


def test_a_perfect_map_scores_one_and_an_empty_one_zero():
    mask = square((20, 20))
    assert scored([dots((40, 40, 0.9))], [mask]).score == 1.0
    assert scored([dots()], [mask]).score == 0.0


def test_two_detections_in_one_lesion_count_once_and_neighbours_are_silenced():
    mask = square((20, 20), side=120)
    found = scored([dots((30, 30, 0.9), (32, 32, 0.8), (130, 130, 0.7))], [mask])
    assert found.score == 1.0
    # 32, 32 lies in the square that 30, 30 silences, also where it lies outside the lesion
    beside = scored([dots((21, 21, 0.9), (15, 15, 0.8))], [mask])
    assert beside.false_alarms.max() == 0


def test_a_score_at_the_threshold_is_no_detection():
    assert scored([dots((40, 40, 0.5))], [square((20, 20))]).score == 0.0


def test_regions_nearer_than_75_um_are_one_lesion_and_farther_ones_two():
    near, far = square((20, 20), (20, 66)), square((20, 20), (20, 70))  # gaps of 60 and of 100 um
    assert lesions_of(near, UM).labels.max() == 1
    assert lesions_of(far, UM).labels.max() == 2


def test_isolated_cells_count_for_neither_side():
    mask = square((20, 20)) | square((150, 150), side=8)  # the second one is 80 um long
    assert lesions_of(mask, UM).isolated == [2]
    found = scored([dots((40, 40, 0.9), (153, 153, 0.95))], [mask])
    assert (found.score, found.lesions, found.isolated) == (1.0, 1, 1)
    assert found.false_alarms.max() == 0


def test_the_main_axis_of_a_bar_and_a_disc():
    bar = np.ones((3, 60), dtype=bool)
    assert main_axis(bar) == pytest.approx(4 * np.sqrt(60**2 / 12), rel=1e-6)
    rows, columns = np.mgrid[-50:51, -50:51]
    assert main_axis(np.hypot(rows, columns) <= 50) == pytest.approx(100, rel=0.01)


def test_a_coarse_map_finds_at_the_middle_of_its_pixels():
    coarse = np.zeros((20, 20), np.float32)
    coarse[3, 7] = 0.9
    assert found_in_map(coarse, SHAPE, 100.0).places.tolist() == [[35, 75]]


def test_tiles_find_at_their_middles_and_silence_their_neighbours():
    corners = np.array([[0, 0], [64, 0], [0, 640], [960, 320]])
    scores = np.array([0.6, 0.9, 0.4, 0.7], np.float32)
    found = found_in_tiles(corners, 64.0, scores, 0.5, 16.0, box_um=192.0)
    assert found.scores.tolist() == np.array([0.9, 0.7], np.float32).tolist()
    assert found.places.tolist() == [[2, 6], [22, 62]]  # row before column
    everything = found_in_tiles(corners, 64.0, scores, 0.5, 16.0, threshold=0.0, box_um=10.0)
    assert everything.scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(found_in_tiles(corners, 64.0, scores, 0.5, 16.0, threshold=0.95).scores) == 0


def test_what_cannot_be_scored_is_refused():
    mask, none = square((20, 20)), found_in_map(dots(), SHAPE, UM)
    for wrong in (np.nan, 3.0, -0.1):
        with pytest.raises(MedvitError, match="numbers from 0 to 1"):
            found_in_map(dots((5, 5, wrong)), SHAPE, UM)
        with pytest.raises(MedvitError, match="numbers from 0 to 1"):
            found_in_tiles(np.zeros((1, 2), np.int64), 8.0, np.array([wrong], np.float32), 0.5, 16.0)
    with pytest.raises(MedvitError, match="outside its mask"):
        froc([Found(np.ones(1, np.float32), np.array([[5, 200]]))], [mask], [UM])
    with pytest.raises(MedvitError, match=r"0\.0 um"):
        froc([none], [mask], [0.0])
    with pytest.raises(MedvitError, match="lesion that counts"):
        froc([none], [square()], [UM])


def test_the_map_that_is_scored_stays_as_it_was():
    scores = dots((40, 40, 0.9))
    before = scores.copy()
    scored([scores], [square((20, 20))])
    assert np.array_equal(scores, before)

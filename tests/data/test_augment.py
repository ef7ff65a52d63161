"""Random views: seeded, within their bounds, and still films."""

import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.data.augment import OPERATIONS, rand_augment, random_crop, random_view
from medvit.image import Fit, view

RATIO = (3 / 4, 4 / 3)


@pytest.fixture
def film() -> np.ndarray:
    rows, columns = np.mgrid[:90, :120]
    smooth = np.sin(rows / 11) * np.cos(columns / 17) / 2 + 0.5
    return (smooth * 0.8 + np.random.default_rng(0).random((90, 120)) * 0.2).astype(np.float32)


def test_the_same_seed_gives_the_same_view_and_another_seed_another(film) -> None:
    def seen(seed: int) -> tuple[np.ndarray, Fit]:
        return random_view(np.random.default_rng(seed), crop_min=0.3, randaugment=6)(film, 32)

    for seed in range(5):
        (first, fit), (again, same) = seen(seed), seen(seed)
        np.testing.assert_array_equal(first, again)
        assert fit == same
    assert len({seen(seed)[1].box for seed in range(20)}) > 15
    assert len({seen(seed)[0].tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize("share_min", [0.08, 0.5, 0.9])
def test_crops_keep_to_area_aspect_and_the_film(share_min) -> None:
    rng = np.random.default_rng(0)
    areas, lefts, aspects = [], [], []
    for _ in range(400):
        top, left, bottom, right = random_crop(rng, (900, 1100), 224, share_min, RATIO).box
        assert 0 <= top < bottom <= 900
        assert 0 <= left < right <= 1100
        areas.append((bottom - top) * (right - left) / (900 * 1100))
        aspects.append((right - left) / (bottom - top))
        lefts.append(left)
    assert share_min - 0.01 <= min(areas) < share_min + 0.06
    assert max(areas) > 0.85
    assert min(aspects) > 0.74
    assert max(aspects) < 1.35
    if share_min < 0.9:  # else only the film's own aspect leaves that much
        assert min(aspects) < 0.8
        assert max(aspects) > 1.28
    assert len(set(lefts)) > 20


def test_a_film_too_long_for_any_crop_gets_the_largest_centred_one() -> None:
    fit = random_crop(np.random.default_rng(0), (100, 1000), 32, 1.0, RATIO)
    assert fit.box == (0, 433, 100, 566)
    fit = random_crop(np.random.default_rng(0), (1000, 100), 32, 1.0, RATIO)
    assert fit.box == (433, 0, 566, 100)


def test_a_view_is_the_part_that_its_fit_says(film) -> None:
    seen, fit = random_view(np.random.default_rng(3), crop_min=0.3, flip=0)(film, 48)
    np.testing.assert_array_equal(seen, view(film, fit))
    mirrored, same = random_view(np.random.default_rng(3), crop_min=0.3, flip=1)(film, 48)
    assert same == fit
    np.testing.assert_array_equal(mirrored, seen[:, ::-1])


@pytest.mark.parametrize("level", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("index", range(len(OPERATIONS)))
def test_an_operation_keeps_size_and_kind_and_changes_no_more_than_grey_and_place(film, index, level) -> None:
    picture = Pillow.fromarray((film * 255).astype(np.uint8))
    before = picture.tobytes()
    for seed in range(3):
        after = OPERATIONS[index](picture, level, np.random.default_rng(seed))
        assert (after.size, after.mode) == (picture.size, "L")
    assert picture.tobytes() == before  # the source is left alone


def test_there_are_15_operations_and_11_do_nothing_at_level_0(film) -> None:
    picture = Pillow.fromarray((film * 255).astype(np.uint8))
    rng = np.random.default_rng(0)
    alone = [operation(picture, 0.0, rng).tobytes() == picture.tobytes() for operation in OPERATIONS]
    assert len(alone) == 15
    assert sum(alone) == 11
    active = [operation(picture, 0.6, rng).tobytes() != picture.tobytes() for operation in OPERATIONS]
    assert sum(active) == 14  # all but the change of saturation


@pytest.mark.parametrize("magnitude", [0, 6, 10])
def test_rand_augment_keeps_shape_type_and_range(film, magnitude) -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(60):
        after = rand_augment(film, magnitude, rng)
        assert after.shape == film.shape
        assert after.dtype == np.float32
        assert after.min() >= 0
        assert after.max() <= 1
        changed += np.abs(after - film).max() > 1 / 255
    assert changed > 20  # two operations, each with probability one half


def test_a_film_outside_the_range_is_clipped_and_not_wrapped() -> None:
    film = np.array([[-0.2, 0.5], [1.3, 1.0]], np.float32)  # bicubic resampling overshoots
    outcomes = [rand_augment(film, 0, np.random.default_rng(seed), operations=0) for seed in range(2)]
    np.testing.assert_allclose(outcomes[0], [[0, 128 / 255], [1, 1]])


def test_a_larger_magnitude_moves_pixels_further(film) -> None:
    def moved(magnitude: float) -> float:
        rng = np.random.default_rng(0)
        return float(np.mean([np.abs(rand_augment(film, magnitude, rng) - film).mean() for _ in range(150)]))

    assert moved(1) < moved(9)

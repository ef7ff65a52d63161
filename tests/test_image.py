"""Boxes and maps between source pixels and model pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.image import Fit, centre, view


def test_a_box_maps_to_the_model_on_known_numbers() -> None:
    fit = Fit(source=(400, 600), model=(224, 224), box=(100, 50, 212, 274))  # 112 rows, 224 columns
    boxes = np.array([[50.0, 100.0, 274.0, 212.0], [62.0, 106.0, 162.0, 156.0]])
    np.testing.assert_allclose(fit.to_model(boxes), [[0, 0, 224, 224], [12, 12, 112, 112]])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    source=st.tuples(st.integers(20, 3000), st.integers(20, 3000)),
    share=st.floats(0.3, 1.0),
    size=st.sampled_from([32, 224, 384]),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_boxes_go_to_the_model_and_back(source, share, size, corner) -> None:
    fit = centre(source, size, share)
    top, left, bottom, right = fit.box
    x, y = corner[0] * source[1], corner[1] * source[0]
    box = np.array([[x, y, x + 5, y + 7]])
    seen = fit.to_model(box)
    scale = np.array([right - left, bottom - top] * 2) / size
    np.testing.assert_allclose(seen * scale + [left, top, left, top], box, atol=1e-6)


def test_the_centre_keeps_the_share_of_the_shorter_side() -> None:
    assert centre((256, 512), 224, 224 / 256) == Fit((256, 512), (224, 224), (16, 144, 240, 368))
    assert centre((300, 100), 32, 1.0) == Fit((300, 100), (32, 32), (100, 0, 200, 100))
    top, left, bottom, right = centre((101, 77), 32, 0.5).box
    assert (bottom - top, right - left) == (38.5, 38.5)
    assert (top + bottom, left + right) == (101, 77)  # equally far from both edges


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    source=st.tuples(st.integers(64, 700), st.integers(64, 700)),
    share=st.floats(0.5, 1.0),
    place=st.tuples(st.integers(0, 13), st.integers(0, 13)),
)
def test_a_peak_comes_back_to_where_it_was(source, share, place) -> None:
    fit = centre(source, 224, share)
    plane = np.zeros((14, 14), np.float32)
    plane[place] = 1
    back = fit.to_source(plane)
    assert back.shape == source
    assert back.dtype == np.float32
    top, left, bottom, _ = fit.box
    weights = back / back.sum()
    y, x = (weights.sum(1) * np.arange(source[0])).sum() + 0.5, (weights.sum(0) * np.arange(source[1])).sum() + 0.5
    token = (bottom - top) / 14
    edge = token / 4 * (place[0] in (0, 13) or place[1] in (0, 13))  # a peak at the edge is cut off on one side
    assert y == pytest.approx(top + (place[0] + 0.5) * token, abs=1.5 + edge)
    assert x == pytest.approx(left + (place[1] + 0.5) * token, abs=1.5 + edge)


@pytest.mark.parametrize(
    "fit",
    [
        Fit((300, 200), (64, 64), (40, 30, 140, 170)),  # a crop inside
        Fit((300, 200), (64, 64), (0, 0, 300, 200)),  # the whole film
        Fit((301, 199), (64, 64), (0.5, 0.25, 199.5, 198.75)),  # odd sizes, fractional edges
    ],
)
def test_a_bright_spot_of_the_film_is_seen_and_found_again(fit) -> None:
    film = np.zeros(fit.source, np.float32)
    film[80:90, 100:110] = 1  # centre at (85, 105)
    seen = view(film, fit)
    assert seen.shape == fit.model
    back = fit.to_source(seen.clip(0))
    assert back.shape == fit.source
    rows, columns = np.nonzero(back > 0.7)
    assert abs(rows.mean() + 0.5 - 85) <= 1.5
    assert abs(columns.mean() + 0.5 - 105) <= 1.5
    box = fit.to_model(np.array([[100, 80, 110, 90]]))[0]
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    assert box[0] - 1 <= column <= box[2]
    assert box[1] - 1 <= row <= box[3]


def test_what_the_model_did_not_see_is_zero() -> None:
    fit = Fit((100, 80), (32, 32), (20, 10, 60, 50))
    back = fit.to_source(np.ones((4, 4), np.float32))
    assert (back[20:60, 10:50] == 1).all()
    assert back.sum() == 40 * 40


def test_a_field_of_view_wider_than_the_film_comes_back_cut_to_it() -> None:
    fit = Fit((40, 80), (80, 80), (-20, 0, 60, 80))
    plane = np.zeros((80, 80), np.float32)
    plane[30, 70] = 1
    back = fit.to_source(plane)
    assert back.shape == (40, 80)
    assert np.unravel_index(back.argmax(), back.shape) == (10, 70)


def test_a_view_of_everything_at_the_same_size_changes_nothing() -> None:
    film = np.random.default_rng(0).random((40, 40), np.float32)
    np.testing.assert_array_equal(view(film, centre((40, 40), 40, 1.0)), film)


def test_shrinking_averages_instead_of_picking() -> None:
    film = (np.indices((200, 200)).sum(0) % 2).astype(np.float32)  # a checkerboard of single pixels
    seen = view(film, centre((200, 200), 20, 1.0))
    np.testing.assert_allclose(seen, 0.5, atol=0.02)

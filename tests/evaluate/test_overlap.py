"""Dice and surface Dice: by hand, against MONAI, and by the paper's protocol."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medvit.errors import MedvitError
from medvit.evaluate.segmentation import (
    PAPER_SIDE,
    Mask,
    dice,
    paper_box,
    paper_scores,
    surface_dice,
    surface_distances,
)


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    grid = np.indices(shape).astype(float)
    parts = [((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)]
    inside: Mask = np.sum(parts, axis=0) < 1
    return inside


def bumpy(seed: int, shape: tuple[int, ...]) -> Mask:
    """A mask with holes, corners and islands."""
    return np.random.default_rng(seed).random(shape) > 0.6


def test_dice_is_twice_the_overlap_over_both_sizes() -> None:
    found, truth = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    found[0, :3], truth[0, 1:] = True, True
    assert dice(found, truth) == pytest.approx(2 * 2 / 6)
    assert dice(found, found) == 1.0
    assert dice(found, ~found) == 0.0


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    empty, square = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    square[3:6, 3:6] = True
    assert dice(empty, empty) == surface_dice(empty, empty, (1.0, 1.0), 1.0) == 1.0
    assert dice(empty, square) == surface_dice(empty, square, (1.0, 1.0), 1.0) == 0.0
    assert surface_dice(square, empty, (1.0, 1.0), 1e9) == 0.0


def test_the_contour_of_a_square_is_its_sides_with_the_corners_cut() -> None:
    square = np.zeros((12, 12), bool)
    square[3:8, 2:9] = True  # 5 x 7 pixels
    contour, _ = surface_distances(square, square, (1.0, 1.0))
    assert contour.size.sum() == pytest.approx(2 * (4 + 6) + 4 * math.sqrt(0.5))


def test_the_contour_of_a_rectangle_is_measured_in_mm() -> None:
    square = np.zeros((12, 12), bool)
    square[3:8, 2:9] = True
    contour, _ = surface_distances(square, square, (2.0, 0.5))
    assert contour.size.sum() == pytest.approx(2 * (4 * 2.0 + 6 * 0.5) + 4 * math.hypot(1.0, 0.25))


def test_the_surface_of_a_ball_has_nearly_its_area() -> None:
    ball = ellipsoid((50, 60, 70), (25, 30, 35), (20, 20, 20))
    surface, _ = surface_distances(ball, ball, (1.0, 1.0, 1.0))
    assert surface.size.sum() == pytest.approx(4 * math.pi * 20**2, rel=0.12)


@pytest.mark.parametrize(
    ("shift", "spacing", "distance"), [(3, (1.0, 1.0), 3.0), (3, (1.0, 0.4), 1.2), (2, (7.0, 2.0), 4.0)]
)
def test_a_shifted_side_is_as_far_away_as_it_was_shifted(
    shift: int, spacing: tuple[float, ...], distance: float
) -> None:
    one, other = np.zeros((30, 60), bool), np.zeros((30, 60), bool)
    one[:, :20], other[:, : 20 + shift] = True, True
    one[:5], one[-5:], other[:5], other[-5:] = False, False, False, False
    surface, _ = surface_distances(one, other, spacing)
    assert surface.distance_mm.max() == pytest.approx(distance)


def test_a_tolerance_is_met_by_a_distance_that_equals_it_and_missed_by_a_greater_one() -> None:
    one, other = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    one[:, :10], other[:, :12] = True, True  # two pixels apart, the image's edges shared
    assert surface_dice(one, other, (1.0, 1.0), 2.0) == 1.0
    assert surface_dice(one, other, (1.0, 1.0), 1.9) < 0.7
    assert surface_dice(one, other, (1.0, 0.9), 1.9) == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7)])
def test_distances_equal_those_of_a_search_over_all_surface_elements(spacing: tuple[float, ...]) -> None:
    found, truth = ellipsoid((20, 30, 28), (9, 14, 13), (7, 10, 9)), ellipsoid((20, 30, 28), (10, 15, 13), (6, 9, 11))

    def elements(mask: Mask) -> NDArray[np.float64]:
        """Where eight neighbours are neither all inside nor all outside, in mm."""
        padded = np.pad(mask, 1).astype(int)
        cells = np.lib.stride_tricks.sliding_window_view(padded, (2, 2, 2)).sum(axis=(3, 4, 5))
        return np.argwhere((cells > 0) & (cells < 8)) * np.array(spacing)

    one, other = elements(found), elements(truth)
    ours, theirs = surface_distances(found, truth, spacing)
    np.testing.assert_allclose(np.sort(ours.distance_mm), np.sort(cKDTree(other).query(one)[0]))
    np.testing.assert_allclose(np.sort(theirs.distance_mm), np.sort(cKDTree(one).query(other)[0]))


MASKS = [
    (ellipsoid((20, 30, 28), (9, 14, 13), (7, 10, 9)), ellipsoid((20, 30, 28), (10, 15, 13), (6, 9, 11))),
    (bumpy(0, (8, 9, 10)), bumpy(1, (8, 9, 10))),
    (bumpy(2, (30, 20)), bumpy(3, (30, 20))),
    (ellipsoid((60, 50), (30, 20), (20, 15)), ellipsoid((60, 50), (32, 23), (21, 15))),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7)])
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_surface_dice_equals_that_of_monai(
    masks: tuple[Mask, Mask], spacing: tuple[float, ...], tolerance: float
) -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed; nothing to compare with")
    found, truth = masks
    spacing = spacing[: found.ndim]
    one_hot = [torch.from_numpy(np.stack([~mask, mask]))[None].float() for mask in masks]
    theirs = metrics.compute_surface_dice(*one_hot, [tolerance], spacing=spacing, use_subvoxels=True).item()
    assert surface_dice(found, truth, spacing, tolerance) == pytest.approx(theirs, abs=1e-5)


def test_masks_at_the_edge_of_an_image_have_a_surface_there() -> None:
    full = np.ones((5, 6), bool)
    surface, _ = surface_distances(full, full, (1.0, 1.0))
    assert surface.size.sum() == pytest.approx(2 * (4 + 5) + 4 * math.sqrt(0.5))


@pytest.mark.parametrize(
    ("found", "truth", "words"),
    [
        (np.zeros((3, 4), bool), np.zeros((4, 3), bool), "one shape"),
        (np.zeros(3, bool), np.zeros(3, bool), "2 or 3 axes"),
        (np.zeros((3, 4), np.uint8), np.zeros((3, 4), bool), "must be boolean"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(found: Mask, truth: Mask, words: str) -> None:
    with pytest.raises(MedvitError, match=words):
        dice(found, truth)
    with pytest.raises(MedvitError, match=words):
        surface_dice(found, truth, (1.0, 1.0), 1.0)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_surfaces_need_a_spacing_for_every_axis(spacing: tuple[float, ...]) -> None:
    mask = np.ones((3, 3), bool)
    with pytest.raises(MedvitError, match="2 positive spacings"):
        surface_dice(mask, mask, spacing, 1.0)


def on_paper(*slices: Mask) -> Mask:
    masks = np.zeros((len(slices), PAPER_SIDE, PAPER_SIDE), bool)
    for index, mask in enumerate(slices):
        masks[index, : mask.shape[0], : mask.shape[1]] = mask
    return masks


def test_the_papers_box_is_nine_pixels_larger_and_ends_at_the_image() -> None:
    mask = np.zeros((PAPER_SIDE, PAPER_SIDE), bool)
    mask[20:31, 40:61] = True
    assert paper_box(mask).tolist() == [31.0, 11.0, 69.0, 39.0]
    mask[5, 250] = True
    assert paper_box(mask).tolist() == [31.0, 0.0, 256.0, 39.0]


def test_a_slice_without_the_structure_has_no_box() -> None:
    with pytest.raises(MedvitError, match="without a pixel has no box"):
        paper_box(np.zeros((PAPER_SIDE, PAPER_SIDE), bool))


def test_the_papers_dice_is_of_the_volume_or_the_mean_of_single_images() -> None:
    small, large = np.ones((2, 2), bool), np.ones((50, 50), bool)
    truth, found = on_paper(small, large), on_paper(~small, large)
    assert paper_scores(found, truth).dice == pytest.approx(2 * 2500 / (2504 + 2500))
    assert paper_scores(found, truth, flat=True).dice == pytest.approx(0.5)


def test_the_papers_surface_dice_counts_pixels_with_a_tolerance_of_one() -> None:
    truth = on_paper(*[ellipsoid((200, 200), (100, 100), (60, 50))] * 3)
    near, far = np.roll(truth, 1, axis=2), np.roll(truth, 4, axis=2)
    assert paper_scores(near, truth).nsd == 1.0
    assert paper_scores(far, truth).nsd == surface_dice(far, truth, (1.0, 1.0, 1.0), 1.0) < 0.97


def test_masks_of_another_size_are_not_scored_by_the_papers_protocol() -> None:
    masks = np.zeros((1, 128, 128), bool)
    with pytest.raises(MedvitError, match="256 x 256, not"):
        paper_scores(masks, masks)

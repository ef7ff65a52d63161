"""Statistics of pictures: what a network's features do not see."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medvit.evaluate.calibration import distance, further, spread, usual
from medvit.evaluate.low_level import picture_statistics


def test_a_picture_and_the_same_one_brighter_differ_in_their_mean_alone() -> None:
    x = torch.rand(3, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    first, second = picture_statistics(x), picture_statistics(x + 0.5)
    assert first.shape == second.shape and torch.isfinite(first).all()
    torch.testing.assert_close(second[:, 0] - first[:, 0], torch.full((3,), 0.5))
    torch.testing.assert_close(first[:, 1:], second[:, 1:], atol=1e-4, rtol=1e-3)


def test_what_was_smoothed_lacks_energy_in_its_highest_octaves_only() -> None:
    rough = np.random.default_rng(0).random((4, 64, 64))
    smooth = np.stack([gaussian_filter(one, 2.0) for one in rough])
    told, less = (picture_statistics(torch.from_numpy(one).float()[:, None]) for one in (rough, smooth))
    assert (told[:, -2:] - less[:, -2:]).min() > 1 and (told[:, 7] < less[:, 7]).all()


def test_a_flat_picture_has_finite_statistics_and_a_clip_one_more_than_its_frame() -> None:
    assert torch.isfinite(picture_statistics(torch.zeros(2, 3, 16, 16))).all()
    still = torch.rand(1, 1, 1, 24, 24).expand(2, 1, 5, 24, 24)
    clip, frame = picture_statistics(still), picture_statistics(still[:, :, 0])
    assert clip.shape[1] == frame.shape[1] + 1
    torch.testing.assert_close(clip[:, :-1], frame, rtol=1e-4, atol=1e-5)


def test_the_further_of_two_distances_counts_in_the_units_of_the_first() -> None:
    rng = torch.Generator().manual_seed(0)
    one, two = torch.randn(300, 6, generator=rng), torch.randn(300, 4, generator=rng) * 7
    near = [distance(x, spread(x)) for x in (one, two)]
    both = [usual(x) for x in near]
    assert further(near[0], both[0], near[1] * 0 + 1e-9, both[1]).tolist() == pytest.approx(near[0].tolist(), rel=1e-4)
    strange = further(near[0], both[0], near[1] * 100, both[1])
    assert (strange > torch.tensor(both[0][0] + 3 * both[0][1]).exp()).all()

"""Temperatures, and how far from training a case lies."""

import math

import pytest
import torch

from medvit.evaluate.calibration import HOTTEST, calibration_error, distance, limit, spread, temperatures

NAN = math.nan


def drawn(n: int, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, 1) that are ``scale`` times too sure, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 1, generator=generator) * 2
    y = (torch.rand(n, 1, generator=generator) < logits.sigmoid()).float()
    return logits * scale, y


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_by_how_much_logits_are_too_sure(scale) -> None:
    logits, y = drawn(4_000, scale)
    (found,) = temperatures(logits, y).tolist()
    assert found == pytest.approx(scale, rel=0.1)


def test_a_temperature_lowers_the_calibration_error_of_other_cases() -> None:
    (fit, fit_y), (held, held_y) = drawn(500, 4.0), drawn(4_000, 4.0, seed=1)
    cooled = (held / temperatures(fit, fit_y)).sigmoid()
    assert calibration_error(cooled, held_y) < 0.4 * calibration_error(held.sigmoid(), held_y)


def test_a_label_of_few_cases_shares_the_temperature_of_all() -> None:
    (often, often_y), (rare, rare_y) = drawn(400, 3.0), drawn(400, 0.5, seed=2)
    rare_y[10:] = NAN
    both = torch.cat([often, rare], dim=1), torch.cat([often_y, rare_y], dim=1)
    first, second = temperatures(*both).tolist()
    (shared,) = temperatures(both[0].reshape(-1, 1), both[1].reshape(-1, 1)).tolist()
    assert first == pytest.approx(3.0, rel=0.3) and second == pytest.approx(shared, rel=0.2)
    assert second > 2


def test_labels_that_share_a_temperature_are_one_sample_for_it() -> None:
    logits, y = (part.reshape(50, 40) for part in drawn(2_000, 0.7))  # 40 labels of 50 cases each
    y[:, (y == 1).sum(dim=0) >= 20] = NAN
    found = temperatures(logits, y)
    assert (found == found[0]).all() and float(found[0]) == pytest.approx(0.7, rel=0.1)


@pytest.mark.parametrize("y", [[1.0, 1.0, 0.0, 0.0], [1.0, NAN, 0.0, NAN], [NAN] * 4])
def test_answers_without_a_mistake_and_labels_without_cases_get_a_temperature_too(y) -> None:
    (found,) = temperatures(torch.tensor([[9.0], [8.0], [-9.0], [-8.0]]), torch.tensor(y)[:, None]).tolist()
    assert 0.5 <= found < HOTTEST


def test_distances_are_the_same_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(8, 256, generator=generator)
    x = torch.randn(200, 8, generator=generator) @ axes + 0.01 * torch.randn(200, 256, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = distance(x[150:], spread(x[:150]))
    assert found.tolist() == pytest.approx(distance(x[150:], spread(x[:150])).tolist(), rel=1e-4)


def test_the_calibration_error_leaves_unknown_labels_out() -> None:
    p = torch.tensor([[0.95, 0.3], [0.95, 0.3], [0.9, 0.3]])
    y = torch.tensor([[1.0, NAN], [0.0, NAN], [NAN, NAN]])
    assert calibration_error(p, y) == pytest.approx(0.45)


def features(n: int, seed: int, width: int = 40) -> torch.Tensor:
    """Few directions that matter, many that hardly do."""
    scale = torch.tensor([5.0, 3.0, 2.0] + [0.1] * (width - 3))
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale + 7


@pytest.mark.parametrize("n", [30, 300])
def test_a_training_case_lies_at_about_one_and_another_kind_of_case_far(n) -> None:
    found = spread(features(n, 0))
    usual, other = distance(features(200, 1), found), features(200, 2)
    other[:, 10] += 4  # along a direction in which training cases never differ
    bound = limit(usual)
    assert 0.7 < float(usual.mean()) < 2
    assert (distance(other, found) > bound).float().mean() > 0.95
    assert (usual > bound).float().mean() < 0.03


def test_with_many_cases_and_all_axes_the_distance_is_mahalanobis() -> None:
    x = features(500, 3, width=6)
    found = spread(x)
    mean, inverse = x.mean(dim=0), torch.linalg.inv(torch.cov(x.T))
    kept = found.axes.shape[1]
    assert kept < 6
    away = features(20, 4, width=6) - mean
    flat = found.axes @ torch.diag(1 / found.variance) @ found.axes.T
    flat += (torch.eye(6) - found.axes @ found.axes.T) / found.rest
    wanted = ((away @ flat) * away).sum(dim=1).div(6).sqrt()
    torch.testing.assert_close(distance(away + mean, found), wanted, rtol=1e-3, atol=1e-4)
    full = ((away @ inverse) * away).sum(dim=1).div(6).sqrt()
    assert torch.corrcoef(torch.stack([wanted, full]))[0, 1] > 0.7


def test_features_that_never_differ_do_not_divide_by_nothing() -> None:
    found = spread(torch.ones(5, 4))
    assert torch.isfinite(distance(torch.ones(2, 4), found)).all() and math.isfinite(limit(torch.ones(1)))

"""AUROC and thresholds against scikit-learn and against numbers by hand."""

import math

import numpy as np
import pytest
import torch

from medvit.evaluate.metrics import auroc, nanmean, youden_thresholds

NAN = math.nan


@pytest.mark.parametrize("seed", range(4))
def test_auroc_agrees_with_scikit_learn_with_ties_and_unknown_labels(seed) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    p = rng.random((200, 5)).round(1 if seed % 2 else 6)  # one decimal ties nearly everything
    y = (rng.random((200, 5)) < p * 0.6).astype(float)
    y[rng.random(y.shape) < 0.2] = NAN
    areas = auroc(torch.tensor(p), torch.tensor(y))
    for k in range(5):
        known = ~np.isnan(y[:, k])
        assert float(areas[k]) == pytest.approx(metrics.roc_auc_score(y[known, k], p[known, k]), abs=1e-6)


def test_auroc_on_known_numbers() -> None:
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.8], [0.1, 0.9]])
    y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert auroc(p, y).tolist() == [1.0, 0.0]
    assert auroc(torch.full((4, 1), 0.5), y[:, :1]).tolist() == [0.5]


@pytest.mark.parametrize("column", [[1.0, 1.0, NAN], [0.0, 0.0, 0.0], [NAN, NAN, NAN]])
def test_a_label_of_one_class_has_no_auroc_and_the_default_threshold(column) -> None:
    p, y = torch.tensor([[0.1], [0.5], [0.9]]), torch.tensor(column)[:, None]
    assert auroc(p, y).isnan().all()
    assert youden_thresholds(p, y, default=0.25).tolist() == [0.25]


def test_the_mean_is_over_what_is_defined() -> None:
    assert nanmean(torch.tensor([0.5, NAN, 1.0])) == 0.75
    assert nanmean(torch.tensor([NAN, NAN])).isnan()


def test_a_threshold_separates_what_can_be_separated_half_way_between_the_neighbours() -> None:
    p = torch.tensor([[0.05], [0.2], [0.3], [0.7], [0.9]])
    y = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0]])
    (threshold,) = youden_thresholds(p, y).tolist()
    assert threshold == pytest.approx(0.5)
    assert ((p[:, 0] >= threshold).float() == y[:, 0]).all()


def test_unknown_labels_do_not_move_a_threshold() -> None:
    p = torch.tensor([[0.2], [0.4], [0.6], [0.8]])
    y = torch.tensor([[0.0], [NAN], [NAN], [1.0]])
    assert youden_thresholds(p, y).tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_has_the_largest_sensitivity_plus_specificity(seed) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(60).round(2)
    y = (rng.random(60) < p).astype(float)

    def youden(threshold: float) -> float:
        said = p >= threshold
        return said[y == 1].mean() - said[y == 0].mean()

    (threshold,) = youden_thresholds(torch.tensor(p)[:, None], torch.tensor(y)[:, None]).tolist()
    assert youden(threshold) == pytest.approx(max(youden(t) for t in [*np.unique(p), 2]))
    assert np.abs(p - threshold).min() > 1e-4  # on no probability, so that rounding decides nothing


def test_probabilities_without_any_worth_make_nothing_positive() -> None:
    p, y = torch.tensor([[0.9], [0.8], [0.2], [0.1]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    (threshold,) = youden_thresholds(p, y).tolist()
    assert threshold > 0.9

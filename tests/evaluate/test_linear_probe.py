"""Probes: separable types are told apart, chance is chance, and the interval draws groups, not cells."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from medvit.evaluate.probe import balanced_accuracy, linear_probe, neighbours, score


def clusters(n: int, apart: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 8, generator=generator)
    x[torch.arange(n), y] += apart
    return x, y


def test_balanced_accuracy_is_sklearns() -> None:
    generator = torch.Generator().manual_seed(1)
    y, answers = (torch.randint(4, (60,), generator=generator) for _ in range(2))
    assert balanced_accuracy(answers, y) == pytest.approx(balanced_accuracy_score(y, answers))


@pytest.mark.parametrize(("apart", "least", "most"), [(6.0, 0.97, 1.0), (0.0, 0.2, 0.5)])
def test_probe_and_neighbours_tell_what_can_be_told(apart: float, least: float, most: float) -> None:
    x, y = clusters(150, apart, 0)
    val_x, val_y = clusters(60, apart, 1)
    asked, truth = clusters(120, apart, 2)
    for answers in (linear_probe(x, y, val_x, val_y, asked), neighbours(x, y, asked)):
        assert least <= balanced_accuracy(answers, truth) <= most


def test_a_rare_type_counts_as_much_as_a_frequent_one() -> None:
    y = torch.tensor([0] * 95 + [1] * 5)
    assert balanced_accuracy(torch.zeros(100, dtype=torch.long), y) == 0.5


def test_cells_of_one_group_widen_the_interval() -> None:
    _, y = clusters(90, 0, 0)
    answers = torch.where(torch.arange(90) < 60, y, (y + 1) % 3)
    alone = score(answers, y, [str(i) for i in range(90)])
    together = score(answers, y, [str(i // 15) for i in range(90)])
    assert alone.low <= alone.accuracy == together.accuracy <= alone.high
    assert together.high - together.low > 1.3 * (alone.high - alone.low)

"""What frozen features tell of types: a linear probe and nearest neighbours, with class-balanced accuracy and its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO and iBOT evaluate
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # tried on validation cells
ITERATIONS = 100
RESAMPLES = 1_000


class Score(NamedTuple):
    """Class-balanced accuracy with a 95 % interval over groups."""

    accuracy: float
    low: float
    high: float


def balanced_accuracy(answers: Tensor, y: Tensor) -> float:
    """Mean over the types in ``y`` (N,) of the share of them that was answered rightly."""
    right = (answers == y).float()
    return float(torch.stack([right[y == kind].mean() for kind in torch.unique(y)]).mean())


def score(answers: Tensor, y: Tensor, groups: Sequence[str], seed: int = 0) -> Score:
    """Class-balanced accuracy, and its interval by drawing groups (patients, slides) anew."""
    names = sorted(set(groups))
    members = [torch.tensor([i for i, group in enumerate(groups) if group == name]) for name in names]
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = torch.cat([members[i] for i in torch.randint(len(members), (len(members),), generator=generator)])
        drawn.append(balanced_accuracy(answers[rows], y[rows]))
    low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Score(balanced_accuracy(answers, y), low, high)


def linear_probe(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, asked: Tensor) -> Tensor:
    """Types (M,) of features (M, D) by multinomial logistic regression; its decay is chosen on validation features.

    Args:
        x: Features (N, D) to learn from; all are scaled by their mean and deviation.
        y: Their types (N,), from 0.
        val_x, val_y: Features and types to choose the decay on.
        asked: Features to answer for.
    """
    mean, deviation = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    x, val_x, asked = ((part - mean) / deviation for part in (x, val_x, asked))
    fits = [_fit(x, y, decay) for decay in DECAYS]
    best = max(fits, key=lambda fit: balanced_accuracy(_apply(fit, val_x), val_y))  # of equal ones the least decay
    return _apply(best, asked)


def neighbours(x: Tensor, y: Tensor, asked: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Types (M,) of features (M, D) by the vote of the ``k`` nearest of (N, D), each with weight exp(cosine / 0.07)."""
    likeness, nearest = (F.normalize(asked, dim=-1) @ F.normalize(x, dim=-1).T).topk(min(k, len(x)), dim=-1)
    votes = F.one_hot(y[nearest], int(y.max()) + 1) * (likeness / TEMPERATURE).exp()[..., None]  # (M, k, K)
    return votes.sum(dim=1).argmax(dim=-1)


def _fit(x: Tensor, y: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    kinds = int(y.max()) + 1
    shares = torch.bincount(y, minlength=kinds).float()
    weight = (len(y) / (kinds * shares.clamp(min=1))).to(x)  # of each type, so that rare ones count as much
    matrix, bias = x.new_zeros(kinds, x.shape[1]).requires_grad_(), x.new_zeros(kinds).requires_grad_()
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ matrix.T + bias, y, weight) + decay * matrix.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return matrix.detach(), bias.detach()


def _apply(fit: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return (x @ fit[0].T + fit[1]).argmax(dim=-1)

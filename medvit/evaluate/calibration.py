"""What validation cases teach about a trained network: how sure it may be, and how far from training a case may lie."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medvit.evaluate.metrics import nanmean

EACH = 20  # positive and negative validation cases that a label needs for a temperature of its own
COLDEST, HOTTEST = 0.05, 20.0  # between which temperatures are looked for
STEPS = 60  # of the bisection
BINS = 10
KEPT = 0.95  # share of the features' variance that has axes of its own
MOST_AXES = 256
DEVIATIONS = 3.0  # of log distances of validation cases, above their mean


class Spread(NamedTuple):
    """Where features of training cases lie: a Gaussian with some axes of its own and one deviation for all others.

    Attributes:
        mean: (F,).
        axes: (F, r), orthonormal.
        variance: (r,) along them.
        rest: () along any other direction.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor
    rest: Tensor


def temperatures(logits: Tensor, y: Tensor) -> Tensor:
    """The temperature (K,) of each label by which logits (n, K) are divided so that probabilities match y (n, K).

    One for all labels; a label with at least `EACH` positive and negative cases gets its own. Targets are Platt's, drawn in by
    how few answers a temperature is learned from, so that a network without a mistake does not become infinitely sure.

    Source: Guo et al. 2017 (arXiv:1706.04599); Platt 1999 for the targets.
    """
    logits, y = logits.double(), y.double()
    shared = _temperature(logits.flatten(), y.flatten())
    enough = ((y == 1).sum(dim=0) >= EACH) & ((y == 0).sum(dim=0) >= EACH)
    each = [_temperature(logits[:, k], y[:, k]) if enough[k] else shared for k in range(y.shape[1])]
    return torch.tensor(each)


def _temperature(logits: Tensor, y: Tensor) -> float:
    """Where the cross-entropy is least: its slope along 1 / temperature rises, so that its root is found by bisection."""
    known = ~y.isnan()
    z, y = logits[known], y[known]
    if not len(z):
        return 1.0
    up, down = (y == 1).sum(), (y == 0).sum()
    target = torch.where(y == 1, (up + 1) / (up + 2), 1 / (down + 2))
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        slope = (((middle * z).sigmoid() - target) * z).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def calibration_error(probability: Tensor, y: Tensor) -> float:
    """Expected calibration error over `BINS` bins, the mean over the labels that have a known case."""
    errors = []
    for k in range(y.shape[1]):
        known = ~y[:, k].isnan()
        p, t = probability[known, k].double(), y[known, k].double()
        place = (p * BINS).long().clamp(max=BINS - 1)
        gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, place, p - t)
        errors.append(gaps.abs().sum() / known.sum())  # NaN where nothing is known
    return float(nanmean(torch.stack(errors)))


def spread(features: Tensor) -> Spread:
    """The Gaussian of features (n, F): as many axes as hold `KEPT` of the variance, at most a third of the cases.

    Source: Lee et al. 2018 (arXiv:1807.03888) for the distance; probabilistic PCA (Tipping and Bishop 1999) shrinks it, so
    that few cases of many features are enough.
    """
    x = features.double()
    mean = x.mean(dim=0)
    n, F = x.shape
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / max(n - 1, 1))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = values.sum().clamp(min=1e-12)
    wanted = int((values.cumsum(0) / total < KEPT).sum()) + 1
    r = max(1, min(wanted, n // 3, MOST_AXES, F - 1))
    rest = (values[r:].sum() / max(F - r, 1)).clamp(min=1e-6 * total / F)
    return Spread(mean.float(), vectors[:, :r].float(), values[:r].clamp(min=rest).float(), rest.float())


def distance(features: Tensor, of: Spread) -> Tensor:
    """How far features (B, F) lie from training: (B,), about 1 for a training case, the root of the mean over F.

    In float32 under `torch.autocast`, too: what lies beside the axes is a small difference of large numbers.
    """
    with torch.autocast(features.device.type, enabled=False):
        away = features.float() - of.mean
        along = away @ of.axes  # (B, r)
        beside = (away - along @ of.axes.T).square().sum(dim=1)
        return (((along.square() / of.variance).sum(dim=1) + beside / of.rest) / features.shape[1]).sqrt()


def usual(distances: Tensor) -> tuple[float, float]:
    """Mean and deviation of the logarithms of the distances (n,) of validation cases."""
    logs = distances.double().clamp(min=1e-12).log()
    return float(logs.mean()), max(float(logs.std(correction=min(1, len(logs) - 1))), 1e-6)


def limit(distances: Tensor) -> float:
    """The distance (n,) of validation cases above which a case counts as unlike the training cases."""
    mean, deviation = usual(distances)
    return math.exp(mean + DEVIATIONS * deviation)


def further(distances: Tensor, of: tuple[float, float], others: Tensor, of_others: tuple[float, float]) -> Tensor:
    """Distances (B,), or what they would be if they were as far from the usual as others (B,) are, whichever is more.

    Args:
        distances: Of one kind.
        of: Their `usual` mean and deviation.
        others: Of another kind, of the same cases.
        of_others: Theirs.
    """
    away = [
        (one.clamp(min=1e-12).log() - mean) / deviation
        for one, (mean, deviation) in ((distances, of), (others, of_others))
    ]
    return (of[0] + of[1] * torch.maximum(*away)).exp()

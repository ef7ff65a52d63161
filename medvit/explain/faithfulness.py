"""Whether a map names the cells that a score came from: by taking them away, by boxes, by networks without knowledge.

Source: Petsiuk et al. 2018 (arXiv:1806.07421) for deletion and insertion; Zhang et al. 2018 (arXiv:1608.00507) for the pointing
game; Adebayo et al. 2018 (arXiv:1810.03292) for the check by randomised weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from medvit.evaluate.bootstrap import DRAWS, draws, interval, numbered
from medvit.explain.subjects import Subject

STEPS = 10  # shares of the cells that are taken away, evenly from none to all
RANDOM = "random"
RANDOM_MAPS = 3  # whose mean is what chance gives
GATE = "deletion mean"  # by which a method must beat chance
LEAST = 6  # questions without which no method is recommended


class Asked(NamedTuple):
    """A question about one case: which cells did this class's score come from?

    Attributes:
        x: The network's input (1, …).
        k: The class.
        patient: Whose case it is; "" where unknown.
        truth: Cells (*grid) that boxes or a mask name; None where nobody drew any.
    """

    x: Tensor
    k: int
    patient: str
    truth: Tensor | None = None


def deletion_insertion(subject: Subject, asked: Asked, values: Tensor, seed: int = 0) -> dict[str, float]:
    """Mean probability while cells are taken away, those of the highest values first, and while they are put back.

    Low deletion and high insertion are good. Of cells of one value ``seed`` draws the order, so that a flat map is chance.

    Returns:
        ``deletion B`` and ``insertion B`` for every baseline B, each from 0 to 1.
    """
    grid = subject.grid(asked.x)
    count = values.numel()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, generator=generator)
    order = np.lexsort((noise.numpy(), -values.flatten().cpu().double().numpy()))
    place = torch.empty(count, dtype=torch.long)
    place[torch.from_numpy(order)] = torch.arange(count)
    marks = torch.linspace(0, count, STEPS + 1).round().long()
    gone = (place[None] < marks[:, None]).reshape(-1, *grid).to(asked.x.device)  # (STEPS + 1, *grid)
    told = {}
    for name, base in subject.baselines(asked.x).items():
        for what, keep in (("deletion", ~gone), ("insertion", gone)):
            p = subject.scores(asked.x, base, keep, asked.k).double().sigmoid()
            told[f"{what} {name}"] = float(torch.trapezoid(p, dx=1 / STEPS))
    return told


def localised(values: Tensor, truth: Tensor) -> dict[str, float]:
    """Pointing game, and the overlap (IoU) of the highest cells with the true ones, as many of them as are true."""
    flat, inside = values.flatten().cpu(), truth.flatten().cpu()
    count = int(inside.sum())
    if not count:
        return {}
    top = torch.zeros_like(inside)
    top[flat.argsort(descending=True, stable=True)[:count]] = True
    return {"pointing": float(inside[flat.argmax()]), "iou": float((top & inside).sum() / (top | inside).sum())}


def alike(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two maps; 0 where one is flat."""
    ranks = [rankdata(one.flatten().cpu().numpy()) for one in (first, second)]
    if min(float(np.ptp(one)) for one in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def judged(subject: Subject, questions: Sequence[Asked], methods: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """What every method's map of every question is worth, by method; `RANDOM` is what chance gives."""
    blind = subject.shuffled()
    told: dict[str, list[dict[str, float]]] = {name: [] for name in (RANDOM, *methods)}
    generator = torch.Generator().manual_seed(0)
    for number, asked in enumerate(questions):
        by_chance = [torch.rand(subject.grid(asked.x), generator=generator) for _ in range(RANDOM_MAPS)]
        told[RANDOM].append(_mean([_worth(subject, asked, values, number) for values in by_chance]))
        for name in methods:
            values = subject.methods[name](asked.x, asked.k)
            worth = _worth(subject, asked, values, number)
            told[name].append({**worth, "randomised": alike(values, blind.methods[name](asked.x, asked.k))})
    return told


def _worth(subject: Subject, asked: Asked, values: Tensor, seed: int) -> dict[str, float]:
    found = deletion_insertion(subject, asked, values, seed)
    return {**found, **(localised(values, asked.truth) if asked.truth is not None else {})}


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def table(
    told: Mapping[str, Sequence[Mapping[str, float]]], patients: Sequence[str], count: int = DRAWS
) -> dict[str, Any]:
    """Means with intervals over patients, which methods beat chance, and the best of those.

    A method passes when there are at least `LEAST` questions and the interval of its deletion (mean baseline) less that of
    chance lies below zero. The best one has the largest insertion less deletion over both baselines; there is none where none
    passes.
    """
    weights = np.concatenate(list(draws(numbered(patients), count)), axis=1).astype(np.float64)  # (n, draws)
    rows: dict[str, Any] = {}
    for name, worths in told.items():
        measures = dict.fromkeys(measure for worth in worths for measure in worth)
        rows[name] = {
            measure: _interval([worth.get(measure, np.nan) for worth in worths], weights) for measure in measures
        }
        gap = [worth[GATE] - chance[GATE] for worth, chance in zip(worths, told[RANDOM], strict=True)]
        rows[name]["deletion less chance"] = _interval(gap, weights)
    enough = len(patients) >= LEAST
    passed = [name for name in rows if name != RANDOM and enough and rows[name]["deletion less chance"][2] < 0]
    best = max(passed, key=lambda name: _gain(rows[name]), default=None)
    return {"cases": len(patients), "methods": rows, "beat_chance": passed, "recommended": best}


def _gain(row: Mapping[str, Sequence[float]]) -> float:
    return sum(value[0] * (1 if name.startswith("insertion") else -1) for name, value in row.items()
               if name.startswith(("insertion ", "deletion ")) and name != "deletion less chance")  # fmt: skip


def _interval(values: Sequence[float], weights: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    every = np.array(values, np.float64)
    known = np.isfinite(every)
    if not known.any():
        return [float("nan")] * 3
    total = weights[known].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = every[known] @ weights[known] / total
    return list(interval(float(every[known].mean()), drawn))

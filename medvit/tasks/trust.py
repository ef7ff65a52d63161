"""What is learned about a trained network at the end of its training, and travels in its checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from medvit.data.batch import Batch
from medvit.evaluate.calibration import (
    Spread,
    calibration_error,
    distance,
    further,
    limit,
    spread,
    temperatures,
    usual,
)
from medvit.evaluate.points import points
from medvit.result import Distance

PREFIX = "trust."  # of its tensors in a checkpoint
MOST_CASES = 5_000  # of the training split that are looked at
PARTS = ("temperature", "mean", "axes", "variance", "rest", "limit")
# Of statistics of pictures: how they are scaled, where they lie, and what distances of both kinds are usual, (2, 2).
PICTURES = (
    "picture_centre",
    "picture_scale",
    "picture_mean",
    "picture_axes",
    "picture_variance",
    "picture_rest",
    "usual",
)

# Logits (B, K) and features (B, F) of a batch, and statistics (B, S) of its pictures where it has any.
Look = Callable[[Batch], tuple[Tensor, Tensor, Tensor | None]]


class Trust(nn.Module):
    """Temperatures of the labels, and how far from the training cases a case may lie.

    Args:
        sizes: Of each of its tensors by name, see `PARTS`; those of `PICTURES` may be missing.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name in (*PARTS, *(name for name in PICTURES if name in sizes)):
            self.register_buffer(name, torch.ones(sizes[name]))
        self.temperature: Tensor
        self.limit: Tensor

    @classmethod
    def within(cls, state: Mapping[str, Tensor]) -> Self | None:
        """One with room for what a checkpoint holds; None where it holds none, as older ones do."""
        if any(PREFIX + name not in state for name in PARTS):
            return None
        held = [name for name in (*PARTS, *PICTURES) if PREFIX + name in state]
        return cls({name: tuple(state[PREFIX + name].shape) for name in held})

    @classmethod
    def learned(
        cls, temperature: Tensor, features: Spread, limit: float, pictures: Mapping[str, Tensor] | None = None
    ) -> Self:
        """One that holds what was learned; ``pictures`` by the names of `PICTURES`."""
        parts = {**dict(zip(PARTS, (temperature, *features, torch.tensor(limit)), strict=True)), **(pictures or {})}
        new = cls({name: tuple(part.shape) for name, part in parts.items()})
        new.load_state_dict(parts)
        return new

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (B, K) at their temperatures."""
        return logits / self.temperature

    def distances(self, features: Tensor, statistics: Tensor | None = None) -> list[Distance]:
        """How far cases lie from the training cases, each with the limit.

        Args:
            features: Of the network (B, F).
            statistics: Of the pictures (B, S), see `medvit.evaluate.low_level`; where they lie further off, they count.
        """
        held = Spread(*(self.get_buffer(name) for name in PARTS[1:5]))
        found = distance(features, held)
        if statistics is not None and "usual" in self._buffers:
            rows = self.get_buffer("usual").tolist()
            found = further(found, (rows[0][0], rows[0][1]), self._of_pictures(statistics), (rows[1][0], rows[1][1]))
        return [Distance(value, float(self.limit)) for value in found.tolist()]

    def _of_pictures(self, statistics: Tensor) -> Tensor:
        centre, scale, *held = (self.get_buffer(name) for name in PICTURES[:6])
        return distance((statistics - centre) / scale, Spread(*held))


class Learned(NamedTuple):
    """What to keep: the tensors, the thresholds (K,) for calibrated probabilities, and what is said of both."""

    trust: Trust
    thresholds: Tensor
    card: dict[str, Any]


def learn(look: Look, labels: tuple[str, ...], train: Iterable[Batch], val: Iterable[Batch], most: int) -> Learned:
    """Look at training and validation cases as they are answered, and learn what can be said about answers.

    Args:
        look: Of the trained network.
        labels: Names of the K logits.
        train: Batches of the training split, not augmented.
        val: Those of the validation split.
        most: Training cases that are looked at.
    """
    logits, features, y, seen = _seen(look, val)
    _, known, _, learned = _seen(look, train, most)
    temperature = temperatures(logits, y)
    gaussian = spread(known)
    held = distance(features, gaussian)
    pictures = None if seen is None or learned is None else _pictures(learned, seen, held)
    trust = Trust.learned(temperature, gaussian, limit(held), pictures)
    before, after = logits.sigmoid(), trust.calibrated(logits).sigmoid()
    told = {name: points(after[:, k].double().numpy(), y[:, k].double().numpy()) for k, name in enumerate(labels)}
    thresholds = torch.tensor([told[name]["youden"] for name in labels], dtype=torch.float32)
    card = {
        "calibration": {
            "method": "temperature of the logits, fitted on the validation split",
            "temperature": dict(zip(labels, map(_short, temperature.tolist()), strict=True)),
            "validation_cases": len(y),
            "validation_ece_before": _short(calibration_error(before, y)),
            "validation_ece_after": _short(calibration_error(after, y)),
        },
        "out_of_distribution": {
            "method": "Mahalanobis distance of pooled features from the training split (shrunk by probabilistic PCA)"
            + (", or of statistics of the picture, whichever is further off" if pictures else ""),
            "training_cases": len(known),
            "axes": gaussian.axes.shape[1],
            "limit": _short(float(trust.limit)),
            "limit_from": "validation split: mean + 3 deviations of the log distance",
            "validation_cases_over": sum(one.far for one in trust.distances(features, seen)),
        },
        "operating_points": told,
        "thresholds": dict(zip(labels, thresholds.tolist(), strict=True)),
    }
    return Learned(trust, thresholds, card)


def _pictures(train: Tensor, val: Tensor, held: Tensor) -> dict[str, Tensor]:
    """What `PICTURES` names, of statistics of training and validation cases and the distances of the latter's features."""
    centre, scale = train.mean(dim=0), train.std(dim=0).clamp(min=1e-6)
    gaussian = spread((train - centre) / scale)
    told = torch.tensor([usual(held), usual(distance((val - centre) / scale, gaussian))])
    return dict(zip(PICTURES, (centre, scale, *gaussian, told), strict=True))


def _seen(
    look: Look, batches: Iterable[Batch], most: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Logits (n, K), features (n, F), truth (n, K) and statistics (n, S) of batches, until there are ``most`` of them."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    pictures: list[Tensor] = []
    count = 0
    with torch.inference_mode():
        for batch in batches:
            logits, features, statistics = look(batch)
            parts.append((logits.float().cpu(), features.float().cpu(), batch.y.cpu()))
            if statistics is not None:
                pictures.append(statistics.float().cpu())
            count += len(batch)
            if most is not None and count >= most:
                break
    logits, features, y = (torch.cat(part).clone() for part in zip(*parts, strict=True))
    return logits, features, y, torch.cat(pictures).clone() if pictures else None


def _short(number: float) -> float:
    return float(np.format_float_positional(number, 6, fractional=False)) if np.isfinite(number) else 1.0

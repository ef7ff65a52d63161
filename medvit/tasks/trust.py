"""What is learned about a trained network at the end of its training, and travels in its checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from medvit.data.batch import Batch
from medvit.evaluate.calibration import Spread, calibration_error, distance, limit, spread, temperatures
from medvit.evaluate.points import points
from medvit.result import Distance

PREFIX = "trust."  # of its tensors in a checkpoint
MOST_CASES = 5_000  # of the training split that are looked at
PARTS = ("temperature", "mean", "axes", "variance", "rest", "limit")

# Logits (B, K) and features (B, F) of a batch.
Look = Callable[[Batch], tuple[Tensor, Tensor]]


class Trust(nn.Module):
    """Temperatures of the labels, and how far from the training cases a case may lie.

    Args:
        sizes: Of each of its tensors by name, see `PARTS`.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name in PARTS:
            self.register_buffer(name, torch.ones(sizes[name]))
        self.temperature: Tensor
        self.limit: Tensor

    @classmethod
    def within(cls, state: Mapping[str, Tensor]) -> Self | None:
        """One with room for what a checkpoint holds; None where it holds none, as older ones do."""
        if any(PREFIX + name not in state for name in PARTS):
            return None
        return cls({name: tuple(state[PREFIX + name].shape) for name in PARTS})

    @classmethod
    def learned(cls, temperature: Tensor, features: Spread, limit: float) -> Self:
        """One that holds what was learned."""
        parts = dict(zip(PARTS, (temperature, *features, torch.tensor(limit)), strict=True))
        new = cls({name: tuple(part.shape) for name, part in parts.items()})
        new.load_state_dict(parts)
        return new

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (B, K) at their temperatures."""
        return logits / self.temperature

    def distances(self, features: Tensor) -> list[Distance]:
        """How far features (B, F) lie from the training cases, each with the limit."""
        held = Spread(*(self.get_buffer(name) for name in PARTS[1:5]))
        return [Distance(value, float(self.limit)) for value in distance(features, held).tolist()]


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
    logits, features, y = _seen(look, val)
    _, known, _ = _seen(look, train, most)
    temperature = temperatures(logits, y)
    gaussian = spread(known)
    held = distance(features, gaussian)
    trust = Trust.learned(temperature, gaussian, limit(held))
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
            "method": "Mahalanobis distance of pooled features from the training split (shrunk by probabilistic PCA)",
            "training_cases": len(known),
            "axes": gaussian.axes.shape[1],
            "limit": _short(float(trust.limit)),
            "limit_from": "validation split: mean + 3 deviations of the log distance",
            "validation_cases_over": int((held > trust.limit).sum()),
        },
        "operating_points": told,
        "thresholds": dict(zip(labels, thresholds.tolist(), strict=True)),
    }
    return Learned(trust, thresholds, card)


def _seen(look: Look, batches: Iterable[Batch], most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, K), features (n, F) and truth (n, K) of batches, until there are ``most`` of them."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    with torch.inference_mode():
        for batch in batches:
            logits, features = look(batch)
            parts.append((logits.float().cpu(), features.float().cpu(), batch.y.cpu()))
            count += len(batch)
            if most is not None and count >= most:
                break
    logits, features, y = (torch.cat(part).clone() for part in zip(*parts, strict=True))
    return logits, features, y


def _short(number: float) -> float:
    return float(np.format_float_positional(number, 6, fractional=False)) if np.isfinite(number) else 1.0

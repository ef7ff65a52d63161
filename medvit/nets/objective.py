"""What every self-supervised objective is, and the schedules that follow its progress through the training."""

import math
from collections.abc import Mapping

from torch import nn


class Objective(nn.Module):
    """A network with its own loss over unlabelled views: ``forward(views)`` gives a mapping with ``loss``.

    Entries of one value beside the loss are measures to watch.

    Attributes:
        progress: Share of the training that is done, from 0 to 1, which schedules follow. `after_step` moves it; whoever
            continues an interrupted training sets it.
    """

    progress: float = 0.0

    def before_step(self) -> None:
        """Change gradients between the backward pass and the optimiser's step."""

    def after_step(self, progress: float) -> None:
        """Follow the student after an optimiser step, with which ``progress`` was reached."""
        self.progress = progress

    def trouble(self, means: Mapping[str, float]) -> str:
        """What an epoch's means of what `forward` measures tell of a training that goes wrong; empty for nothing.

        Args:
            means: By the names of `forward`.
        """
        return ""


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def ramp(start: float, end: float, share: float, progress: float) -> float:
    """A straight line from ``start`` to ``end`` over the first ``share`` of the training, then ``end``."""
    return end if progress >= share else start + (end - start) * progress / share

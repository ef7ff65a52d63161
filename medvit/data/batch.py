"""What goes into a system: one sample a case, samples stacked to batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from medvit.case import Case
from medvit.image import Fit


class Sample(NamedTuple):
    """A case ready for a network.

    Args:
        x: (C, *spatial), normalised.
        y: (K,) in the order of the system's labels; NaN where unknown.
        case: Where it came from.
        fit: The way back to source pixels.
        origin: What the reader used and where it came from.
    """

    x: Tensor
    y: Tensor
    case: Case
    fit: Fit
    origin: Mapping[str, str]


class Batch:
    """Stacked samples: ``x`` (B, C, *spatial) and ``y`` (B, K); the rest stays on the CPU, one a sample."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.x = torch.stack([sample.x for sample in samples])
        self.y = torch.stack([sample.y for sample in samples])
        self.cases = [sample.case for sample in samples]
        self.fits = [sample.fit for sample in samples]
        self.origins = [sample.origin for sample in samples]

    def __len__(self) -> int:
        return len(self.cases)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the tensors, as `torch.Tensor.to` does; Lightning calls it to bring a batch to the device."""
        self.x, self.y = self.x.to(*args, **kwargs), self.y.to(*args, **kwargs)
        return self

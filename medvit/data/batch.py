"""What goes into a system: one sample a case, samples stacked to batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from medvit.case import Case
from medvit.image import Fit, Tiling


class Asked(NamedTuple):
    """What is asked about one image in training, and the true answers.

    Args:
        boxes: (P, 4) of x_min, y_min, x_max, y_max in model pixels.
        masks: (P, H, W) in model pixels, 1 inside.
    """

    boxes: Tensor
    masks: Tensor


class Sample(NamedTuple):
    """A case ready for a network.

    Args:
        x: (C, *spatial), normalised; of a bag (N, D), what describes its tiles.
        y: (K,) in the order of the system's labels; NaN where unknown.
        case: Where it came from.
        fit: The way back to source pixels.
        origin: What the reader used and where it came from.
        tiling: Of a bag, where its tiles lie.
        asked: Of an image to learn to segment, prompts and masks.
        spacing: Millimetres between source pixels along each axis; None where unknown or of no use.
    """

    x: Tensor
    y: Tensor
    case: Case
    fit: Fit
    origin: Mapping[str, str]
    tiling: Tiling | None = None
    asked: Asked | None = None
    spacing: tuple[float, ...] | None = None


class Batch:
    """Stacked samples: ``x`` (B, C, *spatial) and ``y`` (B, K); the rest stays on the CPU, one a sample.

    Bags become as long as the longest: ``x`` (B, N, D), and ``mask`` (B, N) is True where a tile is.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.mask: Tensor | None = None
        if samples[0].tiling is None:
            self.x = torch.stack([sample.x for sample in samples])
        else:
            self.x = pad_sequence([sample.x for sample in samples], batch_first=True)
            lengths = torch.tensor([len(sample.x) for sample in samples])
            self.mask = torch.arange(self.x.shape[1]) < lengths[:, None]
        self.y = torch.stack([sample.y for sample in samples])
        self.cases = [sample.case for sample in samples]
        self.fits = [sample.fit for sample in samples]
        self.origins = [sample.origin for sample in samples]
        self.tilings = [sample.tiling for sample in samples]
        self.asked = [sample.asked for sample in samples]
        self.spacings = [sample.spacing for sample in samples]

    def __len__(self) -> int:
        return len(self.cases)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the tensors, as `torch.Tensor.to` does; Lightning calls it to bring a batch to the device."""
        self.x, self.y = self.x.to(*args, **kwargs), self.y.to(*args, **kwargs)
        self.mask = None if self.mask is None else self.mask.to(*args, **kwargs)
        self.asked = [one and Asked(*(part.to(*args, **kwargs) for part in one)) for one in self.asked]
        return self

"""Answers that are probabilities of labels: validated together, with thresholds that travel in the checkpoint."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.codes import Label
from medvit.data.batch import Batch
from medvit.evaluate.low_level import picture_statistics
from medvit.evaluate.metrics import auroc, nanmean, youden_thresholds
from medvit.result import Distance
from medvit.tasks.system import System
from medvit.tasks.trust import PREFIX, Trust

THRESHOLDS_FROM = "validation split: largest sensitivity + specificity; 0.5 where a label had one class only"


class Findings(System):
    """A system that answers labels with independent probabilities.

    The loss and every metric see known labels only. At each validation the threshold of every label is chosen there
    (largest sensitivity + specificity) and kept in the checkpoint.

    Args:
        labels: What its logits mean.
    """

    monitor: ClassVar[tuple[str, str]] = ("val/auroc", "max")

    def __init__(self, labels: tuple[Label, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("thresholds", torch.tensor([label.threshold for label in labels]))
        self.thresholds: Tensor
        self.trust: Trust | None = None  # what a finished training left; see `medvit.tasks.trust`
        self._validated: list[tuple[Tensor, Tensor]] = []

    def logits_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K) in float32 of a batch, and the pooled features (B, F) that they came from."""
        raise NotImplementedError

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (B, K) of logits, at the temperatures of the checkpoint where it has any."""
        return (self.trust.calibrated(logits) if self.trust else logits).sigmoid()

    def statistics(self, batch: Batch) -> Tensor | None:
        """What the pictures of a batch are like (B, S), see `medvit.evaluate.low_level`; None where it holds no pictures."""
        return None

    def distances(self, features: Tensor, statistics: Tensor | None = None) -> list[Distance] | list[None]:
        """How far features (B, F) and `statistics` lie from training; None each where the checkpoint does not know that."""
        return self.trust.distances(features, statistics) if self.trust else [None] * len(features)

    def expect(self, state: Mapping[str, Tensor]) -> None:
        """Make room for what a finished training left in a checkpoint; older ones hold nothing."""
        self.trust = Trust.within(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A training that goes on learns anew what it will leave at its end."""
        for name in [name for name in checkpoint["state_dict"] if name.startswith(PREFIX)]:
            del checkpoint["state_dict"][name]

    def judge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K) in float32 of a batch, and its loss ()."""
        raise NotImplementedError

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        _, loss = self.judge(batch)
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep probabilities until the whole split is seen."""
        logits, loss = self.judge(batch)
        self.log("val/loss", loss, batch_size=len(batch))
        self._validated.append((logits.sigmoid().cpu(), batch.y.cpu()))

    def on_validation_epoch_end(self) -> None:
        """AUROC of every label and their mean; thresholds for the checkpoint that may be saved now."""
        probability, y = (torch.cat(part) for part in zip(*self._validated, strict=True))
        self._validated.clear()
        areas = auroc(probability, y)
        for label, area in zip(self.labels, areas.tolist(), strict=True):
            self.log(f"val/auroc/{label.name}", area)
        self.log("val/auroc", nanmean(areas), prog_bar=True)
        self.thresholds.copy_(youden_thresholds(probability, y))

    def card(self) -> dict[str, Any]:
        """Adds the thresholds and where they came from."""
        chosen = dict(zip((label.name for label in self.labels), self.thresholds.tolist(), strict=True))
        return super().card() | {"thresholds": chosen, "thresholds_from": THRESHOLDS_FROM}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the thresholds as they were chosen; a callback that averages weights would put older ones in their place."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["thresholds"] = self.thresholds.detach().clone()

    def answered(self) -> list[Label]:
        """The labels with the thresholds that were chosen."""
        return [label._replace(threshold=t) for label, t in zip(self.labels, self.thresholds.tolist(), strict=True)]


class ImageFindings(Findings):
    """Findings of images or clips, whose network answers a whole batch with logits.

    Args:
        net: Gives (B, K) logits, one a label.
        labels: What they mean.
    """

    def __init__(self, net: nn.Module, labels: tuple[Label, ...]) -> None:
        super().__init__(labels)
        self.net = net

    def inputs(self, batch: Batch) -> Tensor:
        """What the network sees of a batch."""
        return batch.x

    def statistics(self, batch: Batch) -> Tensor:
        """What the network's inputs are like, before it looks."""
        return picture_statistics(self.inputs(batch))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) in float32 of network inputs."""
        logits: Tensor = self.net(x)
        return logits.float()  # half precision would tie ranks

    def judge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and binary cross-entropy over known labels."""
        logits = self(self.inputs(batch))
        return logits, known_bce(logits, batch.y)


def known_bce(logits: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, K) over the labels that are known; 0 where none is."""
    known = ~y.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)

"""Findings of an image: independent probabilities, known labels only."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.codes import Label
from medvit.data.batch import Batch
from medvit.evaluate.metrics import auroc, nanmean, youden_thresholds
from medvit.explain.attention import GRADIENT_ATTENTION, gradient_attention
from medvit.nets.vit import ViT
from medvit.optim import layer_decay_groups, scaled_lr
from medvit.result import Finding, Heatmap, Result
from medvit.tasks.system import System

THRESHOLDS_FROM = "validation split: largest sensitivity + specificity; 0.5 where a label had one class only"
EXPLAIN_CHUNK = 16  # images explained at once; every block's attention and gradient is held


class Classification(System):
    """Multi-label classification by a ViT.

    The loss and every metric see known labels only. At each validation the threshold of every label is chosen there
    (largest sensitivity + specificity) and kept in the checkpoint.

    Args:
        net: Gives (B, K) logits, one a label.
        labels: What they mean.
        base_lr: Learning rate per 256 cases; the linear scaling rule does the rest.
        min_lr: Where the schedule ends.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from a layer to the one below it.
        warmup_epochs: Epochs of linear warm-up.
    """

    monitor: ClassVar[tuple[str, str]] = ("val/auroc", "max")

    def __init__(
        self,
        net: ViT,
        labels: tuple[Label, ...],
        *,
        base_lr: float,
        min_lr: float,
        weight_decay: float,
        layer_decay: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        self.net = net
        self.labels = labels
        self.base_lr, self.min_lr, self.weight_decay = base_lr, min_lr, weight_decay
        self.layer_decay, self.warmup_epochs = layer_decay, warmup_epochs
        self.register_buffer("thresholds", torch.tensor([label.threshold for label in labels]))
        self.thresholds: Tensor
        self._validated: list[tuple[Tensor, Tensor]] = []

    def inputs(self, batch: Batch) -> Tensor:
        """What the network sees of a batch."""
        return batch.x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) in float32 of network inputs."""
        logits: Tensor = self.net(x)
        return logits.float()  # half precision would tie ranks

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Binary cross-entropy over known labels."""
        loss = known_bce(self(self.inputs(batch)), batch.y)
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep probabilities until the whole split is seen."""
        logits = self(self.inputs(batch))
        self.log("val/loss", known_bce(logits, batch.y), batch_size=len(batch))
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

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """Probabilities of every label, and a heat map for every positive one if it `explains`."""
        x = self.inputs(batch)
        probability = self(x).sigmoid().cpu()  # (B, K)
        labels = [label._replace(threshold=t) for label, t in zip(self.labels, self.thresholds.tolist(), strict=True)]
        findings = [tuple(map(Finding, labels, row)) for row in probability.tolist()]
        wanted = [
            (i, k)
            for i, found in enumerate(findings)
            for k, finding in enumerate(found)
            if finding.positive and self.explains
        ]
        heat: list[list[Heatmap]] = [[] for _ in findings]
        for start in range(0, len(wanted), EXPLAIN_CHUNK):
            chunk = wanted[start : start + EXPLAIN_CHUNK]
            rows, classes = torch.tensor(chunk, device=x.device).T
            for (i, k), values in zip(chunk, gradient_attention(self.net, x[rows], classes), strict=True):
                heat[i].append(Heatmap(labels[k], values.float().cpu().numpy(), batch.fits[i], GRADIENT_ATTENTION))
        return [
            Result(case, found, heatmaps=tuple(maps), origin=origin, read=self.read)
            for case, found, maps, origin in zip(batch.cases, findings, heat, batch.origins, strict=True)
        ]

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rate falls towards the input; the schedule runs step by step."""
        lr = scaled_lr(self.base_lr, self.effective_batch)
        groups = layer_decay_groups(self.net, lr, self.weight_decay, self.layer_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        return self.schedule(optimizer, self.warmup_epochs, self.min_lr)


def known_bce(logits: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (B, K) over the labels that are known; 0 where none is."""
    known = ~y.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)

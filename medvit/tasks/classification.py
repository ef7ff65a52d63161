"""Findings of an image: independent probabilities, known labels only."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from medvit.codes import Label
from medvit.data.batch import Batch
from medvit.explain.vit_methods import LRP, VIT_METHODS
from medvit.nets.vit import ViT
from medvit.optim import layer_decay_groups, scaled_lr
from medvit.result import Finding, Heatmap, Result
from medvit.tasks.findings import ImageFindings

EXPLAIN_CHUNK = 16  # images explained at once; every block's attention and gradient is held


class Classification(ImageFindings):
    """Multi-label classification by a ViT.

    Args:
        net: Gives (B, K) logits, one a label.
        labels: What they mean.
        base_lr: Learning rate per 256 cases; the linear scaling rule does the rest.
        min_lr: Where the schedule ends.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from a layer to the one below it.
        warmup_epochs: Epochs of linear warm-up.
    """

    explainer: ClassVar[str] = LRP  # how heat maps are made, one of `VIT_METHODS`: what won on the generated films
    net: ViT

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
        super().__init__(net, labels)
        self.base_lr, self.min_lr, self.weight_decay = base_lr, min_lr, weight_decay
        self.layer_decay, self.warmup_epochs = layer_decay, warmup_epochs

    def logits_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and what the head saw (B, D)."""
        features = self.net.features(self.inputs(batch))
        return self.net.head(features).float(), features

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """Probabilities of every label, and a heat map for every positive one if it `explains`."""
        x = self.inputs(batch)
        logits, features = self.logits_and_features(batch)
        probability = self.probability(logits).cpu()  # (B, K)
        labels = self.answered()
        findings = [tuple(map(Finding, labels, row)) for row in probability.tolist()]
        wanted = [
            (i, k)
            for i, found in enumerate(findings)
            for k, finding in enumerate(found)
            if finding.positive and self.explains
        ]
        made = VIT_METHODS[self.explainer]
        heat: list[list[Heatmap]] = [[] for _ in findings]
        for start in range(0, len(wanted), EXPLAIN_CHUNK):
            chunk = wanted[start : start + EXPLAIN_CHUNK]
            rows, classes = torch.tensor(chunk, device=x.device).T
            for (i, k), values in zip(chunk, made(self.net, x[rows], classes), strict=True):
                heat[i].append(Heatmap(labels[k], values.float().cpu().numpy(), batch.fits[i], self.explainer))
        return [
            Result(case, found, heatmaps=tuple(maps), origin=origin, distance=distance, read=self.read)
            for case, found, maps, origin, distance in zip(
                batch.cases,
                findings,
                heat,
                batch.origins,
                self.distances(features, self.statistics(batch)),
                strict=True,
            )
        ]

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rate falls towards the input; the schedule runs step by step."""
        lr = scaled_lr(self.base_lr, self.effective_batch)
        groups = layer_decay_groups(self.net, lr, self.weight_decay, self.layer_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        return self.schedule(optimizer, self.warmup_epochs, self.min_lr)

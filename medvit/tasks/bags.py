"""Findings of a bag of tiles: one answer a bag, learned from labels of bags alone."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medvit.codes import Label
from medvit.data.batch import Batch
from medvit.evaluate.metrics import auroc, nanmean
from medvit.explain.bags import ATTENTION, spread
from medvit.explain.subjects import subject_of
from medvit.image import Plane, rescaled
from medvit.nets.mil import BagAnswer, bag_loss
from medvit.result import Finding, Heatmap, Result, TileScores
from medvit.tasks.findings import Findings, known_bce


class BagClassification(Findings):
    """Multi-label classification of bags of tiles by a network of `medvit.nets.mil`.

    The best epoch is that of the highest selection score of the Self-ViT-MIL release, (AUROC + accuracy + 1 - loss) / 3 here,
    on validation data: AUROC alone is often 1 for many epochs of few slides.

    Args:
        net: Answers bags (B, N, D) with a `BagAnswer` of K labels.
        labels: What they mean.
        lr: Learning rate at the start.
        min_lr: Where the schedule ends.
        weight_decay: Of all parameters, as Adam's own.
        betas: Of Adam.
    """

    monitor: ClassVar[tuple[str, str]] = ("val/score", "max")
    explainer: ClassVar[str] = ATTENTION  # how heat maps are made: what won on the generated slides

    def __init__(
        self,
        net: nn.Module,
        labels: tuple[Label, ...],
        *,
        lr: float,
        min_lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        super().__init__(labels)
        self.net = net
        self.lr, self.min_lr, self.weight_decay, self.betas = lr, min_lr, weight_decay, betas

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> BagAnswer:
        """What the network says of bags (B, N, D), logits in float32."""
        answer: BagAnswer = self.net(bags, mask)
        return answer._replace(logits=answer.logits.float())

    def judge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits, and the loss of bags and of their highest tiles."""
        answer = self(batch.x, batch.mask)
        return answer.logits, bag_loss(answer, lambda logits: known_bce(logits.float(), batch.y))

    def logits_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and the mean (B, D) of the features of each bag's tiles."""
        return self(batch.x, batch.mask).logits, mean_tile(batch)

    def on_validation_epoch_end(self) -> None:
        """Adds accuracy at the chosen thresholds and the selection score."""
        probability, y = (torch.cat(part) for part in zip(*self._validated, strict=True))
        super().on_validation_epoch_end()
        known = ~y.isnan()
        right = ((probability >= self.thresholds.cpu()).float() == y)[known].float().mean()
        loss = self.trainer.callback_metrics["val/loss"].cpu()
        self.log("val/accuracy", right)
        self.log("val/score", (nanmean(auroc(probability, y)) + right + 1 - loss) / 3, prog_bar=True)

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """Probabilities of every label, scores of every tile, and a heat map for every positive label if it `explains`."""
        answer = self(batch.x, batch.mask)
        labels = self.answered()
        distances = self.distances(mean_tile(batch))
        results = []
        for i, row in enumerate(self.probability(answer.logits).tolist()):
            tiling = batch.tilings[i]
            if tiling is None:
                raise ValueError("a bag without a tiling is no bag of tiles")
            count, findings = len(tiling.coords), tuple(map(Finding, labels, row))
            attention, instances = tile_scores(answer, i, count, len(labels))
            scores: dict[str, Plane] = {}
            for k, label in enumerate(labels):
                scores[f"{label.name} attention"] = attention[:, k]
                if instances is not None:
                    scores[f"{label.name} score"] = instances[:, k]
            heat = []
            for k, finding in enumerate(findings):
                if finding.positive and self.explains:
                    bag = batch.x[i : i + 1, :count]
                    values = rescaled(self.drawn(bag, k, attention[:, k]))
                    heat.append(Heatmap(finding.label, spread(tiling, values), batch.fits[i], self.explainer))
            results.append(
                Result(
                    batch.cases[i], findings, heatmaps=tuple(heat), tiles=TileScores(tiling, scores), origin=batch.origins[i],
                    distance=distances[i], read=self.read,
                )
            )  # fmt: skip
        return results

    def drawn(self, bag: Tensor, k: int, attention: Plane) -> Plane:
        """What the map of a label is made of, (N,), for a bag (1, N, D) and the attention (N,) of its tiles."""
        if self.explainer == ATTENTION:
            return attention
        return np.asarray(subject_of(self.net).methods[self.explainer](bag, k).float().cpu().numpy())

    def configure_optimizers(self) -> Any:
        """Adam; half a cosine over the whole training, step by step (the release steps once an epoch)."""
        optimizer = torch.optim.Adam(self.net.parameters(), self.lr, self.betas, weight_decay=self.weight_decay)
        return self.schedule(optimizer, 0, self.min_lr)


def mean_tile(batch: Batch) -> Tensor:
    """The mean (B, D) over the tiles of each bag of a batch."""
    if batch.mask is None:
        raise ValueError("bags without a mask are no bags")
    held = batch.mask[..., None].to(batch.x.dtype)  # (B, N, 1)
    return (batch.x * held).sum(dim=1) / held.sum(dim=1)


def tile_scores(answer: BagAnswer, i: int, count: int, labels: int) -> tuple[Plane, Plane | None]:
    """Attention (N, K) of the tiles of bag ``i``, and the probabilities (N, K) that their own scores stand for."""
    attention = answer.attention[i, :count].expand(count, labels).float().cpu().numpy()
    if answer.instances is None:
        return attention, None
    return attention, np.asarray(answer.instances[i, :count].float().sigmoid().cpu().numpy())

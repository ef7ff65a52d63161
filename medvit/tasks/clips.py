"""Findings of a clip: independent probabilities, with maps in space and time of what influenced them."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from medvit.codes import Label
from medvit.data.batch import Batch
from medvit.explain.attention import GRADIENT_ATTENTION
from medvit.explain.subjects import GRADIENT_INPUT, subject_of
from medvit.nets.clip3d import ClipNet
from medvit.nets.video_vit import VideoViT
from medvit.optim import layer_decay_groups
from medvit.result import Finding, Heatmap, Result
from medvit.tasks.findings import ImageFindings

Schedule = Literal["constant", "plateau", "cosine"]
OF_3D_NETWORKS, OF_TRANSFORMERS = GRADIENT_INPUT, GRADIENT_ATTENTION  # how maps are made: see CONFORMANCE.md
PLATEAU, PATIENCE = 0.1, 10  # ERDES: factor of the learning rate after so many epochs without a lower validation loss


class ClipFindings(ImageFindings):
    """Multi-label classification of clips.

    Args:
        net: Gives (B, K) logits, one a label.
        labels: What they mean.
        lr: Learning rate.
        min_lr: Where the ``cosine`` ends.
        weight_decay: Of matrices; 0 makes AdamW Adam.
        layer_decay: Factor of the learning rate from a layer of a video ViT to the one below it.
        warmup_epochs: Epochs of linear warm-up before the ``cosine``.
        schedule: ``constant``, ``plateau`` (a tenth whenever validation stops to improve) or ``cosine``.
    """

    def __init__(
        self,
        net: nn.Module,
        labels: tuple[Label, ...],
        *,
        lr: float,
        min_lr: float,
        weight_decay: float,
        layer_decay: float,
        warmup_epochs: float,
        schedule: Schedule,
    ) -> None:
        super().__init__(net, labels)
        self.lr, self.min_lr, self.weight_decay, self.layer_decay = lr, min_lr, weight_decay, layer_decay
        self.warmup_epochs, self.scheduled = warmup_epochs, schedule

    def logits_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and the mean over space and time (B, C) of what the first network's head sees."""
        x = self.inputs(batch)
        net, _ = self.part(0)
        if isinstance(net, VideoViT):
            features = net.features(x)
            return net.head(features).float(), features
        if not isinstance(net, ClipNet):
            raise TypeError(f"a {type(net).__name__} has no features")
        maps = net.features(x)  # (B, C, d, h, w)
        return net.answer(maps).float(), maps.flatten(2).mean(dim=2)

    def said(self, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        """What is said of a clip, of the findings of all labels."""
        return findings

    def part(self, index: int) -> tuple[nn.Module, int]:
        """The network that answers a label, and the place of the label in its logits."""
        return self.net, index

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """Probabilities, and a map in space and time for every positive label if it `explains`."""
        x = self.inputs(batch)
        labels = self.answered()
        logits, features = self.logits_and_features(batch)
        distances = self.distances(features, self.statistics(batch))
        results = []
        for i, row in enumerate(self.probability(logits).cpu().tolist()):
            found = self.said(tuple(map(Finding, labels, row)))
            positive = {finding.label.name for finding in found if finding.positive and self.explains}
            heat = tuple(
                self._map(x[i : i + 1], k, batch.fits[i]) for k, one in enumerate(labels) if one.name in positive
            )
            results.append(
                Result(
                    batch.cases[i], found, heatmaps=heat, origin=batch.origins[i], distance=distances[i], read=self.read
                )
            )  # fmt: skip
        return results

    def explainer(self, index: int) -> str:
        """The method of a label's maps: the one that `medvit explain --score` recommends on the generated clips."""
        return OF_TRANSFORMERS if isinstance(self.part(index)[0], VideoViT) else OF_3D_NETWORKS

    def _map(self, x: Tensor, index: int, fit: Any) -> Heatmap:
        net, place = self.part(index)
        method = self.explainer(index)
        values = subject_of(net).methods[method](x, place)
        return Heatmap(self.answered()[index], values.float().cpu().numpy(), fit, method)

    def configure_optimizers(self) -> Any:
        """AdamW or Adam; layer-wise decay for a video ViT."""
        if isinstance(self.net, VideoViT):
            groups = layer_decay_groups(self.net, self.lr, self.weight_decay, self.layer_decay)
        else:
            groups = [{"params": [p for p in self.net.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)
        if self.scheduled == "cosine":
            return self.schedule(optimizer, self.warmup_epochs, self.min_lr)
        if self.scheduled == "plateau":
            falling = ReduceLROnPlateau(optimizer, "min", PLATEAU, PATIENCE)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "monitor": "val/loss"}}
        return optimizer

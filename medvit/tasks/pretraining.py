"""Self-supervised pre-training: an objective looks at unlabelled views."""

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from medvit.data.batch import Batch
from medvit.nets.objective import Objective, cosine
from medvit.optim import clip_each, decay_by, decay_groups, scaled_lr
from medvit.tasks.system import System

log = logging.getLogger(__name__)


class Pretraining(System):
    """Minimise an objective's ``loss``.

    Args:
        objective: The network; its ``encoder`` is what later systems take over.
        base_lr: Learning rate per 256 cases; the linear scaling rule does the rest.
        weight_decay: Of matrices.
        warmup_epochs: Epochs of linear warm-up.
        betas: Of AdamW.
        min_lr: Where the schedule ends.
        final_weight_decay: What the weight decay becomes along half a cosine; it stays where None.
        clip: Norm that no parameter's own gradient exceeds; None for no limit.
    """

    answers: ClassVar[bool] = False

    def __init__(
        self,
        objective: Objective,
        *,
        base_lr: float,
        weight_decay: float,
        warmup_epochs: float,
        betas: tuple[float, float],
        min_lr: float = 0.0,
        final_weight_decay: float | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.base_lr, self.min_lr, self.warmup_epochs, self.betas = base_lr, min_lr, warmup_epochs, betas
        self.weight_decay, self.final_weight_decay, self.clip = weight_decay, final_weight_decay, clip

    def views(self, batch: Batch) -> Any:
        """What the objective looks at."""
        return batch.x

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch; whatever else the objective measures is logged beside it."""
        return self._measure(batch, "train")

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on cases that are not trained on."""
        self._measure(batch, "val")

    def _measure(self, batch: Batch, split: str) -> Tensor:
        told = self.objective(self.views(batch))
        for name, value in told.items():
            if value.ndim == 0:
                self.log(f"{split}/{name}", value, on_epoch=True, on_step=False, batch_size=len(batch),
                         prog_bar=name == "loss")  # fmt: skip
        loss: Tensor = told["loss"]
        return loss

    def on_train_epoch_end(self) -> None:
        """Warn of what the objective finds wrong with the epoch's means; the training goes on."""
        means = {name.removeprefix("train/"): float(value) for name, value in self.trainer.callback_metrics.items()
                 if name.startswith("train/")}  # fmt: skip
        if said := self.objective.trouble(means):
            log.warning("epoch %d: %s", self.current_epoch + 1, said)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return max(int(self.trainer.estimated_stepping_batches), 1)

    def on_train_start(self) -> None:
        """Tell the objective how far a continued training had come."""
        self.objective.progress = self.global_step / self.steps

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Limit gradients, then let the objective change them."""
        if self.clip is not None:
            clip_each(self.objective.parameters(), self.clip)
        self.objective.before_step()

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Step at the weight decay of the schedule, then let the objective's teacher follow."""
        if self.final_weight_decay is not None:
            for optimizer in self.trainer.optimizers:
                decay_by(optimizer, cosine(self.weight_decay, self.final_weight_decay, self.objective.progress))
        super().optimizer_step(*arguments, **named)
        self.objective.after_step((self.global_step + 1) / self.steps)  # Lightning has not counted this step yet

    def configure_optimizers(self) -> Any:
        """AdamW without decay of vectors and biases; the schedule runs step by step."""
        lr = scaled_lr(self.base_lr, self.effective_batch)
        groups = decay_groups(self.objective, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=True)
        return self.schedule(optimizer, self.warmup_epochs, self.min_lr)

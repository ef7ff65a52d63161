"""Self-supervised pre-training: an objective looks at unlabelled views."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from medvit.data.batch import Batch
from medvit.optim import decay_groups, scaled_lr
from medvit.tasks.system import System


class Objective(Protocol):
    """A network with its own loss, such as `medvit.nets.mae.MAE`."""

    def __call__(self, views: Tensor) -> Mapping[str, Tensor]: ...

    def after_step(self, progress: float) -> None: ...


class Pretraining(System):
    """Minimise an objective's ``loss``.

    Args:
        objective: The network; its ``encoder`` is what later systems take over.
        base_lr: Learning rate per 256 cases; the linear scaling rule does the rest.
        weight_decay: Of matrices.
        warmup_epochs: Epochs of linear warm-up.
        betas: Of AdamW.
    """

    answers: ClassVar[bool] = False

    def __init__(
        self,
        objective: torch.nn.Module,
        *,
        base_lr: float,
        weight_decay: float,
        warmup_epochs: float,
        betas: tuple[float, float],
    ) -> None:
        super().__init__()
        self.objective = objective
        self.base_lr, self.weight_decay, self.warmup_epochs, self.betas = base_lr, weight_decay, warmup_epochs, betas

    def views(self, batch: Batch) -> Tensor:
        """What the objective looks at."""
        return batch.x

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self.objective(self.views(batch))["loss"]
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """The loss on cases that are not trained on."""
        loss = self.objective(self.views(batch))["loss"]
        self.log("val/loss", loss, batch_size=len(batch), prog_bar=True)

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the objective move its teacher, if it has one."""
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        self.objective.after_step(self.global_step / total)  # type: ignore[operator]

    def configure_optimizers(self) -> Any:
        """AdamW without decay of vectors and biases; the schedule runs step by step."""
        lr = scaled_lr(self.base_lr, self.effective_batch)
        groups = decay_groups(self.objective, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=self.betas, fused=True)
        return self.schedule(optimizer, self.warmup_epochs)

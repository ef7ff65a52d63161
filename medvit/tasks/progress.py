"""Training progress for logs: one plain line an epoch, where no terminal shows a bar."""

import logging
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

log = logging.getLogger("medvit.train")


class Lines(Callback):
    """Log every epoch's means and its seconds."""

    def __init__(self) -> None:
        self._started = 0.0
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation metrics are of this epoch now."""
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went; per-label metrics stay in the log files."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.count("/") == 1 and (self._validated or not name.startswith("val/"))
        }
        told = "  ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))
        seconds = time.monotonic() - self._started
        log.info("epoch %d/%s  %s  %.1f s", trainer.current_epoch + 1, trainer.max_epochs, told, seconds)

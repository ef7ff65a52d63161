"""What every system shares: it reads its kind of case, trains reproducibly and answers with results."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from medvit import NOTICE, __version__
from medvit.case import Case
from medvit.codes import Label
from medvit.data.batch import Batch, Sample
from medvit.data.inputs import View, packed, unpacked
from medvit.errors import MedvitError, Skipped
from medvit.guard import LIMITS, Duty, Limits, Pool, Reply
from medvit.image import Image
from medvit.optim import warmup_cosine
from medvit.result import Result


class System(LightningModule):
    """A published system: networks, the way from a case to their input, and how they are trained.

    Constructor arguments are scalars, paths and names of label sets only, so that a checkpoint describes itself in
    plain types and opens with ``weights_only=True``.
    """

    modalities: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[tuple[str, str]] = ("val/loss", "min")  # what selects the best checkpoint, and which way
    answers: ClassVar[bool] = True  # False for pre-training, which `medvit predict` refuses
    at_once: ClassVar[int | None] = None  # cases that are answered together at most
    limits: ClassVar[Limits] = LIMITS  # of the processes that read them

    labels: tuple[Label, ...] = ()
    seed: int = 0
    explains: bool = True  # whether answers come with heat maps, which cost more than the answer itself

    @property
    def identity(self) -> str:
        """Name and version, as every result carries it."""
        return f"{type(self).__name__} {__version__}"

    def refuse(self, case: Case) -> None:
        """Raise `Skipped` for a case that is not this system's kind of input; headers only."""
        if case.modality not in self.modalities:
            raise Skipped("modality", f"Its modality is {case.modality}; {type(self).__name__} reads {self._reads}.")

    def gathered(self, table: Path, cases: Sequence[Case]) -> list[Case]:
        """The cases of a table's rows, where this system answers several rows as one."""
        return list(cases)

    def together(self, case: Case) -> bool:
        """Whether a case is a picture that is answered as one case with the others of its folder."""
        return False

    @property
    def _reads(self) -> str:
        return ", ".join(modality or "pictures" for modality in self.modalities)

    def expect(self, state: Mapping[str, Tensor]) -> None:
        """Make room for what a checkpoint may hold beside the networks' weights, before it is loaded."""

    def told(self, option: str, text: str) -> str:
        """Take what the user says about all inputs: ``--mpp``, ``--boxes``, ….

        Returns:
            What the run's settings keep of it: another text means another run.

        Raises:
            MedvitError: When this system has no use for it, or it makes no sense.
        """
        raise MedvitError(f"--{option} says nothing to {type(self).__name__}, which reads {self._reads}. Leave it out.")

    def reader(self) -> Self:
        """This system without networks: it reads cases, in processes that answer nothing."""
        light = copy.copy(self)
        for held in ("_modules", "_parameters", "_buffers"):
            light.__dict__[held] = {}
        return light

    def read(self, case: Case) -> Image:
        """The pixels of a case in source geometry."""
        raise NotImplementedError

    def close_up(self, result: Result, index: int) -> NDArray[np.uint8] | None:
        """The pixels (S, S, 3) of a tile of an answered case; None for systems that do not show single tiles."""
        return None

    def sample(self, image: Image, case: Case, look: View | None = None) -> Sample:
        """Model pixels of a read case; ``look`` replaces the view for answers by a random one."""
        raise NotImplementedError

    def preprocess(self, case: Case) -> Sample:
        """A case as this system sees it when it answers; travels with the weights.

        Raises:
            Rejected: When the case is not fit to be answered.
        """
        return self.sample(self.read(case), case)

    def duties(self) -> Mapping[str, Duty]:
        """What worker processes do for this system: ``read``, and whatever `collect` asks for."""

        def read(case: Case) -> Reply:
            started = time.monotonic()
            return packed(self.preprocess(case), time.monotonic() - started)

        return {"read": read}

    def collect(self, case: Case, reply: Reply, pool: Pool) -> tuple[Sample, float]:
        """The sample of a case, from what a worker answered to ``read``, and the seconds it took.

        Raises:
            Unanswered: When it turns out to be unfit.
        """
        return unpacked(reply, case, self.labels)

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """Answer a batch, one result a case in order."""
        raise NotImplementedError

    def schedule(self, optimizer: Optimizer, warmup_epochs: float, floor_lr: float = 0.0) -> dict[str, Any]:
        """Warm-up and half a cosine over the whole training, step by step, for `configure_optimizers`."""
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(steps * warmup_epochs / (self.trainer.max_epochs or 1))
        peak = max(group["lr"] for group in optimizer.param_groups)
        scheduler = warmup_cosine(optimizer, steps, warmup, floor_lr / peak)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def effective_batch(self) -> int:
        """Cases that one optimiser step sees, over devices and accumulation."""
        trainer = self.trainer
        per_device = int(trainer.datamodule.batch_size)  # type: ignore[attr-defined]
        return per_device * trainer.accumulate_grad_batches * trainer.world_size

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw masks and dropped paths from the seed and the step, so that a resumed run repeats them."""
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same masks at every validation, so that losses compare."""
        torch.manual_seed(self.seed * 1_000_003 + batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose weights these are, in plain types."""
        checkpoint["medvit"] = self.card()
        checkpoint["hyper_parameters"] = checkpoint["medvit"]["arguments"]

    def card(self) -> dict[str, Any]:
        """What a checkpoint says of itself, in plain types: system, version, constructor arguments, validation metrics."""
        arguments = {name: _plain(value) for name, value in self.hparams.items()}
        return {
            "system": type(self).__name__,
            "version": __version__,
            "arguments": arguments,
            "labels": [label.name for label in self.labels],
            "metrics": {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")},
            "notice": NOTICE,
        }


def _plain(value: Any) -> Any:
    """A constructor argument as JSON gives it back."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value

"""Pre-training: the objective is told where it stands, before, between and after every optimiser step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from medvit.nets.dino import DINO, Head
from medvit.nets.objective import Objective
from medvit.nets.vit import ViT
from medvit.tasks.pretraining import Pretraining

SETTINGS: dict[str, Any] = {"base_lr": 0.5, "weight_decay": 0.04, "warmup_epochs": 1, "betas": (0.9, 0.999)}


class Views(LightningDataModule):
    """Eight batches of two crops of noise."""

    batch_size = 2

    def train_dataloader(self) -> DataLoader[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(torch.randn(16, 2, 3, 16, 16, generator=generator), batch_size=2)  # type: ignore[arg-type]


class Distillation(Pretraining):
    def views(self, batch: Any) -> list[Tensor]:
        return [batch.transpose(0, 1)]  # (2, B, 3, 16, 16)


class Told(Objective):
    """Notes when it is called, and with how much done."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, 3))
        self.calls: list[tuple[str, float]] = []

    def forward(self, views: Any) -> dict[str, Tensor]:
        self.calls.append(("forward", self.progress))
        return {"loss": 100 * self.weight.square().sum(), "spread": self.weight.std(), "picture": torch.zeros(2, 2)}

    def before_step(self) -> None:
        assert self.weight.grad is not None
        self.calls.append(("before", float(self.weight.grad.norm())))

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.calls.append(("after", progress))


def train(system: Pretraining, folder: Path, epochs: int = 2, resume: str | None = None, **options: Any) -> Trainer:
    seed_everything(0, verbose=False)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                      callbacks=[ModelCheckpoint(folder, save_top_k=-1, filename="{step}")], **options)  # fmt: skip
    trainer.fit(system, datamodule=Views(), ckpt_path=resume, weights_only=True)
    return trainer


def dino_system() -> Distillation:
    torch.manual_seed(0)
    head = Head(8, 6, hidden=8, bottleneck=4)
    objective = DINO(ViT(16, 8, 8, 1, 2), head, momentum=0.5, warmup=0.5, first_teacher_temperature=0.02, rest=0.1)
    system = Distillation(objective, **SETTINGS, final_weight_decay=0.4, clip=0.1)
    system.save_hyperparameters(ignore="objective", logger=False)
    return system


def test_the_objective_is_called_in_the_order_of_a_step_and_knows_how_much_is_done(tmp_path) -> None:
    objective = Told()
    train(Distillation(objective, **SETTINGS), tmp_path, epochs=1, accumulate_grad_batches=2)
    names = [name for name, _ in objective.calls]
    assert names == ["forward", "forward", "before", "after"] * 4
    assert [value for name, value in objective.calls if name == "forward"] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert [value for name, value in objective.calls if name == "after"] == [0.25, 0.5, 0.75, 1]


def test_gradients_are_limited_before_the_objective_sees_them(tmp_path) -> None:
    objective = Told()
    train(Distillation(objective, **SETTINGS, clip=0.5), tmp_path, epochs=1)
    assert [value for name, value in objective.calls if name == "before"] == pytest.approx([0.5] * 8, rel=1e-3)
    objective = Told()
    train(Distillation(objective, **SETTINGS), tmp_path, epochs=1)
    assert all(value > 100 for name, value in objective.calls if name == "before")


def test_measures_of_one_value_are_logged_and_pictures_are_not(tmp_path) -> None:
    trainer = train(Distillation(Told(), **SETTINGS), tmp_path, epochs=1)
    assert {"train/loss", "train/spread"} <= trainer.callback_metrics.keys()
    assert "train/picture" not in trainer.callback_metrics


def test_what_the_objective_finds_wrong_with_an_epochs_means_is_logged(tmp_path, caplog) -> None:
    class Worried(Told):
        def trouble(self, means: Mapping[str, float]) -> str:
            return f"The spread is {means['spread']:.1f}." if self.progress > 0.5 else ""

    train(Distillation(Worried(), **SETTINGS), tmp_path, epochs=2)
    warned = [record.getMessage() for record in caplog.records if record.name == "medvit.tasks.pretraining"]
    assert warned == ["epoch 2: The spread is 0.0."]


def test_rate_and_weight_decay_follow_their_schedules(tmp_path) -> None:
    seen: list[list[tuple[float, float]]] = []

    class Watched(Distillation):
        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            seen.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])

    train(Watched(Told(), **SETTINGS, final_weight_decay=0.4, min_lr=1e-4), tmp_path)
    rates, decays = zip(*(groups[0] for groups in seen), strict=True)
    peak = 0.5 * 2 / 256
    assert rates[0] == 0 and max(rates) == rates[8] == pytest.approx(peak)
    assert rates[-1] == pytest.approx(1e-4, abs=0.05 * peak)
    assert decays[0] == pytest.approx(0.04)
    assert decays[8] == pytest.approx(0.22)
    assert 0.38 < decays[-1] < 0.4
    assert all(groups[1][1] == 0 for groups in seen)  # vectors never decay


def test_a_continued_distillation_ends_as_an_undisturbed_one(tmp_path) -> None:
    whole, half = dino_system(), dino_system()
    train(whole, tmp_path)
    train(half, tmp_path / "again", resume=str(tmp_path / "step=8.ckpt"))
    assert half.objective.progress == whole.objective.progress == 1
    first, second = whole.state_dict(), half.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    start = dino_system().state_dict()
    assert not torch.equal(first["objective.teacher.head.mlp.0.weight"], start["objective.teacher.head.mlp.0.weight"])

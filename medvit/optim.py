"""Optimisers and schedules of the published recipes."""

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medvit.nets.vit import ViT


def scaled_lr(base_lr: float, batch: int) -> float:
    """The linear scaling rule: a learning rate given per 256 samples, at the effective batch size."""
    return base_lr * batch / 256


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices decay, vectors and biases do not (MAE pre-training)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def layer_of(name: str, depth: int) -> int:
    """Depth of a ViT parameter for layer-wise decay: 0 tokens, positions and patches; k+1 block k; depth+1 the rest."""
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def layer_decay_groups(vit: ViT, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups whose learning rate falls by ``layer_decay`` a layer towards the input.

    Class token and positions do not decay, nor do vectors and biases.

    Source: BEiT (arXiv:2106.08254) as used by MAE fine-tuning; thorax MAE ``util/lr_decay.py`` gives the same scales.
    """
    depth = len(vit.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in vit.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
            groups.setdefault((layer_of(name, depth), decays), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * layer_decay ** (depth + 1 - layer), "weight_decay": weight_decay * decays}
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def warmup_cosine(optimizer: Optimizer, steps: int, warmup_steps: int, floor: float = 0.0) -> LambdaLR:
    """Linear warm-up from 0, then half a cosine down to ``floor`` (a share of the peak), step by step."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        done = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, share)

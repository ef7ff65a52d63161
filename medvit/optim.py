"""Optimisers and schedules of the published recipes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medvit.nets.objective import cosine
from medvit.nets.video_vit import VideoViT
from medvit.nets.vit import ViT

CLIP_EPS = 1e-6  # added to a gradient's norm before it divides


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


def layer_decay_groups(vit: ViT | VideoViT, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
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
        return cosine(1.0, floor, (step - warmup_steps) / max(steps - warmup_steps, 1))

    return LambdaLR(optimizer, share)


def decay_by(optimizer: Optimizer, weight_decay: float) -> None:
    """Give every group that decays another weight decay, as schedules of it do."""
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


@torch.no_grad()
def clip_each(parameters: Iterable[Tensor], limit: float) -> None:
    """Shorten every parameter's own gradient to a norm of at most ``limit``, as the DINO release does.

    A common clip by the norm of all gradients (Lightning's) would shorten all by the largest one's measure.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(limit / (norm + CLIP_EPS)).clamp(max=1.0) for norm in norms])

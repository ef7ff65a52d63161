"""Which part of a clip influenced a score: Grad-CAM of 3-D networks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.clip3d import ClipNet

GRAD_CAM = "grad-cam"  # see `medvit.codes.METHODS`
SLICES = 4  # of time that a map should have, so that it tells early from late


def grad_cam(net: ClipNet, x: Tensor, classes: Tensor) -> Tensor:
    """Relevance of every place of a map for one class of each clip.

    It is the network's last map, or where that has fewer than `SLICES` slices of time, the last one that has them.

    Source: Selvaraju et al. 2017, "Grad-CAM" (arXiv:1610.02391).

    Args:
        net: A classifier in two steps; its parameters are left without gradients.
        x: Clips (B, 1, D, H, W).
        classes: The class explained for each clip (B,).

    Returns:
        (B, d, h, w), not negative.
    """
    with torch.inference_mode(False), torch.enable_grad():
        maps, features = _maps(net, x.detach().clone().requires_grad_())
        score = net.answer(features).gather(1, classes.clone()[:, None]).sum()
        explained = next((one for one in reversed(maps) if one.shape[2] >= min(SLICES, x.shape[2])), features)
        (gradient,) = torch.autograd.grad(score, explained)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)  # (B, C, 1, 1, 1)
    return F.relu((weights * explained.detach()).sum(dim=1)).float()


def _maps(net: ClipNet, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What the parts of a network put out that are maps (B, C, d, h, w), in order, the last one twice."""
    maps: list[Tensor] = []

    def note(part: nn.Module, given: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.ndim == 5 and out.requires_grad:
            maps.append(out)

    hooks = [part.register_forward_hook(note) for part in net.modules() if not isinstance(part, ClipNet)]
    try:
        features = net.features(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [*maps, features], features

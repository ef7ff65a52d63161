"""Which part of a clip influenced a score: Grad-CAM of 3-D networks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.nets.clip3d import ClipNet

GRAD_CAM = "grad-cam"  # see `medvit.codes.METHODS`


def grad_cam(net: ClipNet, x: Tensor, classes: Tensor) -> Tensor:
    """Relevance of every place of the last map for one class of each clip.

    Source: Selvaraju et al. 2017, "Grad-CAM" (arXiv:1610.02391).

    Args:
        net: A classifier in two steps; its parameters are left without gradients.
        x: Clips (B, 1, D, H, W).
        classes: The class explained for each clip (B,).

    Returns:
        (B, d, h, w), not negative.
    """
    with torch.inference_mode(False), torch.enable_grad():
        features = net.features(x.detach().clone()).detach().requires_grad_()
        score = net.answer(features).gather(1, classes.clone()[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)  # (B, C, 1, 1, 1)
    return F.relu((weights * features.detach()).sum(dim=1)).float()

"""Which patches influenced a score: relevance through a ViT's attention."""

import torch
from torch import Tensor

from medvit.nets.video_vit import VideoViT
from medvit.nets.vit import ViT

GRADIENT_ATTENTION = "gradient x attention"


def gradient_attention(net: ViT, x: Tensor, classes: Tensor) -> Tensor:
    """Relevance of every patch for one class of each image.

    Every block's attention is weighted by its gradient, its positive part averaged over heads and rolled through the
    blocks. Rows of the class token count for class-token heads; for mean-pooled heads, whose class token answers
    nothing, the mean over the rows of all patches does.

    Source: Chefer et al. 2021, "Generic Attention-Model Explainability" (arXiv:2103.15679), equations 5 and 6.

    Args:
        net: A classifier; its parameters are left without gradients.
        x: Images (B, C, H, W).
        classes: The class explained for each image (B,).

    Returns:
        (B, rows, columns) of the token grid, not negative.
    """
    relevance = rolled(net, x, classes)  # (B, 1+N, 1+N)
    rows = relevance[:, 1:, 1:].mean(dim=1) if net.pool == "mean" else relevance[:, 0, 1:]  # (B, N)
    if net.pool == "mean":
        rows = rows - 1 / rows.shape[1]  # every patch's own identity is no evidence
    return rows.clamp(min=0).reshape(len(x), x.shape[-2] // net.patch, x.shape[-1] // net.patch)


def clip_attention(net: VideoViT, x: Tensor, classes: Tensor) -> Tensor:
    """`gradient_attention` of a video ViT without a class token: clips (B, C, T, H, W) -> (B, slices, rows, columns)."""
    relevance = rolled(net, x, classes)  # (B, N, N)
    rows = relevance.mean(dim=1) - 1 / relevance.shape[1]
    return rows.clamp(min=0).reshape(len(x), *net.grid_of(x))


def rolled(net: ViT | VideoViT, x: Tensor, classes: Tensor) -> Tensor:
    """Relevance of every token to every token, rolled through the blocks: (B, N, N), see `gradient_attention`."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        trace: list[Tensor] = []
        logits = net(x, trace)  # (B, K)
        score = logits.gather(1, classes.clone()[:, None]).sum()  # inference tensors cannot be tracked, clones can
        gradients: tuple[Tensor, ...] = torch.autograd.grad(score, trace)  # (B, heads, N, N) each
    B, _, N, _ = trace[0].shape
    relevance: Tensor = torch.eye(N, device=x.device).expand(B, N, N)
    for weights, gradient in zip(trace, gradients, strict=True):
        step = (weights.detach() * gradient).clamp(min=0).mean(dim=1)  # (B, N, N)
        relevance = relevance + step.float() @ relevance
    return relevance

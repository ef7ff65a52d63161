"""Multi-head self-attention of the transformer blocks, with a path that is fast on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_TOKENS = 2048  # whose attention weights (B, heads, N, N) may be kept for the backward pass
FEW_TOKENS = (
    512  # up to which the weights of `IMAGES` images stay in the cache while they are worked on; beyond, of one
)
IMAGES = 4


class Attention(nn.Module):
    """Multi-head self-attention over projected tokens (B, N, 3 D), that is over the output of its ``qkv``.

    With a ``trace`` it notes its weights (B, heads, N, N) there, part of the graph. Tokens before ``first`` are attended to
    but do not ask, and are left out of the output (B, N - first, D).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, projected: Tensor, trace: list[Tensor] | None = None, first: int = 0) -> Tensor:
        B, N, D = projected.shape[0], projected.shape[1], projected.shape[2] // 3
        qkv = projected.reshape(B, N, 3, self.heads, D // self.heads)
        q, k, v = split(qkv, first)
        if trace is not None:
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)  # (B, h, M, N)
            trace.append(weights)
            out = (weights @ v).transpose(1, 2)  # (B, M, h, d)
        elif plain_is_faster(qkv):
            out = PlainAttention.apply(qkv, first)  # type: ignore[no-untyped-call]
        else:
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        mixed: Tensor = self.proj(out.reshape(B, N - first, D))
        return mixed


def split(qkv: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of (B, N, 3, h, d): queries (B, h, N - first, d), keys and values (B, h, N, d)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return q[:, :, first:], k, v


def plain_is_faster(qkv: Tensor) -> bool:
    """Whether `PlainAttention` is: on CPUs torch's fused attention is slow in bfloat16, backwards still more."""
    most = MOST_TOKENS if qkv.requires_grad else FEW_TOKENS
    return qkv.is_cpu and qkv.dtype == torch.bfloat16 and qkv.shape[1] <= most


class PlainAttention(torch.autograd.Function):
    """Attention in plain products, a few images at a time so that their weights stay in the cache."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, first: int) -> Tensor:
        """(B, N, 3, h, d) -> (B, N - first, h, d)."""
        B, N, _, h, d = qkv.shape
        out, kept = qkv.new_empty(B, N - first, h, d), []
        for images in together(B, N):
            q, k, v = packed(qkv[images])
            weights = product(q[:, first:], k.transpose(1, 2), d**-0.5).softmax(-1)  # (b * h, M, N)
            out[images] = apart(weights @ v, h).transpose(1, 2)
            kept.append(weights)
        ctx.first = first
        ctx.save_for_backward(qkv, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient of ``qkv`` from that of the output; in its memory order, so that nothing is copied later."""
        qkv, *kept = ctx.saved_tensors
        h, d = qkv.shape[-2:]
        back = torch.empty_like(qkv)
        back[:, : ctx.first, 0] = 0  # queries that did not ask
        for images, weights in zip(together(*qkv.shape[:2]), kept, strict=True):
            q, k, v = packed(qkv[images])
            to_q, to_k, to_v = split(back[images], ctx.first)
            out = gradients[0][images].transpose(1, 2).flatten(0, 1)  # (b * h, M, d)
            to_scores = torch._softmax_backward_data(out @ v.transpose(1, 2), weights, -1, weights.dtype)
            to_q.copy_(apart(product(to_scores, k, d**-0.5), h))
            to_k.copy_(apart(product(to_scores.transpose(1, 2), q[:, ctx.first :], d**-0.5), h))
            to_v.copy_(apart(weights.transpose(1, 2) @ out, h))
        return back, None


def packed(qkv: Tensor) -> Tensor:
    """(b, N, 3, h, d) -> (3, b * h, N, d), copied once as products want them."""
    return qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)


def apart(x: Tensor, heads: int) -> Tensor:
    """(b * h, N, d) -> (b, h, N, d)."""
    return x.reshape(-1, heads, *x.shape[1:])


def product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale * a @ b`` of matrices (b * h, ...), scaled where they are multiplied."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def together(images: int, tokens: int) -> list[slice]:
    """Images that are worked on at a time, so that their weights stay in the cache."""
    some = IMAGES if tokens <= FEW_TOKENS else 1
    return [slice(first, first + some) for first in range(0, images, some)]

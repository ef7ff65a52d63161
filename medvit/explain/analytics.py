"""What a ViT's attention does: which heads its answers need, how far heads look, and what patterns they follow.

Source: the questions of Li et al. 2023, "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt"
(arXiv:2303.13731). Importance is by taking a head away; patterns are clustered by k-means of mean maps over offsets, where the
paper learns an autoencoder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from medvit.nets.attention import Attention
from medvit.nets.vit import Block, ViT

PATTERNS = 4
DIGITS = 5

Loss = Callable[[Tensor], Tensor]


def analysed(net: ViT, x: Tensor, loss: Loss) -> dict[str, Any]:
    """Importance, distance and patterns of all heads, as plain data for a report.

    Args:
        net: A classifier.
        x: Inputs (B, C, H, W).
        loss: Of its logits (B, K) for these inputs: ().
    """
    importance = head_importance(net, x, loss)
    maps = offset_maps(net, x)
    return {
        "cases": len(x),
        "importance": _plain(importance),
        "distance": _plain(attention_distance(net, x)),
        "patterns": patterns(maps),
    }


@contextmanager
def without_head(net: ViT, layer: int, head: int) -> Iterator[None]:
    """Let a block answer as if one of its heads gave nothing."""
    attention = _attention(net, layer)
    width = net.width // attention.heads

    def silence(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = given[0].clone()
        mixed[..., head * width : (head + 1) * width] = 0
        return (mixed,)

    hook = attention.proj.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def head_importance(net: ViT, x: Tensor, loss: Loss) -> Tensor:
    """By how much the loss rises when a head is taken away: (layers, heads); below zero where the head does harm."""
    before = loss(net(x))
    rises = []
    for layer in range(len(net.blocks)):
        for head in range(_attention(net, layer).heads):
            with without_head(net, layer, head):
                rises.append(loss(net(x)) - before)
    return torch.stack(rises).reshape(len(net.blocks), -1)


@torch.no_grad()
def attention_distance(net: ViT, x: Tensor) -> Tensor:
    """The mean distance from a patch to what it attends to, as a share of the image's longer side: (layers, heads).

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), appendix D.7; the class token is left out and the rest scaled to one.
    """
    rows, columns = net.grid_of(x)
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1).reshape(
        -1, 2
    )
    apart = torch.cdist(places.float(), places.float()).to(x.device) / max(rows, columns)  # (N, N)
    return torch.stack([(_of_patches(weights) * apart).sum(dim=-1).mean(dim=(0, 2)) for weights in net.attention(x)])


@torch.no_grad()
def offset_maps(net: ViT, x: Tensor) -> Tensor:
    """The mean attention of a patch to every offset from itself: (layers, heads, 2 rows - 1, 2 columns - 1)."""
    rows, columns = net.grid_of(x)
    y, across = (torch.arange(rows * columns) // columns, torch.arange(rows * columns) % columns)
    place = (y[None] - y[:, None] + rows - 1) * (2 * columns - 1) + (across[None] - across[:, None] + columns - 1)
    size = (2 * rows - 1) * (2 * columns - 1)
    seen = torch.zeros(size).index_add(0, place.flatten(), torch.ones(place.numel())).clamp(min=1)
    maps = []
    for weights in net.attention(x):
        mean = _of_patches(weights).mean(dim=0).float().cpu()  # (heads, N, N)
        sums = torch.zeros(len(mean), size).index_add(1, place.flatten(), mean.flatten(1))
        maps.append((sums / seen).reshape(len(mean), 2 * rows - 1, 2 * columns - 1))
    return torch.stack(maps)


def patterns(maps: Tensor, count: int = PATTERNS) -> list[dict[str, Any]]:
    """Clusters of heads by the shape of their offset maps (layers, heads, h, w), the most frequent one first.

    Returns:
        Of each: how many ``heads``, which (``members``, layer and head), and their mean ``map``, first row lowest.
    """
    layers, heads = maps.shape[:2]
    flat = maps.reshape(layers * heads, -1)
    shape = (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).double().numpy()
    kinds = min(count, len(np.unique(shape.round(9), axis=0)))
    _, label = (
        kmeans2(shape, kinds, minit="++", seed=0, missing="warn") if kinds > 1 else (None, np.zeros(len(shape), int))
    )
    told = []
    for kind in np.unique(label):
        members = np.flatnonzero(label == kind)
        mean = maps.reshape(layers * heads, *maps.shape[2:])[torch.from_numpy(members)].mean(dim=0)
        told.append({
            "heads": len(members), "members": [[int(i // heads), int(i % heads)] for i in members], "map": _plain(mean.flip(0)),
        })  # fmt: skip
    return sorted(told, key=lambda one: -int(one["heads"]))


def _attention(net: ViT, layer: int) -> Attention:
    return cast(Block, net.blocks[layer]).attn


def _of_patches(weights: Tensor) -> Tensor:
    """Attention (B, heads, 1+N, 1+N) among patches only, each row summing to one."""
    among = weights[..., 1:, 1:]
    return among / among.sum(dim=-1, keepdim=True).clamp(min=1e-12)


def _plain(values: Tensor) -> list[list[float]]:
    return [[round(float(value), DIGITS) for value in row] for row in values]

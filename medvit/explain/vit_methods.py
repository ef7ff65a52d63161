"""Ways to ask a ViT, of images or clips, which of its patches a score came from. Each gives (B, *grid), not negative.

All take a network, inputs (B, C, *spatial) and the class explained for each (B,); `rollout` and `raw_attention` do not look
at the class. The reference that needs no theory is occlusion, see `medvit.explain.subjects`.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from medvit.explain.attention import GRADIENT_ATTENTION, clip_attention, gradient_attention
from medvit.nets.attention import split
from medvit.nets.video_vit import VideoViT, cut_tubelets
from medvit.nets.vit import Block, Mlp, ViT, cut_patches

RAW, ROLLOUT, CAM, LRP = "raw attention", "attention rollout", "grad-cam of the last block", "attention lrp"

Transformer = ViT | VideoViT
Method = Callable[[Transformer, Tensor, Tensor], Tensor]


def raw_attention(net: Transformer, x: Tensor, classes: Tensor) -> Tensor:
    """Attention of the last block, mean over its heads: of the class token, or of all patches where those are pooled."""
    return _grid(net, x, _rows(net, _attention(net, x)[-1].mean(dim=1)))


def rollout(net: Transformer, x: Tensor, classes: Tensor) -> Tensor:
    """Attention multiplied through the blocks, half of every token's own kept.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928).
    """
    trace = _attention(net, x)
    flow = torch.eye(trace[0].shape[-1], device=x.device).expand(len(x), -1, -1)
    own = flow
    for weights in trace:
        flow = (weights.mean(dim=1).float() + own) / 2 @ flow
    return _grid(net, x, _rows(net, flow))


def token_cam(net: Transformer, x: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM over the tokens that the last block reads.

    Source: Selvaraju et al. 2017 (arXiv:1610.02391), with the tokens of the grid in the place of a map's pixels.
    """
    with torch.inference_mode(False), torch.enable_grad():
        tokens = _start(net, x.detach().clone())
        for block in net.blocks[:-1]:
            tokens = block(tokens)
        last = cast(Block, net.blocks[-1])
        read = last.norm1(tokens).detach().requires_grad_()
        out = last(tokens.detach(), projected=last.attn.qkv(read))
        score = _finish(net, out, _plain_norm).gather(1, classes.clone()[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, read)
    first = _first(net)
    seen, slopes = read.detach()[:, first:].float(), gradient[:, first:].float()
    return _grid(net, x, (seen * slopes.mean(dim=1, keepdim=True)).sum(dim=-1).clamp(min=0))


def attention_lrp(net: Transformer, x: Tensor, classes: Tensor) -> Tensor:
    """Relevance propagated back to the pixels and summed over each patch, its positive part.

    Products of two activations share their relevance evenly, LayerNorm's deviation and GELU's slope count as constants; what
    remains is the gradient times the input.

    Source: Achtibat et al. 2024, "AttnLRP" (arXiv:2402.05602), with the epsilon rule in every linear map; the gamma rule, which
    the paper tunes for each network, is left out.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        score = _relevance_forward(net, x).gather(1, classes.clone()[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, x)
    share = (x * gradient).detach().float()
    cut = cut_tubelets(share, net.tubelet, net.patch) if isinstance(net, VideoViT) else cut_patches(share, net.patch)
    return _grid(net, x, cut.sum(dim=-1).clamp(min=0))


def _relevance_forward(net: Transformer, x: Tensor) -> Tensor:
    """Logits of the network, computed so that their gradient times the input is the relevance."""
    tokens = _start(net, x)
    for block in net.blocks:
        tokens = _block(cast(Block, block), tokens)
    return _finish(net, tokens, _norm)


def _start(net: Transformer, x: Tensor) -> Tensor:
    """Placed tokens of inputs."""
    if isinstance(net, VideoViT):
        tokens: Tensor = net.patch_embed(cut_tubelets(x, net.tubelet, net.patch))
        return tokens + net.table(tokens.shape[1])
    return net.place(net.patches(x), net.grid_of(x))


def _finish(net: Transformer, tokens: Tensor, norm: Callable[[nn.LayerNorm, Tensor], Tensor]) -> Tensor:
    """Logits of what the last block gave."""
    if net.pool == "mean":
        pooled = norm(net.fc_norm, tokens[:, _first(net) :].mean(dim=1))
    else:
        pooled = norm(net.norm, tokens)
        pooled = pooled.mean(dim=1) if isinstance(net, VideoViT) else pooled[:, 0]
    logits: Tensor = net.head(pooled)
    return logits.float()


def _plain_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    out: Tensor = norm(x)
    return out


def _block(block: Block, tokens: Tensor) -> Tensor:
    attention = block.attn
    projected = attention.qkv(_norm(block.norm1, tokens))
    B, N, D = projected.shape[0], projected.shape[1], projected.shape[2] // 3
    q, k, v = split(projected.reshape(B, N, 3, attention.heads, D // attention.heads), 0)
    weights = (_product(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))).softmax(-1)
    out = _product(weights, v).transpose(1, 2).reshape(B, N, D)
    tokens = tokens + attention.proj(out)
    return tokens + _mlp(block.mlp, _norm(block.norm2, tokens))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product whose relevance is shared evenly by its factors."""
    return (a @ b.detach() + a.detach() @ b) / 2


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm whose deviation counts as a constant."""
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt().detach()
    return centred / deviation * norm.weight + norm.bias


def _mlp(mlp: Mlp, x: Tensor) -> Tensor:
    hidden = mlp.fc1(x)
    slope = (torch.nn.functional.gelu(hidden) / torch.where(hidden.abs() < 1e-6, 1e-6, hidden)).detach()
    out: Tensor = mlp.fc2(hidden * slope)
    return out


def _attention(net: Transformer, x: Tensor) -> list[Tensor]:
    trace: list[Tensor] = []
    with torch.no_grad():
        net(x, trace)
    return trace


def _first(net: Transformer) -> int:
    """Where the tokens of the grid begin."""
    return 0 if isinstance(net, VideoViT) else 1


def _rows(net: Transformer, matrix: Tensor) -> Tensor:
    """What the answer reads of a matrix (B, N, N) of tokens over tokens: (B, patches)."""
    if isinstance(net, VideoViT):
        return matrix.mean(dim=1)
    return matrix[:, 1:, 1:].mean(dim=1) if net.pool == "mean" else matrix[:, 0, 1:]


def _grid(net: Transformer, x: Tensor, rows: Tensor) -> Tensor:
    return rows.float().reshape(len(x), *net.grid_of(x))


def relevance(net: Transformer, x: Tensor, classes: Tensor) -> Tensor:
    """Gradient x attention of images or clips, see `medvit.explain.attention`."""
    return clip_attention(net, x, classes) if isinstance(net, VideoViT) else gradient_attention(net, x, classes)


VIT_METHODS: dict[str, Method] = {
    GRADIENT_ATTENTION: relevance,
    LRP: attention_lrp,
    ROLLOUT: rollout,
    CAM: token_cam,
    RAW: raw_attention,
}

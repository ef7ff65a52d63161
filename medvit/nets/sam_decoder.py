"""SAM's mask decoder: prompt tokens and the image's map attend to each other, then tokens become masks and their quality.

Source: Kirillov et al. 2023, "Segment Anything" (arXiv:2304.02643), figure 14, under the release's key names.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.sam_encoder import LayerNorm2d

NARROWER = 2  # how many times fewer channels attention between tokens and map works in
MASKS = 4  # one for a prompt that is clear, three for one that is not


class MaskAnswer(NamedTuple):
    """What the decoder says to P prompts, of M masks each.

    Attributes:
        logits: (P, M, 4 h, 4 w).
        quality: (P, M), the IoU with the truth that it expects.
    """

    logits: Tensor
    quality: Tensor


class CrossAttention(nn.Module):
    """Attention of queries (P, n, C) to keys and values (P, m, C), in ``inner`` channels."""

    def __init__(self, channels: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class TokenMlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the map, then the map to the tokens; norms come after.

    Positions are added to queries and keys, never to values. The first block's self-attention has neither positions nor a
    residual, its tokens being positions themselves.
    """

    def __init__(self, channels: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(channels, heads, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn_token_to_image = CrossAttention(channels, heads, channels // NARROWER)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = TokenMlp(channels, hidden)
        self.norm3 = nn.LayerNorm(channels)
        self.norm4 = nn.LayerNorm(channels)
        self.cross_attn_image_to_token = CrossAttention(channels, heads, channels // NARROWER)

    def forward(self, tokens: Tensor, image: Tensor, told: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        # tokens, told (P, T, C); image, place (P or 1, h w, C)
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            asked = tokens + told
            tokens = tokens + self.self_attn(asked, asked, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + told, image + place, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + place, tokens + told, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    def __init__(self, channels: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(channels, heads, hidden, index == 0) for index in range(depth))
        self.final_attn_token_to_image = CrossAttention(channels, heads, channels // NARROWER)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, told: Tensor, image: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        tokens = told
        for layer in self.layers:
            tokens, image = layer(tokens, image, told, place)
        tokens = tokens + self.final_attn_token_to_image(tokens + told, image + place, image)
        return self.norm_final_attn(tokens), image


class Mlp3(nn.Module):
    """A multilayer perceptron with ReLU between its layers."""

    def __init__(self, channels: int, hidden: int, out: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(F.relu(x) if index else x)
        return x


class MaskDecoder(nn.Module):
    """From the image's map and prompts to masks.

    Args:
        channels: C of tokens and map.
        depth: Two-way blocks.
        heads: Attention heads.
        hidden: Hidden width of the blocks' MLPs.
        quality_depth: Layers of the quality head.
        quality_hidden: Its hidden width.
    """

    def __init__(
        self,
        channels: int = 256,
        depth: int = 2,
        heads: int = 8,
        hidden: int = 2048,
        *,
        quality_depth: int = 3,
        quality_hidden: int = 256,
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels, depth, heads, hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(MASKS, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, stride=2), LayerNorm2d(channels // 4), nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, stride=2), nn.GELU(),
        )  # fmt: skip
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp3(channels, channels, channels // 8) for _ in range(MASKS))
        self.iou_prediction_head = Mlp3(channels, quality_hidden, MASKS, quality_depth)

    def forward(
        self, embedding: Tensor, place: Tensor, sparse: Tensor, dense: Tensor, several: bool = False
    ) -> MaskAnswer:
        """Answer P prompts.

        Args:
            embedding: (P, C, h, w), the map of each prompt's image; (1, C, h, w) where all ask about one.
            place: (1, C, h, w) codes of the map's cells.
            sparse: (P, T, C) tokens of the prompts.
            dense: (P, C, h, w) or (1, C, h, w), added to the map.
            several: Whether the three masks of an unclear prompt come back, or the one of a clear prompt.
        """
        grid, P = embedding.shape[-2:], len(sparse)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + 4, C)
        told = torch.cat([own.expand(P, -1, -1), sparse.to(own.dtype)], dim=1)
        image = (embedding + dense).flatten(2).transpose(1, 2).expand(P, -1, -1)  # (P, h w, C)
        tokens, image = self.transformer(told, image, place.flatten(2).transpose(1, 2))
        upscaled = self.output_upscaling(image.transpose(1, 2).unflatten(2, grid))  # (P, C/8, 4h, 4w)
        wanted = range(1, MASKS) if several else range(1)
        mixes = torch.stack([self.output_hypernetworks_mlps[m](tokens[:, 1 + m]) for m in wanted], dim=1)  # (P, M, C/8)
        logits = (mixes @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return MaskAnswer(logits, self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop])

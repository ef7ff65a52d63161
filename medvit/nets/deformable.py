"""Deformable attention between maps, in plain torch.

Source: Zhu et al. 2021, "Deformable DETR" (arXiv:2010.04159); the block with a convolution in its MLP as in ViT-Adapter,
Chen et al. 2023 (arXiv:2205.08534), which DB-SAM builds on.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.sam_encoder import LayerNorm2d
from medvit.nets.vit import NORM_EPS

POINTS = 4  # sampled by a head on a map
MLP_RATIO = 4


class DeformableAttention(nn.Module):
    """Every token looks at a few places of every map, whose offsets and weights it says itself.

    Args:
        width: Channels D.
        heads: Attention heads.
        maps: How many maps are looked at.
        points: Places a head looks at on a map.
    """

    def __init__(self, width: int, heads: int, maps: int = 1, points: int = POINTS) -> None:
        super().__init__()
        self.heads, self.maps, self.points = heads, maps, points
        self.offsets = nn.Linear(width, heads * maps * points * 2)
        self.weights = nn.Linear(width, heads * maps * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Look 1, 2, … tokens away, each head in a direction of its own, at first with equal weights."""
        for part in (self.offsets, self.weights):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        way = torch.stack([angle.cos(), angle.sin()], dim=-1)
        way = way / way.abs().amax(dim=-1, keepdim=True)  # (heads, 2)
        steps = torch.arange(1.0, self.points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_((way[:, None, None] * steps).expand(-1, self.maps, -1, -1).flatten())
        for part in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def values(self, seen: Tensor) -> Tensor:
        """A map (B, h, w, D) as it is sampled from: (B * heads, D / heads, h, w)."""
        projected: Tensor = self.value_proj(seen)
        B, h, w, _ = projected.shape
        return projected.reshape(B, h, w, self.heads, -1).permute(0, 3, 4, 1, 2).reshape(B * self.heads, -1, h, w)

    def forward(self, asking: Tensor, values: Sequence[Tensor]) -> Tensor:
        """What tokens (B, H, W, D) see in ``maps`` maps, given as `values` of them: (B, H, W, D)."""
        B, H, W, D = asking.shape
        offsets = self.offsets(asking).reshape(B, H * W, self.heads, self.maps, self.points, 2).float()
        weights = self.weights(asking).reshape(B, H * W, self.heads, -1).softmax(dim=-1)  # over maps and points
        centres = token_centres(H, W, asking.device)[:, None, None]  # (N, 1, 1, 2)
        sampled = []
        for index, value in enumerate(values):
            extent = torch.tensor([value.shape[3], value.shape[2]], device=asking.device)
            at = 2 * (centres + offsets[:, :, :, index] / extent) - 1  # (B, N, heads, points, 2)
            at = at.transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(value.float(), at, padding_mode="zeros", align_corners=False))
        seen = torch.cat(sampled, dim=-1).to(asking.dtype)  # (B * heads, D / heads, N, maps * points)
        mixed = (seen * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)  # (B * heads, D / heads, N)
        out: Tensor = self.output_proj(mixed.reshape(B, D, H, W).permute(0, 2, 3, 1))
        return out


def token_centres(rows: int, columns: int, device: torch.device) -> Tensor:
    """Where tokens lie, (N, 2) of x, y as shares of width and height."""
    y, x = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) / rows,
        (torch.arange(columns, device=device) + 0.5) / columns,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)


class ConvMlp(nn.Module):
    """An MLP over token maps (B, H, W, D) with a depth-wise convolution between its layers."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = MLP_RATIO * width
        self.lin1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dropout = nn.Dropout(dropout)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.lin1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.dropout(self.lin2(self.dropout(F.gelu(x))))
        return out


class CrossBlock(nn.Module):
    """Maps look at maps, then each goes through an MLP; residuals around both.

    Args:
        width: Channels D.
        heads: Attention heads.
        maps: How many maps are looked at.
        drop: Stochastic depth.
        dropout: Dropout of what was seen and in the MLP.
    """

    def __init__(self, width: int, heads: int, maps: int = 1, drop: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        self.norm_asking = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm_seen = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = DeformableAttention(width, heads, maps)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = ConvMlp(width, dropout)

    def leave_alone(self) -> None:
        """Set the last layers to zero, so that maps come out as they went in."""
        for part in (self.attention.output_proj, self.mlp.lin2):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, asking: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
        """Every asking map (B, H, W, D) after it looked at all the seen ones (B, h, w, D)."""
        values = [self.attention.values(self.norm_seen(x)) for x in seen]
        answered = []
        for x in asking:
            found = self.dropout(self.attention(self.norm_asking(x), values))
            told = x + drop_path(found, self.drop, self.training)
            answered.append(told + drop_path(self.mlp(self.norm(told)), self.drop, self.training))
        return answered


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """A residual's branch (B, …), left out of some samples while training."""
    if not training or not rate:
        return branch
    return branch * branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - rate).div_(1 - rate)


def initialise(module: nn.Module) -> None:
    """Initialise as DB-SAM's release does: matrices N(0, 0.02) cut, convolutions by their fan-out, attention as it says."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
        elif isinstance(part, nn.Conv2d):
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(part, (nn.LayerNorm, LayerNorm2d, nn.BatchNorm2d)):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, DeformableAttention):
            part.reset()

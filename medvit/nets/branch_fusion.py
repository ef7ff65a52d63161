"""How DB-SAM puts the ViT's map and the convolution branch's maps together, as the paper and as its release do.

Every fusion takes a ViT map (B, H, W, D) and a list of convolution maps of the same shape, and gives one.
"""

import torch
from torch import Tensor, nn

from medvit.nets.deformable import MLP_RATIO
from medvit.nets.vit import NORM_EPS

REDUCTION = 12  # times fewer channels inside what weighs the branches


class TokenFusion(nn.Module):
    """Each token's channels from the ViT by a share M, from the convolution branch by 1 - M, both branches deciding M.

    Source: the paper's equation of ViT-convolution fusion.
    """

    def __init__(self, width: int, maps: int = 1) -> None:
        super().__init__()
        self.of_vit, self.of_conv = (
            nn.Sequential(nn.Linear(width, width // REDUCTION), nn.GELU(), nn.Linear(width // REDUCTION, width))
            for _ in range(2)
        )

    def forward(self, vit: Tensor, maps: list[Tensor]) -> Tensor:
        share: Tensor = (self.of_vit(vit) + self.of_conv(maps[0])).sigmoid()
        return vit * share + maps[0] * (1 - share)


class Bottleneck(nn.Sequential):
    """From D channels to few and to D again."""

    def __init__(self, width: int) -> None:
        few = width // REDUCTION
        down, up = nn.Linear(width, few, bias=False), nn.Linear(few, width, bias=False)
        super().__init__(down, nn.SiLU(), nn.LayerNorm(few, eps=NORM_EPS), up)


class Mlp(nn.Sequential):
    def __init__(self, width: int) -> None:
        norm = nn.LayerNorm(width, eps=NORM_EPS)
        super().__init__(norm, nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))


class PlaceAndChannelFusion(nn.Module):
    """The release's ``DANE``: the convolution branch says where it counts, the ViT in which channels, then an MLP.

    The share is that of the convolution branch here, unlike in the paper.
    """

    def __init__(self, width: int, maps: int) -> None:
        super().__init__()
        self.merge = nn.Linear(maps * width, width)
        self.where = nn.Sequential(nn.LayerNorm(width, eps=NORM_EPS), nn.Linear(width, 1, bias=False))
        self.which = Bottleneck(width)
        self.mlp = Mlp(width)

    def forward(self, vit: Tensor, maps: list[Tensor]) -> Tensor:
        conv = self.merge(torch.cat(maps, dim=-1))
        share = (self.where(conv) + self.which(vit.mean(dim=(1, 2), keepdim=True))).sigmoid()
        fused = conv * share + vit * (1 - share)
        out: Tensor = fused + self.mlp(fused)
        return out


class SoftmaxFusion(nn.Module):
    """The release's ``MultiConvFeatsDANE``: every map weighs its own channels, a softmax makes shares of that, then an MLP.

    The release builds a sixth bottleneck that nothing uses; it is left out.
    """

    def __init__(self, width: int, maps: int) -> None:
        super().__init__()
        self.weigh = nn.ModuleList(Bottleneck(width) for _ in range(maps + 1))
        self.mlp = Mlp(width)

    def forward(self, vit: Tensor, maps: list[Tensor]) -> Tensor:
        every = torch.stack([*maps, vit])
        shares = torch.stack([weigh(x) for weigh, x in zip(self.weigh, every, strict=True)]).softmax(dim=0)
        fused = (every * shares).sum(dim=0)
        out: Tensor = fused + self.mlp(fused)
        return out

"""DB-SAM's image encoder: SAM's, frozen, with a convolution branch beside it and adapters between the two.

Source: Qin et al. 2024, "DB-SAM: Delving into High Quality Universal Medical Image Segmentation" (arXiv:2410.04172). The
release cannot be imported, files of it are missing; names of parameters are therefore ours under ``adapter``. Its default
epsilon of 1e-5 in the frozen blocks is not followed: they keep SAM's 1e-6.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medvit.nets.branch_fusion import PlaceAndChannelFusion, SoftmaxFusion, TokenFusion
from medvit.nets.deformable import CrossBlock, drop_path, initialise
from medvit.nets.sam_encoder import LayerNorm2d, SamEncoder
from medvit.nets.vit import NORM_EPS

Variant = Literal["paper", "release", "release_plus", "attention", "unfused"]
Start = Literal["release", "sam"]

SQUEEZE = 4  # times fewer channels between squeeze and excitation
BATCH_NORM_MOMENTUM = 0.01
MIXED_TWICE = 2  # deformable blocks a stage in ``release_plus``
TRAINED = ("image_encoder.adapter.", "image_encoder.neck.", "mask_decoder.")  # of DB-SAM, all else being frozen
DECODER = ("mask_decoder.",)  # of MedSAM's first version


class Plan(NamedTuple):
    """What a variant is made of: see `DualBranchEncoder`."""

    levels: tuple[int, ...]  # halvings of the image that each convolution map starts from
    two_branches: bool
    fusion: type[nn.Module] | None  # without one the ViT's map goes on alone
    normed: bool  # whether a layer norm stands before the neck


class ChannelAttention(nn.Module):
    """Depth-wise convolution, squeeze and excitation, and a residual; over token maps (B, H, W, D).

    The GELU after the depth-wise convolution is in the release, not in the paper's figure.
    """

    def __init__(self, width: int, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        self.norm = LayerNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.squeeze = nn.Conv2d(width, width // SQUEEZE, 1, bias=False)
        self.excite = nn.Conv2d(width // SQUEEZE, width, 1, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.depthwise(self.norm(x.permute(0, 3, 1, 2))))  # (B, D, H, W)
        y = y * self.excite(F.gelu(self.squeeze(y.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return x + drop_path(self.pointwise(y).permute(0, 2, 3, 1), self.drop, self.training)


class Stem(nn.Sequential):
    """The convolution branch's way from an image to the token grid, ``halvings`` of its sides away.

    Three 3 x 3 and four 1 x 1 convolutions as in the release; the paper counts two and three.
    """

    def __init__(self, width: int, halvings: int) -> None:
        if not 0 <= halvings <= 3:
            raise ValueError(f"the convolution branch halves an image 0 to 3 times, not {halvings} times")
        layers: list[nn.Module] = []
        sizes = (3, width // 6, width // 3, 2 * width // 3)
        for index, (before, after) in enumerate(pairwise(sizes)):
            layers += convolved(before, after, 3, 2 if index < halvings else 1) + convolved(after, after, 1, 1)
        super().__init__(*layers, nn.Conv2d(sizes[-1], width, 1, bias=False), LayerNorm2d(width))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running statistics are a plain mean of the batches seen, until the mean would weigh less than usual.

    With the release's momentum of 0.01 they would still be half the values that they were initialised with after 70 steps, and
    a network trained for a few hundred answers with statistics that are not its own. After 100 steps both are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.momentum = max(BATCH_NORM_MOMENTUM, 1 / (int(self.num_batches_tracked) + 1))
        return super().forward(x)


def convolved(before: int, after: int, side: int, stride: int) -> list[nn.Module]:
    """A convolution, batch norm and ReLU."""
    return [
        nn.Conv2d(before, after, side, stride, padding=side // 2, bias=False),
        BatchNorm(after),
        nn.ReLU(),
    ]


PLANS: dict[Variant, Plan] = {
    "paper": Plan((2,), True, TokenFusion, False),
    "release": Plan((1, 2, 3, 4), True, PlaceAndChannelFusion, True),
    "release_plus": Plan((1, 2, 3, 4), False, SoftmaxFusion, True),
    "attention": Plan((), True, None, False),
    "unfused": Plan((2,), True, None, False),
}


class Adapter(nn.Module):
    """All that DB-SAM adds to SAM's encoder; see `DualBranchEncoder`."""

    def __init__(
        self,
        plan: Plan,
        patch: int,
        width: int,
        heads: int,
        stages: int,
        start: Start,
        after: bool,
        drop: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.plan, self.after = plan, after
        count = len(plan.levels)
        self.stems = nn.ModuleList(Stem(width, patch.bit_length() - 1 - level) for level in plan.levels)

        def blocks(number: int, levels: int) -> nn.ModuleList:
            return nn.ModuleList(CrossBlock(width, heads, levels, drop, dropout) for _ in range(number))

        if plan.two_branches:
            self.channels = nn.ModuleList(ChannelAttention(width, drop) for _ in range(stages))
            both = stages if count else 0
            # Where nothing is fused, nobody looks at the convolution branch behind the last exchange.
            self.to_vit, self.to_conv = blocks(both, count), blocks(both if plan.fusion else max(both - 1, 0), 1)
        else:
            self.level_embed = nn.Parameter(torch.zeros(count, width))
            self.mix = blocks(stages * MIXED_TWICE, count + 1)
        self.fusion = plan.fusion(width, count) if plan.fusion else None
        self.norm = nn.LayerNorm(width, eps=NORM_EPS) if plan.normed else nn.Identity()
        initialise(self)
        self.gate = nn.Parameter(torch.zeros(width)) if start == "sam" and plan.fusion else None
        if start == "sam":
            self._leave_vit_alone()

    def _leave_vit_alone(self) -> None:
        for part in self.modules():
            if isinstance(part, ChannelAttention):
                nn.init.zeros_(part.pointwise.weight)
        for block in self.to_vit if self.plan.two_branches else self.mix:
            block.leave_alone()  # type: ignore[operator]

    def start(self, images: Tensor) -> list[Tensor]:
        """The convolution branch's maps (B, h, w, D) of normalised images (B, 3, H, W)."""
        H, W = images.shape[-2:]
        maps = []
        for index, (stem, level) in enumerate(zip(self.stems, self.plan.levels, strict=True)):
            less = F.interpolate(images, size=(H >> level, W >> level), mode="bilinear", antialias=True)
            one = stem(less).permute(0, 2, 3, 1)
            maps.append(one if self.plan.two_branches else one + self.level_embed[index])
        return maps

    def exchange(self, stage: int, vit: Tensor, *maps: Tensor) -> list[Tensor]:
        """The maps after a stage of the ViT, its own first; each side sees the other as it was before."""
        if not self.plan.two_branches:
            every = [vit, *maps]
            for block in self.mix[stage * MIXED_TWICE : (stage + 1) * MIXED_TWICE]:
                every = block(every, every)
            return every
        attend = self.channels[stage]
        if not maps:
            return [attend(vit)]
        vit = vit if self.after else attend(vit)
        (mixed,) = self.to_vit[stage]([vit], maps)
        seen = self.to_conv[stage](maps, [vit]) if stage < len(self.to_conv) else maps
        return [attend(mixed) if self.after else mixed, *seen]

    def finish(self, vit: Tensor, maps: list[Tensor]) -> Tensor:
        """What goes to the neck."""
        if self.fusion is None:
            return vit
        fused: Tensor = self.norm(self.fusion(vit, maps))
        return fused if self.gate is None else vit + self.gate * (fused - vit)


class DualBranchEncoder(SamEncoder):
    """SAM's encoder, a convolution branch, and an exchange between them after every block that attends everywhere.

    Args:
        variant: ``paper``: channel attention in the ViT, one convolution map made from a quarter of the image's side,
            bilateral deformable attention, and fusion token by token. ``release``: the same with four maps and the release's
            ``DANE`` fusion (its two-branch adapter). ``release_plus``: no channel attention, and five maps that mix freely,
            the one whole configuration released (its four-branch adapter). Two steps of the paper's ablation: ``attention``,
            channel attention in the ViT alone; ``unfused``, the paper's without fusion, the ViT's map going on.
        start: How the adapters begin. ``release``: as the release initialises them, which moves SAM's features from the
            first step. ``sam``: so that the untrained network gives SAM's features exactly, by zeros at the end of every
            addition and a gate at zero.
        channel_attention: Whether it stands ``before`` the exchange or ``after`` it.
        drop: Stochastic depth of the adapters.
        dropout: Dropout inside them.
        others: Those of `SamEncoder`; the last block must attend everywhere.
    """

    def __init__(
        self,
        image_size: int = 1024,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        everywhere: Sequence[int] = (2, 5, 8, 11),
        window: int = 14,
        mlp_ratio: float = 4.0,
        out: int = 256,
        recompute: bool = False,
        variant: Variant = "paper",
        start: Start = "release",
        channel_attention: Literal["before", "after"] = "before",
        drop: float = 0.3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(image_size, patch, width, depth, heads, everywhere=everywhere, window=window,
                         mlp_ratio=mlp_ratio, out=out, recompute=recompute)  # fmt: skip
        ends = [index + 1 for index in self.everywhere]
        if not ends or ends[-1] != depth or ends != sorted(ends):
            raise ValueError(
                f"the blocks that attend everywhere, {list(everywhere)}, must end with the last, {depth - 1}"
            )
        if variant not in PLANS:
            raise ValueError(f"variant {variant!r} is none of {', '.join(PLANS)}")
        self.stages = [slice(a, b) for a, b in pairwise([0, *ends])]
        after = channel_attention == "after"
        self.adapter = Adapter(PLANS[variant], patch, width, heads, len(ends), start, after, drop, dropout)

    def forward(self, images: Tensor) -> Tensor:
        x, maps = self.place(images), self.adapter.start(images)
        for stage, blocks in enumerate(self.stages):
            x = self.run(list(self.blocks[blocks]), x)
            x, *maps = self._exchange(stage, x, *maps)
        out: Tensor = self.neck(self.adapter.finish(x, maps).permute(0, 3, 1, 2))
        return out

    def _exchange(self, *given: int | Tensor) -> list[Tensor]:
        exchange = self.adapter.exchange
        if self.recompute and torch.is_grad_enabled():
            every: list[Tensor] = checkpoint(exchange, *given, use_reentrant=False)
            return every
        return exchange(*given)  # type: ignore[arg-type]


def train_only(net: nn.Module, prefixes: Sequence[str] = TRAINED) -> None:
    """Freeze all parameters but those whose names begin so: `TRAINED` for DB-SAM, `DECODER` for MedSAM's first version.

    The paper freezes the prompt encoder, the release trains it: add ``prompt_encoder.`` to do so.
    """
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(prefixes)))


def trained_and_frozen(net: nn.Module) -> tuple[int, int]:
    """How many numbers of a network training changes, and how many it leaves."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in net.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    return trained, sum(size for size, _ in sizes) - trained

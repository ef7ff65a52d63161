"""The Vision Transformer that every system shares, under the key names of the MAE, DINO and timm releases.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); mean pooling with ``fc_norm`` and fixed sin-cos positions as in
He et al. 2022 (arXiv:2111.06377).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.attention import Attention

NORM_EPS = 1e-6  # of every LayerNorm; torch's own default is 1e-5
STRETCH = 0.1  # tokens added to the new grid where the DINO release resamples positions

Grid = tuple[int, int]


def sincos_positions(width: int, grid: Grid) -> Tensor:
    """Fixed 2-D positions of a grid of tokens behind a class token at zero.

    Half the channels hold the column, then half the row; each half is [sines | cosines] at frequencies
    10000^(-i / (width / 4)).

    Args:
        width: Channels D, a multiple of four.
        grid: Rows and columns of tokens.

    Returns:
        (1, 1 + rows * columns, D) float32.
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 4, not {width}")
    frequency = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = []
    for coordinate in (column, row):
        angle = coordinate.reshape(-1, 1) * frequency  # (N, D/4)
        halves += [angle.sin(), angle.cos()]
    table = torch.cat(halves, dim=1).float()  # (N, D)
    return torch.cat([torch.zeros(1, width), table])[None]  # (1, 1+N, D)


def resample_positions(positions: Tensor, old: Grid, new: Grid, stretch: float = 0.0) -> Tensor:
    """Positions (1, 1+N, D) of another grid: bicubic over the grid, the class token kept.

    Args:
        positions: Of a grid ``old``.
        old: Its rows and columns.
        new: Rows and columns wanted.
        stretch: Added to the new rows and columns where the scale is computed: 0 as MAE resamples when it loads weights,
            `STRETCH` as DINO resamples for every image of another size. The two differ by some thousandths.
    """
    if old == new:
        return positions
    first, table = positions[:, :1], positions[:, 1:]
    plane = table.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    if stretch:
        scale = [(n + stretch) / o for n, o in zip(new, old, strict=True)]
        plane = F.interpolate(plane, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        plane = F.interpolate(plane, size=new, mode="bicubic", align_corners=False)
    return torch.cat([first, plane.flatten(2).transpose(1, 2)], dim=1)


def cut_patches(x: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into flattened patches (B, N, C * patch * patch), row by row."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // patch, patch, W // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(B, (H // patch) * (W // patch), C * patch * patch)


class PatchEmbed(nn.Module):
    """A linear map of patches, kept as the convolution that published weights hold."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        # (B, N, C*p*p) -> (B, N, D); as a matrix product, so that hidden patches need not be embedded at all
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth (Huang et al. 2016) of probability ``drop_path``.

    Tokens before ``first`` are only attended to; ``projected`` takes the place of `project` where it is known already.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self, x: Tensor, trace: list[Tensor] | None = None, first: int = 0, projected: Tensor | None = None
    ) -> Tensor:
        projected = self.project(x) if projected is None else projected
        x = x[:, first:] + self._drop(self.attn(projected, trace, first))
        return x + self._drop(self.mlp(self.norm2(x)))

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values of tokens: (..., D) -> (..., 3 D)."""
        projected: Tensor = self.attn.qkv(self.norm1(x))
        return projected

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class ViT(nn.Module):
    """Vision Transformer with a class token.

    Args:
        image_size: Pixels of the square image it is built for; others are accepted, positions are then resampled.
        patch: Pixels of a patch's side.
        width: Channels D of a token.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over D.
        classes: Outputs of the head; 0 for none, the features then come out.
        pool: ``class``: the class token after ``norm``; ``mean``: the mean of the patch tokens, then ``fc_norm``.
        drop_path: Stochastic depth of the last block; it grows linearly from 0.
        channels: Image channels.
        learn_positions: Whether positions are trained or stay the fixed sin-cos table.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        pool: Literal["class", "mean"] = "class",
        drop_path: float = 0.0,
        channels: int = 3,
        learn_positions: bool = True,
    ) -> None:
        super().__init__()
        if min(image_size, patch, width, depth, heads) < 1:
            raise ValueError(f"image_size, patch, width, depth ({depth}) and heads must be at least 1")
        if image_size % patch or width % heads:
            raise ValueError(
                f"patch {patch} must divide image_size {image_size} and heads {heads} must divide width {width}"
            )
        self.patch, self.width, self.pool = patch, width, pool
        self.grid: Grid = (image_size // patch, image_size // patch)
        self.patch_embed = PatchEmbed(patch, channels, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, self.grid), requires_grad=learn_positions)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, rate) for rate in rates)
        if pool == "mean":
            self.fc_norm = nn.LayerNorm(width, eps=NORM_EPS)
        else:
            self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        if classes:
            self.head = nn.Linear(width, classes)
        initialise(self)

    def patches(self, x: Tensor) -> Tensor:
        """Embed the patches of images: (B, C, H, W) -> (B, N, D)."""
        H, W = x.shape[-2:]
        if H % self.patch or W % self.patch:
            raise ValueError(f"images of {H} x {W} pixels cannot be cut into patches of {self.patch}")
        p: Tensor = self.patch_embed(cut_patches(x, self.patch))
        return p

    def grid_of(self, x: Tensor) -> Grid:
        """Rows and columns of patches of images (B, C, H, W)."""
        return x.shape[-2] // self.patch, x.shape[-1] // self.patch

    def place(self, p: Tensor, grid: Grid) -> Tensor:
        """Add positions and put the class token in front: (B, N, D) -> (B, 1+N, D)."""
        positions = resample_positions(self.pos_embed, self.grid, grid, STRETCH)
        first = (self.cls_token + positions[:, :1]).expand(p.shape[0], -1, -1)
        return torch.cat([first.to(p.dtype), p + positions[:, 1:]], dim=1)

    def encode(self, t: Tensor, last: int = 1, trace: list[Tensor] | None = None) -> list[Tensor]:
        """Run the blocks over placed tokens.

        Args:
            t: (B, 1+N, D).
            last: How many of the last blocks' outputs are wanted.
            trace: Takes every block's attention weights (B, heads, 1+N, 1+N).

        Returns:
            The last blocks' tokens (B, 1+N, D), after ``norm`` where the network has one; the deepest comes last.
        """
        outputs = []
        for index, block in enumerate(self.blocks):
            t = block(t, trace)
            if index >= len(self.blocks) - last:
                outputs.append(t if self.pool == "mean" else self.norm(t))
        return outputs

    def tokens(self, x: Tensor, last: int = 1, trace: list[Tensor] | None = None) -> list[Tensor]:
        """What `encode` gives for images (B, C, H, W): the last blocks' tokens (B, 1+N, D)."""
        return self.encode(self.place(self.patches(x), self.grid_of(x)), last, trace)

    def features(self, x: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Pooled and normed features of images: (B, C, H, W) -> (B, D)."""
        tokens = self.tokens(x, trace=trace)[-1]  # (B, 1+N, D)
        return self.fc_norm(tokens[:, 1:].mean(dim=1)) if self.pool == "mean" else tokens[:, 0]

    def embedding(self, x: Tensor, last: int = 4) -> Tensor:
        """Class tokens of the last blocks, then the mean patch token of the deepest: (B, C, H, W) -> (B, (last + 1) * D).

        Source: Caron et al. 2021 (arXiv:2104.14294), linear evaluation; Self-ViT-MIL describes tiles by it, with 5 * D.
        """
        tokens = self.tokens(x, last)
        return torch.cat([*(t[:, 0] for t in tokens), tokens[-1][:, 1:].mean(dim=1)], dim=-1)

    def forward(self, x: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W), or their features (B, D) where there is no head."""
        features = self.features(x, trace)
        return self.head(features) if hasattr(self, "head") else features

    def attention(self, x: Tensor) -> list[Tensor]:
        """Every block's attention weights (B, heads, 1+N, 1+N) for images (B, C, H, W)."""
        trace: list[Tensor] = []
        self.features(x, trace)
        return trace


def initialise(module: nn.Module) -> None:
    """Initialise a transformer as MAE does: xavier for matrices, patch kernels as matrices, N(0, 0.02) for tokens."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("cls_token", "mask_token")):
            nn.init.normal_(parameter, std=0.02)

"""The Vision Transformer of video: tubelets for patches, no class token, fixed positions, under VideoMAE's key names.

Source: Tong et al. 2022, "VideoMAE" (arXiv:2203.12602).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.vit import NORM_EPS, Block

Grid3 = tuple[int, int, int]  # slices of time, rows, columns
HEAD_SCALE = 1e-3  # of a fresh head's weights, as in the release


def index_positions(width: int, tokens: int) -> Tensor:
    """Fixed positions (N, D) of tokens counted one by one: sines on even channels, cosines on odd ones."""
    frequency = 10_000.0 ** -(2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * frequency  # (N, D)
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float()


def cut_tubelets(x: Tensor, tubelet: int, patch: int) -> Tensor:
    """Cut clips (B, C, T, H, W) into flattened tubelets (B, N, C * tubelet * patch * patch), by time, row and column."""
    B, C, T, H, W = x.shape
    if T % tubelet or H % patch or W % patch:
        raise ValueError(f"clips of {T} x {H} x {W} cannot be cut into tubelets of {tubelet} x {patch} x {patch}")
    x = x.reshape(B, C, T // tubelet, tubelet, H // patch, patch, W // patch, patch).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(B, -1, C * tubelet * patch * patch)


class TubeletEmbed(nn.Module):
    """A linear map of tubelets, kept as the convolution that published weights hold."""

    def __init__(self, tubelet: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(channels, width, kernel_size=size, stride=size)

    def forward(self, tubelets: Tensor) -> Tensor:
        # (B, N, C*t*p*p) -> (B, N, D); as a matrix product, so that hidden tubelets need not be embedded at all
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)


class VideoViT(nn.Module):
    """Vision Transformer over the tubelets of a clip.

    Args:
        frames: Frames of the clips it is built for; other numbers are accepted, as are other sizes.
        image_size: Pixels of a square frame's side.
        patch: Pixels of a tubelet's side.
        tubelet: Frames of a tubelet.
        width: Channels D of a token.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over D.
        classes: Outputs of the head; 0 for none, the features then come out.
        pool: ``mean`` of the tokens, then ``fc_norm``; ``none``: the tokens after ``norm``, for pre-training.
        drop_path: Stochastic depth of the last block; it grows linearly from 0.
        channels: Of a frame.
    """

    def __init__(
        self,
        frames: int = 16,
        image_size: int = 224,
        patch: int = 16,
        tubelet: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        pool: Literal["mean", "none"] = "mean",
        drop_path: float = 0.0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if min(frames, image_size, patch, tubelet, width, depth, heads) < 1:
            raise ValueError("frames, image_size, patch, tubelet, width, depth and heads must be at least 1")
        if image_size % patch or frames % tubelet or width % heads:
            raise ValueError(
                f"patch {patch} must divide image_size {image_size}, tubelet {tubelet} must divide frames {frames} and "
                f"heads {heads} must divide width {width}"
            )
        self.patch, self.tubelet, self.width, self.pool = patch, tubelet, width, pool
        self.grid: Grid3 = (frames // tubelet, image_size // patch, image_size // patch)
        self.patch_embed = TubeletEmbed(tubelet, patch, channels, width)
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.register_buffer("positions", index_positions(width, tokens), persistent=False)
        self.positions: Tensor
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, rate) for rate in rates)
        if pool == "mean":
            self.fc_norm = nn.LayerNorm(width, eps=NORM_EPS)
        else:
            self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        initialise_clips(self)
        if classes:
            self.head = nn.Linear(width, classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02 * HEAD_SCALE)
            nn.init.zeros_(self.head.bias)

    def grid_of(self, x: Tensor) -> Grid3:
        """Slices, rows and columns of tubelets of clips (B, C, T, H, W)."""
        return x.shape[2] // self.tubelet, x.shape[3] // self.patch, x.shape[4] // self.patch

    def table(self, tokens: int) -> Tensor:
        """Positions (N, D) of so many tokens."""
        if tokens == len(self.positions):
            return self.positions
        return index_positions(self.width, tokens).to(self.positions)

    def encode(self, t: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Run the blocks over placed tokens (B, n, D); after ``norm`` where the network has one.

        ``trace`` takes every block's attention weights (B, heads, n, n).
        """
        for block in self.blocks:
            t = block(t, trace)
        return t if self.pool == "mean" else self.norm(t)

    def encode_some(self, tubelets: Tensor, places: Tensor, number: int) -> Tensor:
        """Embed and encode some tubelets (B, n, values), at ``places`` (B, n) of so many in the clip: (B, n, D)."""
        return self.encode(self.patch_embed(tubelets) + F.embedding(places, self.table(number)))

    def tokens(self, x: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Tokens (B, N, D) of clips (B, C, T, H, W)."""
        p = self.patch_embed(cut_tubelets(x, self.tubelet, self.patch))  # (B, N, D)
        return self.encode(p + self.table(p.shape[1]), trace)

    def features(self, x: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Mean and normed features of clips: (B, C, T, H, W) -> (B, D)."""
        tokens = self.tokens(x, trace).mean(dim=1)
        return self.fc_norm(tokens) if self.pool == "mean" else tokens

    def forward(self, x: Tensor, trace: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes) of clips (B, C, T, H, W), or their features (B, D) where there is no head."""
        features = self.features(x, trace)
        return self.head(features) if hasattr(self, "head") else features


def initialise_clips(module: nn.Module) -> None:
    """Initialise as the release does: xavier for matrices, torch's own for the tubelets' convolution, no biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

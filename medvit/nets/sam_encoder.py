"""SAM's image encoder: a ViT whose tokens attend within windows, in some blocks everywhere, and know relative positions.

Source: Kirillov et al. 2023, "Segment Anything" (arXiv:2304.02643), with the backbone of Li et al. 2022, "Exploring Plain
Vision Transformer Backbones for Object Detection" (arXiv:2203.16527). Key names are those of the release; MedSAM's files
hold the same.
"""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medvit.nets.vit import NORM_EPS, Grid, PatchEmbed, cut_patches

FEW_TOKENS = 512  # the most for which attention on a CPU does all heads together
AT_ONCE = 1 << 23  # attention weights that are worked on together there: half a head of 64 x 64 tokens


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of maps (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class WindowMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return out


class WindowAttention(nn.Module):
    """Self-attention of token maps (B, H, W, D) with relative positions, inside windows where ``window`` is not 0.

    Args:
        grid: Rows and columns that tokens attend over: the window, or the whole map for which the tables are made.
    """

    def __init__(self, width: int, heads: int, grid: Grid, window: int = 0) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        x = self.qkv(x)  # (B, H, W, 3 D)
        if self.window:
            x = into_windows(x, self.window, self.qkv.bias)  # padding, all zero, is projected to the bias alone
        x = self.attend(x)
        if self.window:
            x = out_of_windows(x, self.window, (grid[0], grid[1]))
        mixed: Tensor = self.proj(x)
        return mixed

    def attend(self, projected: Tensor) -> Tensor:
        """Mix projected tokens (B, H, W, 3 D) to (B, H, W, D)."""
        B, H, W, D = *projected.shape[:3], projected.shape[3] // 3
        q, k, v = projected.reshape(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        asked = q.unflatten(2, (H, W))  # (B, h, H, W, d)
        down = torch.einsum("bhijd,ikd->bhijk", asked, between(self.rel_pos_h, H).to(q.dtype)).flatten(
            2, 3
        )  # (B, h, N, H)
        across = torch.einsum("bhijd,jkd->bhijk", asked, between(self.rel_pos_w, W).to(q.dtype)).flatten(2, 3)
        if down.requires_grad:
            out = attend_training(q, k, v, down, across)
        else:
            out = (attend_by_rows if q.is_cpu and H * W > FEW_TOKENS else attend_biased)(q, k, v, down, across)
        return out.transpose(1, 2).reshape(B, H, W, D)


def attend_biased(q: Tensor, k: Tensor, v: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Attention (B, h, N, d) of queries with what relative rows (B, h, N, H) and columns (B, h, N, W) add to the weights."""
    bias = (down[..., :, None] + across[..., None, :]).flatten(3)  # (B, h, N, N)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_by_rows(q: Tensor, k: Tensor, v: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`attend_biased` without a backward pass, for a CPU: half a head at a time, in place, in memory that is used again."""
    (B, h, N, d), H, W = q.shape, down.shape[-1], across.shape[-1]
    few = max(AT_ONCE // N, 1)
    weights, out = q.new_empty(few, N), torch.empty_like(q)
    q = q * d**-0.5
    for b, g in product(range(B), range(h)):
        keys, values = k[b, g].T.contiguous(), v[b, g]
        for start in range(0, N, few):
            part = slice(start, min(start + few, N))
            now = weights[: part.stop - start]
            torch.add(down[b, g, part, :, None], across[b, g, part, None, :], out=now.view(-1, H, W))
            now.addmm_(q[b, g, part], keys)
            torch.softmax(now, dim=-1, out=now)
            torch.mm(now, values, out=out[b, g, part])
    return out


def attend_training(q: Tensor, k: Tensor, v: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`attend_biased` with a backward pass whose memory grows with N, not its square.

    The bias of a query is a product too: its additions for every row and column, times the row and column that a key is in.
    As further channels of queries and keys it needs no mask, which torch's fused attention cannot differentiate.
    """
    (H, W), d = (down.shape[-1], across.shape[-1]), q.shape[-1]
    rows = torch.eye(H, dtype=k.dtype, device=k.device).repeat_interleave(W, dim=0)  # (N, H)
    columns = torch.eye(W, dtype=k.dtype, device=k.device).repeat(H, 1)  # (N, W)
    place = torch.cat([rows, columns], dim=1).expand(*k.shape[:3], H + W)
    out = F.scaled_dot_product_attention(
        torch.cat([q * d**-0.5, down, across], dim=-1), torch.cat([k, place], dim=-1), F.pad(v, (0, H + W)), scale=1.0
    )
    return out[..., :d]


def between(table: Tensor, length: int) -> Tensor:
    """Entries (length, length, d) of a table of relative positions: of query i and key j that of i - j.

    A table made for another length is resampled linearly, as the release does.
    """
    table = resample_relative(table, 2 * length - 1)
    steps = torch.arange(length, device=table.device)
    return table[steps[:, None] - steps + length - 1]


def resample_relative(table: Tensor, entries: int) -> Tensor:
    """A table of relative positions (2 n - 1, d) with another number of entries."""
    if table.shape[0] == entries:
        return table
    return F.interpolate(table.T[None], size=entries, mode="linear")[0].T


def resample_map(positions: Tensor, grid: Grid) -> Tensor:
    """Positions (1, H, W, D) of another grid, bicubic."""
    if positions.shape[1:3] == grid:
        return positions
    plane = positions.permute(0, 3, 1, 2)
    return F.interpolate(plane, size=grid, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def into_windows(x: Tensor, window: int, padding: Tensor) -> Tensor:
    """Cut maps (B, H, W, D) into windows (B * n, window, window, D), padded with ``padding`` (D,) to the right and below."""
    B, H, W, D = x.shape
    x = F.pad(x, (0, 0, 0, -W % window, 0, -H % window))
    x[:, H:] += padding
    x[:, :H, W:] += padding
    x = x.reshape(B, x.shape[1] // window, window, x.shape[2] // window, window, D).transpose(2, 3)
    return x.reshape(-1, window, window, D)


def out_of_windows(x: Tensor, window: int, grid: Grid) -> Tensor:
    """What `into_windows` cut, as maps (B, H, W, D) of a grid again."""
    rows, columns = (-(-n // window) for n in grid)
    x = x.reshape(-1, rows, columns, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, x.shape[-1])[:, : grid[0], : grid[1]]


class WindowBlock(nn.Module):
    """Pre-norm transformer block over token maps (B, H, W, D)."""

    def __init__(self, width: int, heads: int, grid: Grid, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = WindowAttention(width, heads, grid, window)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = WindowMlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class SamEncoder(nn.Module):
    """From images to the map of features that masks are decoded from.

    Args:
        image_size: Pixels of the square image it is built for; others that ``patch`` divides are accepted, positions are
            then resampled.
        patch: Pixels of a patch's side.
        width: Channels D of a token.
        depth: Number of blocks.
        heads: Attention heads.
        everywhere: Blocks whose tokens attend to the whole map, counted from 0.
        window: Tokens a side of the windows of the other blocks.
        mlp_ratio: Hidden width of the MLPs over D.
        out: Channels C of the map.
        recompute: Whether training keeps block inputs only and computes the rest again in the backward pass: less memory
            for more time.
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
    ) -> None:
        super().__init__()
        if image_size % patch or width % heads:
            raise ValueError(
                f"patch {patch} must divide image_size {image_size} and heads {heads} must divide width {width}"
            )
        self.patch, self.width, self.recompute, self.everywhere = patch, width, recompute, tuple(everywhere)
        self.grid: Grid = (image_size // patch, image_size // patch)
        self.patch_embed = PatchEmbed(patch, 3, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, *self.grid, width))
        windows = [0 if index in everywhere else window for index in range(depth)]
        self.blocks = nn.ModuleList(
            WindowBlock(width, heads, (side, side) if side else self.grid, side, mlp_ratio) for side in windows
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False), LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False), LayerNorm2d(out),
        )  # fmt: skip
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def place(self, images: Tensor) -> Tensor:
        """Tokens with their positions: (B, 3, H, W) -> (B, H / patch, W / patch, D)."""
        H, W = images.shape[-2:]
        if H % self.patch or W % self.patch:
            raise ValueError(f"images of {H} x {W} pixels cannot be cut into patches of {self.patch}")
        grid = (H // self.patch, W // self.patch)
        tokens: Tensor = self.patch_embed(cut_patches(images, self.patch)).unflatten(1, grid)
        return tokens + resample_map(self.pos_embed, grid).to(tokens.dtype)

    def run(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Token maps (B, H, W, D) through some blocks."""
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and x.requires_grad else block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """The map of normalised images: (B, 3, H, W) -> (B, C, H / patch, W / patch)."""
        x = self.run(list(self.blocks), self.place(images))
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out

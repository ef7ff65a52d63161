"""Masked autoencoders of video: hide most tubelets, encode the rest, paint the hidden ones, or half of them.

Source: Tong et al. 2022, "VideoMAE" (arXiv:2203.12602); Wang et al. 2023, "VideoMAE V2: Dual Masking"
(arXiv:2303.16727). Masks that keep to the scanned sector are those of "ROI-aware masking", ASMUS 2024.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.mae import take
from medvit.nets.objective import Objective
from medvit.nets.video_vit import Grid3, VideoViT, cut_tubelets, index_positions, initialise_clips
from medvit.nets.vit import NORM_EPS, Block

SPREAD_EPS = 1e-6  # added to a tubelet's standard deviation when targets are normalised
PHASES = 4  # of a running cell

Masking = Literal["tube", "dual"]


class Decoder(nn.Module):
    """Blocks that paint: (B, n, d) -> (B, n - first, values of a tubelet)."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float, out: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, out)

    def forward(self, shown: Tensor, hidden: Tensor, places: Tensor, unasked: int = 0) -> Tensor:
        """Paint hidden tubelets.

        A hidden tubelet enters as the mask token at its place, the same in every clip, so the first block projects each
        place once a batch; the last block leaves out what nobody asks for.

        Args:
            shown: (B, V, d), visible tokens with their positions.
            hidden: (N, d), the mask token at every place.
            places: (B, M), which of them enter.
            unasked: The first of them that are not painted.
        """
        *blocks, last = cast(list[Block], list(self.blocks))
        project, first = (blocks or [last])[0].project, shown.shape[1] + unasked
        t = torch.cat([shown, F.embedding(places, hidden)], dim=1)  # (B, V+M, d)
        projected: Tensor | None = torch.cat([project(shown), F.embedding(places, project(hidden))], dim=1)
        for block in blocks:
            t = block(t, projected=projected)
            projected = None
        painted: Tensor = self.head(self.norm(last(t, first=first, projected=projected)))
        return painted


class VideoMAE(Objective):
    """Masked autoencoder around a `VideoViT`.

    Args:
        encoder: With ``norm`` and without a head.
        mask_ratio: Share of the places hidden, the same places in every slice of time.
        masking: ``tube``: every hidden tubelet is painted (VideoMAE); ``dual``: those that a running cell leaves, half of
            all (VideoMAE V2).
        decoder_width: Channels of decoder tokens.
        decoder_depth: Number of decoder blocks.
        decoder_heads: Attention heads of the decoder.
        mlp_ratio: Hidden width of the decoder's MLP over its width.
        mean: Of each channel, subtracted before the encoder.
        std: Of each channel, divided by before the encoder.
        within: Whether only tubelets that ever show something are seen and painted: of clips that are black outside
            the scanned sector.
    """

    def __init__(
        self,
        encoder: VideoViT,
        mask_ratio: float = 0.9,
        *,
        masking: Masking = "tube",
        decoder_width: int = 192,
        decoder_depth: int = 4,
        decoder_heads: int = 3,
        mlp_ratio: float = 4.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        within: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < hidden_places(encoder.grid, mask_ratio) < encoder.grid[1] * encoder.grid[2]:
            raise ValueError(f"mask_ratio {mask_ratio} of {encoder.grid[1:]} places leaves none visible or none hidden")
        self.encoder = encoder
        self.mask_ratio, self.masking, self.within = mask_ratio, masking, within
        self.encoder_to_decoder = nn.Linear(encoder.width, decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        values = encoder.patch_embed.proj.weight[0].numel()
        self.decoder = Decoder(decoder_width, decoder_depth, decoder_heads, mlp_ratio, values)
        positions = index_positions(decoder_width, encoder.positions.shape[0])
        self.register_buffer("decoder_positions", positions, persistent=False)
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1, 1), persistent=False)
        self.decoder_positions: Tensor
        self.mean: Tensor
        self.std: Tensor
        for part in (self.encoder_to_decoder, self.decoder):
            initialise_clips(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, clips: Tensor) -> Mapping[str, Tensor]:
        """The reconstruction loss of clips (B, C, T, H, W) in [0, 1], under masks drawn here; see `measure`."""
        grid = self.encoder.grid_of(clips)
        region = shows(clips, self.encoder) if self.within else None
        hidden = tube_masks(len(clips), grid, self.mask_ratio, region, clips.device)
        phases = torch.randint(PHASES, (len(clips),), device=clips.device)
        painted = running_cells(phases, grid) if self.masking == "dual" else None
        keep = chosen(~hidden)  # (B, V)
        places, unasked = (chosen(hidden), 0) if painted is None else in_order_of_use(painted, hidden)  # (B, M)
        tubelets = cut_tubelets(clips, self.encoder.tubelet, self.encoder.patch)  # (B, N, values)
        seen = take(tubelets, keep).reshape(*keep.shape, len(self.mean), -1)  # (B, V, C, t*p*p)
        seen = ((seen - self.mean.flatten(1)) / self.std.flatten(1)).flatten(2)
        wanted = take(tubelets, places[:, unasked:])
        told = self._paint(seen, keep, wanted, places, hidden if region is None else hidden & region, unasked)
        return {"loss": told["loss"]}

    def measure(
        self, clips: Tensor, unit: Tensor, hidden: Tensor, painted: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """The loss under given masks.

        Args:
            clips: (B, C, T, H, W) as the encoder sees them.
            unit: The same in [0, 1]: what is painted.
            hidden: (B, N), True where the encoder sees nothing; as many of every clip.
            painted: (B, N), True where the decoder paints, as many of every clip; all that is hidden where not given.

        Returns:
            ``loss`` (), the ``prediction`` (B, M, values) and the ``target`` (B, M, values) of painted tubelets, a value's
            place counted by (frame, row, column, channel).
        """
        keep, places = chosen(~hidden), chosen(hidden if painted is None else painted)  # (B, V), (B, M)
        seen, wanted = (cut_tubelets(x, self.encoder.tubelet, self.encoder.patch) for x in (clips, unit))
        return self._paint(take(seen, keep), keep, take(wanted, places), places, hidden)

    def _paint(
        self, seen: Tensor, keep: Tensor, wanted: Tensor, places: Tensor, counts: Tensor, unasked: int = 0
    ) -> Mapping[str, Tensor]:
        """The loss of visible tubelets (B, V, values) at ``keep`` and painted ones (B, M, values) at ``places``.

        ``counts`` (B, N) tells which of the painted tubelets the loss is of; the first ``unasked`` places enter the decoder
        without being painted.
        """
        positions = self.decoder_positions
        if counts.shape[1] != len(positions):
            positions = index_positions(positions.shape[1], counts.shape[1]).to(positions)
        latent = self.encoder.encode_some(seen, keep, counts.shape[1])  # (B, V, D)
        shown = self.encoder_to_decoder(latent) + F.embedding(keep, positions)
        prediction = self.decoder(shown, self.mask_token[0] + positions, places, unasked)
        target = self.target(wanted)
        errors = (prediction.float() - target).square().mean(dim=-1)  # (B, M)
        weight = counts.gather(1, places[:, unasked:])  # (B, M)
        loss = (errors * weight).sum() / weight.sum().clamp(min=1)
        return {"loss": loss, "prediction": prediction, "target": target}

    def target(self, tubelets: Tensor) -> Tensor:
        """What tubelets (B, M, C*t*p*p) should become: each channel of each by its own mean and deviation."""
        channels = self.encoder.patch_embed.proj.in_channels
        by_channel = tubelets.float().reshape(*tubelets.shape[:-1], channels, -1)  # (B, M, C, t*p*p)
        centred = by_channel - by_channel.mean(dim=-1, keepdim=True)
        # unbiased; torch.std takes several times as long on a CPU
        deviation: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / sqrt(centred.shape[-1] - 1)
        unit: Tensor = centred / (deviation + SPREAD_EPS)
        return unit.transpose(-2, -1).flatten(-2)


def hidden_places(grid: Grid3, ratio: float) -> int:
    """Places of a slice that a ratio hides."""
    return int(ratio * grid[1] * grid[2])


def tube_masks(
    number: int, grid: Grid3, ratio: float, region: Tensor | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Masks (B, N), True where hidden: as many places of every clip, the same in every slice of time.

    Args:
        number: Clips B.
        grid: Slices, rows and columns of tubelets.
        ratio: Share of the places hidden; of the smallest region, where there is one.
        region: (B, N), True where something is to be seen; only such places are visible.
    """
    slices, places = grid[0], grid[1] * grid[2]
    noise = torch.rand(number, places, device=device)
    visible = places - hidden_places(grid, ratio)
    if region is not None:
        inside = region.reshape(number, slices, places).any(dim=1)  # (B, places)
        smallest = int(inside.sum(dim=1).min())
        visible = max(smallest - int(ratio * smallest), 1)
        noise = noise - inside.to(noise)
    mask = torch.ones(number, places, dtype=torch.bool, device=device)
    mask.scatter_(1, noise.argsort(dim=1)[:, :visible], False)
    return mask.repeat(1, slices)


def running_cells(phases: Tensor, grid: Grid3) -> Tensor:
    """Where the decoder paints, (B, N): two of the four places of every 2 x 2 cell, others in the next slice.

    Args:
        phases: (B,), 0 to 3, where each clip begins.
        grid: Slices, rows and columns of tubelets.
    """
    slices, rows, columns = (torch.arange(n, device=phases.device) for n in grid)
    place = 2 * (rows % 2)[:, None] + columns % 2  # (rows, columns), in the cell
    turn = phases[:, None, None, None] + slices[:, None, None] + place + 1  # (B, slices, rows, columns)
    return (turn % PHASES >= 2).flatten(1)


def shows(clips: Tensor, encoder: VideoViT) -> Tensor:
    """Which tubelets of clips (B, C, T, H, W) in [0, 1] ever show something, over all time: (B, N)."""
    grid = encoder.grid_of(clips)
    bright = clips.amax(dim=(1, 2)) > 0  # (B, H, W)
    places = F.max_pool2d(bright[:, None].float(), encoder.patch).flatten(1).bool()  # (B, places)
    places |= ~places.any(dim=1, keepdim=True)  # a black clip: everywhere
    return places.repeat(1, grid[0])


def in_order_of_use(painted: Tensor, hidden: Tensor) -> tuple[Tensor, int]:
    """Places (B, M) of a running cell, and how many come first that are visible anyway, so that no loss is of them.

    None does where clips have different numbers of them.
    """
    visible, number = painted & ~hidden, int((painted & ~hidden)[0].sum())
    if not bool((visible.sum(dim=1) == number).all()):
        return chosen(painted), 0
    return torch.cat([chosen(visible), chosen(painted & hidden)], dim=1), number


def chosen(mask: Tensor) -> Tensor:
    """Indices (B, n) of what is True in a mask (B, N), in order; as many in every row."""
    number = int(mask[0].sum())
    if not bool((mask.sum(dim=1) == number).all()):
        raise ValueError("the masks of a batch must hide as many tubelets of every clip")
    return mask.nonzero()[:, 1].reshape(len(mask), number)

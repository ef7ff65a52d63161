"""Masked autoencoders: hide most patches, encode the rest, paint the hidden ones.

Source: He et al. 2022 (arXiv:2111.06377), with the raw-pixel targets and small decoders of
Xiao et al. 2023, "Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification" (arXiv:2210.12843).
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.objective import Objective
from medvit.nets.vit import NORM_EPS, Block, ViT, cut_patches, initialise, sincos_positions

PIXEL_EPS = 1e-6  # added to a patch's variance when targets are normalised


class MAE(Objective):
    """Masked autoencoder around an encoder with fixed positions.

    Args:
        encoder: A `ViT` with ``norm`` and without a head.
        mask_ratio: Share of patches hidden; ``int(N * (1 - mask_ratio))`` stay visible.
        decoder_width: Channels of decoder tokens.
        decoder_depth: Number of decoder blocks.
        decoder_heads: Attention heads of the decoder.
        normalise_targets: Whether each target patch is normalised by its own mean and unbiased variance.
    """

    def __init__(
        self,
        encoder: ViT,
        mask_ratio: float = 0.9,
        *,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__()
        tokens = encoder.grid[0] * encoder.grid[1]
        if not 0 < int(tokens * (1 - mask_ratio)) < tokens:
            raise ValueError(f"mask_ratio {mask_ratio} of {tokens} patches leaves none visible or none hidden")
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.normalise_targets = normalise_targets
        channels = encoder.patch_embed.proj.in_channels
        self.decoder_embed = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(decoder_width, encoder.grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_width, encoder.patch**2 * channels)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Mapping[str, Tensor]:
        """The reconstruction loss over hidden patches.

        Args:
            images: (B, C, H, W) of the encoder's size.
            noise: (B, N); the patches with the smallest values stay visible. Drawn uniformly where not given.

        Returns:
            ``loss`` (), ``hidden`` (B, n), the indices of the hidden patches, and their ``prediction`` (B, n, p*p*C) as
            (row, column, channel).
        """
        patches, order, visible = self.shuffle(images, noise)
        latent = self.encode(patches, order[:, :visible])  # (B, 1+visible, D)
        prediction = self.decode(latent, order, first=1 + visible)  # (B, hidden, p*p*C)
        hidden = order[:, visible:]
        loss = F.mse_loss(prediction.float(), self.target(take(patches, hidden)))
        return {"loss": loss, "prediction": prediction, "hidden": hidden}

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Mapping[str, Tensor]:
        """Every patch painted, for the eye; arguments as `forward`.

        Returns:
            ``prediction`` (B, N, p*p*C), ``mask`` (B, N) with 1 = hidden, ``restore`` (B, N), the place of each patch in
            the shuffled order, and ``latent`` (B, 1+visible, D).
        """
        patches, order, visible = self.shuffle(images, noise)
        latent = self.encode(patches, order[:, :visible])
        restore = order.argsort(dim=1)
        prediction = take(self.decode(latent, order, first=1), restore)
        return {"prediction": prediction, "mask": (restore >= visible).float(), "restore": restore, "latent": latent}

    def shuffle(self, images: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, int]:
        """Patches (B, N, C*p*p), their random order (B, N), visible ones first, and how many are visible."""
        size = tuple(n * self.encoder.patch for n in self.encoder.grid)
        if images.shape[-2:] != size:
            raise ValueError(
                "images of {} x {} pixels; the fixed positions are for {} x {}".format(*images.shape[-2:], *size)
            )
        patches = cut_patches(images, self.encoder.patch)
        B, N, _ = patches.shape
        noise = torch.rand(B, N, device=images.device) if noise is None else noise
        return patches, noise.argsort(dim=1), int(N * (1 - self.mask_ratio))

    def encode(self, patches: Tensor, keep: Tensor) -> Tensor:
        """Embed and encode only the patches (B, N, C*p*p) whose indices ``keep`` (B, n) names: (B, 1+n, D)."""
        shown = self.encoder.patch_embed(take(patches, keep)) + F.embedding(keep, self.encoder.pos_embed[0, 1:])
        first = (self.encoder.cls_token + self.encoder.pos_embed[:, :1]).expand(len(shown), -1, -1)
        return self.encoder.encode(torch.cat([first.to(shown.dtype), shown], dim=1))[-1]

    def decode(self, latent: Tensor, order: Tensor, first: int) -> Tensor:
        """Paint patches in their shuffled order.

        A hidden patch enters as the mask token at its place, the same in every image, so the first block projects each
        place once a batch; the last block leaves out what nobody asks for.

        Args:
            latent: (B, 1+n, D) of the class token and the n patches that come first in the order.
            order: (B, N).
            first: Tokens before this one, counted with the class token, are not painted.

        Returns:
            (B, 1+N - first, p*p*C).
        """
        classed, places = self.decoder_pos_embed[0, :1], self.decoder_pos_embed[0, 1:]  # (1, d), (N, d)
        visible = latent.shape[1] - 1
        keep, hide = order[:, :visible], order[:, visible:]
        positions = torch.cat([classed.expand(len(order), 1, -1), F.embedding(keep, places)], dim=1)
        shown, hidden = self.decoder_embed(latent) + positions, self.mask_token[0] + places  # (B, 1+n, d), (N, d)
        *blocks, last = cast(list[Block], list(self.decoder_blocks))
        project = (blocks or [last])[0].project
        projected: Tensor | None = torch.cat(
            [project(shown), F.embedding(hide, project(hidden))], dim=1
        )  # (B, 1+N, 3d)
        t = torch.cat([shown, F.embedding(hide, hidden)], dim=1)  # (B, 1+N, d)
        for block in blocks:
            t = block(t, projected=projected)
            projected = None
        t = last(t, first=first, projected=projected)  # (B, 1+N - first, d)
        prediction: Tensor = self.decoder_pred(self.decoder_norm(t))
        return prediction

    def target(self, patches: Tensor) -> Tensor:
        """What hidden patches should become: (..., C*p*p) -> (..., p*p*C), normalised where asked for."""
        channels = self.encoder.patch_embed.proj.in_channels
        by_channel = patches.reshape(*patches.shape[:-1], channels, -1)
        target = by_channel.transpose(-2, -1).flatten(-2).float()  # (row, column, channel)
        if self.normalise_targets:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)  # unbiased
            return (target - mean) / (variance + PIXEL_EPS).sqrt()
        return target


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, c) by an index (B, n) of each image: (B, n, c)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))

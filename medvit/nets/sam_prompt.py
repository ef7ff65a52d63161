"""SAM's prompt encoder: boxes, points and masks become tokens and a map.

Source: Kirillov et al. 2023, "Segment Anything" (arXiv:2304.02643), under the release's key names; random Fourier features
of positions as in Tancik et al. 2020 (arXiv:2006.10739).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.sam_encoder import LayerNorm2d
from medvit.nets.vit import Grid

BACKGROUND, FOREGROUND, NO_POINT = 0, 1, -1  # labels of points
FIRST_CORNER = 2  # of a box: its place among the point embeddings, the other corner's behind it


class FourierPositions(nn.Module):
    """Sines and cosines of random projections of positions, drawn once and kept with the weights."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, shares: Tensor) -> Tensor:
        """Codes (..., C) of positions x, y (..., 2) as shares of width and height."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        angles = 2 * math.pi * ((2 * shares.float() - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.positional_encoding_gaussian_matrix.dtype)


class PromptEncoder(nn.Module):
    """What points, boxes and masks say to the decoder.

    Args:
        channels: C of a token and of the image's map.
        mask_channels: Channels of a mask prompt on its way.
    """

    def __init__(self, channels: int = 256, mask_channels: int = 16) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(channels)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2), LayerNorm2d(mask_channels // 4), nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2), LayerNorm2d(mask_channels), nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )  # fmt: skip
        self.no_mask_embed = nn.Embedding(1, channels)

    def sparse(
        self, size: Grid, boxes: Tensor | None = None, points: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Tokens (P, T, C) of P prompts.

        Args:
            size: Height and width of the image in model pixels.
            boxes: (P, 4) of x_min, y_min, x_max, y_max in model pixels.
            points: (P, n, 2) of x, y in model pixels.
            labels: (P, n) with `FOREGROUND`, `BACKGROUND` or `NO_POINT`, which fills up prompts of fewer points.
        """
        if boxes is None and points is None:
            raise ValueError("a prompt needs boxes, points or both")
        tokens = []
        if points is not None:
            if labels is None or labels.shape != points.shape[:2]:
                raise ValueError("points (P, n, 2) need labels (P, n)")
            if boxes is None:  # one more that is none, as the network was trained
                points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NO_POINT)
            tokens.append(self._of_points(points, labels, size))
        if boxes is not None:
            tokens.append(self._place(boxes.reshape(-1, 2, 2), size) + self._kinds()[1 + FIRST_CORNER :])
        return torch.cat(tokens, dim=1)

    def _of_points(self, points: Tensor, labels: Tensor, size: Grid) -> Tensor:
        kinds = self._kinds()
        code = self._place(points, size).masked_fill((labels == NO_POINT)[..., None], 0.0)
        return code + kinds[labels.long() + 1]

    def _kinds(self) -> Tensor:
        """(5, C): no point, background, foreground, first corner, second corner."""
        return torch.cat([self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings.children())])  # type: ignore[list-item]

    def _place(self, points: Tensor, size: Grid) -> Tensor:
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32, device=points.device)
        code: Tensor = self.pe_layer((points.float() + 0.5) / extent)  # +0.5: pixel centres
        return code

    def dense(self, grid: Grid, masks: Tensor | None = None) -> Tensor:
        """What is added to the image's map: (P, C, h, w) of masks, (1, C, h, w) without.

        Args:
            grid: Rows h and columns w of the image's map.
            masks: (P, 1, 4 h, 4 w) logits, such as the decoder's of an earlier answer.
        """
        if masks is None:
            return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, *grid)
        if masks.shape[-2:] != (4 * grid[0], 4 * grid[1]):
            raise ValueError(f"mask prompts must be {4 * grid[0]} x {4 * grid[1]}, not {tuple(masks.shape[-2:])}")
        of_masks: Tensor = self.mask_downscaling(masks)
        return of_masks

    def positions(self, grid: Grid) -> Tensor:
        """Codes (1, C, h, w) of the centres of the map's cells."""
        device = self.no_mask_embed.weight.device
        rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        code: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))
        return code.permute(2, 0, 1)[None]

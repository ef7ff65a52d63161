"""Segment Anything, put together: an image is embedded once, then prompts about it are answered.

Source: Kirillov et al. 2023 (arXiv:2304.02643); Ma et al. 2024, "Segment anything in medical images" (arXiv:2304.12306)
trains the same network on pixels that are scaled otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.sam_decoder import MaskAnswer, MaskDecoder
from medvit.nets.sam_encoder import SamEncoder
from medvit.nets.sam_prompt import PromptEncoder

Pixels = Literal["sam", "medsam"]
PIXEL_MEAN = (123.675, 116.28, 103.53)  # red, green, blue of 0 to 255
PIXEL_STD = (58.395, 57.12, 57.375)
FLAT = 1e-8  # least range that MedSAM divides by
DICE_SMOOTH = 1e-5  # of numerator and denominator, MONAI's default


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder.

    Args:
        image_encoder: `SamEncoder` or `medvit.nets.dual_branch.DualBranchEncoder`.
        channels: C of the map and of tokens, as the encoder gives it.
        prompt_encoder: Made for ``channels`` where none is given.
        mask_decoder: Made for ``channels`` where none is given.
    """

    def __init__(
        self,
        image_encoder: SamEncoder,
        channels: int = 256,
        *,
        prompt_encoder: PromptEncoder | None = None,
        mask_decoder: MaskDecoder | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder or PromptEncoder(channels)
        self.mask_decoder = mask_decoder or MaskDecoder(channels, quality_hidden=channels)

    def embed(self, images: Tensor) -> Tensor:
        """The map (B, C, h, w) of normalised images (B, 3, H, W), see `normalise`."""
        embedding: Tensor = self.image_encoder(images)
        return embedding

    def answer(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        several: bool = False,
    ) -> MaskAnswer:
        """Masks for P prompts.

        Args:
            embedding: (P, C, h, w), the map of each prompt's image; (1, C, h, w) where all ask about one.
            boxes: (P, 4), see `PromptEncoder.sparse`.
            points: (P, n, 2).
            labels: (P, n) of the points.
            masks: (P, 1, 4 h, 4 w) logits, see `PromptEncoder.dense`.
            several: Whether three masks a prompt come back, or one.
        """
        grid = (embedding.shape[2], embedding.shape[3])
        size = (grid[0] * self.image_encoder.patch, grid[1] * self.image_encoder.patch)
        sparse = self.prompt_encoder.sparse(size, boxes, points, labels)
        if len(embedding) not in (1, len(sparse)):
            raise ValueError(f"{len(sparse)} prompts need the maps of 1 or {len(sparse)} images, not {len(embedding)}")
        dense = self.prompt_encoder.dense(grid, masks)
        answer: MaskAnswer = self.mask_decoder(embedding, self.prompt_encoder.positions(grid), sparse, dense, several)
        return answer

    def forward(self, images: Tensor, boxes: Tensor) -> MaskAnswer:
        """One mask for the box (B, 4) of each normalised image (B, 3, H, W)."""
        return self.answer(self.embed(images), boxes)


def vit_b(image_size: int = 1024, encoder: Callable[..., SamEncoder] = SamEncoder) -> Sam:
    """SAM with its base encoder, for ``sam_vit_b`` and ``medsam_vit_b`` files: 93,735,472 parameters.

    Args:
        image_size: Pixels a side.
        encoder: What makes the encoder of these sizes, such as ``partial(DualBranchEncoder, variant="paper")``.
    """
    return Sam(encoder(image_size))


def small(
    image_size: int = 256,
    patch: int = 16,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    *,
    everywhere: Sequence[int] = (2, 5),
    window: int = 8,
    channels: int = 64,
    encoder: Callable[..., SamEncoder] = SamEncoder,
) -> Sam:
    """The same network, small enough to be trained on a CPU; arguments as for `SamEncoder` and `vit_b`."""
    decoder = MaskDecoder(channels, heads=4, hidden=4 * channels, quality_hidden=channels)
    made = encoder(image_size, patch, width, depth, heads, everywhere=everywhere, window=window, out=channels)
    return Sam(made, channels, mask_decoder=decoder)


def normalise(images: Tensor, pixels: Pixels) -> Tensor:
    """Images (B, 3, H, W) of 0 to 255 as a checkpoint wants them.

    Args:
        images: Before they are padded.
        pixels: ``sam`` for SAM's statistics of natural images; ``medsam`` for each image's own least and greatest value as
            0 and 1.
    """
    if pixels == "medsam":
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        return (images - low) / (high - low).clamp(min=FLAT)
    mean, std = (
        torch.tensor(x, dtype=images.dtype, device=images.device)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD)
    )
    return (images - mean) / std


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice loss with squared denominator plus binary cross-entropy, the mean over masks.

    Args:
        logits: (P, 1, H, W).
        truth: (P, 1, H, W) of 0 and 1.

    Source: MedSAM and DB-SAM train with MONAI's ``DiceCELoss(sigmoid=True, squared_pred=True)``, which equals this.
    """
    logits, truth = logits.float(), truth.float()
    share = logits.sigmoid().flatten(1)
    met = (share * truth.flatten(1)).sum(1)
    size = share.square().sum(1) + truth.flatten(1).square().sum(1)
    dice = 1 - (2 * met + DICE_SMOOTH) / (size + DICE_SMOOTH)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth)


def quality_loss(answer: MaskAnswer, truth: Tensor) -> Tensor:
    """Squared error of the quality that the network expects against the IoU that its masks have.

    Args:
        answer: With one mask a prompt.
        truth: (P, 1, H, W) of 0 and 1, at the masks' resolution.

    Source: Kirillov et al. 2023; LiteMedSAM trains with it too, DB-SAM and MedSAM do not.
    """
    found, true = answer.logits.flatten(1) > 0, truth.flatten(1) > 0
    union = (found | true).sum(1).clamp(min=1)
    return F.mse_loss(answer.quality[:, 0].float(), (found & true).sum(1) / union)

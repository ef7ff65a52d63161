"""iBOT: DINO whose student also answers for patches that it does not see.

Source: Zhou et al. 2022, "iBOT: Image BERT Pre-Training with Online Tokenizer" (arXiv:2111.07832); CytoFM
(arXiv:2504.13402) was trained so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvit.nets.dino import DINO, Head, move_centre, soften, view_loss, watch
from medvit.nets.objective import ramp
from medvit.nets.vit import Grid, ViT

LEAST_SIDE = 3  # the smallest block has a third of the grid's shorter side, squared, in patches
ASPECT = 0.3  # the flattest block; the steepest is 1 / 0.3
TRIES = 10  # draws of a block before masking gives up


class IBOT(DINO):
    """DINO with masked patches.

    Args:
        backbone: As of `DINO`.
        head: As of `DINO`; it answers for patches, too.
        teacher_shares: Whether the teacher answers for patches by its class prototypes although the student has others.
        patch_temperature: Of the teacher's patch logits, after the warm-up.
        first_patch_temperature: Where the warm-up begins.
        patch_warmup: Share of the training over which it warms up.
        ratios: Pairs of a share of patches to mask and how far it varies; one is picked for each image.
        blocks: Whether masks are blocks or single patches.
        class_weight: Of the class tokens' loss.
        patch_weight: Of the patches' loss.
        settings: As of `DINO`.
    """

    def __init__(
        self,
        backbone: ViT,
        head: Head,
        *,
        teacher_shares: bool = False,
        patch_temperature: float = 0.07,
        first_patch_temperature: float = 0.04,
        patch_warmup: float = 0.3,
        ratios: Sequence[tuple[float, float]] = ((0.3, 0.0),),
        blocks: bool = True,
        class_weight: float = 1.0,
        patch_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, head, **settings)
        if teacher_shares:
            self.teacher.head.last_layer2 = None
        if self.teacher.head.of_patches.number != head.of_patches.number:
            raise ValueError("a teacher that shares its prototypes needs as many for patches as for class tokens")
        self.masked_embed = nn.Parameter(torch.zeros(1, backbone.width))
        self.register_buffer("patch_centre", torch.zeros(1, 1, head.of_patches.number))
        self.patch_centre: Tensor
        self.patch_temperatures, self.patch_warmup = (first_patch_temperature, patch_temperature), patch_warmup
        self.ratios, self.blocks = tuple(ratios), blocks
        self.class_weight, self.patch_weight = class_weight, patch_weight

    def forward(self, views: Sequence[Tensor], masks: Tensor | None = None) -> Mapping[str, Tensor]:
        """The loss of a batch's crops; while training, the centres move.

        Args:
            views: As of `DINO`.
            masks: (G, B, N), True where a patch of a large crop is hidden from the student. Drawn where not given.

        Returns:
            ``loss`` (), its parts ``class_loss`` and ``patch_loss``, and what `medvit.nets.dino.watch` tells.
        """
        large, *small = self.crops(views)
        images, shape = large.flatten(0, 1), large.shape[:2]
        masks = self.draw(images) if masks is None else masks.flatten(0, 1)  # (G*B, N)
        with torch.no_grad():
            tokens = self.encoder.tokens(images)[-1]  # (G*B, 1+N, D)
            given = self.teacher.head(tokens[:, 0]).unflatten(0, shape)  # (G, B, K)
            targets = soften(given, self.centre, self.temperature)
            directions, prototypes = self.teacher.head.directions(tokens[:, 1:]), self.teacher.head.of_patches
            patch_targets = soften(
                prototypes(directions[masks]), self.patch_centre[0], self.patch_temperature
            )  # (M, k)
        seen = self.tokens(images, masks)
        classes = torch.cat([seen[:, 0], *(self.student.backbone(crops.flatten(0, 1)) for crops in small)])  # (V*B, D)
        logits = self.student.head(classes).unflatten(0, (-1, shape[1]))  # (V, B, K)
        class_loss = view_loss(logits, targets, self.student_temperature)
        patch_logits = self.student.head.of_patches(self.student.head.directions(seen[:, 1:][masks]))  # (M, k)
        patch_loss = hidden_loss(patch_logits, patch_targets, masks, self.student_temperature)
        if self.training:
            move_centre(self.centre, given.mean(dim=(0, 1)), self.centre_momentum)
            # the mean of linear answers is the answer to the mean
            move_centre(self.patch_centre, prototypes(directions.mean(dim=(0, 1))), self.centre_momentum)
        loss = self.class_weight * class_loss + self.patch_weight * patch_loss
        parts = {"loss": loss, "class_loss": class_loss, "patch_loss": patch_loss}
        return parts | watch(tokens[:, 0], targets, self.centre)

    @property
    def patch_temperature(self) -> float:
        """Of the teacher's patch logits, now."""
        return ramp(*self.patch_temperatures, self.patch_warmup, self.progress)

    def tokens(self, images: Tensor, masks: Tensor) -> Tensor:
        """The student's tokens (B, 1+N, D) of images (B, C, H, W) with masked patches (B, N)."""
        backbone = self.student.backbone
        patches = backbone.patches(images)
        patches = torch.where(masks[..., None], self.masked_embed.to(patches.dtype), patches)
        return backbone.encode(backbone.place(patches, backbone.grid_of(images)))[-1]

    def draw(self, images: Tensor) -> Tensor:
        """A mask (B, N) for each image."""
        grid = self.encoder.grid_of(images)
        masks = []
        for pick, shift in torch.rand(len(images), 2).tolist():
            ratio, spread = self.ratios[int(pick * len(self.ratios))]
            wanted = (ratio + spread * (2 * shift - 1)) * grid[0] * grid[1]
            masks.append(block_mask(grid, wanted) if self.blocks else random_mask(grid, int(wanted)))
        return torch.stack(masks).flatten(1).to(images.device)


def hidden_loss(logits: Tensor, targets: Tensor, masks: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of hidden patches: their mean in each image, then the mean over images.

    Args:
        logits: (M, k) of the student, for the hidden patches of all images in order.
        targets: (M, k) of the teacher.
        masks: (B, N), True where a patch is hidden; M in all.
        temperature: Of the student.
    """
    scaled = logits / temperature
    entropies = scaled.logsumexp(dim=-1) - (targets * scaled).sum(dim=-1)  # (M,)
    shares = masks / masks.sum(dim=1, keepdim=True).clamp(min=1)  # (B, N)
    return (entropies * shares[masks]).sum() / len(masks)


def random_mask(grid: Grid, number: int) -> Tensor:
    """A mask of a grid with as many patches hidden, anywhere."""
    rows, columns = grid
    return (torch.rand(rows * columns).argsort() < number).reshape(grid)


def block_mask(grid: Grid, wanted: float) -> Tensor:
    """A mask of a grid with about, and never more than, as many patches hidden, in blocks that may overlap.

    Source: Bao et al. 2022 (BEiT, arXiv:2106.08254), section 2.3, with the sizes of the iBOT release.
    """
    rows, columns = grid
    mask = torch.zeros(grid, dtype=torch.bool)
    least, steepest = (min(grid) // LEAST_SIDE) ** 2, -math.log(ASPECT)
    while (left := wanted - int(mask.sum())) > 0:
        for area, aspect, top, start in torch.rand(TRIES, 4).tolist():
            size, shape = least + area * (left - least), math.exp(steepest * (2 * aspect - 1))
            height, width = round((size * shape) ** 0.5), round((size / shape) ** 0.5)
            if not (height < rows and width < columns):
                continue
            y, x = int(top * (rows - height + 1)), int(start * (columns - width + 1))
            block = mask[y : y + height, x : x + width]
            if 0 < int((~block).sum()) <= left:
                block.fill_(True)
                break
        else:
            break
    return mask

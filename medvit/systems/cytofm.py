"""CytoFM: smears from labels of smears alone, by a ViT pre-trained by iBOT on their cells, and gated attention over them.

Source: Ivezic et al., "CytoFM: The first cytology foundation model" (CVPRW 2025, arXiv:2504.13402): iBOT with a ViT-B/16 on
some 1.4 million patches, frozen, under attention MIL. Its list of data sets, resolution, hyper-parameters, augmentation and the
sizes of its attention are not published where we could read them; the defaults below are those of the iBOT release (Zhou et al.
2022, arXiv:2111.07832) and, for attention, the size that re-users of CytoFM report. The published loader takes the teacher's
backbone and 224 pixels; ImageNet's colour statistics are iBOT's. Tiles, their resolution and how cells are found are ours.
"""

from pathlib import Path
from typing import ClassVar, Literal

from torch import nn

from medvit import weights as weights_files
from medvit.codes import labels_of
from medvit.data.smears import CellCutting
from medvit.explain.subjects import GRADIENT_INPUT
from medvit.nets.dino import Head, initialise_normal
from medvit.nets.ibot import IBOT
from medvit.nets.mil import ABMIL
from medvit.nets.vit import ViT
from medvit.tasks.bags import BagClassification
from medvit.tasks.slides import TilePretraining
from medvit.tasks.smears import Smears

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in iBOT's training
TILE, TILE_MPP = 224, 0.25  # ours: 56 um, a cell with its surroundings at 40x
MIN_CELLS = 0.1  # ours, of a tile of a grid
MOST_TILES = 10_000  # ours
WIDTH, DEPTH, HEADS = 768, 12, 12
PROTOTYPES = 8_192
PRETRAIN_BETAS = (0.9, 0.999)
MIL_BETAS = (0.9, 0.999)
DROP_PATH = 0.1  # of the student
ATTENTION = 256  # channels; what re-users of CytoFM report


class CytoFMPretraining(Smears, TilePretraining):
    """IBOT on the cells of smears without labels.

    Args:
        tile: Pixels of a tile's side, as it is cut from the smear.
        tile_mpp: Micrometres a pixel of a tile.
        tile_overlap: Pixels of a tile of the grid that neighbours share.
        layout: ``cells`` centres a tile on every nucleus, ``grid`` lays tiles side by side where cells are.
        z: Focal plane, from 0; ``best``: the sharpest of each tile; ``all``: every plane of a tile is a tile of its own.
        min_cells: Share of a tile of the grid that must be cells.
        most_tiles: Tiles of a smear at most, evenly spaced; with ``z: all`` of all its planes together.
        image_size: Pixels of the large crops, for which the network is built.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        start: How the ViT begins: ``normal`` as in DINO's release, ``xavier`` with sin-cos positions as in MAE's.
        prototypes: Outputs of the projection head.
        shared_head: Whether patches answer by the same prototypes as class tokens; the release shares the teacher's alone by
            default and both in its recipes.
        head_width: Channels of the head's hidden layers.
        bottleneck: Channels before its last layer.
        fixed_length: Whether prototypes keep length 1 (``norm_last_layer`` of the release).
        masked: Share of patches that is hidden from the student.
        masked_spread: How far that share varies.
        unmasked: Share of crops of which nothing is hidden; 0.5 in the release's recipes, 0 by its default.
        momentum: Of the teacher at the start.
        teacher_temperature: Of the teacher, after its warm-up.
        first_teacher_temperature: Where that warm-up begins.
        patch_temperature: Of the teacher's patches, after the warm-up.
        temperature_warmup: Share of the training that both take.
        class_weight: Of the class tokens' loss.
        patch_weight: Of the patches' loss.
        rest: Share of the training in which the head's last layer is not trained.
        mean: Subtracted from the colours, each in 0 to 1.
        std: Divides them.
        base_lr: Learning rate per 256 tiles.
        min_lr: Where the schedule ends.
        weight_decay: Of matrices, at the start.
        final_weight_decay: What it becomes.
        warmup_epochs: Epochs of linear warm-up.
        clip: Norm that no parameter's own gradient exceeds.
        weights: Pre-training weights to start from, ours or an iBOT release's.
    """

    def __init__(
        self,
        tile: int = TILE,
        tile_mpp: float = TILE_MPP,
        tile_overlap: int = 0,
        layout: Literal["cells", "grid"] = "cells",
        z: int | Literal["best", "all"] = "best",
        min_cells: float = MIN_CELLS,
        most_tiles: int = MOST_TILES,
        image_size: int = 224,
        patch: int = 16,
        width: int = WIDTH,
        depth: int = DEPTH,
        heads: int = HEADS,
        start: Literal["normal", "xavier"] = "normal",
        prototypes: int = PROTOTYPES,
        shared_head: bool = True,
        head_width: int = 2048,
        bottleneck: int = 256,
        fixed_length: bool = True,
        masked: float = 0.3,
        masked_spread: float = 0.2,
        unmasked: float = 0.5,
        momentum: float = 0.996,
        teacher_temperature: float = 0.07,
        first_teacher_temperature: float = 0.04,
        patch_temperature: float = 0.07,
        temperature_warmup: float = 0.075,
        class_weight: float = 1.0,
        patch_weight: float = 1.0,
        rest: float = 0.01,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        base_lr: float = 5e-4,
        min_lr: float = 1e-6,
        weight_decay: float = 0.04,
        final_weight_decay: float = 0.4,
        warmup_epochs: float = 10,
        clip: float = 3.0,
        weights: Path | None = None,
    ) -> None:
        head = Head(width, prototypes, patch_out=None if shared_head else prototypes, hidden=head_width,
                    bottleneck=bottleneck, fixed_length=fixed_length)  # fmt: skip
        backbone = ViT(image_size, patch, width, depth, heads, drop_path=DROP_PATH)
        if start == "normal":
            initialise_normal(backbone)
        objective = IBOT(
            backbone,
            head,
            teacher_shares=True,
            patch_temperature=patch_temperature,
            first_patch_temperature=first_teacher_temperature,
            patch_warmup=temperature_warmup,
            ratios=chances(unmasked, (masked, masked_spread)),
            class_weight=class_weight,
            patch_weight=patch_weight,
            teacher_temperature=teacher_temperature,
            first_teacher_temperature=first_teacher_temperature,
            warmup=temperature_warmup,
            momentum=momentum,
            rest=rest,
        )
        super().__init__(
            objective,
            base_lr=base_lr,
            min_lr=min_lr,
            weight_decay=weight_decay,
            final_weight_decay=final_weight_decay,
            warmup_epochs=warmup_epochs,
            betas=PRETRAIN_BETAS,
            clip=clip,
        )
        self.save_hyperparameters(logger=False)
        self.cutting = CellCutting(tile, tile_mpp, min_cells, most_tiles, "none", tile_overlap, layout, z)
        self.mean, self.std = tuple(mean), tuple(std)
        self.size = image_size
        if weights:
            weights_files.load(objective, weights, weights_files.dino)


class CytoFM(Smears, BagClassification):
    """Findings on smears: a frozen ViT describes cells, gated attention answers for the smear.

    Args:
        labels: A list of findings, each a column of the table.
        tile: Pixels of a tile's side, as it is cut from the smear and seen by the network.
        tile_mpp: Micrometres a pixel of a tile.
        tile_overlap: Pixels of a tile of the grid that neighbours share.
        layout: ``cells`` centres a tile on every nucleus, ``grid`` lays tiles side by side where cells are.
        z: Focal plane, from 0; ``best``: the sharpest of each tile; ``all``: every plane of a tile is a tile of its own.
        min_cells: Share of a tile of the grid that must be cells.
        most_tiles: Tiles of a smear at most, evenly spaced; with ``z: all`` of all its planes together.
        image_size: Pixels for which the network was built.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        attention: Channels that attention is computed in.
        gated: Whether attention is gated.
        each: Whether every label attends for itself.
        dropout: Of the channels of attention.
        mean: Subtracted from the colours, each in 0 to 1.
        std: Divides them.
        lr: Learning rate at the start.
        min_lr: Where the schedule ends.
        weight_decay: Of the network over bags.
        weights: Pre-trained ViT: a run of `CytoFMPretraining`, or a CytoFM or iBOT release.
    """

    explainer: ClassVar[str] = GRADIENT_INPUT  # how heat maps are made: what won on the generated smears

    def __init__(
        self,
        labels: str | list[str],
        tile: int = TILE,
        tile_mpp: float = TILE_MPP,
        tile_overlap: int = 0,
        layout: Literal["cells", "grid"] = "cells",
        z: int | Literal["best", "all"] = "best",
        min_cells: float = MIN_CELLS,
        most_tiles: int = MOST_TILES,
        image_size: int = 224,
        patch: int = 16,
        width: int = WIDTH,
        depth: int = DEPTH,
        heads: int = HEADS,
        attention: int = ATTENTION,
        gated: bool = True,
        each: bool = False,
        dropout: float = 0.1,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        lr: float = 2e-4,
        min_lr: float = 1e-6,
        weight_decay: float = 1e-4,
        weights: Path | None = None,
    ) -> None:
        answered = labels_of(labels)
        net = ABMIL(width, len(answered), hidden=attention, gated=gated, each=each, dropout=dropout)
        super().__init__(net, answered, lr=lr, min_lr=min_lr, weight_decay=weight_decay, betas=MIL_BETAS)
        self.vit = ViT(image_size, patch, width, depth, heads).requires_grad_(False)
        self.save_hyperparameters(logger=False)
        self.cutting = CellCutting(tile, tile_mpp, min_cells, most_tiles, "none", tile_overlap, layout, z)
        self.mean, self.std = tuple(mean), tuple(std)
        if tile % patch:
            raise ValueError(f"patch {patch} must divide tile {tile}")
        if weights:
            self.check_colours(weights)
            weights_files.load(self.vit, weights, weights_files.ibot_teacher)

    @property
    def encoder(self) -> ViT:
        """The frozen ViT."""
        return self.vit

    def train(self, mode: bool = True) -> "CytoFM":
        """Switch the network over bags between training and answering; the frozen ViT always answers."""
        nn.Module.train(self, mode)
        self.vit.eval()
        return self


def chances(unmasked: float, masking: tuple[float, float]) -> list[tuple[float, float]]:
    """Pairs for `IBOT`'s ``ratios``, of which one is drawn for every crop: nothing is hidden with probability ``unmasked``.

    Raises:
        ValueError: For a probability that ten draws cannot give.
    """
    of_ten = round(10 * unmasked)
    if not 0 <= of_ten < 10 or abs(of_ten / 10 - unmasked) > 1e-9:
        raise ValueError(f"unmasked is {unmasked}; it must be a tenth, from 0 to 0.9")
    return [(0.0, 0.0)] * of_ten + [masking] * (10 - of_ten)

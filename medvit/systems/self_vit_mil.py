"""SelfViTMIL: cancer on whole slides from labels of slides alone, by a ViT pre-trained without labels on their tiles.

Source: Gul et al., "Histopathological Image Classification based on Self-Supervised Vision Transformer and Weak Labels",
SPIE 12039 (2022, arXiv:2210.09021), and the authors' published code. The release selects epoch and threshold on the test
list; medvit selects on validation data, always. The release counts tissue with Otsu on a grey thumbnail and keeps tiles of
more than 75 % of it; here tissue is found as `medvit.readers.tissue` says.
"""

from pathlib import Path
from typing import Literal

from torch import nn

from medvit import weights as weights_files
from medvit.codes import labels_of
from medvit.data.slides import Cutting
from medvit.nets.dino import DINO, Head, initialise_normal
from medvit.nets.mil import DSMIL
from medvit.nets.vit import ViT
from medvit.tasks.bags import BagClassification
from medvit.tasks.slides import Slides, TilePretraining

MEAN, STD = (0.6223, 0.4763, 0.6009), (0.2012, 0.2190, 0.1722)  # of Camelyon16 tiles, as the release computed them
TILE, TILE_MPP = 224, 0.486  # "20x" is twice the pixels of the slides of RUMC
MIN_TISSUE = 0.75
MOST_TILES = 50_000  # of a slide, evenly spaced; ours: the release takes all of them
LAST = 4  # blocks whose class tokens describe a tile, beside the mean patch token of the deepest
PRETRAIN_BETAS = (0.9, 0.999)
MIL_BETAS = (0.5, 0.9)
DROP_PATH = 0.1  # of the student


class SelfViTMILPretraining(TilePretraining):
    """DINO on the tiles of slides without labels.

    Args:
        tile: Pixels of a tile's side, as it is cut from the slide.
        tile_mpp: Micrometres a pixel of a tile.
        tile_overlap: Pixels of a tile that neighbours share.
        min_tissue: Share of a tile that must be tissue.
        most_tiles: Tiles of a slide at most, evenly spaced.
        stain: ``macenko`` gives every tile the colours of a reference, ``none`` leaves them.
        image_size: Pixels of the large crops, for which the network is built.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        start: How the ViT begins: ``normal`` as in DINO's release, ``xavier`` with sin-cos positions as in MAE's.
        prototypes: Outputs of the projection head.
        head_width: Channels of its hidden layers.
        bottleneck: Channels before its last layer.
        local_crops: ``native96`` feeds small crops as small images, ``pad224`` in the middle of large ones of zeros.
        momentum: Of the teacher at the start.
        teacher_temperature: Of the teacher, after its warm-up.
        first_teacher_temperature: Where that warm-up begins.
        teacher_warmup: Share of the training that it takes.
        rest: Share of the training in which the head's last layer is not trained.
        mean: Subtracted from the colours, each in 0 to 1.
        std: Divides them.
        base_lr: Learning rate per 256 tiles.
        min_lr: Where the schedule ends.
        weight_decay: Of matrices, at the start.
        final_weight_decay: What it becomes.
        warmup_epochs: Epochs of linear warm-up.
        clip: Norm that no parameter's own gradient exceeds.
        weights: Pre-training weights to start from, ours or a DINO release's.
    """

    def __init__(
        self,
        tile: int = TILE,
        tile_mpp: float = TILE_MPP,
        tile_overlap: int = 0,
        min_tissue: float = MIN_TISSUE,
        most_tiles: int = MOST_TILES,
        stain: Literal["none", "macenko"] = "none",
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        start: Literal["normal", "xavier"] = "normal",
        prototypes: int = 65_536,
        head_width: int = 2048,
        bottleneck: int = 256,
        local_crops: Literal["native96", "pad224"] = "native96",
        momentum: float = 0.996,
        teacher_temperature: float = 0.04,
        first_teacher_temperature: float = 0.04,
        teacher_warmup: float = 0.0,
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
        backbone = ViT(image_size, patch, width, depth, heads, drop_path=DROP_PATH)
        if start == "normal":
            initialise_normal(backbone)
        objective = DINO(
            backbone,
            Head(width, prototypes, hidden=head_width, bottleneck=bottleneck),
            teacher_temperature=teacher_temperature,
            first_teacher_temperature=first_teacher_temperature,
            warmup=teacher_warmup,
            momentum=momentum,
            rest=rest,
            local_crops=local_crops,
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
        self.cutting = Cutting(tile, tile_mpp, min_tissue, most_tiles, stain, tile_overlap)
        self.mean, self.std, self.last = tuple(mean), tuple(std), min(LAST, depth)
        self.size = image_size
        if weights:
            weights_files.load(objective, weights, weights_files.dino)


class SelfViTMIL(Slides, BagClassification):
    """Findings on whole slides: a frozen ViT describes tiles, DSMIL answers for the slide.

    Args:
        labels: A list of findings, each a column of the table.
        tile: Pixels of a tile's side, as it is cut from the slide and seen by the network.
        tile_mpp: Micrometres a pixel of a tile.
        tile_overlap: Pixels of a tile that neighbours share.
        min_tissue: Share of a tile that must be tissue.
        most_tiles: Tiles of a slide at most; of larger slides so many are taken, evenly spaced in the order of the grid.
        stain: ``macenko`` gives every tile the colours of a reference, ``none`` leaves them.
        image_size: Pixels for which the network was built.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        query: Queries of DSMIL: ``linear`` as in the paper, ``mlp`` as in the newer release of DSMIL.
        value: Values of DSMIL: ``linear`` as in the paper, ``identity`` or ``relu`` as in the newer release of DSMIL.
        dropout: Of tiles before they become values.
        mean: Subtracted from the colours, each in 0 to 1.
        std: Divides them.
        lr: Learning rate of DSMIL at the start.
        min_lr: Where the schedule ends.
        weight_decay: Of DSMIL.
        weights: Pre-trained ViT: a run of `SelfViTMILPretraining`, or a DINO, iBOT or Self-ViT-MIL release.
    """

    def __init__(
        self,
        labels: str | list[str],
        tile: int = TILE,
        tile_mpp: float = TILE_MPP,
        tile_overlap: int = 0,
        min_tissue: float = MIN_TISSUE,
        most_tiles: int = MOST_TILES,
        stain: Literal["none", "macenko"] = "none",
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        query: Literal["linear", "mlp"] = "linear",
        value: Literal["linear", "identity", "relu"] = "linear",
        dropout: float = 0.0,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        lr: float = 2e-4,
        min_lr: float = 5e-6,
        weight_decay: float = 5e-3,
        weights: Path | None = None,
    ) -> None:
        answered = labels_of(labels)
        net = DSMIL((min(LAST, depth) + 1) * width, len(answered), query=query, value=value, dropout=dropout)
        super().__init__(net, answered, lr=lr, min_lr=min_lr, weight_decay=weight_decay, betas=MIL_BETAS)
        self.vit = ViT(image_size, patch, width, depth, heads).requires_grad_(False)
        self.save_hyperparameters(logger=False)
        self.cutting = Cutting(tile, tile_mpp, min_tissue, most_tiles, stain, tile_overlap)
        self.mean, self.std, self.last = tuple(mean), tuple(std), min(LAST, depth)
        if tile % patch:
            raise ValueError(f"patch {patch} must divide tile {tile}")
        if weights:
            self.check_colours(weights)
            weights_files.load(self.vit, weights, weights_files.dino_backbone)

    @property
    def encoder(self) -> ViT:
        """The frozen ViT."""
        return self.vit

    def train(self, mode: bool = True) -> "SelfViTMIL":
        """Switch DSMIL between training and answering; the frozen ViT always answers."""
        nn.Module.train(self, mode)
        self.vit.eval()
        return self

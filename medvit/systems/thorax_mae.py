"""ThoraxMAE: findings on chest films by a ViT that was pre-trained as a masked autoencoder on such films.

Source: Xiao et al., "Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification", WACV 2023
(arXiv:2210.12843), and the authors' published commands. The release selects its best epoch on the test list; medvit
selects on validation data, always.
"""

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from medvit import weights as weights_files
from medvit.case import Case
from medvit.codes import labels_of
from medvit.data.batch import Batch, Sample
from medvit.data.inputs import View, centre_view, film_sample
from medvit.errors import Skipped
from medvit.image import Image
from medvit.nets.mae import MAE
from medvit.nets.vit import ViT
from medvit.readers.radiograph import read_radiograph
from medvit.tasks.classification import Classification
from medvit.tasks.pretraining import Pretraining
from medvit.tasks.system import System

CHANNELS = 3  # grey films are repeated to the three channels that the published weights hold
GREY_MEAN, GREY_STD = 0.5056, 0.252  # NIH ChestX-ray14, authors' transforms
EVAL_SHARE = 224 / 256  # resize the shorter side to 256, crop 224
MASK_RATIO = 0.9  # paper, section 4.1
PRETRAIN_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.05
HEAD_STD = 2e-5  # fresh head of the fine-tuned ViT

LATERAL = ("LL", "RL", "LATERAL", "LLD", "RLD")  # ViewPosition of films that no training set here holds


class Films(System):
    """A system of frontal chest films: CR, DX, or a PNG or JPEG of one.

    It uses ``size``, ``mean``, ``std`` and ``share``, which its subclasses set.
    """

    modalities: ClassVar[tuple[str, ...]] = ("CR", "DX", "")
    size: int
    mean: float
    std: float
    share: float

    def refuse(self, case: Case) -> None:
        """Skip other modalities, other body parts and lateral views, as far as the header tells."""
        super().refuse(case)
        part, position = case.header.get("body_part", ""), case.header.get("view", "")
        if part and not any(word in part.upper() for word in ("CHEST", "THORAX", "LUNG")):
            # What it is stays untold: people type names there too.
            raise Skipped("body_part", f"Its body part is not the chest; {type(self).__name__} reads chest films.")
        if position.upper() in LATERAL:
            raise Skipped("view", f"Its view position is {position}; {type(self).__name__} reads frontal films.")

    def read(self, case: Case) -> Image:
        """The film as displayed."""
        return read_radiograph(case.files[0])

    def sample(self, image: Image, case: Case, look: View | None = None) -> Sample:
        """The film at model size, normalised: ``x`` (1, size, size)."""
        look = look or centre_view(self.share)
        return film_sample(image, case, look, size=self.size, mean=self.mean, std=self.std, labels=self.labels)


def colour(x: Tensor) -> Tensor:
    """Grey films (B, 1, H, W) as the networks see them, (B, 3, H, W), without a copy."""
    return x.expand(-1, CHANNELS, -1, -1)


class ThoraxMAEPretraining(Films, Pretraining):
    """Masked autoencoding of unlabelled chest films.

    Args:
        image_size: Pixels of the model's square view.
        patch: Pixels of a patch's side.
        width: Channels of an encoder token.
        depth: Encoder blocks.
        heads: Encoder attention heads.
        decoder_width: Channels of a decoder token.
        decoder_depth: Decoder blocks.
        decoder_heads: Decoder attention heads.
        mask_ratio: Share of patches hidden.
        normalise_targets: Whether target patches are normalised one by one; the paper paints raw pixels.
        mean: Grey value subtracted.
        std: Grey value divided by.
        centre_share: Side of the square seen at validation over the film's shorter side.
        base_lr: Learning rate per 256 films.
        weight_decay: Of matrices.
        warmup_epochs: Epochs of linear warm-up.
        weights: Pre-training weights to start from, ours or a MAE release's.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        decoder_width: int = 512,
        decoder_depth: int = 2,
        decoder_heads: int = 16,
        mask_ratio: float = MASK_RATIO,
        normalise_targets: bool = False,
        mean: float = GREY_MEAN,
        std: float = GREY_STD,
        centre_share: float = EVAL_SHARE,
        base_lr: float = 1.5e-4,
        weight_decay: float = WEIGHT_DECAY,
        warmup_epochs: float = 40,
        weights: Path | None = None,
    ) -> None:
        encoder = ViT(image_size, patch, width, depth, heads, channels=CHANNELS, learn_positions=False)
        objective = MAE(
            encoder,
            mask_ratio,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            normalise_targets=normalise_targets,
        )
        super().__init__(
            objective, base_lr=base_lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, betas=PRETRAIN_BETAS
        )
        self.save_hyperparameters(logger=False)
        self.size, self.mean, self.std, self.share = image_size, mean, std, centre_share
        if weights:
            weights_files.load(objective, weights, weights_files.mae)

    def views(self, batch: Batch) -> Tensor:
        """Films (B, 3, H, W)."""
        return colour(batch.x)


class ThoraxMAE(Films, Classification):
    """Findings on frontal chest films.

    Args:
        labels: A label set (``nih14``, ``chexpert5``) or a list of findings.
        image_size: Pixels of the model's square view.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        pool: ``mean`` of the patch tokens, as published, or the ``class`` token.
        drop_path: Stochastic depth of the last block.
        mean: Grey value subtracted.
        std: Grey value divided by.
        centre_share: Side of the square seen when answering over the film's shorter side.
        base_lr: Learning rate per 256 films.
        min_lr: Where the schedule ends.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from a layer to the one below it.
        warmup_epochs: Epochs of linear warm-up.
        weights: Pre-trained weights: a run of `ThoraxMAEPretraining`, or a MAE or medical_mae release.
    """

    def __init__(
        self,
        labels: str | list[str] = "nih14",
        image_size: int = 224,
        patch: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        pool: Literal["mean", "class"] = "mean",
        drop_path: float = 0.2,
        mean: float = GREY_MEAN,
        std: float = GREY_STD,
        centre_share: float = EVAL_SHARE,
        base_lr: float = 2.5e-4,
        min_lr: float = 1e-5,
        weight_decay: float = WEIGHT_DECAY,
        layer_decay: float = 0.55,
        warmup_epochs: float = 5,
        weights: Path | None = None,
    ) -> None:
        answered = labels_of(labels)
        net = ViT(
            image_size, patch, width, depth, heads,
            classes=len(answered), pool=pool, drop_path=drop_path, channels=CHANNELS,
        )  # fmt: skip
        nn.init.trunc_normal_(net.head.weight, std=HEAD_STD)
        super().__init__(
            net,
            answered,
            base_lr=base_lr,
            min_lr=min_lr,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            warmup_epochs=warmup_epochs,
        )
        self.save_hyperparameters(logger=False)
        self.size, self.mean, self.std, self.share = image_size, mean, std, centre_share
        if weights:
            new = ("head.", "fc_norm.") if pool == "mean" else ("head.",)
            weights_files.load(net, weights, weights_files.mae_encoder, new=new)

    def inputs(self, batch: Batch) -> Tensor:
        """Films (B, 3, H, W)."""
        return colour(batch.x)

"""DBSAM: masks of what a box or points ask about, in CT, MR, films and pictures, by SAM with a second branch beside it.

Source: Qin et al., "DB-SAM: Delving into High Quality Universal Medical Image Segmentation", MICCAI 2024 (arXiv:2410.04172) and
its code; MedSAM (arXiv:2304.12306) for data and scaling; SAM (arXiv:2304.02643). The release does not train SAM's own score of
a mask and trains the prompt encoder; the paper freezes it, and so does medvit. Its schedule is polynomial, ours half a cosine.
"""

import logging
from pathlib import Path
from typing import Any, Literal

from medvit import weights as weights_files
from medvit.errors import MedvitError
from medvit.nets.dual_branch import DECODER, TRAINED, DualBranchEncoder, train_only, trained_and_frozen
from medvit.nets.sam import Pixels, Sam
from medvit.nets.sam_decoder import MaskDecoder
from medvit.nets.sam_encoder import SamEncoder
from medvit.readers.scan import Grey
from medvit.tasks.propagation import Stop
from medvit.tasks.segmentation import Segmentation
from medvit.weights_sam import sam, sam_pixels

log = logging.getLogger(__name__)

LR, WEIGHT_DECAY = 1e-4, 0.01  # DB-SAM and MedSAM
MARGIN = 5 / 1024  # of the model's side, by which boxes are carried on larger; MedSAM's sparse markers
ADAPTER = "image_encoder.adapter."
EVERYTHING = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


class DBSAM(Segmentation):
    """Promptable segmentation by DB-SAM, or by SAM itself.

    Args:
        variant: ``paper``, ``release`` or ``release_plus`` of DB-SAM, or ``attention`` or ``unfused`` of its ablation, see
            `DualBranchEncoder`; ``none`` is SAM itself.
        start: How adapters begin: as the ``release`` has it, or so that the untrained network equals ``sam``.
        trained: ``adapters`` (with neck and decoder, DB-SAM), ``decoder`` alone (MedSAM's first version) or ``everything``.
        image_size: Pixels of the model's square.
        patch: Pixels of a patch's side.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        everywhere: Blocks that attend everywhere, counted from 0; DB-SAM's branches meet after each of them.
        window: Tokens a side of the windows of the other blocks.
        channels: Of the map that prompts ask.
        decoder_heads: Attention heads of the decoder.
        decoder_hidden: Hidden width of its MLPs.
        drop: Stochastic depth of the adapters.
        dropout: Dropout inside them.
        recompute: Whether training computes blocks twice to need less memory.
        pixels: ``sam`` or ``medsam``, see `medvit.nets.sam.normalise`; ``auto`` asks the weights, without any ``medsam``.
        grey: How values become grey: ``ct`` by a window, ``mr`` by percentiles, ``auto`` by the window for DICOM CT alone.
        level: Middle of the window, Hounsfield units.
        window_width: Its width.
        min_score: Of a mask that is carried to the next slice; below it an outline ends.
        most_change: Of its area from slice to slice, as a factor; above it an outline ends.
        proposals: Boxes at most that are proposed where no prompt is given; 0 refuses such cases.
        quality_weight: Of the loss of the score; 0 as DB-SAM and MedSAM train.
        lr: Learning rate.
        min_lr: Where the cosine ends.
        weight_decay: Of all that is trained.
        warmup_epochs: Epochs of linear warm-up.
        weights: SAM, MedSAM or a run of this system to start from; adapters start afresh where it has none.
    """

    def __init__(
        self,
        variant: Literal["paper", "release", "release_plus", "attention", "unfused", "none"] = "paper",
        start: Literal["release", "sam"] = "release",
        trained: Literal["adapters", "decoder", "everything"] = "adapters",
        image_size: int = 1024,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        everywhere: tuple[int, ...] = (2, 5, 8, 11),
        window: int = 14,
        channels: int = 256,
        decoder_heads: int = 8,
        decoder_hidden: int = 2048,
        drop: float = 0.3,
        dropout: float = 0.1,
        recompute: bool = False,
        pixels: Literal["auto", "sam", "medsam"] = "auto",
        grey: Literal["auto", "ct", "mr"] = "auto",
        level: float = 40.0,
        window_width: float = 400.0,
        min_score: float = 0.5,
        most_change: float = 2.5,
        proposals: int = 3,
        quality_weight: float = 1.0,
        lr: float = LR,
        min_lr: float = 0.0,
        weight_decay: float = WEIGHT_DECAY,
        warmup_epochs: float = 1,
        weights: Path | None = None,
    ) -> None:
        if variant == "none" and trained == "adapters":
            raise MedvitError("system.variant none has no adapters. Say system.trained: decoder or everything.")
        if window_width <= 0 or most_change <= 1 or proposals < 0:
            raise MedvitError("system.window_width must be above 0, most_change above 1, and proposals not below 0.")
        scaled: Pixels = _pixels(weights) if pixels == "auto" else pixels
        sizes: dict[str, Any] = {"everywhere": everywhere, "window": window, "out": channels, "recompute": recompute}
        branches: dict[str, Any] = {"variant": variant, "start": start, "drop": drop, "dropout": dropout}
        encoder = (
            SamEncoder(image_size, patch, width, depth, heads, **sizes)
            if variant == "none"
            else DualBranchEncoder(image_size, patch, width, depth, heads, **sizes, **branches)
        )
        decoder = MaskDecoder(channels, heads=decoder_heads, hidden=decoder_hidden, quality_hidden=channels)
        net = Sam(encoder, channels, mask_decoder=decoder)
        super().__init__(
            net,
            side=image_size,
            pixels=scaled,
            grey=Grey(grey, level, window_width),
            stop=Stop(min_score, most_change, MARGIN),
            proposals=proposals,
            quality_weight=quality_weight,
            lr=lr,
            min_lr=min_lr,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )
        self.save_hyperparameters(logger=False)
        self.hparams["pixels"] = scaled  # what the weights said goes with them
        train_only(net, {"adapters": TRAINED, "decoder": DECODER, "everything": EVERYTHING}[trained])
        if weights:
            state = sam(weights_files.read_state(weights), net)
            fresh = () if variant == "none" or any(key.startswith(ADAPTER) for key in state) else (ADAPTER,)
            weights_files.fit(net, state, str(weights), fresh)

    def on_fit_start(self) -> None:
        """Say how much is trained."""
        log.info("%d numbers are trained, %d stay frozen", *trained_and_frozen(self.net))


def _pixels(weights: Path | None) -> Pixels:
    """How the network wants its pixels: as the run that the weights come from, as their release, or as MedSAM."""
    if weights is None:
        return "medsam"
    told = weights_files.told_by(weights)
    if told.get("system") == DBSAM.__name__:
        own: Pixels = told["arguments"]["pixels"]
        return own
    return sam_pixels(weights)

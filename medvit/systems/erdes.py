"""ERDES: ultrasound clips of the eye. Detachment of retina or vitreous, and whether the macula is still attached.

Source: ERDES (OSU PCVLab; networks, preprocessing and training as published); VideoMAE (arXiv:2203.12602) and V2
(arXiv:2303.16727) for the video ViT. The release splits every task by itself and selects by accuracy; medvit splits once for
all tasks and selects by the area under the curve.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from medvit import weights as weights_files
from medvit.case import ULTRASOUND, Case
from medvit.codes import labels_of
from medvit.data.batch import Batch, Sample
from medvit.data.clip_tables import DETACHMENT, MACULA, TASKS
from medvit.data.clips import Size, clip_sample
from medvit.errors import MedvitError
from medvit.guard import LIMITS, Limits
from medvit.image import Image
from medvit.nets.clip3d import ClipNet, clip_net
from medvit.nets.video_vit import VideoViT
from medvit.nets.videomae import VideoMAE
from medvit.readers.clip import read_clip
from medvit.result import Finding
from medvit.tasks.clips import ClipFindings
from medvit.tasks.pretraining import Pretraining
from medvit.tasks.system import System

FRAMES, SIDE = 96, 128  # ERDES
LR = 1.5e-5  # ERDES, every experiment
GREY_MEAN, GREY_STD = 0.449, 0.226  # of ImageNet's channels, for grey clips of a video ViT
VIDEO_FRAMES, MASK_RATIO, BETAS = 16, 0.9, (0.9, 0.95)  # VideoMAE
FRESH = ("head.", "fc_norm.")  # of a fine-tuned video ViT
READ_S = 120  # processor seconds for one clip: hundreds of frames are decoded


class Scans(System):
    """A system of ultrasound clips: multi-frame DICOM US, or a video of one.

    It uses ``size``, ``smooth`` and ``crop``, which its subclasses set.
    """

    modalities: ClassVar[tuple[str, ...]] = (ULTRASOUND,)
    at_once: ClassVar[int | None] = 8
    limits: ClassVar[Limits] = LIMITS._replace(cpu_s=READ_S, wall_s=2 * READ_S)
    size: Size
    smooth: bool
    crop: bool

    def read(self, case: Case) -> Image:
        """The clip as grey frames."""
        return read_clip(case.files[0], self.crop)

    def sample(self, image: Image, case: Case, look: Any = None) -> Sample:
        """The clip at model size, in [0, 1]: ``x`` (1, frames, rows, columns)."""
        return clip_sample(image, case, look, size=self.size, smooth=self.smooth, labels=self.labels)


class VideoMAEPretraining(Scans, Pretraining):
    """Masked autoencoding of unlabelled clips.

    Args:
        frames: Frames of the model's view.
        side: Pixels of its square view.
        patch: Pixels of a tubelet's side.
        tubelet: Frames of a tubelet.
        width: Channels of an encoder token.
        depth: Encoder blocks.
        heads: Encoder attention heads.
        decoder_width: Channels of a decoder token.
        decoder_depth: Decoder blocks.
        decoder_heads: Decoder attention heads.
        mask_ratio: Share of places hidden.
        masking: ``tube`` paints all that is hidden (VideoMAE), ``dual`` half of it (VideoMAE V2).
        within: Whether only places within the scanned sector are seen and painted.
        crop: Whether clips are cropped to the scanned sector.
        smooth: Whether large frames are averaged down rather than sampled.
        mean: Grey value subtracted.
        std: Grey value divided by.
        base_lr: Learning rate per 256 clips.
        weight_decay: Of matrices.
        warmup_epochs: Epochs of linear warm-up.
        weights: Pre-training weights to start from, ours or a VideoMAE release's.
    """

    def __init__(
        self,
        frames: int = VIDEO_FRAMES,
        side: int = 224,
        patch: int = 16,
        tubelet: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        decoder_width: int = 192,
        decoder_depth: int = 4,
        decoder_heads: int = 3,
        mask_ratio: float = MASK_RATIO,
        masking: Literal["tube", "dual"] = "tube",
        within: bool = False,
        crop: bool = True,
        smooth: bool = True,
        mean: float = GREY_MEAN,
        std: float = GREY_STD,
        base_lr: float = 1.5e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 40,
        weights: Path | None = None,
    ) -> None:
        encoder = VideoViT(frames, side, patch, tubelet, width, depth, heads, pool="none", channels=1)
        objective = VideoMAE(
            encoder,
            mask_ratio,
            masking=masking,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            mean=(mean,),
            std=(std,),
            within=within,
        )
        super().__init__(
            objective, base_lr=base_lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, betas=BETAS
        )
        self.save_hyperparameters(logger=False)
        self.size, self.crop, self.smooth = (frames, side, side), crop, smooth
        if weights:
            weights_files.load(objective, weights, weights_files.videomae)


class ERDES(Scans, ClipFindings):
    """One question about ultrasound clips, of the eye or of whatever the labels name.

    Args:
        task: One of ERDES's five; what 1 means is in the name of the label: ``Retinal_Detachment`` (non_rd_vs_rd),
            ``Retinal_Detachment_vs_Normal``, ``Retinal_Detachment_vs_PVD``, ``Macula_Intact_vs_Detached`` or ``PVD_vs_Normal``.
        labels: Other labels instead of the task's, for other clips.
        net: One of ERDES's 3-D networks, or a ``video_vit``.
        frames: Frames of the model's view; the whole clip is resampled to them.
        side: Pixels of its square view.
        top: Share of the slices of time that count, the strongest ones; all where not given. Not for vit and video_vit.
        slim: By what the widths of resnet3d, unet3d and unetplusplus are divided, for small data.
        patch: Pixels of a tubelet's side, of a video_vit.
        tubelet: Frames of a tubelet.
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        drop_path: Stochastic depth of the last block.
        crop: Whether clips are cropped to the scanned sector; false for clips that are cropped to the eye, as published.
        smooth: Whether large frames are averaged down rather than sampled; ERDES samples.
        mean: Grey value subtracted for a video_vit; as in its pre-training.
        std: Grey value divided by, for a video_vit.
        lr: Learning rate.
        min_lr: Where the cosine ends.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from a layer of a video_vit to the one below it.
        warmup_epochs: Epochs of linear warm-up before the cosine.
        schedule: ``constant``, ``plateau`` (a tenth when validation stops to improve) or ``cosine``.
        weights: For a 3-D network a file of ERDES's for this task; for a video_vit a run of `VideoMAEPretraining` or a VideoMAE
            release.
    """

    def __init__(
        self,
        task: Literal[
            "non_rd_vs_rd", "normal_vs_rd", "pvd_vs_rd", "macula_detached_vs_intact", "normal_vs_pvd"
        ] = "non_rd_vs_rd",
        labels: list[str] | None = None,
        net: Literal[
            "resnet3d", "senet", "unet3d", "swinunetr", "unetplusplus", "vnet", "unetr", "vit", "video_vit"
        ] = "unet3d",
        frames: int = FRAMES,
        side: int = SIDE,
        top: float | None = None,
        slim: int = 1,
        patch: int = 16,
        tubelet: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        drop_path: float = 0.1,
        crop: bool = True,
        smooth: bool = False,
        mean: float = GREY_MEAN,
        std: float = GREY_STD,
        lr: float = LR,
        min_lr: float = 0.0,
        weight_decay: float = 0.0,
        layer_decay: float = 0.75,
        warmup_epochs: float = 0,
        schedule: Literal["constant", "plateau", "cosine"] = "constant",
        weights: Path | None = None,
    ) -> None:
        answered = labels_of(labels or [TASKS[task]])
        built: nn.Module
        if net == "video_vit":
            if top is not None or slim != 1:
                raise MedvitError("system.top and system.slim are for 3-D networks; a video_vit has neither.")
            built = VideoViT(
                frames, side, patch, tubelet, width, depth, heads,
                classes=len(answered), drop_path=drop_path, channels=1,
            )  # fmt: skip
        else:
            built = clip_net(net, (frames, side, side), len(answered), top, slim)
        super().__init__(
            built,
            answered,
            lr=lr,
            min_lr=min_lr,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            warmup_epochs=warmup_epochs,
            schedule=schedule,
        )
        self.save_hyperparameters(logger=False)
        self.size, self.crop, self.smooth, self.mean, self.std = (frames, side, side), crop, smooth, mean, std
        if weights and net == "video_vit":
            weights_files.load(built, weights, weights_files.videomae_encoder, new=FRESH)
        elif weights:
            weights_files.load(built, weights, weights_files.erdes, pickled=True)

    def inputs(self, batch: Batch) -> Tensor:
        """Clips (B, 1, frames, rows, columns): normalised for a video ViT, in [0, 1] for ERDES's networks."""
        return (batch.x - self.mean) / self.std if isinstance(self.net, VideoViT) else batch.x


class _Both(nn.Module):
    """Two networks side by side: (B, 2) logits."""

    def __init__(self, detachment: ClipNet, macula: ClipNet) -> None:
        super().__init__()
        self.detachment, self.macula = detachment, macula

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.detachment(x), self.macula(x)], dim=1)


class ERDESCascade(Scans, ClipFindings):
    """Retinal detachment, and where there is one, whether the macula is still attached.

    Both networks learn from one split: the second one from the clips with a detachment, none of which the first one's
    training holds if they are tested on. Where no detachment is found nothing is said of the macula.

    Args:
        net: Which of ERDES's networks, for both.
        frames: Frames of the model's view; the whole clip is resampled to them.
        side: Pixels of its square view.
        top: Share of the slices of time that count, the strongest ones; all where not given.
        slim: By what the widths of resnet3d, unet3d and unetplusplus are divided, for small data.
        crop: Whether clips are cropped to the scanned sector; false for clips that are cropped to the eye, as published.
        smooth: Whether large frames are averaged down rather than sampled; ERDES samples.
        lr: Learning rate.
        min_lr: Where the cosine ends.
        warmup_epochs: Epochs of linear warm-up before the cosine.
        schedule: ``constant``, ``plateau`` (a tenth when validation stops to improve) or ``cosine``.
        weights: Weights to start the first network from: ERDES's non_rd_vs_rd.
        macula_weights: Weights to start the second network from: ERDES's macula_detached_vs_intact.
    """

    def __init__(
        self,
        net: Literal["resnet3d", "senet", "unet3d", "swinunetr", "unetplusplus", "vnet", "unetr", "vit"] = "unet3d",
        frames: int = FRAMES,
        side: int = SIDE,
        top: float | None = None,
        slim: int = 1,
        crop: bool = True,
        smooth: bool = False,
        lr: float = LR,
        min_lr: float = 0.0,
        warmup_epochs: float = 0,
        schedule: Literal["constant", "plateau", "cosine"] = "constant",
        weights: Path | None = None,
        macula_weights: Path | None = None,
    ) -> None:
        size = (frames, side, side)
        both = _Both(clip_net(net, size, 1, top, slim), clip_net(net, size, 1, top, slim))
        super().__init__(
            both,
            labels_of((DETACHMENT, MACULA)),
            lr=lr,
            min_lr=min_lr,
            weight_decay=0.0,
            layer_decay=1.0,
            warmup_epochs=warmup_epochs,
            schedule=schedule,
        )
        self.save_hyperparameters(ignore=["macula_weights"], logger=False)
        self.size, self.crop, self.smooth = size, crop, smooth
        for stage, path in ((both.detachment, weights), (both.macula, macula_weights)):
            if path:
                weights_files.load(stage, path, weights_files.erdes, pickled=True)

    def logits_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, 2), and the mean over space and time (B, C) of the first network's last map."""
        both, x = cast(_Both, self.net), self.inputs(batch)
        maps = both.detachment.features(x)
        return torch.cat([both.detachment.answer(maps), both.macula(x)], dim=1).float(), maps.flatten(2).mean(dim=2)

    def said(self, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
        """Of the macula only where there is a detachment."""
        return findings if findings[0].positive else findings[:1]

    def part(self, index: int) -> tuple[nn.Module, int]:
        """The stage that answers a label."""
        return ((self.net.detachment, self.net.macula)[index], 0)  # type: ignore[return-value]

"""DINO: a student ViT learns to give every view of an image the answer that its slow teacher gives the large ones.

Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (arXiv:2104.14294), and the
variant of Self-ViT-MIL (Gul et al. 2022, arXiv:2210.09021).
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Literal

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.objective import Objective, cosine, ramp
from medvit.nets.vit import ViT

LocalCrops = Literal["native96", "pad224"]
# Signs of a collapse, on means over an epoch; ours, from trainings that did collapse and that did not.
FLAT = 0.97  # of the teacher's entropy; every training is flat at its beginning
EARLY = 0.25  # share of the training that is its beginning
ONE_FOR_ALL = 0.03  # of the entropy of the mean answer
ALIKE = 0.05  # of the spread of features


class Prototypes(nn.Module):
    """Weight-normalised linear layer without a bias: (..., d) -> logits (..., out) in float32.

    Args:
        width: Channels d of its input.
        out: Number of prototypes.
        fixed_length: Whether every prototype keeps length 1.
    """

    def __init__(self, width: int, out: int, fixed_length: bool = True) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out, 1), requires_grad=not fixed_length)
        self.weight_v = nn.Parameter(torch.empty(out, width).uniform_(-(width**-0.5), width**-0.5))

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.weight_v)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))).float()


class Head(nn.Module):
    """Projection head: an MLP to a bottleneck of length 1, then `Prototypes`.

    Args:
        width: Channels D of a token.
        out: Prototypes K of class tokens.
        patch_out: Prototypes of patch tokens, for iBOT; None: the same ones as of class tokens.
        hidden: Channels of the hidden layers.
        bottleneck: Channels d that prototypes live in.
        layers: Linear layers of the MLP.
        fixed_length: Whether every prototype keeps length 1 (``norm_last_layer`` of the release).
    """

    def __init__(
        self,
        width: int,
        out: int = 65_536,
        *,
        patch_out: int | None = None,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        fixed_length: bool = True,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), bottleneck]
        steps: list[nn.Module] = []
        for before, after in pairwise(sizes):
            steps += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*steps[:-1]) if layers > 1 else steps[0]
        self.last_layer = Prototypes(bottleneck, out, fixed_length)
        self.last_layer2 = None if patch_out is None else Prototypes(bottleneck, patch_out, fixed_length)
        initialise_normal(self.mlp)

    @property
    def of_patches(self) -> Prototypes:
        """The prototypes of patch tokens."""
        return self.last_layer if self.last_layer2 is None else self.last_layer2

    def directions(self, x: Tensor) -> Tensor:
        """Tokens (..., D) in the bottleneck, of length 1: (..., d)."""
        return F.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (..., K) of class tokens (..., D)."""
        logits: Tensor = self.last_layer(self.directions(x))
        return logits


class Branch(nn.Module):
    """A backbone and its head: the student, or the teacher."""

    def __init__(self, backbone: ViT, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


class DINO(Objective):
    """Self-distillation without labels, over several crops of every image.

    Shares of the training stand where the release counts epochs: 0.01 is 1 epoch of 100.

    Args:
        backbone: A `ViT` with a class token and without a head, as the student starts; the teacher starts as its copy.
            Only the student drops paths.
        head: For both, likewise.
        student_temperature: Of the student's logits.
        teacher_temperature: Of the teacher's centred logits, after the warm-up.
        first_teacher_temperature: Where the warm-up begins.
        warmup: Share of the training over which the teacher's temperature warms up, in a straight line.
        momentum: Of the teacher at the start; it rises to 1 along half a cosine.
        centre_momentum: Of the running mean of the teacher's logits.
        rest: Share of the training in which the head's prototypes are not trained.
        local_crops: ``native96``: small crops are small images, positions are resampled; ``pad224``: they lie in the middle
            of a large image of zeros, that is of the mean colour, as in the Self-ViT-MIL release. The latter costs
            about twice as much.
    """

    def __init__(
        self,
        backbone: ViT,
        head: Head,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_teacher_temperature: float = 0.04,
        warmup: float = 0.0,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        rest: float = 0.01,
        local_crops: LocalCrops = "native96",
    ) -> None:
        super().__init__()
        if backbone.pool != "class" or hasattr(backbone, "head"):
            raise ValueError("DINO needs a backbone that gives its class token: pool 'class' and no classes")
        self.student = Branch(backbone, head)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, head.last_layer.number))
        self.centre: Tensor
        self.student_temperature = student_temperature
        self.temperatures = first_teacher_temperature, teacher_temperature
        self.warmup, self.rest = warmup, rest
        self.momentum, self.centre_momentum = momentum, centre_momentum
        self.local_crops = local_crops
        self.train()

    @property
    def encoder(self) -> ViT:
        """The teacher's backbone, which later systems take over."""
        return self.teacher.backbone

    def train(self, mode: bool = True) -> "DINO":
        """Switch the student between training and answering; the teacher always answers, so it drops no paths."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, views: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The loss of a batch's crops; while training, the centre moves.

        Args:
            views: Large crops (G, B, C, H, W), then, where there are any, small crops (L, B, C, h, w).

        Returns:
            ``loss`` () and what `watch` tells.
        """
        large = views[0]
        with torch.no_grad():
            features = self.encoder(large.flatten(0, 1))  # (G*B, D)
            given = self.teacher.head(features).unflatten(0, large.shape[:2])  # (G, B, K)
            targets = soften(given, self.centre, self.temperature)
        seen = torch.cat([self.student.backbone(crops.flatten(0, 1)) for crops in self.crops(views)])  # (V*B, D)
        logits = self.student.head(seen).unflatten(0, (-1, large.shape[1]))  # (V, B, K)
        loss = view_loss(logits, targets, self.student_temperature)
        if self.training:
            move_centre(self.centre, given.mean(dim=(0, 1)), self.centre_momentum)
        return {"loss": loss, **watch(features, targets, self.centre)}

    @property
    def temperature(self) -> float:
        """Of the teacher, now."""
        return ramp(*self.temperatures, self.warmup, self.progress)

    def crops(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Crops as the student sees them: small ones padded to the size of large ones where that is asked for."""
        if self.local_crops == "native96":
            return list(views)
        return [views[0], *(padded(crops, *views[0].shape[-2:]) for crops in views[1:])]

    def before_step(self) -> None:
        """Let the prototypes rest at the beginning: without a gradient they neither move nor decay."""
        if self.progress < self.rest:
            for name, parameter in self.student.head.named_parameters():
                if name.startswith("last_layer"):
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student."""
        student, teacher = dict(self.student.named_parameters()), dict(self.teacher.named_parameters())
        share = 1 - cosine(self.momentum, 1.0, self.progress)
        torch._foreach_lerp_(list(teacher.values()), [student[name] for name in teacher], share)
        super().after_step(progress)

    def trouble(self, means: Mapping[str, float]) -> str:
        """Whether the teacher has collapsed, by the measures of `watch`, and what is known to help."""
        if self.progress >= EARLY and means.get("teacher_entropy", 0) > FLAT:
            return (
                "The teacher gives every image the same flat answer (its entropy is "
                f"{means['teacher_entropy']:.3f} of the largest), so nothing is learned. Check that mean and std are those "
                "of the tiles; lower the teacher's temperature, or train for more steps."
            )
        if means.get("batch_entropy", 1) < ONE_FOR_ALL:
            return (
                f"One prototype takes nearly every image (entropy of the mean answer {means['batch_entropy']:.3f}). Raise "
                "the teacher's temperature or its momentum, or lower the learning rate."
            )
        if means.get("feature_std", 1) < ALIKE:
            return (
                f"The features of all images are nearly alike (spread {means['feature_std']:.3f} of 1). Check that mean "
                "and std are those of the tiles, and that colours are not jittered away."
            )
        return ""


def soften(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's logits (..., K) as targets: centred, sharpened, summing to 1."""
    return ((logits - centre) / temperature).softmax(dim=-1)


def view_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between what the teacher says of every large view and the student of every other view.

    The pairs are summed before anything is multiplied, so that ten views cost hardly more than two.

    Args:
        logits: (V, B, K) of the student, large views first.
        targets: (G, B, K) of the teacher, as `soften` gives them.
        temperature: Of the student.

    Returns:
        The mean () over the batch and the G * (V - 1) pairs of different views.
    """
    G, V = len(targets), len(logits)
    scaled = logits / temperature
    norms = scaled.logsumexp(dim=-1)  # (V, B)
    agreement = (targets.sum(dim=0) * scaled.sum(dim=0) - (targets * scaled[:G]).sum(dim=0)).sum(dim=-1)  # (B,)
    loss: Tensor = (G * norms.sum(dim=0) - norms[:G].sum(dim=0) - agreement).mean() / (G * (V - 1))
    return loss


@torch.no_grad()
def move_centre(centre: Tensor, mean: Tensor, momentum: float) -> None:
    """Move a centre (1, ..., K) towards the mean (K,) of a batch's teacher logits, over all devices."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean = mean / distributed.get_world_size()
    centre.lerp_(mean.expand_as(centre), 1 - momentum)


@torch.no_grad()
def watch(features: Tensor, targets: Tensor, centre: Tensor) -> dict[str, Tensor]:
    """What tells a collapse of the teacher.

    Args:
        features: (n, D) of different images.
        targets: (..., K) of the teacher.
        centre: (1, K).

    Returns:
        ``teacher_entropy`` (), of a target over log K: near 1, every answer is the same flat one. ``batch_entropy`` (), of
        the mean target over log K: near 0, one prototype takes all. ``feature_std`` (), of directions in feature space, 1
        where they fill it: near 0, every image looks alike. ``centre_norm`` ().
    """
    entropy = entropy_share(targets).mean()
    spread = F.normalize(features.float(), dim=-1).std(dim=0, correction=0).norm()
    return {
        "teacher_entropy": entropy,
        "batch_entropy": entropy_share(targets.flatten(0, -2).mean(dim=0)),
        "feature_std": spread,
        "centre_norm": centre.norm(),
    }


def entropy_share(probabilities: Tensor) -> Tensor:
    """Entropy (...) of distributions (..., K) over its largest value, log K."""
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return entropy / math.log(probabilities.shape[-1])


def padded(crops: Tensor, height: int, width: int) -> Tensor:
    """Crops (..., h, w) in the middle of zeros: (..., height, width)."""
    rows, columns = height - crops.shape[-2], width - crops.shape[-1]
    return F.pad(crops, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def initialise_normal(module: nn.Module) -> None:
    """Initialise as DINO does: truncated normals of 0.02 for matrices, tokens and positions; patches as torch does.

    The Self-ViT-MIL release leaves tokens and positions at zero; here they are as in DINO.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()
        if isinstance(part, ViT):
            nn.init.trunc_normal_(part.cls_token, std=0.02)
            nn.init.trunc_normal_(part.pos_embed, std=0.02)

"""The 3-D networks of ERDES: MONAI encoders and two of its own, a pooling over time, a small head; under its key names.

MONAI is imported when a network is built, since that takes seconds.

Source: ERDES, ocular ultrasound clips (OSU PCVLab; sizes and key names as counted in its release).
"""

from collections.abc import Sequence
from importlib import import_module
from math import ceil
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net3D = Literal["resnet3d", "senet", "unet3d", "swinunetr", "unetplusplus", "vnet", "unetr", "vit"]
Size = tuple[int, int, int]  # frames, rows, columns

UNET_WIDTHS = (64, 128, 256, 512, 768)
UNET_GROUPS = 8
PLUS_WIDTHS = (32, 32, 64, 128, 256)
RESNET_WIDTHS = (64, 128, 256, 512)
RESNET_LAYERS = [4, 4, 4, 4]
SENET_WIDTH = 2048
SWIN_WIDTH = 24
UNETR_WIDTH = 16
UNETR_HIDDEN = (3, 6, 9)  # blocks whose tokens enter its encoders
VIT_PATCH = 7
LEAST = {"vit": VIT_PATCH, "swinunetr": 32}  # of every side; of the others 16
MULTIPLES = {"unetr": UNETR_WIDTH, "swinunetr": 32}
SLIM = ("resnet3d", "unet3d", "unetplusplus")  # networks that can be made thinner


class ClipNet(nn.Module):
    """A classifier of clips in two steps, so that a map can be asked what it contributed.

    ``features`` turns clips (B, 1, D, H, W) into a map (B, C, d, h, w), ``answer`` that into logits (B, K).
    """

    def features(self, x: Tensor) -> Tensor:
        """The last map (B, C, d, h, w) of clips (B, 1, D, H, W)."""
        raise NotImplementedError

    def answer(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of clips (B, 1, D, H, W)."""
        return self.answer(self.features(x))


class Head(nn.Module):
    """Pooling over space and time, then two layers.

    Args:
        width: Channels C of the map.
        classes: Answers K.
        top: Share of the slices of time that count, those with the longest mean vector; None: all of them.
    """

    def __init__(self, width: int, classes: int, top: float | None = None) -> None:
        super().__init__()
        self.top = top
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, classes)

    def forward(self, features: Tensor) -> Tensor:
        slices = features.mean(dim=(3, 4)).transpose(1, 2)  # (B, d, C)
        answer: Tensor = self.fc2(F.relu(self.fc1(strongest(slices, self.top).mean(dim=1))))
        return answer


def strongest(slices: Tensor, share: float | None) -> Tensor:
    """The slices (B, k, C) of (B, d, C) with the longest vectors, a share of them, rounded up; all where it is None."""
    if share is None:
        return slices
    kept = slices.norm(dim=2).topk(ceil(slices.shape[1] * share), dim=1).indices  # (B, k)
    return slices.gather(1, kept[..., None].expand(-1, -1, slices.shape[2]))


class Encoded(ClipNet):
    """An encoder ``enc`` whose output is the map, and a `Head` ``cls``."""

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.enc = encoder
        self.cls = head

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.enc(x)
        return found

    def answer(self, features: Tensor) -> Tensor:
        answer: Tensor = self.cls(features)
        return answer


class Whole(ClipNet):
    """A MONAI classifier ``model`` with its own pooling and last layer."""

    def __init__(self, model: nn.Module, last: str) -> None:
        super().__init__()
        self.model = model
        self.last = last

    def features(self, x: Tensor) -> Tensor:
        return features_of(self.model, x)

    def answer(self, features: Tensor) -> Tensor:
        answer: Tensor = getattr(self.model, self.last)(features.mean(dim=(2, 3, 4)))
        return answer


class Bare(nn.Module):
    """A MONAI classifier without its last layer, under the same key names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, part in model.named_children():
            if name not in ("fc", "last_linear", "avgpool", "adaptive_avg_pool", "dropout"):
                self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return features_of(self, x)


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """The last map of MONAI's ResNet or SENet."""
    stem = ("layer0",) if hasattr(model, "layer0") else ("conv1", "bn1", "act", "maxpool")
    for name in (*stem, "layer1", "layer2", "layer3", "layer4"):
        x = getattr(model, name)(x)
    return x


class SingleConv(nn.Module):
    """GroupNorm, 3 x 3 x 3 convolution, ReLU."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(UNET_GROUPS if width >= UNET_GROUPS else 1, width)
        self.conv = nn.Conv3d(width, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.groupnorm(x)))


class Level(nn.Module):
    """One level of the 3-D U-Net: pooling, except in the first, and two convolutions."""

    def __init__(self, width: int, out: int, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        between = max(out // 2, width)
        first, second = SingleConv(width, between), SingleConv(between, out)
        self.basic_module = nn.ModuleDict({"SingleConv1": first, "SingleConv2": second})

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(x, 2) if self.pool else x
        deeper: Tensor = self.basic_module["SingleConv2"](self.basic_module["SingleConv1"](x))
        return deeper


class UNetEncoder(nn.Module):
    """The encoder of the 3-D U-Net (Wolny's): (B, 1, D, H, W) -> (B, C, D/16, H/16, W/16)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = zip((1, *widths), widths, strict=False)
        self.encoder = nn.ModuleList(Level(a, b, pool=index > 0) for index, (a, b) in enumerate(pairs))

    def forward(self, x: Tensor) -> Tensor:
        for level in self.encoder:
            x = level(x)
        return x


class Chain(nn.Module):
    """Parts of a MONAI network, under their names there, one after the other."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, getattr(network, name))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class SwinEncoder(nn.Module):
    """Swin UNETR's transformer; its convolutions lie in the release's files and answer nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name in ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"):
            part = getattr(network, name)
            self.add_module(name, part.requires_grad_(name == "swinViT"))

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.swinViT(x, True)[-1]  # type: ignore[operator]
        return last


class UnetrEncoder(nn.Module):
    """UNETR's tokens of four depths, all at the resolution of its patches: (B, 240, D/8, H/8, W/8)."""

    def __init__(self, network: nn.Module, size: Size) -> None:
        super().__init__()
        for name in ("vit", "encoder1", "encoder2", "encoder3", "encoder4"):
            self.add_module(name, getattr(network, name))
        self.grid = tuple(side // UNETR_WIDTH for side in size)

    def forward(self, x: Tensor) -> Tensor:
        _, hidden = self.vit(x)  # type: ignore[operator]
        maps = [self.encoder1(x)]  # type: ignore[operator]
        for index, name in zip(UNETR_HIDDEN, ("encoder2", "encoder3", "encoder4"), strict=True):
            plane = hidden[index].transpose(1, 2).unflatten(2, self.grid)  # (B, 768, d, h, w)
            maps.append(getattr(self, name)(plane))
        small = maps[-1].shape[2:]
        return torch.cat([F.interpolate(one, small, mode="nearest") for one in maps], dim=1)


class Tokens(ClipNet):
    """MONAI's ViT with a class token; its map are the tokens before the last block."""

    def __init__(self, encoder: nn.Module, size: Size) -> None:
        super().__init__()
        self.enc = encoder
        self.grid = tuple(side // VIT_PATCH for side in size)

    def features(self, x: Tensor) -> Tensor:
        t = self.enc.patch_embedding(x)  # type: ignore[operator]
        t = torch.cat([self.enc.cls_token.expand(len(t), -1, -1), t], dim=1)  # type: ignore[operator]
        for block in cast(list[nn.Module], self.enc.blocks)[:-1]:
            t = block(t)
        self.first = t[:, :1]
        planes: Tensor = t[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        return planes

    def answer(self, features: Tensor) -> Tensor:
        t = torch.cat([self.first, features.flatten(2).transpose(1, 2)], dim=1)
        t = self.enc.norm(cast(list[nn.Module], self.enc.blocks)[-1](t))  # type: ignore[operator]
        answer: Tensor = self.enc.classification_head(t[:, 0])  # type: ignore[operator]
        return answer


def clip_net(name: Net3D, size: Size, classes: int = 1, top: float | None = None, slim: int = 1) -> ClipNet:
    """Build one of ERDES's networks.

    Args:
        name: Which.
        size: Frames, rows and columns of the clips.
        classes: Answers K.
        top: See `Head`; None averages over all time, as most of the release does.
        slim: By what its widths are divided, for small data; the release has 1.

    Raises:
        ValueError: For a size that it cannot take, and for what the release has no variant of.
    """
    if slim != 1 and name not in SLIM:
        raise ValueError(f"{name} cannot be made thinner; {', '.join(SLIM)} can")
    if top is not None and (name == "vit" or not 0 < top <= 1):
        raise ValueError("top must be a share of the slices from 0 to 1, and the vit has no such pooling")
    least, multiple = LEAST.get(name, 16), MULTIPLES.get(name, 1)
    if any(side < least or side % multiple for side in size):
        raise ValueError(
            f"{name} takes frames, rows and columns from {least} on, multiples of {multiple}, not {' x '.join(map(str, size))}"
        )
    if name == "unet3d":
        widths = [width // slim for width in UNET_WIDTHS]
        return Encoded(UNetEncoder(widths), Head(widths[-1], classes, top))
    return _with_monai(name, size, classes, top, slim)


def _with_monai(name: Net3D, size: Size, classes: int, top: float | None, slim: int) -> ClipNet:
    nets: Any = import_module("monai.networks.nets")
    one: dict[str, Any] = {"in_channels": 1}
    net: nn.Module
    match name:
        case "resnet3d":
            widths = [width // slim for width in RESNET_WIDTHS]
            net = nets.ResNet("basic", RESNET_LAYERS, widths, n_input_channels=1, num_classes=classes)
            return Whole(net, "fc") if top is None else Encoded(Bare(net), Head(widths[-1], classes, top))
        case "senet":
            net = nets.SENet154(spatial_dims=3, num_classes=classes, **one)
            return Whole(net, "last_linear") if top is None else Encoded(Bare(net), Head(SENET_WIDTH, classes, top))
        case "swinunetr":
            net = nets.SwinUNETR(out_channels=1, feature_size=SWIN_WIDTH, norm_name="batch", **one)
            return Encoded(SwinEncoder(net), Head(16 * SWIN_WIDTH, classes, top))
        case "unetplusplus":
            widths = [width // slim for width in PLUS_WIDTHS]
            net = nets.BasicUNetPlusPlus(features=(*widths, widths[0]), **one)
            encoder = Chain(net, [f"conv_{level}_0" for level in range(5)])
            return Encoded(encoder, Head(widths[-1], classes, top))
        case "vnet":
            net = nets.VNet(dropout_prob_down=0.0, **one)
            encoder = Chain(net, ["in_tr", "down_tr32", "down_tr64", "down_tr128", "down_tr256"])
            return Encoded(encoder, Head(256, classes, top))
        case "unetr":
            net = nets.UNETR(out_channels=1, img_size=size, feature_size=UNETR_WIDTH, norm_name="batch", **one)
            return Encoded(UnetrEncoder(net, size), Head(15 * UNETR_WIDTH, classes, top))
        case "vit":
            net = nets.ViT(
                img_size=size, patch_size=(VIT_PATCH,) * 3, mlp_dim=3072, num_layers=4, num_heads=4,
                classification=True, num_classes=classes, **one,
            )  # fmt: skip
            return Tokens(net, size)
    raise ValueError(f"there is no network {name!r}")

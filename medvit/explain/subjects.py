"""What maps are asked about and judged on: networks whose inputs fall into cells that can be taken away.

A cell is a patch of an image, a block of a clip in space and time, or a tile of a slide.
"""

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.explain.bags import ATTENTION, INSTANCES
from medvit.explain.cam import GRAD_CAM, grad_cam
from medvit.explain.vit_methods import VIT_METHODS
from medvit.nets.clip3d import ClipNet
from medvit.nets.video_vit import VideoViT
from medvit.nets.vit import ViT

OCCLUSION, GRADIENT_INPUT = "occlusion", "gradient x input"
AT_ONCE = 32  # altered inputs that are answered together
CLIP_CELLS = (4, 6, 6)  # blocks of a clip, along time, rows and columns, for 3-D networks
BLUR = 8  # a blurred image is averaged down and up by this factor
Map = Callable[[Tensor, int], Tensor]


class Subject:
    """A network, and what its inputs (1, C, *spatial) or bags (1, N, D) are made of.

    Args:
        net: Gives (B, K) logits.
        methods: Maps of one input and class, (*grid).
    """

    def __init__(self, net: nn.Module, methods: Mapping[str, Map]) -> None:
        self.net = net
        self.methods = {**methods, OCCLUSION: self.occluded}

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Cells along each axis of an input."""
        raise NotImplementedError

    def logit(self, xs: Tensor, k: int) -> Tensor:
        """The logit (V,) of a class for inputs (V, …)."""
        out: Tensor = self.net(xs)
        return out[:, k].float()

    def baselines(self, x: Tensor) -> dict[str, Tensor]:
        """What cells that are taken away are replaced by, each like the input."""
        raise NotImplementedError

    def mixed(self, x: Tensor, base: Tensor, keep: Tensor) -> Tensor:
        """Inputs (V, …) of which the cells ``keep`` (V, *grid) are the input's and the others the baseline's."""
        raise NotImplementedError

    @torch.no_grad()
    def scores(self, x: Tensor, base: Tensor, keep: Tensor, k: int) -> Tensor:
        """The logit (V,) of a class when only some cells (V, *grid) are left."""
        parts = [
            self.logit(self.mixed(x, base, keep[start : start + AT_ONCE]), k) for start in range(0, len(keep), AT_ONCE)
        ]
        return torch.cat(parts)

    def occluded(self, x: Tensor, k: int) -> Tensor:
        """By how much the logit falls when a cell is taken away, never negative: (*grid)."""
        grid = self.grid(x)
        count = int(torch.tensor(grid).prod())
        keep = ~torch.eye(count, dtype=torch.bool, device=x.device).reshape(count, *grid)
        base = next(iter(self.baselines(x).values()))
        whole = self.scores(x, base, torch.ones(1, *grid, dtype=torch.bool, device=x.device), k)
        return (whole - self.scores(x, base, keep, k)).clamp(min=0).reshape(grid)

    def shuffled(self, seed: int = 0) -> "Subject":
        """The same with weights that mean nothing: every tensor's numbers in another order."""
        generator = torch.Generator().manual_seed(seed)
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for parameter in net.parameters():
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
        return type(self)(net)  # type: ignore[call-arg]  # subclasses know their methods


class Pictures(Subject):
    """Images, or clips of a video ViT: cells are the network's own tokens; of 3-D networks, blocks."""

    def __init__(self, net: ViT | VideoViT | ClipNet) -> None:
        if isinstance(net, ClipNet):
            methods: dict[str, Map] = {GRAD_CAM: self._cam, GRADIENT_INPUT: self._gradient_input}
        else:
            methods = {name: self._by(name) for name in VIT_METHODS}
        super().__init__(net, methods)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Tokens, or `CLIP_CELLS`."""
        if isinstance(self.net, (ViT, VideoViT)):
            return tuple(self.net.grid_of(x))
        return tuple(min(cells, side) for cells, side in zip(CLIP_CELLS, x.shape[2:], strict=True))

    def baselines(self, x: Tensor) -> dict[str, Tensor]:
        """The mean grey value of the input, and the input blurred."""
        spatial = tuple(range(2, x.ndim))
        mean = x.mean(dim=spatial, keepdim=True).expand_as(x)
        small = [max(1, side // BLUR) for side in x.shape[2:]]
        mode = "trilinear" if x.ndim == 5 else "bilinear"
        pooled = F.interpolate(x, small, mode="area")
        return {"mean": mean, "blur": F.interpolate(pooled, x.shape[2:], mode=mode, align_corners=False)}

    def mixed(self, x: Tensor, base: Tensor, keep: Tensor) -> Tensor:
        """See `Subject.mixed`."""
        fine = F.interpolate(keep[:, None].float(), x.shape[2:], mode="nearest")  # (V, 1, *spatial)
        return torch.where(fine > 0.5, x, base)

    def _by(self, name: str) -> Map:
        def asked(x: Tensor, k: int) -> Tensor:
            return VIT_METHODS[name](self.net, x, torch.tensor([k], device=x.device))[0]  # type: ignore[arg-type]

        return asked

    def _cam(self, x: Tensor, k: int) -> Tensor:
        found = grad_cam(self.net, x, torch.tensor([k], device=x.device))  # type: ignore[arg-type]
        return F.interpolate(found[:, None], self.grid(x), mode="trilinear", align_corners=False)[0, 0]

    def _gradient_input(self, x: Tensor, k: int) -> Tensor:
        share = _gradient_input(self.net, x, k).sum(dim=1)  # (1, *spatial)
        return F.interpolate(share[:, None], self.grid(x), mode="area")[0, 0].clamp(min=0)


class Bags(Subject):
    """Bags (1, N, D) of a network of `medvit.nets.mil`; cells are tiles."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, {ATTENTION: self._attention, GRADIENT_INPUT: self._input, INSTANCES: self._instances})
        if not hasattr(net, "i_classifier"):
            del self.methods[INSTANCES]  # it scores no tiles

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """The number of tiles."""
        return (x.shape[1],)

    def logit(self, xs: Tensor, k: int) -> Tensor:
        """See `Subject.logit`."""
        out: Tensor = self.net(xs).logits
        return out[:, k].float()

    def baselines(self, x: Tensor) -> dict[str, Tensor]:
        """The mean tile of the bag, and its median in every channel."""
        return {
            "mean": x.mean(dim=1, keepdim=True).expand_as(x),
            "median": x.median(dim=1, keepdim=True).values.expand_as(x),
        }

    def mixed(self, x: Tensor, base: Tensor, keep: Tensor) -> Tensor:
        """See `Subject.mixed`."""
        return torch.where(keep[..., None], x, base)

    def _attention(self, x: Tensor, k: int) -> Tensor:
        with torch.no_grad():
            attention: Tensor = self.net(x).attention[0]  # (N, K) or (N, 1)
        return attention[:, min(k, attention.shape[1] - 1)].float()

    def _instances(self, x: Tensor, k: int) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.net(x).instances[0, :, k]
        return scores.float().sigmoid()

    def _input(self, x: Tensor, k: int) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.logit(x, k).sum(), x)
        return (x * gradient).detach().sum(dim=-1)[0].clamp(min=0)


def _gradient_input(net: nn.Module, x: Tensor, k: int) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x)[:, k].sum(), x)
    return (x * gradient).detach()


def subject_of(net: nn.Module) -> Subject:
    """What can be asked of a network.

    Raises:
        TypeError: For a network that no method is for.
    """
    if isinstance(net, (ViT, VideoViT, ClipNet)):
        return Pictures(net)
    if hasattr(net, "b_classifier") or hasattr(net, "attention_w"):
        return Bags(net)
    raise TypeError(f"no maps of a {type(net).__name__}")

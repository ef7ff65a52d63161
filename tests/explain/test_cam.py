import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvit.explain.cam import grad_cam
from medvit.nets.clip3d import ClipNet, Net3D, clip_net
from medvit.writers.clip_heat import importance


class Bright(ClipNet):
    """One map of what is bright; its mean is the first logit, the opposite the second."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv3d(1, 1, 1, bias=False)
        nn.init.ones_(self.map.weight)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.map(x)
        return found

    def answer(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=(1, 2, 3, 4))[:, None]
        return torch.cat([mean, -mean], dim=1)


def test_a_map_lies_where_and_when_a_clip_raised_the_score_and_nowhere_for_its_opposite() -> None:
    net, clip = Bright(), torch.zeros(1, 1, 8, 4, 4)
    clip[:, :, 5, 1, 2] = 1.0
    with torch.inference_mode():
        map_ = grad_cam(net, clip, torch.tensor([0]))
        opposite = grad_cam(net, clip, torch.tensor([1]))
    assert map_.nonzero().tolist() == [[0, 5, 1, 2]]
    assert not opposite.any()
    assert int(importance(map_[0].numpy(), 16).argmax()) in (10, 11)


@pytest.mark.parametrize("name", ["unet3d", "unetplusplus", "resnet3d"])
def test_maps_of_short_clips_tell_early_from_late(name: Net3D) -> None:
    torch.manual_seed(0)
    net = clip_net(name, (16, 32, 32), slim=16).eval()
    clip = torch.rand(2, 1, 16, 32, 32)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    map_ = grad_cam(net, clip, torch.tensor([0, 0]))
    assert map_.shape[0] == 2 and 4 <= map_.shape[1] <= 16
    assert np.isfinite(map_.numpy()).all() and (map_ >= 0).all()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(part._forward_hooks for part in net.modules())

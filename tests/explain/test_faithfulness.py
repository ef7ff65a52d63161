"""Maps are judged: by taking cells away, by where boxes are, by a network that knows nothing."""

import pytest
import torch
from torch import nn

from medvit.explain.faithfulness import LEAST, RANDOM, Asked, alike, deletion_insertion, judged, localised, table
from medvit.explain.subjects import Bags, Pictures, Subject, subject_of
from medvit.nets.clip3d import clip_net
from medvit.nets.mil import ABMIL, DSMIL
from medvit.nets.video_vit import VideoViT
from medvit.nets.vit import ViT

GRID = (4, 4)


class Sum(nn.Module):
    """Logit: what each cell of 2 x 2 pixels holds, times its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 2, 16).reshape(GRID))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (nn.functional.avg_pool2d(x, 2)[:, 0] * self.weight).sum(dim=(1, 2))[:, None] - 2


class Toy(Subject):
    """Images (1, 1, 8, 8) of 16 cells, taken away by 0."""

    def __init__(self, net: nn.Module) -> None:
        share = nn.functional.avg_pool2d
        super().__init__(net, {
            "right": lambda x, k: share(x, 2)[0, 0] * net.weight.detach(),
            "wrong": lambda x, k: -share(x, 2)[0, 0] * net.weight.detach(),
            "flat": lambda x, k: torch.ones(GRID),
        })  # fmt: skip

    def grid(self, x: torch.Tensor) -> tuple[int, ...]:
        return GRID

    def baselines(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": torch.zeros_like(x)}

    def mixed(self, x: torch.Tensor, base: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return torch.where(keep[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3), x, base)


def questions(count: int) -> list[Asked]:
    generator = torch.Generator().manual_seed(0)
    return [Asked(torch.rand(1, 1, 8, 8, generator=generator), 0, f"p{i}") for i in range(count)]


def test_taking_the_right_cells_away_first_lowers_the_score_soonest() -> None:
    subject, (one,) = Toy(Sum()), questions(1)
    worth = {name: deletion_insertion(subject, one, subject.methods[name](one.x, 0)) for name in ("right", "wrong")}
    assert worth["right"]["deletion mean"] < worth["wrong"]["deletion mean"]
    assert worth["right"]["insertion mean"] > worth["wrong"]["insertion mean"]
    chance = deletion_insertion(subject, one, torch.rand(GRID))["deletion mean"]
    assert worth["right"]["deletion mean"] < chance < worth["wrong"]["deletion mean"]


def test_of_a_linear_score_occlusion_is_the_contribution_of_each_cell() -> None:
    subject, (one,) = Toy(Sum()), questions(1)
    wanted = subject.methods["right"](one.x, 0).clamp(min=0)
    torch.testing.assert_close(subject.methods["occlusion"](one.x, 0), wanted, atol=1e-5, rtol=1e-4)


def test_a_method_that_does_not_beat_chance_is_not_recommended_and_one_that_does_is() -> None:
    subject, asked = Toy(Sum()), questions(12)
    patients = [one.patient for one in asked]
    told = table(judged(subject, asked, ["right", "wrong", "flat"]), patients, 200)
    assert told["beat_chance"] == ["right"] and told["recommended"] == "right"
    only = table(judged(subject, asked, ["wrong", "flat"]), patients, 200)
    assert only["beat_chance"] == [] and only["recommended"] is None
    low, high = only["methods"]["flat"]["deletion less chance"][1:]
    assert low < 0 < high and only["methods"][RANDOM]["deletion less chance"] == [0, 0, 0]
    few = questions(LEAST - 1)
    assert table(judged(subject, few, ["right"]), [one.patient for one in few], 50)["recommended"] is None


def test_boxes_are_met_by_the_highest_cell_and_by_as_many_cells_as_they_cover() -> None:
    truth = torch.zeros(GRID, dtype=torch.bool)
    truth[1, 1:3] = True
    values = torch.zeros(GRID)
    values[1, 1], values[3, 3], values[1, 2] = 3, 2, 1
    assert localised(values, truth) == {"pointing": 1.0, "iou": pytest.approx(1 / 3)}
    assert localised(-values, truth)["pointing"] == 0
    assert localised(values, torch.zeros(GRID, dtype=torch.bool)) == {}


def test_maps_are_alike_by_their_ranks() -> None:
    one = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    assert alike(one, one**3) == pytest.approx(1) and alike(one, -one) == pytest.approx(-1)
    assert alike(one, torch.ones(5, 5)) == 0


def nets() -> list[tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        (ViT(32, 8, 24, 2, 3, classes=2, pool="mean", channels=1), torch.rand(1, 1, 32, 32)),
        (VideoViT(4, 16, 8, 2, 24, 1, 3, classes=2, channels=1), torch.rand(1, 1, 4, 16, 16)),
        (clip_net("resnet3d", (16, 32, 32), 2, None, 8), torch.rand(1, 1, 16, 32, 32)),
        (DSMIL(12, 2), torch.rand(1, 9, 12)),
        (ABMIL(12, 2, hidden=8), torch.rand(1, 9, 12)),
    ]


@pytest.mark.parametrize("number", range(5))
def test_every_method_of_every_kind_of_network_gives_a_finite_map_of_its_cells(number) -> None:
    net, x = nets()[number]
    subject = subject_of(net.eval())
    assert isinstance(subject, Bags if x.ndim == 3 else Pictures)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        for name, method in subject.methods.items():
            values = method(x, 1)
            assert values.shape == subject.grid(x) and torch.isfinite(values).all() and (values >= 0).all(), name
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_taking_nothing_away_leaves_the_input_and_taking_all_leaves_the_baseline() -> None:
    for net, x in nets():
        subject = subject_of(net.eval())
        grid = subject.grid(x)
        for base in subject.baselines(x).values():
            mixed = subject.mixed(x, base, torch.stack([torch.ones(grid), torch.zeros(grid)]).bool())
            assert torch.equal(mixed[0], x[0]) and torch.equal(mixed[1], base[0])


def test_shuffled_weights_are_the_same_numbers_elsewhere_and_the_network_stays() -> None:
    net, x = nets()[0]
    subject = subject_of(net.eval())
    blind = subject.shuffled()
    assert not torch.allclose(blind.logit(x, 0), subject.logit(x, 0))
    for mine, theirs in zip(net.parameters(), blind.net.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)


def test_a_network_without_methods_is_refused() -> None:
    with pytest.raises(TypeError, match="no maps of a Linear"):
        subject_of(nn.Linear(2, 2))

"""What attention does, on networks whose heads are known."""

import pytest
import torch

from medvit.explain.analytics import analysed, attention_distance, head_importance, offset_maps, patterns, without_head
from medvit.nets.vit import ViT

SIDE, PATCH = 32, 8


@pytest.fixture
def net() -> ViT:
    """Two blocks of two heads; the second head of the first block gives nothing."""
    torch.manual_seed(0)
    net = ViT(SIDE, PATCH, 16, 2, 2, classes=2, pool="mean", channels=1)
    torch.nn.init.normal_(net.head.weight)
    with torch.no_grad():
        net.blocks[0].attn.proj.weight[:, 8:] = 0
    return net.eval()


def test_a_head_that_gives_nothing_is_of_no_importance_and_others_are(net) -> None:
    x = torch.rand(3, 1, SIDE, SIDE)
    whole = net(x)
    importance = head_importance(net, x, lambda logits: (logits - whole).square().sum())
    assert importance.shape == (2, 2)
    assert importance[0, 1] == pytest.approx(0, abs=1e-9)
    assert (importance[[0, 1, 1], [0, 0, 1]] > 1e-6).all()


def test_a_head_is_back_when_it_was_taken_away(net) -> None:
    x = torch.rand(2, 1, SIDE, SIDE)
    before = net(x)
    with without_head(net, 0, 0):
        assert not torch.allclose(net(x), before)
    assert torch.equal(net(x), before)


def attending(monkeypatch, net: ViT, row: torch.Tensor) -> None:
    """Every head attends as (1+N, 1+N) says."""
    weights = row[None, None].expand(1, 2, -1, -1)
    monkeypatch.setattr(net, "attention", lambda x: [weights, weights])


def test_the_distance_is_that_between_patches_as_a_share_of_the_image(net, monkeypatch) -> None:
    to_itself = torch.eye(17)
    attending(monkeypatch, net, to_itself)
    x = torch.zeros(1, 1, SIDE, SIDE)
    assert attention_distance(net, x).tolist() == [[0, 0], [0, 0]]
    to_the_next = torch.eye(17)
    to_the_next[1:, 1:] = torch.eye(16).reshape(16, 4, 4).roll(1, dims=2).reshape(16, 16)
    attending(monkeypatch, net, to_the_next)  # three of four patches look one patch aside, one looks three back
    assert attention_distance(net, x)[0, 0].item() == pytest.approx((3 * 1 + 3) / 4 / 4)


def test_offsets_are_from_the_patch_that_asks(net, monkeypatch) -> None:
    attending(monkeypatch, net, torch.eye(17))
    maps = offset_maps(net, torch.zeros(1, 1, SIDE, SIDE))
    assert maps.shape == (2, 2, 7, 7)
    assert maps[0, 0, 3, 3] == 1 and maps[0, 0].sum() == 1


def test_heads_of_one_shape_make_one_pattern() -> None:
    maps = torch.zeros(2, 3, 5, 5)
    maps[0, :, 2, 2] = 1  # to themselves
    maps[1, :2, 0, :] = 0.2  # to the row above
    maps[1, 2] = 0.04  # everywhere
    found = patterns(maps, 3)
    assert [one["heads"] for one in found] == [3, 2, 1]
    assert found[0]["members"] == [[0, 0], [0, 1], [0, 2]]
    assert found[1]["map"][-1] == pytest.approx([0.2] * 5)  # rows from below
    assert len(patterns(torch.ones(2, 2, 3, 3))) == 1


def test_all_of_it_is_plain_data(net) -> None:
    told = analysed(net, torch.rand(2, 1, SIDE, SIDE), lambda logits: logits.square().mean())
    assert told["cases"] == 2 and len(told["importance"]) == len(told["distance"]) == 2
    assert sum(one["heads"] for one in told["patterns"]) == 4

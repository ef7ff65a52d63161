"""Heat maps show the patch that a class depends on."""

import pytest
import torch

from medvit.explain.attention import gradient_attention
from medvit.explain.subjects import OCCLUSION, subject_of
from medvit.explain.vit_methods import CAM, LRP, RAW, ROLLOUT, VIT_METHODS, _relevance_forward
from medvit.nets.vit import ViT

SIZE, PATCH = 32, 8
PLACES = ((0, 1), (3, 2))  # the patch that shows class 0, and that of class 1


@pytest.fixture(params=["mean", "class"])
def net(request) -> ViT:
    """A ViT made by hand: head k attends to the bright patch at place k and carries its brightness to logit k.

    Channels come in pairs of opposite sign, so that layer norms keep them apart: brightness, place 0, place 1, a constant.
    """
    net = ViT(SIZE, PATCH, 8, 1, 2, classes=2, pool=request.param, channels=1)
    state = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    pair = torch.tensor([1.0, -1.0])
    state["patch_embed.proj.weight"][:2] = pair[:, None, None, None] / PATCH**2  # the mean of a patch
    state["patch_embed.proj.bias"][6:] = state["cls_token"][0, 0, 6:] = pair
    for k, (row, column) in enumerate(PLACES):
        here = slice(2 + 2 * k, 4 + 2 * k)
        state["pos_embed"][0, 1 + row * 4 + column, here] = 2 * pair
        state["blocks.0.attn.qkv.bias"][4 * k] = 2  # the same query everywhere
        key, value = state["blocks.0.attn.qkv.weight"][8 + 4 * k], state["blocks.0.attn.qkv.weight"][16 + 4 * k]
        key[:2] = key[here] = value[:2] = pair
        state["blocks.0.attn.proj.weight"][here, 4 * k] = pair
        state["head.weight"][k, here] = pair
    for name, weight in state.items():
        if "norm" in name and name.endswith("weight"):
            weight.fill_(1)
    net.load_state_dict(state)
    return net.eval()


def bright(count: int, *classes: int) -> torch.Tensor:
    """Noise with a bright patch at the place of every class."""
    x = torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 0.3
    for row, column in (PLACES[k] for k in classes):
        x[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 2
    return x


def test_the_network_made_by_hand_tells_the_classes_apart(net) -> None:
    none, first, second = (net(bright(8, *classes)) for classes in ((), (0,), (1,)))
    assert (first[:, 0] > none[:, 0]).all()
    assert (first[:, 0] > first[:, 1]).all()
    assert (second[:, 1] > second[:, 0]).all()


def test_the_map_of_a_class_peaks_at_its_own_patch(net) -> None:
    x = bright(8, 0, 1)
    for k, (row, column) in enumerate(PLACES):
        maps = gradient_attention(net, x, torch.full((len(x),), k))
        assert maps.shape == (8, 4, 4)
        assert maps.dtype == torch.float32
        assert (maps >= 0).all()
        assert (maps.flatten(1).argmax(1) == row * 4 + column).all()


def test_each_picture_is_explained_for_its_own_class(net) -> None:
    x = bright(2, 0, 1)
    mixed = gradient_attention(net, x, torch.tensor([0, 1]))
    alone = [gradient_attention(net, x[i : i + 1], torch.tensor([i]))[0] for i in (0, 1)]
    torch.testing.assert_close(mixed, torch.stack(alone), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(mixed[0], mixed[1])


def test_nothing_is_left_on_the_network(net) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradient_attention(net, bright(2, 0, 1), torch.tensor([0, 1]))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(net, mode) -> None:
    wanted = gradient_attention(net, bright(2, 0, 1), torch.tensor([0, 1]))
    with mode():
        # as in prediction, where even the inputs are made without gradients
        given = gradient_attention(net, bright(2, 0, 1), torch.tensor([0, 1]))
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(given, wanted)
    assert not given.requires_grad


def test_the_map_has_the_shape_of_the_grid_of_other_image_sizes(net) -> None:
    assert gradient_attention(net, torch.rand(1, 1, 48, 64), torch.tensor([0])).shape == (1, 6, 8)


def test_frozen_networks_are_explained_too(net) -> None:
    wanted = gradient_attention(net, bright(1, 0, 1), torch.tensor([1]))
    net.requires_grad_(False)
    try:
        torch.testing.assert_close(gradient_attention(net, bright(1, 0, 1), torch.tensor([1])), wanted)
    finally:
        net.requires_grad_(True)


@pytest.mark.parametrize("method", [LRP, OCCLUSION])
def test_other_methods_find_the_patch_of_each_class_too(net, method) -> None:
    subject = subject_of(net)
    for x in bright(4, 0, 1)[:, None]:
        for k, (row, column) in enumerate(PLACES):
            values = subject.methods[method](x, k)
            assert values.shape == (4, 4) and (values >= 0).all() and values.argmax() == row * 4 + column


@pytest.mark.parametrize("method", [RAW, ROLLOUT])
def test_attention_alone_finds_the_patches_but_knows_no_class(net, method) -> None:
    x = bright(1, 0, 1)
    first, second = (VIT_METHODS[method](net, x, torch.tensor([k])) for k in (0, 1))
    assert torch.equal(first, second)
    assert {int(place) for place in first.flatten().topk(2).indices} == {row * 4 + column for row, column in PLACES}


def test_cam_over_tokens_is_a_map_of_each_class(net) -> None:
    x = bright(1, 0, 1)
    maps = [VIT_METHODS[CAM](net, x, torch.tensor([k])) for k in (0, 1)]
    assert maps[0].shape == (1, 4, 4) and all((one >= 0).all() for one in maps)


def test_relevance_is_propagated_through_the_very_network(net) -> None:
    x = bright(3, 0, 1)
    torch.testing.assert_close(_relevance_forward(net, x), net(x), atol=1e-5, rtol=1e-5)

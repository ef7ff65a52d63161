from collections.abc import Iterator

import pytest
import torch
from torch import nn

from medvit.nets.mae import MAE, take
from medvit.nets.vit import ViT


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(mask_ratio: float = 0.75, *, normalise_targets: bool = False) -> MAE:
    torch.manual_seed(0)
    encoder = ViT(32, 8, 32, 2, 4, learn_positions=False)
    return MAE(
        encoder, mask_ratio, decoder_width=32, decoder_depth=2, decoder_heads=4, normalise_targets=normalise_targets
    )


@pytest.mark.parametrize(
    ("width", "heads", "decoder_depth", "count"), [(384, 6, 2, 28_663_936), (768, 12, 8, 111_907_840)]
)
def test_the_networks_have_the_published_number_of_parameters(
    width: int, heads: int, decoder_depth: int, count: int
) -> None:
    with torch.device("meta"):
        assert (
            parameters(MAE(ViT(width=width, heads=heads, learn_positions=False), decoder_depth=decoder_depth)) == count
        )


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 49), (0.80, 39), (0.85, 29), (0.90, 19), (0.95, 9)])
def test_as_many_of_196_patches_stay_visible_as_in_the_release(ratio: float, kept: int) -> None:
    net = MAE(ViT(28, 2, 8, 1, 2, channels=1, learn_positions=False), ratio, decoder_width=8, decoder_depth=1,
              decoder_heads=2)  # fmt: skip
    out = net.reconstruct(torch.randn(2, 1, 28, 28))
    assert (out["mask"] == 0).sum(1).tolist() == [kept, kept]
    assert out["latent"].shape == (2, 1 + kept, 8)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99])
def test_a_ratio_that_leaves_no_patch_visible_or_none_hidden_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="none visible or none hidden"):
        tiny(ratio)


@pytest.mark.parametrize("side", [34, 40])
def test_images_of_another_size_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"{side} x {side}"):
        tiny()(torch.randn(1, 3, side, side))


def test_noise_that_is_given_is_used_and_smallest_values_stay_visible() -> None:
    net, x, noise = tiny(), torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    first, second = net(x, noise), net(x, noise)
    assert torch.equal(first["loss"], second["loss"])
    order = noise.argsort(1)
    assert torch.equal(first["hidden"], order[:, 4:])
    mask = net.reconstruct(x, noise)["mask"]
    assert not mask.gather(1, order[:, :4]).any()
    assert mask.sum(1).tolist() == [12, 12]


def test_noise_that_is_drawn_differs_between_calls_and_images() -> None:
    net, x = tiny(), torch.randn(2, 3, 32, 32)
    masks = torch.cat([net.reconstruct(x)["mask"], net.reconstruct(x)["mask"]])
    assert len({tuple(mask.tolist()) for mask in masks}) == 4


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    net, x, noise = tiny(), torch.randn(1, 3, 32, 32), torch.arange(16.0)[None]
    changed = x.clone()
    changed[..., 8:, :] = 0  # rows of patches 4 to 15, all hidden
    assert torch.equal(net(x, noise)["prediction"], net(changed, noise)["prediction"])


@pytest.mark.parametrize("normalise", [False, True])
def test_the_loss_is_the_mean_squared_error_over_hidden_patches_only(normalise: bool) -> None:
    net, x, noise = tiny(normalise_targets=normalise), torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    out = net.reconstruct(x, noise)
    target = net.target(x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, -1))
    error = (out["prediction"] - target).square().mean(2)
    torch.testing.assert_close(net(x, noise)["loss"], (error * out["mask"]).sum() / out["mask"].sum())


def test_training_paints_the_hidden_patches_as_a_full_reconstruction_does() -> None:
    net, x, noise = tiny(), torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    trained, full = net(x, noise), net.reconstruct(x, noise)
    torch.testing.assert_close(trained["prediction"], take(full["prediction"], trained["hidden"]))


def test_normalised_targets_have_mean_zero_and_unbiased_variance_one() -> None:
    target = tiny(normalise_targets=True).target(5 + 3 * torch.randn(2, 16, 192))
    torch.testing.assert_close(target.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(2, unbiased=True), torch.ones(2, 16), atol=1e-4, rtol=0)


def test_targets_hold_the_channels_of_a_pixel_side_by_side() -> None:
    patches = torch.arange(192.0).reshape(1, 1, 192)  # channel, row, column
    assert tiny().target(patches)[0, 0, :6].tolist() == [0, 64, 128, 1, 65, 129]


def test_fixed_positions_receive_no_gradient_and_everything_else_does() -> None:
    net = tiny()
    net(torch.randn(2, 3, 32, 32))["loss"].backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {"encoder.pos_embed", "decoder_pos_embed"}


def test_an_mae_overfits_four_small_images() -> None:
    net = tiny().train()
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    x = torch.stack([torch.sin(3 * (rows * turn.cos() + columns * turn.sin())) for turn in torch.arange(4.0)])
    x = x[:, None].expand(4, 3, 32, 32)  # (B, C, H, W)
    noise = torch.rand(4, 16)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    first = net(x, noise)["loss"].item()
    for _ in range(200):
        loss = net(x, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net(x, noise)["loss"].item() < 0.1 * first

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, scaled_dot_product_attention

from medvit.nets.attention import Attention, PlainAttention, split
from medvit.nets.vit import Block, ViT, cut_patches, resample_positions, sincos_positions


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**changes: object) -> ViT:
    torch.manual_seed(0)
    return ViT(**{"image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 4, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "heads", "count"), [(384, 6, 21_671_054), (768, 12, 85_809_422)])
def test_classifiers_of_14_labels_have_the_published_number_of_parameters(width: int, heads: int, count: int) -> None:
    with torch.device("meta"):
        assert parameters(ViT(width=width, heads=heads, classes=14, pool="mean")) == count


def test_the_class_token_stands_at_position_zero() -> None:
    assert not sincos_positions(32, (3, 5))[0, 0].any()


def test_the_first_half_of_a_position_tells_the_column_and_the_second_the_row() -> None:
    table = sincos_positions(32, (3, 5))[0, 1:].reshape(3, 5, 32)
    column, row = table[..., :16], table[..., 16:]
    assert torch.equal(column, column[:1].expand(3, 5, 16))
    assert torch.equal(row, row[:, :1].expand(3, 5, 16))
    torch.testing.assert_close(column[0, 3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(row[2, 0, 8], torch.tensor(2.0).cos())


def test_positions_of_a_width_that_four_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(30, (2, 2))


@pytest.mark.parametrize("new", [(6, 6), (3, 7), (2, 2)])
def test_resampled_positions_keep_the_class_token_and_fit_the_new_grid(new: tuple[int, int]) -> None:
    positions = torch.randn(1, 17, 8)
    resampled = resample_positions(positions, (4, 4), new)
    assert resampled.shape == (1, 1 + new[0] * new[1], 8)
    assert torch.equal(resampled[:, 0], positions[:, 0])


def test_resampling_keeps_rows_and_columns_apart_on_a_grid_that_is_not_square() -> None:
    positions = torch.zeros(1, 17, 1)
    positions[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)  # every token holds its row
    plane = resample_positions(positions, (4, 4), (8, 2))[0, 1:, 0].reshape(8, 2)
    assert torch.equal(plane[:, 0], plane[:, 1])
    assert (plane[:, 0].diff() > 0).all()


def test_positions_stay_as_they_are_on_their_own_grid() -> None:
    positions = torch.randn(1, 17, 8)
    assert resample_positions(positions, (4, 4), (4, 4)) is positions


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 40)])
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_images_of_any_size_that_patches_divide_are_classified(size: tuple[int, int], pool: str) -> None:
    assert tiny(classes=3, pool=pool)(torch.randn(2, 3, *size)).shape == (2, 3)


def test_images_that_patches_do_not_divide_are_refused_with_their_size() -> None:
    with pytest.raises(ValueError, match="30 x 32"):
        tiny()(torch.randn(1, 3, 30, 32))


@pytest.mark.parametrize("wrong", [{"image_size": 30}, {"heads": 5}])
def test_sizes_that_do_not_divide_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must divide"):
        tiny(**wrong)


def test_patches_embedded_as_a_matrix_product_equal_the_convolution_of_published_weights() -> None:
    net, x = tiny(), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net.patches(x), net.patch_embed.proj(x).flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_patches_are_cut_row_by_row() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert cut_patches(x, 2)[0, 1].tolist() == [2, 3, 6, 7]


def test_a_network_without_head_gives_features_and_the_last_blocks_when_asked() -> None:
    net, x = tiny(), torch.randn(2, 3, 32, 32)
    outputs = net.encode(net.place(net.patches(x), net.grid), last=2)
    assert [tuple(t.shape) for t in outputs] == [(2, 17, 32)] * 2
    torch.testing.assert_close(net(x), outputs[-1][:, 0])


def test_attention_weights_sum_to_one_and_take_part_in_the_gradient() -> None:
    net, x, trace = tiny(classes=3), torch.randn(2, 3, 32, 32), []  # type: ignore[var-annotated]
    logits = net(x, trace)
    assert [tuple(weights.shape) for weights in trace] == [(2, 4, 17, 17)] * 2
    for weights, gradient in zip(trace, torch.autograd.grad(logits.sum(), trace), strict=True):
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 17))
        assert gradient.abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(net.attention(x), trace, strict=True))


def test_tracing_attention_does_not_change_the_answer() -> None:
    net, x = tiny(classes=3), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x, []), net(x))


def test_attention_trained_in_bfloat16_is_as_near_to_float32_as_the_fused_one() -> None:
    torch.manual_seed(0)
    layer, x = Attention(64, 4), torch.randn(2, 50, 64)
    q, k, v = layer.qkv(x).reshape(2, 50, 3, 4, 16).permute(2, 0, 3, 1, 4)
    exact = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 50, 64)
    exact = layer.proj(exact).detach()

    def error(training: bool) -> float:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            difference: Tensor = layer(layer.qkv(x)).float() - exact
            return float(difference.norm().item() / exact.norm().item())

    assert error(True) < 2 * error(False) < 0.02


@pytest.mark.parametrize("first", [0, 7])
def test_the_gradient_of_attention_trained_in_bfloat16_is_that_of_float32(first: int) -> None:
    torch.manual_seed(0)
    qkv, upstream = torch.randn(6, 20, 3, 2, 8), torch.randn(6, 20 - first, 2, 8)

    def gradient(dtype: torch.dtype) -> Tensor:
        leaf = qkv.to(dtype).requires_grad_()
        q, k, v = split(leaf, first)
        fused = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out = PlainAttention.apply(leaf, first) if dtype == torch.bfloat16 else fused
        (found,) = torch.autograd.grad(out, leaf, upstream.to(dtype))
        return Tensor(found).float()

    exact = gradient(torch.float32)
    assert float((gradient(torch.bfloat16) - exact).norm() / exact.norm()) < 0.01
    assert not gradient(torch.bfloat16)[:, :first, 0].any()


def test_dropping_paths_keeps_the_expectation_and_ends_with_training() -> None:
    torch.manual_seed(0)
    block, x = Block(16, 2, drop_path=0.5), torch.randn(1, 5, 16)
    branch = torch.ones(4000, 1, 1)
    dropped = block.train()._drop(branch)
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    undropped = copy.deepcopy(block)
    undropped.drop_path = 0.0
    assert torch.equal(block.eval()(x), undropped(x))


def test_dropping_paths_grows_linearly_from_none_to_the_rate_given() -> None:
    assert [block.drop_path for block in tiny(depth=3, drop_path=0.2).blocks] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize("learn", [True, False])
def test_positions_receive_a_gradient_only_where_they_are_learned(learn: bool) -> None:
    net = tiny(classes=2, learn_positions=learn)
    torch.autograd.backward(net(torch.randn(2, 3, 32, 32)).sum())
    assert (net.pos_embed.grad is not None) is learn


def test_the_unused_class_token_position_of_a_mean_pooled_network_is_not_averaged() -> None:
    net, x = tiny(pool="mean"), torch.randn(2, 3, 32, 32)
    tokens = net.encode(net.place(net.patches(x), net.grid))[-1]
    torch.testing.assert_close(net(x), net.fc_norm(tokens[:, 1:].mean(1)))


def test_a_classifier_overfits_eight_images() -> None:
    net = tiny(classes=3, pool="mean").train()
    x, y = torch.randn(8, 3, 32, 32), torch.randint(0, 2, (8, 3)).float()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(60):
        loss = binary_cross_entropy_with_logits(net(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss.item() < 0.05
    assert ((net(x) > 0) == y.bool()).all()

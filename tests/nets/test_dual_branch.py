"""DB-SAM: SAM's frozen encoder with a convolution branch, in the paper's variant and the release's."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.nets.branch_fusion import PlaceAndChannelFusion, SoftmaxFusion, TokenFusion
from medvit.nets.deformable import CrossBlock, DeformableAttention
from medvit.nets.dual_branch import (
    DECODER,
    BatchNorm,
    ChannelAttention,
    DualBranchEncoder,
    Stem,
    Variant,
    train_only,
    trained_and_frozen,
)
from medvit.nets.sam import Sam, mask_loss, small, vit_b
from medvit.weights import load
from medvit.weights_sam import sam

VARIANTS = get_args(Variant)
FROZEN = 88_889_676  # encoder without neck, and prompt encoder
NECK_AND_DECODER = 787_456 + 4_058_340
SIDE = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(seed: int = 0, **options: Any) -> Sam:
    """A small network; with options of `DualBranchEncoder` a DB-SAM, without them SAM."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2, "everywhere": (0, 1), "window": 3, "channels": 16}
    encoder = {"encoder": partial(DualBranchEncoder, **options)} if options else {}
    return small(SIDE, 16, **sizes, **encoder).eval()


def images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_the_parts_have_as_many_parameters_as_the_release() -> None:
    with torch.device("meta"):
        assert parameters(ChannelAttention(768)) == 893_184
        assert [parameters(CrossBlock(768, 12, maps)) for maps in (1, 4, 5)] == [6_049_680, 6_381_888, 6_492_624]
        assert [parameters(Stem(768, halvings)) for halvings in range(4)] == [2_220_416] * 4
        merge = 4 * 768 * 768 + 768
        assert parameters(PlaceAndChannelFusion(768, 4)) == 4_824_704 + merge
        unused = 2 * 768 * 64 + 2 * 64  # the bottleneck that nothing uses
        assert parameters(SoftmaxFusion(768, 4)) == 5_314_560 - unused


@pytest.mark.parametrize(
    ("variant", "adapter"),
    [
        ("paper", 54_388_864),
        ("release", 69_366_976),
        ("release_plus", 66_043_392),
        ("attention", 4 * 893_184),
        ("unfused", 4 * 893_184 + 2_220_416 + 7 * 6_049_680),
    ],
)
def test_adapters_neck_and_decoder_are_trained_and_the_rest_is_frozen(variant: str, adapter: int) -> None:
    with torch.device("meta"):
        net = vit_b(encoder=partial(DualBranchEncoder, variant=variant))
    train_only(net)
    assert trained_and_frozen(net) == (adapter + NECK_AND_DECODER, FROZEN)
    frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"image_encoder", "prompt_encoder"}


def test_the_decoder_alone_is_trained_as_in_the_first_medsam() -> None:
    with torch.device("meta"):
        net = vit_b()
    train_only(net, DECODER)
    assert trained_and_frozen(net) == (4_058_340, 93_735_472 - 4_058_340)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channel_attention", ["before", "after"])
def test_a_network_that_starts_as_sam_answers_exactly_as_sam(variant: str, channel_attention: str) -> None:
    plain, dual = tiny(), tiny(1, variant=variant, start="sam", channel_attention=channel_attention)
    state = dual.state_dict() | plain.state_dict()
    dual.load_state_dict(state)
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [10.0, 2.0, 60.0, 30.0]])
    with torch.no_grad():
        ours, theirs = dual(images(), boxes), plain(images(), boxes)
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.quality, theirs.quality)
        dual.train()  # dropout and dropped paths have nothing to drop
        assert torch.equal(dual.embed(images()), plain.embed(images()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_starts_as_the_release_does_not(variant: str) -> None:
    plain, dual = tiny(), tiny(1, variant=variant)
    dual.load_state_dict(dual.state_dict() | plain.state_dict())
    with torch.no_grad():
        assert (dual.embed(images()) - plain.embed(images())).abs().max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("start", ["release", "sam"])
def test_one_step_moves_what_is_trained_and_nothing_that_is_frozen(variant: str, start: str) -> None:
    net = tiny(variant=variant, start=start, drop=0.0).train()
    train_only(net)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=10.0)
    truth = torch.zeros(2, 1, 16, 16)
    truth[:, :, 4:9, 3:12] = 1
    mask_loss(net(images(), torch.tensor([[8.0, 12.0, 50.0, 40.0]] * 2)).logits, truth).backward()
    optimizer.step()
    moved = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert all(name.startswith(("image_encoder.adapter.", "image_encoder.neck.", "mask_decoder.")) for name in moved)
    assert any(name.startswith("image_encoder.adapter.") for name in moved)
    if start == "sam" and net.image_encoder.adapter.fusion is not None:
        assert "image_encoder.adapter.gate" in moved


@pytest.mark.parametrize("variant", VARIANTS)
def test_computing_again_in_the_backward_pass_gives_the_same_gradients(variant: str) -> None:
    gradients = []
    for recompute in (False, True):
        net = tiny(variant=variant, recompute=recompute)
        train_only(net)
        net.embed(images()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_of_another_size_are_embedded(variant: str) -> None:
    assert tiny(variant=variant).embed(images(1, 96)).shape == (1, 16, 6, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_of_sam_load_strictly_around_the_adapters(tmp_path: Path, variant: str) -> None:
    plain, dual = tiny(), tiny(1, variant=variant)
    fresh = dual.image_encoder.get_submodule("adapter").state_dict()
    fresh = {key: value.clone() for key, value in fresh.items()}
    torch.save(plain.state_dict(), tmp_path / "sam.pth")
    load(dual, tmp_path / "sam.pth", sam, new=["image_encoder.adapter."])
    state = dual.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    assert all(torch.equal(state[f"image_encoder.adapter.{key}"], value) for key, value in fresh.items())
    with pytest.raises(MedvitError, match=r"missing: image_encoder\.adapter"):
        load(dual, tmp_path / "sam.pth", sam)


def test_blocks_that_end_without_one_that_attends_everywhere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0\], must end with the last, 1"):
        DualBranchEncoder(SIDE, 16, 24, 2, 2, everywhere=(0,))


def test_a_variant_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="'papers' is none of paper, release, release_plus"):
        tiny(variant="papers")


def test_each_side_sees_the_other_as_it_was_before() -> None:
    adapter = tiny(variant="paper", start="release").image_encoder.get_submodule("adapter")
    vit, conv = torch.randn(1, 4, 4, 24), torch.randn(1, 4, 4, 24)
    attended = adapter.channels[0](vit)  # type: ignore[index,operator]
    (wanted_vit,) = adapter.to_vit[0]([attended], [conv])  # type: ignore[index,operator]
    (wanted_conv,) = adapter.to_conv[0]([conv], [attended])  # type: ignore[index,operator]
    found_vit, found_conv = adapter.exchange(0, vit, conv)  # type: ignore[operator]
    assert torch.equal(found_vit, wanted_vit)
    assert torch.equal(found_conv, wanted_conv)


def test_fusion_takes_a_share_of_the_vit_and_the_rest_of_the_convolution_branch() -> None:
    fusion = TokenFusion(24)
    vit, conv = torch.randn(1, 2, 2, 24), torch.randn(1, 2, 2, 24)
    share = (fusion.of_vit(vit) + fusion.of_conv(conv)).sigmoid()
    torch.testing.assert_close(fusion(vit, [conv]), conv + share * (vit - conv))
    for part in fusion.parameters():
        nn.init.zeros_(part)
    nn.init.constant_(fusion.of_vit[2].bias, 50.0)
    torch.testing.assert_close(fusion(vit, [conv]), vit)


def by_hand(attention: DeformableAttention, asking: Tensor, seen: list[Tensor]) -> Tensor:
    """Deformable attention of one sample by loops: every head, token, map and point, bilinear by four neighbours."""
    _, H, W, D = asking.shape
    heads, size = attention.heads, D // attention.heads
    out = torch.zeros(H, W, D)
    values = [attention.value_proj(x)[0] for x in seen]
    for i in range(H):
        for j in range(W):
            shape = (heads, attention.maps, attention.points)
            offsets = attention.offsets(asking[0, i, j]).reshape(*shape, 2)
            weights = attention.weights(asking[0, i, j]).reshape(heads, -1).softmax(-1).reshape(shape)
            for h in range(heads):
                for m, value in enumerate(values):
                    for p in range(attention.points):
                        rows, columns = value.shape[:2]
                        x = (j + 0.5) / W * columns + float(offsets[h, m, p, 0]) - 0.5
                        y = (i + 0.5) / H * rows + float(offsets[h, m, p, 1]) - 0.5
                        part = slice(h * size, (h + 1) * size)
                        for row in (int(y // 1), int(y // 1) + 1):
                            for column in (int(x // 1), int(x // 1) + 1):
                                if 0 <= row < rows and 0 <= column < columns:
                                    near = (1 - abs(y - row)) * (1 - abs(x - column))
                                    out[i, j, part] += weights[h, m, p] * near * value[row, column, part]
    answer: Tensor = attention.output_proj(out)[None]
    return answer


def test_deformable_attention_equals_loops_over_heads_tokens_maps_and_points() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, maps=2, points=3)
    for part in (attention.offsets, attention.weights):
        nn.init.normal_(part.weight)
    asking, seen = torch.randn(1, 3, 4, 8), [torch.randn(1, 3, 4, 8), torch.randn(1, 5, 2, 8)]
    with torch.no_grad():
        found = attention(asking, [attention.values(x) for x in seen])
        torch.testing.assert_close(found, by_hand(attention, asking, seen))


def test_deformable_attention_without_offsets_is_plain_sampling() -> None:
    attention = DeformableAttention(8, 2)
    nn.init.zeros_(attention.offsets.bias)
    asking, seen = torch.randn(1, 3, 3, 8), torch.randn(1, 3, 3, 8)
    wanted = attention.output_proj(attention.value_proj(seen))
    torch.testing.assert_close(attention(asking, [attention.values(seen)]), wanted)


def test_heads_look_in_directions_of_their_own_and_ever_farther() -> None:
    offsets = DeformableAttention(16, 4).offsets.bias.reshape(4, 4, 2)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[:, None] * torch.arange(1.0, 5)[:, None]
    torch.testing.assert_close(offsets, wanted)


def test_statistics_of_a_short_training_are_those_of_its_batches() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(2).train()
    batches = [torch.randn(8, 2, 4, 4) * 3 + 5 for _ in range(30)]
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0))
    for _ in range(90):
        norm(batches[0])
    before = norm.running_mean.clone()
    norm(batches[1])
    torch.testing.assert_close(norm.running_mean, 0.99 * before + 0.01 * batches[1].mean((0, 2, 3)))
    norm.eval()(batches[2])
    torch.testing.assert_close(norm.running_mean, 0.99 * before + 0.01 * batches[1].mean((0, 2, 3)))

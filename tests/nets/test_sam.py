"""Segment Anything: the published network, under its names and with its arithmetic, and what it does at other sizes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.nets import sam_encoder
from medvit.nets.sam import PIXEL_MEAN, PIXEL_STD, Sam, mask_loss, normalise, small, vit_b
from medvit.nets.sam_encoder import (
    SamEncoder,
    WindowAttention,
    attend_biased,
    attend_by_rows,
    attend_training,
    between,
    into_windows,
    out_of_windows,
)
from medvit.weights import load
from medvit.weights_sam import sam, sam_pixels

KEYS = 314
PARAMETERS = {"image_encoder": 89_670_912, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}
SIDE = 64  # of the tiny network's images


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(seed: int = 0, side: int = SIDE, **changes: Any) -> Sam:
    """A network whose every parameter is random, relative positions too."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "everywhere": (1,), "window": 3, "channels": 16}
    net = small(side, 8, **{**sizes, **changes})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


BOXES = torch.tensor([[5.0, 6.0, 40.0, 50.0], [10.0, 2.0, 60.0, 30.0], [0.0, 0.0, 20.0, 63.0]])


def test_the_base_network_has_the_published_keys_and_parameters() -> None:
    with torch.device("meta"):
        net = vit_b()
    assert len(net.state_dict()) == KEYS
    assert sum(parameter.numel() for parameter in net.parameters()) == sum(PARAMETERS.values()) == 93_735_472
    for name, count in PARAMETERS.items():
        assert sum(parameter.numel() for parameter in net.get_submodule(name).parameters()) == count


def test_windowed_blocks_know_27_steps_and_the_others_127() -> None:
    with torch.device("meta"):
        blocks = vit_b().image_encoder.blocks
    steps = [block.attn.rel_pos_h.shape[0] for block in blocks]  # type: ignore[union-attr]
    assert steps == [27, 27, 127] * 4


def test_attention_that_trains_equals_attention_with_a_bias_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 20, n, requires_grad=True) for n in (8, 8, 8, 4, 5)]
    answers = [attend(*given) for attend in (attend_biased, attend_training)]
    torch.testing.assert_close(*answers)
    weight = torch.randn_like(answers[0])
    ours, theirs = (torch.autograd.grad((answer * weight).sum(), given) for answer in answers)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_few_queries_at_a_time_equals_attention_of_all(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_encoder, "AT_ONCE", 7 * 20)  # 20 tokens, seven at a time, six at last
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 20, n).to(dtype) for n in (8, 8, 8, 4, 5)]
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(attend_by_rows(*given), attend_biased(*given), rtol=tolerance, atol=tolerance)


def test_large_maps_are_embedded_alike_with_and_without_gradients() -> None:
    net = tiny()
    pictures = images(1, side=200)  # 625 tokens
    with torch.no_grad():
        found = net.embed(pictures)
    torch.testing.assert_close(found, net.embed(pictures).detach(), rtol=1e-4, atol=1e-4)


def test_relative_positions_are_looked_up_by_query_minus_key() -> None:
    found = between(torch.arange(5.0)[:, None], 3)[..., 0]
    assert found.tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@pytest.mark.parametrize(("grid", "count"), [((6, 6), 4), ((7, 4), 6), ((2, 3), 1)])
def test_windows_put_together_again_are_the_map(grid: tuple[int, int], count: int) -> None:
    x = torch.randn(2, *grid, 5)
    windows = into_windows(x, 3, torch.zeros(x.shape[-1]))
    assert windows.shape == (2 * count, 3, 3, 5)
    assert torch.equal(out_of_windows(windows, 3, grid), x)


def test_padding_of_a_window_is_attended_to_as_tokens_that_are_zero() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, (3, 3), window=3)
    nn.init.normal_(attention.rel_pos_h)
    x = torch.randn(1, 2, 3, 8)
    padded = torch.cat([x, torch.zeros(1, 1, 3, 8)], dim=1)
    torch.testing.assert_close(attention(x), attention(padded)[:, :2])


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (48, 80)])
def test_images_of_any_size_that_patches_divide_are_embedded_and_answered(size: tuple[int, int]) -> None:
    net = tiny()
    embedding = net.embed(torch.randn(1, 3, *size))
    assert embedding.shape == (1, 16, size[0] // 8, size[1] // 8)
    assert net.answer(embedding, BOXES).logits.shape == (3, 1, size[0] // 2, size[1] // 2)


def test_weights_loaded_for_another_image_size_answer_as_the_network_does_at_that_size(tmp_path: Path) -> None:
    net, other = tiny(), tiny(1, side=96)
    torch.save(net.state_dict(), tmp_path / "sam.pth")
    load(other, tmp_path / "sam.pth", sam)
    pictures = images(side=96)
    torch.testing.assert_close(other.embed(pictures), net.embed(pictures), rtol=1e-4, atol=1e-5)


def test_images_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="60 x 64 pixels cannot be cut into patches of 8"):
        tiny().embed(torch.randn(1, 3, 60, 64))


def test_many_prompts_about_one_image_are_answered_as_each_alone() -> None:
    net = tiny()
    embedding = net.embed(images(1))
    together = net.answer(embedding, BOXES)
    alone = [net.answer(embedding, box[None]) for box in BOXES]
    torch.testing.assert_close(together.logits, torch.cat([answer.logits for answer in alone]))
    torch.testing.assert_close(together.quality, torch.cat([answer.quality for answer in alone]))


def test_a_batch_of_images_with_a_box_each_is_answered_as_each_alone() -> None:
    net, pictures = tiny(), images(3)
    together = net(pictures, BOXES).logits
    alone = torch.cat([net(pictures[n : n + 1], BOXES[n : n + 1]).logits for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_three_masks_come_back_for_an_unclear_prompt_and_another_one_for_a_clear_one() -> None:
    net = tiny()
    embedding = net.embed(images(1))
    clear, unclear = net.answer(embedding, BOXES), net.answer(embedding, BOXES, several=True)
    assert clear.logits.shape == (3, 1, 32, 32)
    assert unclear.logits.shape == (3, 3, 32, 32)
    assert clear.quality.shape == (3, 1)
    assert unclear.quality.shape == (3, 3)
    assert not torch.isclose(unclear.quality, clear.quality).any()


def test_points_that_are_none_change_nothing_but_their_token() -> None:
    prompts = tiny().prompt_encoder
    points, labels = torch.tensor([[[3.0, 4.0], [50.0, 60.0]]]), torch.tensor([[1, -1]])
    tokens = prompts.sparse((SIDE, SIDE), points=points, labels=labels)
    assert tokens.shape == (1, 3, 16)  # and one more that is none
    assert torch.equal(tokens[0, 1], prompts.not_a_point_embed.weight[0])
    assert torch.equal(tokens[0, 2], prompts.not_a_point_embed.weight[0])


def test_points_beside_a_box_get_no_token_that_is_none() -> None:
    prompts = tiny().prompt_encoder
    tokens = prompts.sparse((SIDE, SIDE), BOXES[:1], torch.tensor([[[3.0, 4.0]]]), torch.tensor([[0]]))
    assert tokens.shape == (1, 3, 16)
    torch.testing.assert_close(tokens[:, 1:], prompts.sparse((SIDE, SIDE), BOXES[:1]))


def test_a_mask_prompt_changes_the_answer() -> None:
    net = tiny()
    embedding = net.embed(images(1))
    first = net.answer(embedding, BOXES)
    again = net.answer(embedding, BOXES, masks=20 * torch.ones_like(first.logits))
    assert (first.logits - again.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "boxes, points or both"),
        ({"points": torch.zeros(1, 2, 2)}, "need labels"),
        ({"points": torch.zeros(1, 2, 2), "labels": torch.zeros(1, 3)}, "need labels"),
        ({"boxes": BOXES, "masks": torch.zeros(3, 1, 16, 16)}, "32 x 32, not"),
    ],
)
def test_prompts_that_say_too_little_are_refused(prompt: dict[str, Tensor], words: str) -> None:
    net = tiny()
    with pytest.raises(ValueError, match=words):
        net.answer(net.embed(images(1)), **prompt)


def test_maps_of_fewer_images_than_prompts_are_refused() -> None:
    net = tiny()
    with pytest.raises(ValueError, match="3 prompts need the maps of 1 or 3 images, not 2"):
        net.answer(net.embed(images(2)), BOXES)


def test_computing_again_in_the_backward_pass_gives_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = SamEncoder(SIDE, 8, 16, 2, 2, everywhere=(1,), window=3, out=8, recompute=recompute)
        net(images()).square().sum().backward()
        gradients.append(net.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_pixels_are_scaled_as_sam_or_as_medsam_wants_them() -> None:
    pictures = torch.rand(2, 3, 4, 5) * 200 + 20
    as_sam = normalise(pictures, "sam")
    for channel in range(3):
        torch.testing.assert_close(
            as_sam[:, channel], (pictures[:, channel] - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
        )
    as_medsam = normalise(pictures, "medsam")
    assert as_medsam.amin(dim=(1, 2, 3)).tolist() == [0.0, 0.0]
    assert as_medsam.amax(dim=(1, 2, 3)).tolist() == [1.0, 1.0]
    assert not normalise(torch.full((1, 3, 2, 2), 7.0), "medsam").any()


@pytest.mark.parametrize("layout", ["flat", "model", "module", "ours"])
def test_published_files_and_our_own_load_by_name(tmp_path: Path, layout: str) -> None:
    net, other = tiny(), tiny(1)
    state = net.state_dict()
    content: dict[str, Any] = {
        "flat": state,
        "model": {"model": state, "optimizer": {}, "epoch": 3},
        "module": {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        "ours": {"state_dict": {f"net.{key}": value for key, value in state.items()}},
    }[layout]
    torch.save(content, tmp_path / "weights.pth")
    load(other, tmp_path / "weights.pth", sam)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())


def test_a_file_with_a_key_too_few_and_one_too_many_is_refused_with_both_names(tmp_path: Path) -> None:
    state = dict(tiny().state_dict())
    del state["mask_decoder.iou_token.weight"]
    torch.save({**state, "mask_decoder.spare": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(
        MedvitError, match=r"missing: mask_decoder\.iou_token\.weight; .*unexpected: mask_decoder\.spare"
    ):
        load(tiny(), tmp_path / "weights.pth", sam)


def test_a_file_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save(tiny(width=32).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(MedvitError, match=r"of another shape: image_encoder\.blocks\.0"):
        load(tiny(), tmp_path / "weights.pth", sam)


@pytest.mark.parametrize(
    ("name", "content", "pixels"),
    [
        ("sam_vit_b_01ec64.pth", {}, "sam"),
        ("medsam_20230423_vit_b_0.0.1.pth", {}, "sam"),
        ("medsam_vit_b.pth", {}, "medsam"),
        ("medsam_model_best.pth", {"model": {"x": torch.zeros(1)}}, "medsam"),
    ],
)
def test_a_file_tells_how_its_pixels_were_scaled(tmp_path: Path, name: str, content: Any, pixels: str) -> None:
    torch.save(content, tmp_path / name)
    assert sam_pixels(tmp_path / name) == pixels


def test_a_file_that_does_not_tell_how_its_pixels_were_scaled_is_not_guessed_about(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "mine.pth")
    with pytest.raises(MedvitError, match="Say pixels: sam"):
        sam_pixels(tmp_path / "mine.pth")


def test_the_loss_equals_that_of_monai() -> None:
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed; nothing to compare with")
    logits, truth = torch.randn(3, 1, 9, 7) * 3, (torch.rand(3, 1, 9, 7) > 0.6).float()
    truth[1] = 0
    theirs = losses.DiceCELoss(sigmoid=True, squared_pred=True)(logits, truth)
    torch.testing.assert_close(mask_loss(logits, truth), theirs)


def discs(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy pictures of two ellipses of one brightness, a box around one of them with a margin, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    pictures, boxes, masks = [], [], []
    for _ in range(count):
        shapes = []
        for left in (0, SIDE // 2):
            radii = 6 + 7 * torch.rand(2, generator=generator)
            centre = torch.tensor([left + SIDE / 4, SIDE / 2]) + torch.tensor([4.0, 16.0]) * (
                torch.rand(2, generator=generator) - 0.5
            )
            shapes.append((((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2) < 1)
        picture = (shapes[0] | shapes[1]).float() + 0.3 * torch.randn(SIDE, SIDE, generator=generator)
        mask = shapes[int(torch.randint(2, (1,), generator=generator))]
        rows, columns = (mask.any(dim=d).nonzero() for d in (1, 0))
        box = torch.stack([columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2]).clamp(0, SIDE - 1)
        pictures.append(picture.expand(3, -1, -1))
        boxes.append(box.float())
        masks.append(mask[None])
    return torch.stack(pictures), torch.stack(boxes), torch.stack(masks)


def mean_dice(logits: Tensor, masks: Tensor) -> float:
    found = nn.functional.interpolate(logits, size=masks.shape[-2:], mode="bilinear") > 0
    met = (found & masks).flatten(1).sum(1)
    return float((2 * met / (found.flatten(1).sum(1) + masks.flatten(1).sum(1))).mean())


@pytest.mark.slow
def test_a_small_network_learns_to_segment_what_the_box_points_at() -> None:
    torch.manual_seed(0)
    net = small(SIDE, 8, 48, 2, 4, everywhere=(1,), window=4, channels=32)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    pictures, boxes, masks = discs(256, seed=1)
    truth = nn.functional.interpolate(masks.float(), size=32, mode="area")
    for step in range(120):
        batch = torch.arange(step * 16, step * 16 + 16) % len(pictures)
        loss = mask_loss(net(pictures[batch], boxes[batch]).logits, truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, boxes, masks = discs(64, seed=2)
    with torch.no_grad():
        assert mean_dice(net(pictures, boxes).logits, masks) > 0.85
        assert mean_dice(net(pictures, boxes.roll(1, 0)).logits, masks) < 0.6  # boxes of other pictures

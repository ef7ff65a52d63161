"""iBOT beyond DINO: masks, the patches' loss, both centres. That it learns is shown in test_dino.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medvit.nets.dino import Head, soften, view_loss
from medvit.nets.ibot import IBOT, block_mask, hidden_loss, random_mask
from medvit.nets.vit import ViT


def tiny(patch_out: int | None = 10, **settings: object) -> IBOT:
    torch.manual_seed(0)
    net = IBOT(ViT(32, 8, 16, 2, 2), Head(16, 12, patch_out=patch_out, hidden=16, bottleneck=8), **settings)  # type: ignore[arg-type]
    net.masked_embed.data.normal_()
    return net


def views() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 3, 3, 32, 32), torch.randn(4, 3, 3, 16, 16)]


def test_a_shared_head_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Head(768, 8192).parameters()) == 8_401_152


@pytest.mark.parametrize("patch_out", [10, None])
def test_the_loss_is_that_of_class_tokens_and_of_hidden_patches(patch_out: int | None) -> None:
    net = tiny(patch_out, class_weight=0.5, patch_weight=2.0).eval()
    net.centre.normal_()
    net.patch_centre.normal_()
    large, small = views()
    masks = torch.rand(2, 3, 16) < 0.4
    out = net([large, small], masks)
    student, teacher = net.student, net.teacher
    classes, patch_losses, given = [], [], []
    for crop, mask in zip(large, masks, strict=True):
        seen, known = net.tokens(crop, mask), teacher.backbone.tokens(crop)[-1]
        classes.append(student.head(seen[:, 0]))
        given.append(teacher.head(known[:, 0]))
        targets = soften(teacher.head.of_patches(teacher.head.directions(known[:, 1:])), net.patch_centre, 0.04)
        logits = student.head.of_patches(student.head.directions(seen[:, 1:])) / 0.1
        entropies = -(targets * logits.log_softmax(-1)).sum(-1)  # (B, N)
        patch_losses.append(((entropies * mask).sum(1) / mask.sum(1).clamp(min=1)).mean())
    classes += [student.head(student.backbone(crop)) for crop in small]
    wanted = view_loss(torch.stack(classes), soften(torch.stack(given), net.centre, 0.04), 0.1)
    torch.testing.assert_close(out["class_loss"], wanted)
    torch.testing.assert_close(out["patch_loss"], torch.stack(patch_losses).mean())
    torch.testing.assert_close(out["loss"], 0.5 * wanted + 2 * out["patch_loss"])


def test_both_centres_are_running_means_over_all_images_and_all_patches() -> None:
    net = tiny().train()
    large, _ = views()
    net([large])
    known = net.encoder.tokens(large.flatten(0, 1))[-1]
    head = net.teacher.head
    torch.testing.assert_close(net.centre, 0.1 * head(known[:, 0]).mean(0, keepdim=True))
    patches = head.of_patches(head.directions(known[:, 1:]))
    torch.testing.assert_close(net.patch_centre, 0.1 * patches.mean((0, 1), keepdim=True))


def test_hidden_patches_do_not_reach_the_student() -> None:
    net, x = tiny(), torch.randn(1, 3, 32, 32)
    mask = torch.arange(16)[None] >= 4
    changed = x.clone()
    changed[..., 8:, :] = 0
    assert torch.equal(net.tokens(x, mask), net.tokens(changed, mask))
    shown = torch.zeros(1, 16, dtype=torch.bool)
    torch.testing.assert_close(net.tokens(x, shown), net.student.backbone.tokens(x)[-1])


def test_an_image_without_hidden_patches_counts_as_zero() -> None:
    logits, targets = torch.randn(3, 5), torch.randn(3, 5).softmax(-1)
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    torch.testing.assert_close(hidden_loss(logits, targets, mask, 1.0), F.cross_entropy(logits, targets) / 2)
    none = hidden_loss(torch.zeros(0, 5, requires_grad=True), torch.zeros(0, 5), torch.zeros(2, 4) > 0, 1.0)
    assert none == 0 and none.requires_grad


def test_the_mask_token_learns_and_the_teacher_has_none() -> None:
    net = tiny()
    net(views(), torch.rand(2, 3, 16) < 0.5)["loss"].backward()
    assert net.masked_embed.grad is not None and net.masked_embed.grad.any()
    assert not any("masked_embed" in name for name in net.teacher.state_dict())
    net.after_step(0.5)


def test_a_teacher_that_shares_its_prototypes_follows_the_students_of_class_tokens() -> None:
    net = tiny(patch_out=12, teacher_shares=True)
    assert net.teacher.head.of_patches is net.teacher.head.last_layer
    assert net(views())["loss"].isfinite()
    net.after_step(0.5)
    with pytest.raises(ValueError, match="as many"):
        tiny(patch_out=10, teacher_shares=True)


def test_the_patches_temperature_warms_up_on_its_own() -> None:
    net = tiny(patch_warmup=0.5)
    net.progress = 0.25
    assert net.patch_temperature == pytest.approx(0.055)
    assert net.temperature == 0.04


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_blocks_hide_about_and_never_more_than_what_is_wanted(ratio: float) -> None:
    torch.manual_seed(0)
    hidden = torch.tensor([int(block_mask((14, 14), ratio * 196).sum()) for _ in range(200)])
    assert hidden.max() <= ratio * 196
    assert hidden.float().mean() > 0.7 * ratio * 196


def test_blocks_are_blocks_lie_anywhere_and_differ() -> None:
    torch.manual_seed(0)
    masks = torch.stack([block_mask((14, 14), 0.3 * 196) for _ in range(400)])
    neighbours = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks.sum()
    assert neighbours > 0.6  # single patches at 30 % would have 0.3
    rate = masks.float().mean(0)
    assert rate.min() > 0
    torch.testing.assert_close(rate, rate.flip(0), atol=0.12, rtol=0)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 390


def test_single_patches_are_hidden_in_the_exact_number() -> None:
    masks = torch.stack([random_mask((4, 6), 7) for _ in range(50)])
    assert masks.shape == (50, 4, 6)
    assert (masks.sum((1, 2)) == 7).all()
    assert masks.any(0).all()


def test_ratios_are_picked_and_varied_image_by_image() -> None:
    net = tiny(ratios=((0.0, 0.0), (0.5, 0.2)), blocks=False)
    counts = net.draw(torch.zeros(400, 3, 32, 32)).sum(1)
    shown = (counts == 0).float().mean()
    assert 0.4 < shown < 0.6
    varied = counts[counts > 0]
    assert varied.min() == 4 and varied.max() == 11

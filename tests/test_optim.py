"""Learning rates and weight decay, parameter by parameter and step by step."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from medvit.nets.mae import MAE
from medvit.nets.vit import ViT
from medvit.optim import clip_each, decay_by, decay_groups, layer_decay_groups, layer_of, scaled_lr, warmup_cosine

LR, DECAY, LAYER_DECAY = 1e-3, 0.05, 0.55


@pytest.fixture(scope="module")
def vit_s() -> ViT:
    with torch.device("meta"):
        return ViT(224, 16, 384, 12, 6, classes=14, pool="mean")


def settings_of(vit: ViT, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter, by name."""
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_every_parameter_of_a_vit_s_has_the_published_scale(vit_s) -> None:
    settings = settings_of(vit_s, layer_decay_groups(vit_s, LR, DECAY, LAYER_DECAY))
    assert settings.keys() == {name for name, _ in vit_s.named_parameters()}
    for name, (lr, _) in settings.items():
        if name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
            power = 13
        elif name.startswith("blocks."):
            power = 12 - int(name.split(".")[1])
        else:
            assert name in ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
            power = 0
        assert lr == pytest.approx(LR * 0.55**power, rel=1e-12), name
    assert settings["blocks.0.attn.qkv.weight"][0] == pytest.approx(LR * 0.55**12)
    assert settings["blocks.11.attn.qkv.weight"][0] == pytest.approx(LR * 0.55)
    assert settings["head.weight"][0] == LR


def test_only_matrices_decay_and_tokens_and_positions_do_not(vit_s) -> None:
    settings = settings_of(vit_s, layer_decay_groups(vit_s, LR, DECAY, LAYER_DECAY))
    for name, parameter in vit_s.named_parameters():
        matrix = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        assert settings[name][1] == (DECAY if matrix else 0), name
    assert settings["patch_embed.proj.weight"][1] == DECAY


def test_no_parameter_is_in_two_groups_and_frozen_ones_are_in_none() -> None:
    vit = ViT(32, 16, 16, 2, 2, classes=2, learn_positions=False)
    groups = layer_decay_groups(vit, LR, DECAY, LAYER_DECAY)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == sum(p.requires_grad for p in vit.parameters())
    assert id(vit.pos_embed) not in listed
    torch.optim.AdamW(groups)  # takes them


def test_layers_count_from_the_patches_to_the_head() -> None:
    assert [layer_of(name, 12) for name in ("cls_token", "patch_embed.proj.bias", "blocks.0.norm1.weight",
            "blocks.11.mlp.fc2.bias", "norm.weight", "fc_norm.bias", "head.weight")] == [0, 0, 1, 12, 13, 13, 13]  # fmt: skip


def test_pretraining_decays_matrices_only_and_leaves_fixed_positions_out() -> None:
    mae = MAE(ViT(32, 8, 16, 1, 2, learn_positions=False), 0.5, decoder_width=8, decoder_depth=1, decoder_heads=2)
    matrices, vectors = decay_groups(mae, DECAY)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (DECAY, 0)
    assert all(p.ndim > 1 for p in matrices["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert {id(p) for p in matrices["params"] + vectors["params"]} == {
        id(p) for p in mae.parameters() if p.requires_grad
    }
    assert all(p is not mae.decoder_pos_embed and p is not mae.encoder.pos_embed for p in matrices["params"])


def rates(steps: int, warmup: int, floor: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, steps, warmup, floor)
    seen = []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_rate_warms_up_from_zero_to_its_peak_and_falls_to_its_floor() -> None:
    seen = rates(100, 10, floor=0.05)
    assert seen[0] == 0
    assert seen[5] == pytest.approx(1.0)
    assert seen[10] == max(seen) == pytest.approx(2.0)
    assert seen[55] == pytest.approx(2 * (0.05 + 0.95 / 2))  # half way down the cosine
    assert seen[100] == min(seen[10:]) == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(seen[:11]))
    assert all(a > b for a, b in pairwise(seen[10:]))
    assert seen[30] == pytest.approx(2 * (0.05 + 0.95 * (1 + math.cos(math.pi * 20 / 90)) / 2))


def test_the_rate_stays_at_its_floor_after_the_end() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, 5, 1, 0.25)
    for _ in range(20):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_without_warm_up_the_rate_starts_at_its_peak() -> None:
    assert rates(10, 0, 0.0)[0] == 2.0
    assert rates(10, 0, 0.0)[10] == pytest.approx(0)


def test_layers_keep_their_ratio_through_the_schedule() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.55)]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, 20, 4, 0.1)
    for _ in range(15):
        optimizer.step()
        schedule.step()
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(0.55 * first)


def test_the_rate_scales_with_the_batch() -> None:
    assert scaled_lr(2.5e-4, 1024) == pytest.approx(1e-3)
    assert scaled_lr(1.5e-4, 256) == 1.5e-4


def test_every_gradient_is_shortened_by_its_own_norm() -> None:
    long, short, none = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    long.grad, short.grad = torch.tensor([6.0, 0, 8, 0]), torch.tensor([0.3, 0.4, 0, 0])
    clip_each([long, short, none], 3.0)
    torch.testing.assert_close(long.grad, torch.tensor([1.8, 0, 2.4, 0]), rtol=1e-5, atol=0)
    assert torch.equal(short.grad, torch.tensor([0.3, 0.4, 0, 0]))
    assert none.grad is None
    clip_each([none], 3.0)


def test_only_groups_that_decay_take_another_weight_decay() -> None:
    groups = decay_groups(nn.Linear(2, 2), DECAY)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    decay_by(optimizer, 0.4)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.4, 0]

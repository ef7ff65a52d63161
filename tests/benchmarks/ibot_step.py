"""How long an iBOT step takes, beside a ViT of transformers trained as the release writes it, and beside our own without care.

``python tests/benchmarks/ibot_step.py [--turns 5] [--batch 4] [--fp32]``

transformers has no iBOT, but a ViT with a mask token; round it stand the head and the loss as the paper and its release have
them: every patch of both networks is projected on all prototypes, the pairs of views are gone through one by one. The other
side is our own network with attention as softmax(q k / sqrt d) v and an unfused AdamW. All sides start from the same weights
and take the same crops and masks in turns in one process; that they compute the same loss is checked in fp32 first. Seconds are
those of processors, of all threads, which a busy machine changes little. A ratio is that of one turn, above 1 medvit is the
faster. bf16 where this processor multiplies it, as `medvit train` would with `precision: bf16-mixed`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from training_step import SMALL, autocast, fast_bf16

from medvit.memory import keep_memory
from medvit.nets.dino import Head
from medvit.nets.ibot import IBOT
from medvit.nets.vit import ViT
from medvit.optim import decay_groups

sys.path.insert(0, str(Path(__file__).parents[1]))
from transformers_names import their_names

FUSED = F.scaled_dot_product_attention
PROTOTYPES, STUDENT, TEACHER, MOMENTUM = 8_192, 0.1, 0.04, 0.996


class Side(NamedTuple):
    """What a user of either library trains: a loss of crops and masks, and what happens then."""

    loss: Callable[[list[Tensor], Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    after: Callable[[], None]
    attention: Callable[..., Tensor] = FUSED


class Plain(nn.Module):
    """iBOT round a ViT of transformers, head and loss as the release has them."""

    def __init__(self, ours: IBOT) -> None:
        super().__init__()
        config = transformers.ViTConfig(**SMALL)
        vit = transformers.ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        named = their_names(ours.student.backbone.state_dict())
        state = {name.removeprefix("vit."): value for name, value in named.items()}
        state["embeddings.mask_token"] = ours.masked_embed[None]
        vit.load_state_dict(state)
        self.student = nn.ModuleDict({"vit": vit, "head": deepcopy(ours.student.head)})
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, PROTOTYPES))
        self.register_buffer("patch_centre", torch.zeros(1, 1, PROTOTYPES))

    def forward(self, views: list[Tensor], masks: Tensor) -> Tensor:
        large = views[0].flatten(0, 1)
        count = len(views[0])
        with torch.no_grad():
            given = self.answers(self.teacher, large)
        seen = self.answers(self.student, large, masks.flatten(0, 1))
        small = [self.answers(self.student, crop)[:, 0] for crop in views[1]]
        classes = [*seen[:, 0].chunk(count), *small]
        targets = ((given[:, 0] - self.centre) / TEACHER).softmax(dim=-1).chunk(count)
        hidden = ((given[:, 1:] - self.patch_centre) / TEACHER).softmax(dim=-1).chunk(count)
        patches, total, pairs, held = seen[:, 1:].chunk(count), 0.0, 0, 0.0
        for q in range(count):
            for v, one in enumerate(classes):
                if v == q:
                    each = (-hidden[q] * (patches[v] / STUDENT).log_softmax(dim=-1)).sum(dim=-1)  # (B, N)
                    held = held + ((each * masks[v]).sum(dim=-1) / masks[v].sum(dim=-1).clamp(min=1)).mean()
                else:
                    total = total + (-targets[q] * (one / STUDENT).log_softmax(dim=-1)).sum(dim=-1).mean()
                    pairs += 1
        with torch.no_grad():
            self.centre.lerp_(given[:, 0].mean(dim=0, keepdim=True), 0.1)
            self.patch_centre.lerp_(given[:, 1:].mean(dim=1).mean(dim=0)[None, None], 0.1)
        return total / pairs + held / count

    def answers(self, branch: nn.ModuleDict, images: Tensor, masks: Tensor | None = None) -> Tensor:
        tokens = branch["vit"](images, bool_masked_pos=masks, interpolate_pos_encoding=True).last_hidden_state
        return Tensor(branch["head"](tokens).float())

    @torch.no_grad()
    def follow(self) -> None:
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.mul_(MOMENTUM).add_((1 - MOMENTUM) * student)


def written_out(q: Tensor, k: Tensor, v: Tensor, *unused: object, **named: object) -> Tensor:
    """Attention as it is written in papers."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def sides() -> dict[str, Side]:
    torch.manual_seed(0)
    net = IBOT(ViT(224, 16, 384, 12, 6), Head(384, PROTOTYPES), patch_temperature=TEACHER)
    careless, plain = deepcopy(net), Plain(net)

    def own(of: IBOT, fused: bool, attention: Callable[..., Tensor]) -> Side:
        optimizer = torch.optim.AdamW(decay_groups(of, 0.04), 1e-4, fused=fused, foreach=False)
        return Side(lambda views, masks: of(views, masks)["loss"], optimizer, lambda: of.after_step(0.0), attention)

    return {
        "medvit": own(net, True, FUSED),
        "transformers": Side(plain, torch.optim.AdamW(plain.student.parameters(), 1e-4), plain.follow),
        "without fused attention": own(careless, False, written_out),
    }


def step(side: Side, views: list[Tensor], masks: Tensor, cast: AbstractContextManager[object]) -> tuple[float, float]:
    """Processor seconds of a step, and its loss."""
    started = time.process_time()
    with patch("torch.nn.functional.scaled_dot_product_attention", side.attention):
        with cast:
            loss = side.loss(views, masks)
        side.optimizer.zero_grad()
        loss.backward()
        side.optimizer.step()
        side.after()
    return time.process_time() - started, float(loss.detach())


def main() -> None:
    """Turns of all sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--fp32", action="store_true")
    arguments = parser.parse_args()
    keep_memory()  # as `medvit train` does
    all_sides = sides()
    torch.manual_seed(1)
    views = [torch.randn(2, arguments.batch, 3, 224, 224), torch.randn(2, arguments.batch, 3, 96, 96)]
    masks = IBOT.draw(_masker(), views[0].flatten(0, 1)).unflatten(0, (2, arguments.batch))
    first = {name: step(side, views, masks, nullcontext())[1] for name, side in all_sides.items()}
    if max(first.values()) - min(first.values()) > 1e-2 * abs(
        first["medvit"]
    ):  # positions of small crops differ a little
        raise SystemExit(f"They do not compute the same: losses {first}.")
    took: dict[str, list[float]] = {name: [] for name in all_sides}
    for turn in range(arguments.turns + 1):
        for name in sorted(all_sides, reverse=bool(turn % 2)):
            seconds, _ = step(all_sides[name], views, masks, nullcontext() if arguments.fp32 else autocast())
            if turn:  # the first one warms up
                took[name].append(seconds)
    print(
        f"ViT-S/16, 2 x 224 and 2 x 96 crops of {arguments.batch} images, {PROTOTYPES} prototypes, "
        f"{'fp32' if arguments.fp32 or not fast_bf16() else 'bf16'}, {torch.get_num_threads()} threads; losses {first}"
    )
    print(f"medvit {statistics.median(took['medvit']):.2f} s of processor time a step")
    for name in list(all_sides)[1:]:
        ratios = [theirs / ours for theirs, ours in zip(took[name], took["medvit"], strict=True)]
        print(f"  {name} / medvit {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _masker() -> IBOT:
    return IBOT(ViT(224, 16, 24, 1, 3), Head(24, 8, hidden=8, bottleneck=4))


if __name__ == "__main__":
    main()

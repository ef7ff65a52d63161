"""How long an iBOT step takes: ``python tests/benchmarks/ibot_step.py [--turns 5] [--batch 8]``.

Neither lightly nor transformers has iBOT as a whole for ViT-S at hand here, so the ratio is against our own network computed
plainly: attention as softmax(q k / sqrt d) v with its matrix in memory, and an unfused AdamW. Both sides take the same weights,
crops and masks in turns in one process and must give the same loss; both compute in fp32. Above 1 medvit is the faster.
"""

import argparse
import statistics
import time
from unittest.mock import patch

import torch
from torch import Tensor

from medvit.nets.dino import Head
from medvit.nets.ibot import IBOT
from medvit.nets.vit import ViT
from medvit.optim import decay_groups

FUSED = torch.nn.functional.scaled_dot_product_attention


def plain(q: Tensor, k: Tensor, v: Tensor, *unused: object, **named: object) -> Tensor:
    """Attention as it is written in papers."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def step(net: IBOT, optimizer: torch.optim.Optimizer, views: list[Tensor], masks: Tensor) -> tuple[float, float]:
    """Seconds of a step, and its loss."""
    started = time.perf_counter()
    loss = net(views, masks)["loss"]
    optimizer.zero_grad()
    loss.backward()
    net.before_step()
    optimizer.step()
    net.after_step(0.0)
    return time.perf_counter() - started, float(loss)


def main() -> None:
    """Turns of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    sides = []
    for fused in (True, False):
        torch.manual_seed(0)
        net = IBOT(ViT(224, 16, 384, 12, 6), Head(384, 8_192))
        sides.append((net, torch.optim.AdamW(decay_groups(net, 0.04), 1e-4, fused=fused, foreach=False)))
    torch.manual_seed(1)
    views = [torch.randn(2, arguments.batch, 3, 224, 224), torch.randn(2, arguments.batch, 3, 96, 96)]
    masks = sides[0][0].draw(views[0].flatten(0, 1)).unflatten(0, (2, arguments.batch))
    ratios, ours = [], []
    for turn in range(arguments.turns + 1):
        took, losses = {}, {}
        for which in (0, 1) if turn % 2 else (1, 0):
            with patch("torch.nn.functional.scaled_dot_product_attention", FUSED if which == 0 else plain):
                torch.manual_seed(turn)
                took[which], losses[which] = step(*sides[which], views, masks)
        if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[1]):
            raise SystemExit(f"The two do not compute the same: losses {losses[0]} and {losses[1]}.")
        if turn:  # the first one warms up
            ratios.append(took[1] / took[0])
            ours.append(took[0])
    print(
        f"ViT-S/16, 2 x 224 and 2 x 96 crops of {arguments.batch} images, 8192 prototypes, {torch.get_num_threads()} threads"
    )
    print(f"medvit {statistics.median(ours):.2f} s a step; plain / medvit {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()

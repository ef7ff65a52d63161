"""How long one training step takes, beside the same network from transformers.

``python tests/benchmarks/training_step.py [--steps N] [--batch B] [--one-process] [mae|finetune]``

A step is forward, backward, optimiser step and clearing the gradients. Each side runs in a process of its own, as its user
would run it, one waiting while the other works: the same images, the same sizes, the same autocast, the order of a turn
alternating. A ratio is transformers / medvit of one turn, so above 1 medvit is the faster. With ``--one-process`` both
share this process and medvit's memory setting, which leaves the difference of the networks alone. Each side gets the
optimiser its user would write: `torch.optim.AdamW` with its defaults for transformers; decay groups and ``fused=True`` for
medvit. What the optimiser adds is visible in the rows ``network`` (forward and backward alone) and ``optimiser``.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW, Optimizer

from medvit.memory import keep_memory
from medvit.nets.mae import MAE
from medvit.nets.vit import ViT
from medvit.optim import decay_groups

LABELS = 14
LR = 1e-4
WEIGHT_DECAY = 0.05
MASK_RATIO = 0.9
SMALL: dict[str, Any] = {
    "image_size": 224, "patch_size": 16, "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
    "intermediate_size": 1536, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "attn_implementation": "sdpa",
}  # fmt: skip
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
}  # fmt: skip
LABELLED: dict[str, Any] = {"num_labels": LABELS, "problem_type": "multi_label_classification"}


class Side(NamedTuple):
    """A network as one of the two libraries' users trains it."""

    loss: Callable[[Tensor, Tensor], Tensor]  # of images (B, C, H, W) and labels (B, K)
    net: nn.Module
    optimizer: Optimizer


class Seconds(NamedTuple):
    network: float
    optimiser: float

    @property
    def step(self) -> float:
        return self.network + self.optimiser


def medvit_side(what: str) -> Side:
    net: nn.Module
    if what == "mae":
        mae = net = MAE(ViT(learn_positions=False), MASK_RATIO)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return Tensor(mae(x)["loss"])
    else:
        net = ViT(classes=LABELS, pool="mean", drop_path=0.0)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return binary_cross_entropy_with_logits(net(x).float(), y)

    return Side(loss, net, AdamW(decay_groups(net, WEIGHT_DECAY), LR, fused=True))


def transformers_side(what: str) -> Side:
    net: nn.Module
    if what == "mae":
        net = transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(**SMALL, **DECODER, mask_ratio=MASK_RATIO, norm_pix_loss=False)
        )

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return Tensor(net(pixel_values=x).loss)
    else:
        net = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **LABELLED))

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return Tensor(net(pixel_values=x, labels=y).loss)

    return Side(loss, net.train(), AdamW(net.parameters(), LR))


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if fast_bf16() else nullcontext()


def step(side: Side, x: Tensor, y: Tensor) -> Seconds:
    start = time.perf_counter()
    with autocast():
        loss = side.loss(x, y)
    loss.backward()  # type: ignore[no-untyped-call]
    middle = time.perf_counter()
    side.optimizer.step()
    side.optimizer.zero_grad(set_to_none=True)
    return Seconds(middle - start, time.perf_counter() - middle)


def serve(turns: Connection, name: str, what: str, batch: int) -> None:
    """One side in its own process: a step for every message."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, 224, 224), torch.randint(0, 2, (batch, LABELS)).float()
    if name == "medvit":
        keep_memory()  # as `medvit train` does
    side = medvit_side(what) if name == "medvit" else transformers_side(what)
    with suppress(EOFError):  # the other end is gone: done
        while turns.recv():
            turns.send(step(side, x, y))


def together(what: str, batch: int) -> Callable[[int], Seconds]:
    """A step of either side, both in this process and with the memory setting of `medvit train`."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, 224, 224), torch.randint(0, 2, (batch, LABELS)).float()
    keep_memory()
    sides = medvit_side(what), transformers_side(what)
    return lambda index: step(sides[index], x, y)


def apart(what: str, batch: int) -> Callable[[int], Seconds]:
    """A step of either side, each in a process of its own that ends with this one."""
    context, ends = get_context("spawn"), []
    for name in ("medvit", "transformers"):
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, name, what, batch), daemon=True).start()
        ends.append(here)

    def one(index: int) -> Seconds:
        ends[index].send("step")
        return Seconds(*ends[index].recv())

    return one


def compare(one: Callable[[int], Seconds], steps: int, warm_up: int = 2) -> list[tuple[Seconds, Seconds]]:
    """Seconds of (medvit, transformers) in every turn after the warm-up."""
    turns = []
    for turn in range(warm_up + steps):
        seconds = {index: one(index) for index in ((0, 1) if turn % 2 else (1, 0))}
        turns.append((seconds[0], seconds[1]))
    return turns[warm_up:]


def report(what: str, turns: list[tuple[Seconds, Seconds]]) -> None:
    print(f"{what}: medians of {len(turns)} turns")
    for part in ("network", "optimiser", "step"):
        ours, theirs = ([getattr(turn[side], part) for turn in turns] for side in (0, 1))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        print(
            f"  {part:<9}  medvit {statistics.median(ours):.3f} s  transformers {statistics.median(theirs):.3f} s"
            f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("mae", "finetune"), help="both where not given")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one-process", action="store_true", help="both sides in this process")
    given = parser.parse_args()
    precision = "bfloat16 autocast" if fast_bf16() else "float32 (no bfloat16 arithmetic in this CPU)"
    print(
        f"ViT-S/16, 224 px, batch {given.batch}, {precision}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}")
    for what in (given.what,) if given.what else ("mae", "finetune"):
        one = together(what, given.batch) if given.one_process else apart(what, given.batch)
        report(what, compare(one, given.steps))


if __name__ == "__main__":
    main()

"""How long SAM takes to embed an image and to answer a prompt, beside transformers' `SamModel`.

``python tests/benchmarks/sam_latency.py [--rounds N] [--boxes P] [--size PIXELS] [--memory]``

Both have the same random weights of the base network and work in one process, turn about. medvit runs in bfloat16 where the
processor multiplies it, as its user would run it; transformers in float32, its default, and in bfloat16 too. A ratio is
transformers / medvit of one turn, so above 1 medvit is the faster; the median of the turns is printed, of seconds on the
clock and of seconds of processor time, which others on the same machine disturb less. With ``--memory`` one
training step of DB-SAM at that size is measured instead: seconds and the most memory held.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import Tensor

from medvit.nets.dual_branch import DualBranchEncoder, train_only, trained_and_frozen
from medvit.nets.sam import Sam, mask_loss, vit_b
from medvit.weights import fit
from medvit.weights_sam import sam

BF16_LINES = ("avx512_bf16", "amx_bf16")


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for it."""
    text = Path("/proc/cpuinfo").read_text()
    return any(line in text for line in BF16_LINES)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def their_network(size: int) -> transformers.SamModel:
    config = transformers.SamConfig(
        vision_config={"image_size": size},
        prompt_encoder_config={"image_size": size, "image_embedding_size": size // 16},
    )
    torch.manual_seed(0)
    net = transformers.SamModel(config).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(std=0.02).add_("norm" in name and name.endswith("weight"))
        net.prompt_encoder.shared_embedding.positional_embedding.copy_(net.shared_image_embedding.positional_embedding)
    return net


def boxes_of(count: int, size: int) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    return (corners * size).flatten(1)


@torch.no_grad()
def latency(rounds: int, count: int, size: int) -> None:
    theirs = their_network(size)
    ours = vit_b(size).eval()
    fit(ours, sam(theirs.state_dict(), ours), "transformers")
    image, boxes = torch.randn(1, 3, size, size), boxes_of(count, size)
    dtype = torch.bfloat16 if multiplies_bf16() else torch.float32
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    embedding = theirs.get_image_embeddings(image)
    with autocast(enabled=dtype == torch.bfloat16):
        error = (ours.embed(image).float() - embedding).abs().max() / embedding.abs().max()
    print(f"{size} x {size} pixels, {count} boxes, {torch.get_num_threads()} threads; medvit in {dtype}")
    print(f"embedding: largest difference from transformers in float32 {error:.1e} of the largest value")

    def embed_ours() -> object:
        with autocast(enabled=dtype == torch.bfloat16):
            return ours.embed(image)

    def embed_theirs(half: bool) -> object:
        with autocast(enabled=half):
            return theirs.get_image_embeddings(image)

    def prompt_theirs() -> object:
        return theirs(image_embeddings=embedding, input_boxes=boxes[None], multimask_output=False)

    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "embed, theirs in float32": (embed_ours, lambda: embed_theirs(False)),
        "embed, theirs in bfloat16": (embed_ours, lambda: embed_theirs(True)),
        "prompt, both in float32": (lambda: ours.answer(embedding, boxes), prompt_theirs),
    }
    for name, (mine, other) in works.items():
        times = rounds if name.startswith("embed") else 5 * rounds
        mine(), other()
        turns = [(seconds(mine), seconds(other)) for _ in range(times)]
        for kind, what in enumerate(("seconds", "seconds of processor time")):
            mine_took, other_took = ([turn[side][kind] for turn in turns] for side in (0, 1))
            ratio = statistics.median(b / a for a, b in zip(mine_took, other_took, strict=True))
            a, b = statistics.median(mine_took), statistics.median(other_took)
            print(f"{name}: {what} medvit {a:.3f}, transformers {b:.3f}, ratio {ratio:.2f}", flush=True)


def training_step(size: int) -> None:
    net: Sam = vit_b(size, encoder=partial(DualBranchEncoder, recompute=True)).train()
    train_only(net)
    trained, frozen = trained_and_frozen(net)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4)
    truth = torch.zeros(1, 1, size // 4, size // 4)
    truth[..., size // 16 : size // 8, size // 16 : size // 8] = 1

    def step() -> None:
        mask_loss(net(torch.randn(1, 3, size, size), boxes_of(1, size)).logits, truth).backward()
        optimizer.step()
        optimizer.zero_grad()

    took, _ = seconds(step)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"DB-SAM (paper), {trained:,} trained and {frozen:,} frozen: a step at {size} {took:.1f} s, at most {gib:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--boxes", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--memory", action="store_true")
    chosen = parser.parse_args()
    if chosen.memory:
        training_step(chosen.size)
    else:
        latency(chosen.rounds, chosen.boxes, chosen.size)


if __name__ == "__main__":
    main()

"""How long a VideoMAE step takes, beside transformers' `VideoMAEForPreTraining` and beside V2's dual masking.

``python tests/benchmarks/videomae_step.py [--steps N] [--batch B] [--side PIXELS]``

The same sizes (ViT-S, 16 frames, tubelets of 2 x 16 x 16, decoder 192 x 4, 90 % hidden), the same clips, the same autocast, one
process, the sides in turn. A step is forward, backward, optimiser and clearing the gradients, counted in processor seconds of
all threads, which a busy machine changes little. A ratio is that of one turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn
from torch.optim import AdamW
from training_step import autocast, fast_bf16

from medvit.nets.video_vit import VideoViT
from medvit.nets.videomae import VideoMAE, tube_masks
from medvit.optim import decay_groups
from medvit.train import keep_memory

FRAMES, RATIO = 16, 0.9


def ours(side: int, masking: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    net = VideoMAE(VideoViT(FRAMES, side, pool="none"), RATIO, masking=masking)  # type: ignore[arg-type]
    return net, lambda clips: Tensor(net(clips)["loss"])


def theirs(side: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    config = transformers.VideoMAEConfig(
        image_size=side, num_frames=FRAMES, hidden_size=384, num_hidden_layers=12, num_attention_heads=6,
        intermediate_size=1536, decoder_hidden_size=192, decoder_num_hidden_layers=4, decoder_num_attention_heads=3,
        decoder_intermediate_size=768, layer_norm_eps=1e-6, norm_pix_loss=True, attn_implementation="sdpa",
    )  # fmt: skip
    net = transformers.VideoMAEForPreTraining(config).train()
    grid = (FRAMES // 2, side // 16, side // 16)

    def loss(clips: Tensor) -> Tensor:
        masks = tube_masks(len(clips), grid, RATIO)
        return Tensor(net(pixel_values=clips.transpose(1, 2), bool_masked_pos=masks).loss)

    return net, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    keep_memory()
    torch.manual_seed(0)
    clips = torch.rand(given.batch, 3, FRAMES, given.side, given.side)
    sides = {"transformers": theirs(given.side), "tube": ours(given.side, "tube"), "dual": ours(given.side, "dual")}
    optimisers = {
        name: AdamW(net.parameters(), 1e-4)
        if name == "transformers"
        else AdamW(decay_groups(net, 0.05), 1e-4, fused=True)
        for name, (net, _) in sides.items()
    }
    turns: list[dict[str, float]] = []
    for turn in range(2 + given.steps):
        seconds = {}
        for name in sides if turn % 2 else reversed(sides):
            start = time.process_time()
            with autocast():
                loss = sides[name][1](clips)
            loss.backward()  # type: ignore[no-untyped-call]
            optimisers[name].step()
            optimisers[name].zero_grad(set_to_none=True)
            seconds[name] = time.process_time() - start
        turns.append(seconds)
    turns = turns[2:]
    precision = "bfloat16 autocast" if fast_bf16() else "float32"
    print(f"ViT-S/16, {FRAMES} x {given.side}^2, batch {given.batch}, {precision}, {torch.get_num_threads()} threads")
    for name in sides:
        print(f"  {name:<12}  {statistics.median(turn[name] for turn in turns):.3f} s")
    for slow, fast in (("transformers", "tube"), ("tube", "dual")):
        ratios = [turn[slow] / turn[fast] for turn in turns]
        print(f"  {slow} / {fast}: {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")


if __name__ == "__main__":
    main()

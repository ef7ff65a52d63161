"""Tiles a second read and described, beside the plain way: ``python tests/benchmarks/embed.py [--tiles 256] [--rounds 3]``.

The plain way is a DataLoader that opens the slide in each worker, reads tile by tile with ``read_region(...).convert("RGB")``,
normalises there in float32, and feeds a ViT-S/16 of transformers in float32. medvit is `medvit embed`'s own path: guarded
processes, uint8 until the network, bf16 where it is fast, batches side by side; finding the tiles is part of its time. Same
tiles, same size of network, same number of workers. Each side runs in a process of its own, as its user would run it, by
turns; the first round of each is thrown away. Seconds on the clock and seconds of the processor, workers included: on a busy
machine only the latter mean something. Asked for: 3 times. Features in bf16 are compared with the same network's in fp32.
Last comes what no way to write it could pass: the network's matrix products in bf16 alone, all else at no cost.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader, Dataset
from transformers import ViTConfig, ViTModel

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sample_data")]

from medvit import doctor  # noqa: E402
from medvit.case import MICROSCOPY, Case  # noqa: E402
from medvit.data.features import Features  # noqa: E402
from medvit.guard import Pool, preload  # noqa: E402
from medvit.memory import keep_memory  # noqa: E402
from medvit.pipeline import half  # noqa: E402
from medvit.systems.self_vit_mil import MEAN, STD, SelfViTMIL  # noqa: E402
from medvit.tasks.slides import embedded, reading  # noqa: E402
from paint_slides import Stain, paint_slide  # noqa: E402
from pyramids import write_pyramid  # noqa: E402

TILE, MPP, BATCH = 224, 0.5, 64
IMAGES = 4  # whose tokens fit into the cache of a core
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Took(NamedTuple):
    """Seconds on the clock, seconds of the processor, workers included, and how many tiles were described."""

    wall: float
    processor: float
    tiles: int


class Plain(Dataset[Tensor]):
    """Tile by tile, as one would write it."""

    def __init__(self, path: Path, corners: np.ndarray) -> None:
        self.path, self.corners = path, corners
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> Tensor:
        self.slide = self.slide or openslide.OpenSlide(self.path)
        x, y = self.corners[index]
        picture = self.slide.read_region((int(x), int(y)), 0, (TILE, TILE)).convert("RGB")
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.inference_mode()
def plain(net: ViTModel, path: Path, corners: np.ndarray, workers: int) -> int:
    """Describe tiles the plain way; how many."""
    count = 0
    # fork, as a script of one's own would: this process was spawned, and its children would be
    for x in DataLoader(Plain(path, corners), BATCH, num_workers=workers, multiprocessing_context="fork"):
        states = net(x.to(net.device), output_hidden_states=True)
        last = states.last_hidden_state
        features = torch.cat([*(state[:, 0] for state in states.hidden_states[-4:]), last[:, 1:].mean(dim=1)], dim=1)
        count += len(features.float().cpu())
    return count


def our_system(tiles: int) -> SelfViTMIL:
    """A system of that size, as many tiles of a slide."""
    torch.manual_seed(0)
    return SelfViTMIL(["tumour"], tile_mpp=MPP, min_tissue=0.0, most_tiles=tiles).to(DEVICE).eval()


def ours(system: SelfViTMIL, path: Path, pool: Pool, precision: str) -> Features:
    """Describe them as `medvit embed` does, by workers that live as long as the command."""
    case = Case(str(path), MICROSCOPY, (path,))
    with half(DEVICE, precision):
        ((_, found, _),) = embedded(system, [case], pool)
    if not isinstance(found, Features):
        raise found
    return found


def processor_s(workers: Sequence[int]) -> float:
    """Seconds of the processor that this process, those it waited for and some others took so far."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in workers]
    ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats)
    return sum(use.ru_utime + use.ru_stime for use in own) + ticks / os.sysconf("SC_CLK_TCK")


def serve(line: Connection, name: str, path: Path, tiles: int, workers: int) -> None:
    """One side in its own process: all tiles once for every message."""
    pids: list[int] = []
    pool = None
    if name == "medvit":
        keep_memory()  # as `medvit embed` does
        system, precision = our_system(tiles), doctor.precision(DEVICE)
        preload(["medvit.systems.self_vit_mil"])
        pool = Pool(workers, reading, system.reader(), limits=system.limits)

        def work() -> int:
            return len(ours(system, path, pool, precision))
    else:
        tiling, _ = our_system(tiles).tiles_of(Case(str(path), MICROSCOPY, (path,)))
        corners = tiling.coords
        config = ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
        net = ViTModel(config).eval().to(DEVICE)

        def work() -> int:
            return plain(net, path, corners, workers)

    with suppress(EOFError):  # the other end is gone: done
        while line.recv():
            started, computed = time.perf_counter(), processor_s(pids)
            count = work()
            line.send(Took(time.perf_counter() - started, processor_s(pids) - computed, count))
            if pool:
                pids = [worker._process.pid for worker in pool._team if worker._process]
    if pool:
        pool.close()


def begun(name: str, path: Path, tiles: int, workers: int) -> Connection:
    """A side in its own process; it works once for every True and ends with a False."""
    context = get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=serve, args=(there, name, path, tiles, workers)).start()
    there.close()
    return here


def work(side: Connection) -> Took:
    """Have a side describe all tiles once."""
    side.send(True)
    return Took(*side.recv())


def compare_features(path: Path, tiles: int) -> None:
    """Print how near features in bf16 are to those in fp32."""
    system = our_system(tiles)
    with Pool(0, reading, system.reader(), limits=system.limits) as pool:
        exact, near = (torch.from_numpy(ours(system, path, pool, how).features) for how in ("32", "bf16"))
    alike = cosine_similarity(exact, near)
    apart = (exact - near).norm(dim=1) / exact.norm(dim=1)
    print(
        f"bf16 beside fp32: cosine at least {alike.min():.5f}, mean {alike.mean():.5f}; apart by {apart.max():.2%} at most"
    )


@torch.inference_mode()
def most_tiles_s(rounds: int = 10) -> float:
    """Tiles a second of the processor if a ViT-S/16 were its matrix products in bf16 and nothing else."""
    torch.set_num_threads(1)
    tokens, depth, heads = (TILE // 16) ** 2 + 1, 12, 6 * IMAGES
    sizes = [(1, tokens * IMAGES, into, out) for into, out in ((384, 1152), (384, 384), (384, 1536), (1536, 384))]
    sizes += [(heads, tokens, 64, tokens), (heads, tokens, tokens, 64)]
    pairs = [(torch.randn(n, m, k).bfloat16(), torch.randn(n, k, out).bfloat16()) for n, m, k, out in sizes]
    took = []
    for _ in range(rounds + 1):
        began = time.process_time()
        for a, b in pairs * depth:
            torch.bmm(a, b)
        took.append(time.process_time() - began)
    return IMAGES / min(took)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    side = TILE * int(np.ceil(arguments.tiles**0.5))
    picture, _ = paint_slide((1_280, 1_536), 0.2, False, Stain.draw(rng), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_pyramid(path, np.tile(picture, (-(-side // 1_280), -(-side // 1_536), 1))[:side, :side], MPP)
        compare_features(path, min(32, arguments.tiles))
        sides = [begun(name, path, arguments.tiles, arguments.workers) for name in ("plain", "medvit")]
        try:
            turns = [[work(side) for side in sides] for _ in range(arguments.rounds + 1)][1:]
        finally:
            for side in sides:
                with suppress(OSError):
                    side.send(False)
        print(f"{arguments.tiles} tiles, ViT-S/16, {DEVICE} {doctor.precision(DEVICE)}, {arguments.workers} workers")
        for what in ("wall", "processor"):
            rates = [[took.tiles / getattr(took, what) for took in turn] for turn in turns]
            slow, fast = (statistics.median(turn[which] for turn in rates) for which in (0, 1))
            ratios = [turn[1] / turn[0] for turn in rates]
            print(
                f"  tiles a second of {what:<9} plain {slow:.1f}, medvit {fast:.1f}: {statistics.median(ratios):.2f} times "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
        if DEVICE == "cpu":
            most = most_tiles_s()
            print(
                f"  products of the network in bf16 alone: {most:.1f} a second of the processor, {most / slow:.2f} times"
            )


if __name__ == "__main__":
    main()

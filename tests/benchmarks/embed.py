"""Tiles a second read and described, beside the plain way: ``python tests/benchmarks/embed.py [--tiles 256] [--rounds 3]``.

The plain way is a DataLoader that opens the slide in each worker, reads tile by tile with ``read_region(...).convert("RGB")``,
normalises there in float32, and feeds a ViT-S/16 of transformers in float32. medvit is `medvit embed`'s own path: guarded
processes, uint8 until the network, bf16 where it is fast; finding the tiles is part of its time. Same tiles, same size of
network, same number of workers, by turns in one process; the first round of each is thrown away. Asked for: 3 times.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import ViTConfig, ViTModel

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sample_data")]

from medvit import doctor  # noqa: E402
from medvit.case import MICROSCOPY, Case  # noqa: E402
from medvit.data.features import Features  # noqa: E402
from medvit.guard import Pool, preload  # noqa: E402
from medvit.pipeline import half  # noqa: E402
from medvit.systems.self_vit_mil import MEAN, STD, SelfViTMIL  # noqa: E402
from medvit.tasks.slides import embedded, reading  # noqa: E402
from paint_slides import Stain, paint_slide  # noqa: E402
from pyramids import write_pyramid  # noqa: E402

TILE, MPP, BATCH = 224, 0.5, 64


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
    for x in DataLoader(Plain(path, corners), BATCH, num_workers=workers):
        states = net(x.to(net.device), output_hidden_states=True)
        last = states.last_hidden_state
        features = torch.cat([*(state[:, 0] for state in states.hidden_states[-4:]), last[:, 1:].mean(dim=1)], dim=1)
        count += len(features.float().cpu())
    return count


def ours(system: SelfViTMIL, path: Path, pool: Pool, device: str, precision: str) -> int:
    """Describe them as `medvit embed` does, by workers that live as long as the command; how many."""
    case = Case(str(path), MICROSCOPY, (path,))
    with half(device, precision):
        ((_, found, _),) = embedded(system, [case], pool)
    if not isinstance(found, Features):
        raise found
    return len(found)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = doctor.precision(device)
    system = SelfViTMIL(["tumour"], tile_mpp=MPP, min_tissue=0.0, most_tiles=arguments.tiles).to(device).eval()
    net = ViTModel(
        ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536)
    ).eval()
    net = net.to(device)
    rng = np.random.default_rng(0)
    side = TILE * int(np.ceil(arguments.tiles**0.5))
    picture, _ = paint_slide((1_280, 1_536), 0.2, False, Stain.draw(rng), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_pyramid(path, np.tile(picture, (-(-side // 1_280), -(-side // 1_536), 1))[:side, :side], MPP)
        corners = system.tiles_of(Case(str(path), MICROSCOPY, (path,)))[0].coords
        preload(["medvit.systems.self_vit_mil"])
        pool = Pool(arguments.workers, reading, system.reader(), limits=system.limits)
        ways: dict[str, Callable[[], int]] = {
            "plain": lambda: plain(net, path, corners, arguments.workers),
            "medvit": lambda: ours(system, path, pool, device, precision),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(arguments.rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                count = way()
                if turn:
                    rates[name].append(count / (time.perf_counter() - started))
    pool.close()
    told = {name: statistics.median(found) for name, found in rates.items()}
    ratios = [b / a for a, b in zip(rates["plain"], rates["medvit"], strict=True)]
    print(
        f"{len(corners)} tiles, ViT-S/16, {device} {precision}, {arguments.workers} workers: plain {told['plain']:.1f}, "
        f"medvit {told['medvit']:.1f} tiles/s, {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()

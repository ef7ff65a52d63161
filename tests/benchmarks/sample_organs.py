"""DB-SAM's adapters against the decoder alone, from one small encoder: ``python tests/benchmarks/sample_organs.py``.

A small SAM learns to outline plain shapes by boxes. From its weights, the generated organs of ``sample_data/make.py`` are
learned by the decoder alone and by DB-SAM's adapters with decoder and neck, once begun as the release begins them and once as
SAM; all on the same samples for the same number of steps. Then Dice on abdomens that nobody has seen, with 95 % intervals over
patients.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from medvit.image import Image
from medvit.systems.db_sam import DBSAM

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "sample_data")]
from segment import Patients, batches, boxed_dice, paired, told, train  # noqa: E402

from brushes import clouds, soft  # noqa: E402
from paint_organs import Abdomen, paint_abdomen  # noqa: E402

SIZES = {
    "image_size": 96, "patch": 8, "width": 96, "depth": 4, "heads": 4, "everywhere": (1, 3), "window": 6, "channels": 64,
    "decoder_heads": 4, "decoder_hidden": 256, "drop": 0.1,
}  # fmt: skip
ARMS = {
    "decoder alone": {"variant": "none", "trained": "decoder"},
    "adapters, begun as the release": {"variant": "paper", "start": "release"},
    "adapters, begun as SAM": {"variant": "paper", "start": "sam"},
}
SHAPES, SIDE = 300, 96
MARGINS = {"tight boxes": 0.01, "loose boxes": 0.06}  # by which boxes are larger, of the slice's longer side
BATCH, LR = 16, 1e-3


def shapes(seed: int) -> Image:
    """A picture of plain ellipses and boxes on a cloudy ground, with their mask."""
    rng = np.random.default_rng([seed, 23])
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    plane = rng.uniform(60, 180) + 25 * clouds(rng, (SIDE, SIDE), rng.uniform(4, 20))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(1, int(rng.integers(3, 7))):
        turn, power = rng.uniform(0, np.pi), rng.choice([2, 2, 6])
        u, v = x - rng.uniform(-0.7, 0.7), y - rng.uniform(-0.7, 0.7)
        u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
        depth = 1 - (np.abs(u / rng.uniform(0.1, 0.4)) ** power + np.abs(v / rng.uniform(0.1, 0.4)) ** power)
        cover = soft(depth, 0.1)
        plane = plane * (1 - cover) + cover * (rng.uniform(0, 255) + 10 * clouds(rng, (SIDE, SIDE), 2.0))
        mask[depth > 0] = number
    plane += rng.normal(0, 8, plane.shape)
    return Image((plane.clip(0, 255) / 255).astype(np.float32)[None, None], mask=mask[None])


def abdomen(seed: int) -> Image:
    volume, mask = paint_abdomen(Abdomen(seed))
    return Image(volume[None].astype(np.float32) / 255, mask=mask)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--patients", type=int, default=24)
    parser.add_argument(
        "--base", type=Path, help="weights of the SAM that learned plain shapes; written where not there"
    )
    chosen = parser.parse_args()
    learned = [shapes(seed) for seed in range(SHAPES)]
    organs = [abdomen(10_000 + seed) for seed in range(18)]
    held_out = [(f"P{seed}", abdomen(20_000 + seed)) for seed in range(chosen.patients)]
    for seed in range(chosen.seeds):
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        with TemporaryDirectory() as folder:
            weights = chosen.base or Path(folder) / "base.pt"
            if not weights.is_file():
                torch.manual_seed(seed)
                base = DBSAM(**SIZES, variant="none", trained="everything")
                steps, minutes = train(base, batches(base, learned, BATCH, 0.02, seed), LR, steps=chosen.shape_steps)
                torch.save(base.net.state_dict(), weights)
                print(f"seed {seed}: plain shapes, {steps} steps, {minutes:.1f} minutes of processor time", flush=True)
            untaught = DBSAM(**SIZES, variant="none", trained="decoder", pixels="medsam", weights=weights)
            found["before"] = judged("before", untaught, held_out)
            for name, arm in ARMS.items():
                torch.manual_seed(seed)
                system = DBSAM(**SIZES, **arm, pixels="medsam", weights=weights)
                _, minutes = train(system, batches(system, organs, BATCH, 0.02, seed), LR, steps=chosen.steps)
                print(f"{name}: {minutes:.1f} minutes to train", flush=True)
                found[name] = judged(name, system, held_out)
        first, *others = ARMS
        for name, boxes in product(others, MARGINS):
            print(f"{name} less {first}, {boxes}: {paired(found[name][boxes], found[first][boxes])}", flush=True)


def judged(name: str, system: DBSAM, held_out: Patients) -> dict[str, dict[str, list[float]]]:
    """Dice on every third slice by patient, for each kind of boxes."""
    found = {boxes: boxed_dice(system, held_out, margin, every=3) for boxes, margin in MARGINS.items()}
    for boxes, scores in found.items():
        print(f"{name}, {boxes}: Dice {told(scores)}", flush=True)
    return found


if __name__ == "__main__":
    main()

"""What CytoFM learns of the generated smears: ``python tests/benchmarks/sample_smears.py [--runs RUNS] [--seeds 0 1 2]``.

For each seed trains workflows/cytofm.yaml and what it requires into RUNS/<seed> where that holds no checkpoint yet, answers the
test split of sample_data/smears, and prints its AUC (asked for: 0.95) and, on the malignant ones, that of attention for
malignant cells against all others (0.9). A tile is the cell whose painted centre is nearest to its middle; tiles with none
within 6 um are left out and counted. Seconds are the clock's and the processors', of the training that was done now.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scored import MEDVIT, answer, read, test_rows, tiles_of, told_apart
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[2]
SMEARS = ROOT / "sample_data/smears"
NEAR = 12.0  # level-0 pixels of 0.5 um


def cell_auc(folder: Path, cells: list[dict[str, str]]) -> tuple[float, int]:
    """AUC of attention for malignant cells, and how many tiles show none that was painted."""
    tiles = tiles_of(folder)
    middles = np.array([np.mean(tile["geometry"]["coordinates"][0][:4], axis=0) for tile in tiles])
    centres = np.array([[float(cell["x"]), float(cell["y"])] for cell in cells])
    gaps = np.linalg.norm(middles[:, None] - centres, axis=-1)
    near = gaps.min(axis=1) < NEAR
    malignant = np.array([cells[index]["class"] == "malignant" for index in gaps.argmin(axis=1)])
    values = np.array([tile["properties"]["measurements"]["medvit: malignant attention"] for tile in tiles])
    return float(roc_auc_score(malignant[near], values[near])), int((~near).sum())


def train(folder: Path, seed: int) -> tuple[float, float]:
    """Train both workflows with a seed; seconds of the clock and of processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    if seed == 0:  # the workflows' own: one command trains both
        commands = [["train", ROOT / "workflows/cytofm.yaml", "-o", folder / "cytofm"]]
    else:  # a seed on the command line is that of one workflow
        pre = folder / "cytofm_pretrain"
        commands = [
            ["train", ROOT / "workflows/cytofm_pretrain.yaml", f"seed={seed}", "-o", pre],
            ["train", ROOT / "workflows/cytofm.yaml", f"seed={seed}", f"system.weights={pre / 'best.ckpt'}", "-o",
             folder / "cytofm"],
        ]  # fmt: skip
    for command in commands:
        subprocess.run([*MEDVIT, *command], check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, spent


def judge(folder: Path) -> tuple[float, float]:
    """Answer the test split and print what that is worth: AUC of smears, mean AUC of attention for malignant cells."""
    test, out = test_rows(SMEARS / "cases.csv"), folder / "out"
    answers = answer(folder / "cytofm/best.ckpt", [SMEARS / row["path"] for row in test], out)
    cells = read(SMEARS / "cells.csv")
    area, right = told_apart(test, "malignant", answers)
    ill = [row["path"] for row in test if row["malignant"] == "1"]
    found = [
        cell_auc(out / "cases" / answers[name]["case"], [cell for cell in cells if cell["path"] == name])
        for name in ill
    ]
    areas = [one for one, _ in found]
    print(f"  smears, test split ({len(test)}): AUC {area:.3f}, accuracy {right:.3f}")
    print(
        f"  malignant cells by attention on the {len(ill)} malignant ones: AUC {np.mean(areas):.3f} "
        f"({min(areas):.3f} to {max(areas):.3f}); {sum(lost for _, lost in found)} tiles show no painted cell",
        flush=True,
    )
    return area, float(np.mean(areas))


def main() -> None:
    """Train, answer, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/smears")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    found = []
    for seed in arguments.seeds:
        folder = arguments.runs.resolve() / str(seed)
        print(f"seed {seed}", flush=True)
        if not (folder / "cytofm/best.ckpt").is_file():
            clock, spent = train(folder, seed)
            print(f"  trained in {clock:.0f} s by the clock, {spent:.0f} s of processor time", flush=True)
        found.append(judge(folder))
    smears, attention = zip(*found, strict=True)
    print(f"mean of {len(found)} seeds: smears {np.mean(smears):.3f} ({min(smears):.3f} to {max(smears):.3f}), attention "
          f"{np.mean(attention):.3f} ({min(attention):.3f} to {max(attention):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()

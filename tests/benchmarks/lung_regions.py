"""Whether maps of chest films lie in the lungs, by the lung boxes of real films that the network never saw.

    nice -n 19 python tests/benchmarks/lung_regions.py CHECKPOINT [--most 60]

For every film of ../shared/data/cxr/open/covid_ccby with boxes, the highest finding is explained by each method. Prints the
share of the map within the lungs, less the share of the seen film that lungs cover (chance), with a 95 % interval over
patients, and how often the highest patch is in a lung.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from medvit.case import Case
from medvit.data.batch import Batch
from medvit.evaluate.bootstrap import draws, interval, numbered
from medvit.explain.vit_methods import VIT_METHODS
from medvit.workflow import load_system

DATA = Path(__file__).parents[3] / "shared/data/cxr"


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser()
    words.add_argument("checkpoint", type=Path)
    words.add_argument("--most", type=int, default=60)
    asked = words.parse_args()
    system = load_system(asked.checkpoint)
    with (DATA / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "covid_ccby"]
    gaps: dict[str, list[float]] = {name: [] for name in VIT_METHODS}
    hits: dict[str, list[float]] = {name: [] for name in VIT_METHODS}
    patients, chance = [], []
    for row in rows[: asked.most]:
        boxes = [box["xywh"] for box in json.loads(row["extra"]).get("lung_boxes", [])]
        if not boxes:
            continue
        sample = system.preprocess(Case(row["path"], "", (DATA / row["path"],)))
        x = system.inputs(Batch([sample]))
        with torch.no_grad():
            k = system(x).argmax(dim=1)
        grid = system.net.grid_of(x)
        plane = np.zeros(sample.fit.model, np.float32)
        corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes])
        for left, top, right, bottom in sample.fit.to_model(corners).round().astype(int).clip(0):
            plane[top:bottom, left:right] = 1
        lungs = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], grid, mode="area")[0, 0]
        patients.append(row["patient_id"])
        chance.append(float(lungs.mean()))
        for name, method in VIT_METHODS.items():
            values = method(system.net, x, k)[0]
            gaps[name].append(float((values * lungs).sum() / values.sum().clamp(min=1e-12)) - chance[-1])
            hits[name].append(float(lungs.flatten()[values.argmax()] > 0.5))
    weights = np.concatenate(list(draws(numbered(patients))), axis=1).astype(float)
    weights /= weights.sum(axis=0)
    print(f"{len(patients)} films of {len(set(patients))} patients; lungs cover {np.mean(chance):.3f} of what is seen")
    for name, values in gaps.items():
        span = interval(float(np.mean(values)), np.array(values) @ weights)
        print(f"  {name:28} share in the lungs less chance {span.value:+.3f} ({span.low:+.3f} to {span.high:+.3f}), "
              f"highest patch in a lung {np.mean(hits[name]):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()

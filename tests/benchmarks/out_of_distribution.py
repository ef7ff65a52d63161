"""Whether the distance from the training cases tells films from what is no film.

    nice -n 19 python tests/benchmarks/out_of_distribution.py CHECKPOINT [--films TABLE]

Films are the test split of the table (real ones of ../shared/data/cxr by default) and films of another source; the others are
tiles of histology slides, cells of smears, frames of ultrasound clips and three kinds of noise, all given to the system as
pictures. Prints the area under the ROC curve of the distance for each, with a 95 % interval, and how many lie over the limit.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit.case import Case, read_table
from medvit.data.batch import Batch
from medvit.evaluate.measures import with_intervals
from medvit.image import Image
from medvit.readers.clip import read_clip
from medvit.readers.radiograph import read_radiograph
from medvit.workflow import load_system

DATA = Path(__file__).parents[3] / "shared/data"
MOST = 60  # of each kind
Plane = NDArray[np.float32]


def grey(path: Path) -> Plane:
    """A picture as grey values in [0, 1], as a film's reader would give it."""
    with Pillow.open(path) as picture:
        return np.asarray(picture.convert("L"), np.float32) / 255


def frames(path: Path) -> Plane:
    """The middle frame of a clip."""
    clip = read_clip(path, True).pixels[0]
    return np.asarray(clip[len(clip) // 2])


def noise(kind: str) -> list[Plane]:
    """Uniform noise, noise that was smoothed, and plain gradients."""
    rng = np.random.default_rng(0)
    planes = []
    for _ in range(MOST):
        if kind == "uniform":
            plane = rng.random((128, 128))
        elif kind == "smooth":
            small = Pillow.fromarray(rng.random((8, 8)).astype(np.float32))
            plane = np.asarray(small.resize((128, 128), Pillow.Resampling.BICUBIC)).clip(0, 1)
        else:
            slope = rng.normal(size=2)
            ramp = slope[0] * np.linspace(0, 1, 128)[:, None] + slope[1] * np.linspace(0, 1, 128)
            plane = (ramp - ramp.min()) / np.ptp(ramp)
        planes.append(plane.astype(np.float32))
    return planes


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser()
    words.add_argument("checkpoint", type=Path)
    words.add_argument("--films", type=Path, default=DATA / "cxr/nih64_multihot.csv")
    asked = words.parse_args()
    system = load_system(asked.checkpoint)

    def distances(planes: list[Plane]) -> list[float]:
        found = []
        for start in range(0, len(planes), 20):
            samples = [system.sample(Image(plane[None]), Case("x", "", ())) for plane in planes[start : start + 20]]
            with torch.no_grad():
                batch = Batch(samples)
                _, features = system.logits_and_features(batch)
            found += [one.value for one in system.distances(features, system.statistics(batch))]
        return found

    def some(folder: str, pattern: str, read: Callable[[Path], Plane]) -> list[Plane]:
        files = sorted((DATA / folder).rglob(pattern))
        step = max(len(files) // MOST, 1)
        return [read(path) for path in files[::step][:MOST]]

    films = distances([read_radiograph(case.files[0]).pixels[0] for case in read_table(asked.films)["test"]])
    limit = float(system.trust.limit)
    over = np.mean(np.array(films) > limit)
    print(
        f"{len(films)} films of the test split: median distance {np.median(films):.2f}, limit {limit:.2f}, over it {over:.1%}"
    )
    others = {
        "tiles of histology": some("histology/open", "*.[jp][np]g", grey),
        "cells of smears": some("cytology/open", "*.[bjp][mnp][gp]", grey),
        "frames of ultrasound clips": some("us_video/restricted", "*.mp4", frames),
        "still ultrasound": some("us_video/open/busi_2d", "*.png", grey),
        **{f"{kind} noise": noise(kind) for kind in ("uniform", "smooth", "ramp")},
    }
    every: list[float] = []
    for name, planes in {
        **others,
        "all of these": [],
        "films of another source": some("cxr/open/covid_ccby", "*.png", grey),
    }.items():
        if name == "all of these":
            found = every
        else:
            found = distances(planes)
            every += found if name != "films of another source" else []
        score = np.array(films + found)[:, None]
        y = np.array([0.0] * len(films) + [1.0] * len(found))[:, None]
        area = with_intervals(score, y, ["a"], {}, [""] * len(y))["a"]["auroc"]
        print(f"  {name:28} {len(found):4}  AUROC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}), "
              f"over the limit {np.mean(np.array(found) > limit):.1%}")  # fmt: skip


if __name__ == "__main__":
    main()

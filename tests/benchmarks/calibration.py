"""Whether a checkpoint's temperatures lower the calibration error on cases that they were not fitted on.

    nice -n 19 python tests/benchmarks/calibration.py CHECKPOINT TABLE [--split test]

Prints the expected calibration error, the Brier score and the cross-entropy over all labels and cases together, without and
with temperatures, and their difference with a 95 % interval by paired draws of patients.
"""

import argparse
from pathlib import Path

import numpy as np

from medvit.evaluate.bootstrap import Interval, draws, interval, numbered
from medvit.evaluate.measures import Label, difference
from medvit.evaluation import Asked, answers, read_labels
from medvit.workflow import load_system


def told(measure: str, before: float, after: float, gap: Interval) -> str:
    """A line."""
    span = f"{gap.value:.4f} ({gap.low:.4f} to {gap.high:.4f})"
    return f"  {measure:14} without {before:.4f}  with {after:.4f}  difference {span}"


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser()
    words.add_argument("checkpoint", type=Path)
    words.add_argument("table", type=Path)
    words.add_argument("--split", default="test")
    asked = words.parse_args()
    system = load_system(asked.checkpoint)
    names, splits = read_labels(asked.table, [label.name for label in system.labels])
    found, _ = answers(system, splits[asked.split], names, Asked())
    place = [[label.name for label in system.labels].index(name) for name in names]
    temperature = system.trust.temperature.double().numpy()[place]
    with_it = found.p.clip(1e-9, 1 - 1e-9)
    without = 1 / (1 + np.exp(-np.log(with_it / (1 - with_it)) * temperature))
    y = found.y.ravel()
    who = [patient or key for patient, key in zip(found.patients, found.keys, strict=True) for _ in names]
    one = np.ones((len(y), 1), np.float32)
    print(
        f"{len(found.keys)} cases of {len(set(who))} patients, {len(names)} labels; temperatures {temperature.round(3)}"
    )
    for measure in ("ece", "brier"):
        before, after = (Label(p.ravel(), y).measures(one)[measure][0] for p in (without, with_it))
        gap = difference(with_it.ravel(), without.ravel(), y, who, measure)
        print(told(measure, before, after, gap))
    losses = [-np.where(y == 1, np.log(p.ravel()), np.log1p(-p.ravel())) for p in (without, with_it)]
    known = np.isfinite(y)
    weights = np.concatenate(list(draws(numbered(who), 1000)), axis=1)[known].astype(float)
    drawn = ((losses[1] - losses[0])[known] @ weights) / weights.sum(axis=0)
    before, after = (float(loss[known].mean()) for loss in losses)
    gap = interval(after - before, drawn)
    print(told("cross-entropy", before, after, gap))


if __name__ == "__main__":
    main()

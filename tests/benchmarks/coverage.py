"""How often the 95 % interval of a bootstrap over patients holds the truth, by simulation; and what many draws cost.

    nice -n 19 python tests/benchmarks/coverage.py [--repeats 500] [--patients 150]

Cases of a patient share part of their score, so that drawing cases would be too sure. The truth of every measure comes from a
population of two million cases. The calibration error is looked at in more worlds: calibrated, too sure (twice) and too high
probabilities, where its percentiles miss. The last line is the time of 10,000 cases x 14 labels x 1,000 draws.
"""

import argparse
import time

import numpy as np

from medvit.evaluate.bootstrap import draws, numbered
from medvit.evaluate.measures import Label, with_intervals

CUT = {"here": 0.35}
SHARE, SHARED = 0.25, 0.5  # of positive patients; variance that a patient's cases share
CASES = 3  # of a patient at most


def cases(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, truth and patient of cases; a patient's cases share truth and part of the score."""
    each = rng.integers(1, CASES + 1, patients)
    who = np.repeat(np.arange(patients), each)
    y = (rng.random(patients) < SHARE).astype(float)[who]
    shared = rng.normal(size=patients)[who] * SHARED**0.5
    logit = 1.4 * y + shared + rng.normal(size=len(who)) * (1 - SHARED) ** 0.5 - 1.3
    return 1 / (1 + np.exp(-logit)), y, who


# How the truth differs from what is said: the logit's factor and shift.
WORLDS = {"calibrated": (1.0, 0.0), "too sure": (0.6, 0.0), "far too sure": (0.35, 0.0), "too high": (1.0, -0.5)}


def said(
    rng: np.random.Generator, patients: int, factor: float, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, truth and patient of cases whose true logit is ``factor`` times the one that is said, and a shift."""
    who = np.repeat(np.arange(patients), rng.integers(1, CASES + 1, patients))
    logit = 0.7 * rng.normal(size=patients)[who] + 0.7 * rng.normal(size=len(who)) - 1
    true = 1 / (1 + np.exp(-(factor * logit + shift)))
    return 1 / (1 + np.exp(-logit)), (rng.random(len(who)) < true).astype(float), who


def calibration(repeats: int, patients: int, count: int) -> None:
    """How often the interval of the calibration error holds the truth, beside percentiles."""
    for name, (factor, shift) in WORLDS.items():
        rng = np.random.default_rng(0)
        p, y, _ = said(rng, 500_000, factor, shift)
        truth = (
            float(Label(p, y, {}).measures(np.ones((len(p), 1), np.float32))["ece"][0]) if name != "calibrated" else 0.0
        )
        held, plain, shown = 0, 0, []
        for turn in range(repeats):
            p, y, who = said(rng, patients, factor, shift)
            label, groups = Label(p, y, {}), [f"p{each}" for each in who]
            told = with_intervals(p[:, None], y[:, None], ["a"], {}, groups, count, turn)["a"]["ece"]
            drawn = np.concatenate([label.measures(w)["ece"] for w in draws(numbered(groups), count, turn)])
            held += told.low <= truth <= told.high
            low, high = np.quantile(drawn, [0.025, 0.975])
            plain += low <= truth <= high
            shown.append(told.value)
        print(f"  ece where probabilities are {name:14} {held / repeats:.3f}   (truth {truth:.3f}, seen on "
              f"average {np.mean(shown):.3f}; percentiles {plain / repeats:.3f})", flush=True)  # fmt: skip


def main() -> None:
    """Simulate and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--repeats", type=int, default=500)
    options.add_argument("--patients", type=int, default=150)
    options.add_argument("--draws", type=int, default=1000)
    asked = options.parse_args()
    rng = np.random.default_rng(0)
    p, y, _ = cases(rng, 1_000_000)
    truth = {
        name: float(value[0]) for name, value in Label(p, y, CUT).measures(np.ones((len(p), 1), np.float32)).items()
    }
    held = dict.fromkeys(truth, 0)
    naive = 0
    for turn in range(asked.repeats):
        p, y, who = cases(rng, asked.patients)
        for patients in ([f"p{one}" for one in who], [""] * len(who)):
            told = with_intervals(p[:, None], y[:, None], ["a"], {"a": CUT}, patients, asked.draws, turn)["a"]
            if patients[0]:
                for name in held:
                    held[name] += told[name].low <= truth[name] <= told[name].high
            else:
                naive += told["auroc"].low <= truth["auroc"] <= told["auroc"].high
    print(
        f"{asked.repeats} samples of {asked.patients} patients, {asked.draws} draws each; share that holds the truth:"
    )
    for name, count in held.items():
        print(f"  {name:24} {count / asked.repeats:.3f}   (truth {truth[name]:.3f})")
    print(f"  auroc, drawing cases instead of patients: {naive / asked.repeats:.3f}")
    calibration(asked.repeats, asked.patients, asked.draws)
    n, labels = 10_000, 14
    y = (rng.random((n, labels)) < 0.08).astype(float)
    p = 1 / (1 + np.exp(-(rng.normal(size=(n, labels)) + 1.2 * y - 2)))
    names = [f"label {k}" for k in range(labels)]
    started, busy = time.perf_counter(), time.process_time()
    with_intervals(
        p, y, names, {name: {"a": 0.2, "b": 0.1, "c": 0.4} for name in names}, [f"p{i // 2}" for i in range(n)]
    )
    print(f"{n} cases x {labels} labels x 1000 draws: {time.process_time() - busy:.1f} s of processor, "
          f"{time.perf_counter() - started:.1f} s of wall")  # fmt: skip


if __name__ == "__main__":
    main()

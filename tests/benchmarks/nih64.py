"""What pre-training is worth on real films: ``python tests/benchmarks/nih64.py [-o OUT]``, about 25 minutes on two cores.

Trains ``workflows/nih64.yaml`` (masked autoencoding, then fine-tuning), the same network from scratch, and PCA with logistic
regression, all on the same patient-wise splits of 813 NIH films of 64 x 64 pixels, all selected on the validation split.
Prints the AUROC on the test split with 95 % intervals (bootstrap over patients) for every finding with ten positives there.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from medvit.case import Case, read_table
from medvit.data.batch import Batch
from medvit.evaluate.metrics import auroc, nanmean
from medvit.readers.radiograph import read_radiograph
from medvit.train import train
from medvit.workflow import load_system, open_workflow

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "workflows" / "nih64.yaml"
MIN_POSITIVES, DRAWS = 10, 1000
COMPONENTS, PENALTIES = (20, 50, 100), (0.001, 0.01, 0.1, 1.0)  # of the baseline, chosen on the validation split

Scores = NDArray[np.float64]


def targets(cases: list[Case], names: list[str]) -> torch.Tensor:
    return torch.tensor([[case.labels[name] for name in names] for case in cases])


def network(checkpoint: Path, cases: list[Case]) -> torch.Tensor:
    """Probabilities (n, K) of a trained system."""
    system = load_system(checkpoint)
    with torch.no_grad():
        batch = Batch([system.preprocess(case) for case in cases])
        return torch.as_tensor(system(system.inputs(batch))).sigmoid()  # type: ignore[operator]


def baseline(splits: dict[str, list[Case]], names: list[str]) -> Callable[[str], torch.Tensor]:
    """PCA and logistic regression, the number of components and the penalty chosen by mean validation AUROC."""
    pixels = {
        split: np.stack([read_radiograph(case.files[0]).pixels.ravel() for case in cases])
        for split, cases in splits.items()
    }
    y = targets(splits["train"], names).numpy()

    def fitted(components: int, penalty: float) -> list[Pipeline]:
        return [
            make_pipeline(
                PCA(components, random_state=0), StandardScaler(), LogisticRegression(C=penalty, max_iter=2000)
            ).fit(pixels["train"], y[:, k])
            for k in range(y.shape[1])
        ]

    def scored(models: list[Pipeline], split: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([model.predict_proba(pixels[split])[:, 1] for model in models], axis=1))

    truth = targets(splits["val"], names)
    candidates = [fitted(components, penalty) for components in COMPONENTS for penalty in PENALTIES]
    best = max(candidates, key=lambda models: float(nanmean(auroc(scored(models, "val"), truth))))
    return lambda split: scored(best, split)


def intervals(
    probability: torch.Tensor, y: torch.Tensor, patients: list[str], columns: list[int]
) -> tuple[Scores, Scores]:
    """AUROC of the columns and their mean (K+1,), and 95 % intervals (2, K+1) by drawing patients with replacement."""
    rng = np.random.default_rng(0)
    rows = {patient: np.flatnonzero(np.array(patients) == patient) for patient in sorted(set(patients))}
    groups = list(rows.values())

    def areas(chosen: NDArray[np.intp]) -> Scores:
        each = auroc(probability[chosen][:, columns], y[chosen][:, columns])
        return np.array([*each.tolist(), float(nanmean(each))])

    draws = [
        areas(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])) for _ in range(DRAWS)
    ]
    return areas(np.arange(len(y))), np.nanpercentile(np.stack(draws), [2.5, 97.5], axis=0)


def run(out: Path) -> dict[str, Path]:
    """Train both networks; the one from scratch has no layer decay and twice the epochs, which favours it."""
    started = time.time()
    workflow = open_workflow(WORKFLOW, run=out / "nih64")
    trained = {"pre-trained (MAE)": train(workflow, "auto")}
    print(f"pre-training and fine-tuning: {(time.time() - started) / 60:.1f} minutes")
    epochs = 2 * int(workflow.trainer["max_epochs"])
    changes = ["system.weights=null", "system.layer_decay=1.0", f"trainer.max_epochs={epochs}"]
    trained["from scratch"] = train(open_workflow(WORKFLOW, changes, out / "nih64_scratch"), "auto")
    return trained


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs"))
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workflow = open_workflow(WORKFLOW, run=out / "nih64")
    names = list(workflow.system["labels"])
    splits = read_table(workflow.data["table"], names)
    test, y = splits["test"], targets(splits["test"], names)
    trained = run(out)
    scores = {name: network(checkpoint, test) for name, checkpoint in trained.items()}
    scores["PCA + logistic regression"] = baseline(splits, names)("test")
    columns = [k for k in range(len(names)) if int(y[:, k].sum()) >= MIN_POSITIVES]
    titles = [f"{names[k]} ({int(y[:, k].sum())})" for k in columns] + ["mean"]
    print(
        f"\nTest AUROC, {len(test)} films of {len({case.patient for case in test})} patients; positives in brackets\n"
    )
    print(f"| | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    report = {}
    for name, probability in scores.items():
        area, (low, high) = intervals(probability, y, [case.patient for case in test], columns)
        cells = [f"{a:.3f} ({b:.2f} to {c:.2f})" for a, b, c in zip(area, low, high, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
        report[name] = dict(zip(titles, cells, strict=True))
    (out / "nih64.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

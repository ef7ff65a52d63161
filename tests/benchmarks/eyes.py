"""How well a trained system answers the test clips of a table: ``python tests/benchmarks/eyes.py CHECKPOINT… [--table CSV]``.

Prints the area under the ROC curve of every label over the clips of the test split of which it is known.
"""

import argparse
from pathlib import Path

import torch

from medvit.case import read_table
from medvit.data.batch import Batch
from medvit.evaluate.metrics import auroc
from medvit.workflow import load_system

TABLE = Path(__file__).parents[2] / "sample_data/clips/cases.csv"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    for checkpoint in given.checkpoints:
        system = load_system(checkpoint)
        system.explains = False
        names = [label.name for label in system.labels]
        cases = [case for case in read_table(given.table, names)["test"] if case.labels]
        samples = [system.preprocess(case) for case in cases]
        logits = torch.cat([system(system.inputs(Batch([sample]))) for sample in samples])  # type: ignore[operator]
        for name, area in zip(names, auroc(logits.sigmoid(), Batch(samples).y).tolist(), strict=True):
            print(f"{checkpoint}: {name} {area:.3f} on {sum(name in case.labels for case in cases)} test clips")


if __name__ == "__main__":
    main()

"""Real histology end to end: ``python tests/benchmarks/osteosarcoma.py [--set oral_oscc] [--epochs 20] [--keep FOLDER]``.

Regions of osteosarcoma (1024 px at 10x, split by slide) or pictures of oral tissue (224 px) are bags of 64 or 4 tiles, read at
half of their resolution or a little more. DINO is pre-trained on the train split, the frozen network describes the tiles,
DSMIL learns tumour from the labels of bags; epoch and threshold are chosen on the val split. AUC of the test split with a 95 %
interval by drawing slides, beside the same with an untrained network, and with PCA and logistic regression on small pictures.
These sets prove the plumbing, no clinical skill.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scored import interval
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data/histology"
HEALTHY = ("Non-Tumor", "Normal")
TILE_MPP = {"osteosarcoma": 2.0, "oral_oscc": 1.75}  # of tiles of 64 px, where a picture's pixel counts as 1
TILES = {"osteosarcoma": 32, "oral_oscc": 4}  # of a picture in an epoch of pre-training


def write_table(name: str, path: Path) -> list[dict[str, str]]:
    """The set as a table; a slide counts as a patient, as the set is split."""
    with (DATA / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "patient_id", "split", "tumour"))
        for row in rows:
            row["tumour"] = str(int(row["labels"] not in HEALTHY))
            table.writerow((DATA / row["path"], row["group_id"], row["split"], row["tumour"]))
    return rows


def colours(rows: Sequence[dict[str, str]]) -> list[str]:
    """Mean and deviation of the training pictures' colours, as settings: by others tissue looks alike to a new network."""
    files = [DATA / row["path"] for row in rows if row["split"] == "train"]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
    flat = pixels.reshape(-1, 3) / 255
    return [
        f"system.{name}=[{', '.join(f'{value:.3f}' for value in three)}]"
        for name, three in (("mean", flat.mean(0)), ("std", flat.std(0)))
    ]


def overrides(name: str, table: Path) -> list[str]:
    """What both workflows take over the ones for sample slides: their own pixels, every tile of a picture."""
    return [f"data.table={table}", "data.mpp=1.0", f"system.tile_mpp={TILE_MPP[name]}", "system.min_tissue=0"]


def train(name: str, workflow: str, table: Path, run: Path, *more: str) -> None:
    """Train one of the sample workflows on the set."""
    command = [
        sys.executable,
        "-m",
        "medvit",
        "train",
        ROOT / f"workflows/{workflow}.yaml",
        *overrides(name, table),
        *more,
    ]
    subprocess.run([*command, "-o", run, "--resume", "auto"], check=True, stdout=sys.stderr)


def answered(run: Path, files: Sequence[Path], out: Path) -> dict[str, float]:
    """Probability of each file."""
    command = [
        sys.executable,
        "-m",
        "medvit",
        "predict",
        run / "best.ckpt",
        *files,
        "-o",
        out,
        "--mpp",
        "1.0",
        "--write",
        "csv",
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with (out / "results.csv").open() as file:
        return {row["source"]: float(row["probability"]) for row in csv.DictReader(file)}


def trivial(rows: Sequence[dict[str, str]]) -> np.ndarray:
    """PCA and logistic regression on pictures of 32 x 32."""

    def pictures(split: str) -> np.ndarray:
        found = [
            Image.open(DATA / row["path"]).convert("RGB").resize((32, 32)) for row in rows if row["split"] == split
        ]
        return np.stack([np.asarray(picture, np.float32).ravel() / 255 for picture in found])

    x = pictures("train")
    model = make_pipeline(PCA(min(20, len(x) - 1), random_state=0), LogisticRegression(max_iter=1_000))
    model.fit(x, [int(row["tumour"]) for row in rows if row["split"] == "train"])
    return np.asarray(model.predict_proba(pictures("test"))[:, 1])


def measure(name: str, epochs: int, folder: Path) -> None:
    """Train, answer the test split and print."""
    table = folder / "table.csv"
    rows = write_table(name, table)
    test = [row for row in rows if row["split"] == "test"]
    files = [DATA / row["path"] for row in test]
    truth, slide = np.array([int(row["tumour"]) for row in test]), np.array([row["group_id"] for row in test])
    own = colours(rows)
    train(name, "self_vit_mil_pretrain", table, folder / "pre", *own,
          f"data.tiles_a_slide={TILES[name]}", f"trainer.max_epochs={epochs}", "trainer.check_val_every_n_epoch=5")  # fmt: skip
    told = {"PCA + logistic regression": trivial(rows)}
    for said, weights in (("pre-trained (DINO)", folder / "pre/best.ckpt"), ("the same network untrained", "null")):
        run = folder / said.split()[0]
        train(name, "self_vit_mil", table, run, *own, f"system.weights={weights}")
        found = answered(run, files, folder / f"{run.name}_out")
        told[said] = np.array([found[str(file)] for file in files])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{name}: {len(test)} of the test split from {len(set(slide))} slides, {used.ru_utime + used.ru_stime:.0f} s computed"
    )
    for said, score in told.items():
        print(f"  {said:<28} AUC {interval(truth, score, slide)}")
    (folder / "scores.json").write_text(json.dumps({said: score.tolist() for said, score in told.items()}))


def main() -> None:
    """Measure one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=tuple(TILES), default="osteosarcoma")
    parser.add_argument("--epochs", type=int, default=20, help="of pre-training")
    parser.add_argument("--keep", type=Path, help="folder to work in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (arguments.keep or Path(folder)).mkdir(parents=True, exist_ok=True)
        measure(arguments.set, arguments.epochs, arguments.keep or Path(folder))


if __name__ == "__main__":
    main()

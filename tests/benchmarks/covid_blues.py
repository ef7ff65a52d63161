"""Real clips of the lung through `ERDES`: ``python tests/benchmarks/covid_blues.py [--epochs 20] [--pretrain 30]``.

COVID-BLUES (63 clips of 32 patients, split by patient): A-lines, B-lines and a severity of 2 or 3, asked of one network at
once. A small video ViT from scratch, the same after VideoMAE on the clips of the train split alone, and a thin 3-D U-Net.
The epoch is chosen on val by the mean AUC. AUC of the test split with a 95 % interval by drawing patients. A dozen test clips
of six patients prove the plumbing and nothing clinical. The clips are CC BY-NC-ND: nothing trained here is kept.
"""

import argparse
import copy
import csv
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scored import interval

from medvit.case import Case
from medvit.data.batch import Batch
from medvit.data.clips import random_look, shrunk
from medvit.evaluate.metrics import auroc, nanmean
from medvit.image import Image
from medvit.optim import decay_groups
from medvit.systems.erdes import ERDES, VideoMAEPretraining
from medvit.train import keep_memory

DATA = Path(__file__).resolve().parents[3] / "shared/data/us_video"
LABELS = ["A-lines", "B-lines", "severe"]
SIDE, FRAMES, BATCH = 64, 16, 8
SHAPE: dict[str, Any] = {"frames": FRAMES, "side": SIDE, "patch": 8, "tubelet": 8, "width": 128, "depth": 4, "heads": 4,
                         "mean": 0.12, "std": 0.18}  # fmt: skip
VIT_LR, UNET_LR, PRETRAIN_LR = 1e-3, 3e-3, 1e-3
LOOK = {"crop_min": 0.7, "flip": 0.5, "time_min": 0.8}

Clip = tuple[Case, Image]


def read_set() -> dict[str, list[Clip]]:
    """Split to clips, cropped to the sector and averaged down."""
    system, clips = ERDES(labels=LABELS, net="video_vit", **SHAPE), {"train": [], "val": [], "test": []}
    with (DATA / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "covid_blues"]
    for row in rows:
        told = dict(one.split("=") for one in row["labels"].split("|"))
        y = {name: float(told[name] == "yes") for name in LABELS[:2]} | {"severe": float(float(told["severity"]) >= 2)}
        case = Case(row["path"], "US", (DATA / row["path"],), y, patient=row["patient_id"])
        clips[row["split"]].append((case, shrunk(system.read(case), SIDE)))
    return clips


def batches(system: Any, clips: list[Clip], rng: np.random.Generator) -> Iterator[Batch]:
    """Random views of all clips, once."""
    order = rng.permutation(len(clips))
    for some in np.array_split(order, math.ceil(len(clips) / BATCH)):
        yield Batch([system.sample(clips[i][1], clips[i][0], random_look(rng, **LOOK)) for i in some])


def optimise(groups: Any, lr: float, epochs: int, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(groups, lr, weight_decay=0.05)
    total = epochs * steps
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=total, pct_start=0.1)


def pretrain(clips: list[Clip], epochs: int) -> dict[str, torch.Tensor]:
    """The encoder after VideoMAE with dual masking on clips without labels."""
    torch.manual_seed(0)
    system, rng = VideoMAEPretraining(**SHAPE, decoder_width=64, decoder_depth=2, decoder_heads=2, mask_ratio=0.75,
                                      masking="dual", within=True), np.random.default_rng(0)  # fmt: skip
    net, steps = system.objective.train(), math.ceil(len(clips) / BATCH)
    optimizer, rates = optimise(decay_groups(net, 0.05), PRETRAIN_LR, epochs, steps)
    for epoch in range(epochs):
        losses = []
        for batch in batches(system, clips, rng):
            with torch.autocast("cpu", torch.bfloat16):
                loss = net(batch.x)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            losses.append(loss.item())
        if epoch in (0, epochs - 1):
            print(f"  VideoMAE epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
    return {name: value for name, value in net.encoder.state_dict().items() if not name.startswith("norm.")}


def answers(system: ERDES, clips: list[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and truth, (n, K) each."""
    system.eval()
    with torch.no_grad():
        batch = Batch([system.sample(image, case) for case, image in clips])
        return system(system.inputs(batch)).sigmoid(), batch.y


def learn(system: ERDES, clips: dict[str, list[Clip]], epochs: int, lr: float) -> torch.Tensor:
    """Probabilities of the test clips, by the epoch that was best on val."""
    rng, best = np.random.default_rng(0), (-1.0, 0, system.state_dict())
    optimizer, rates = optimise(system.net.parameters(), lr, epochs, math.ceil(len(clips["train"]) / BATCH))
    for epoch in range(epochs):
        system.train()
        for batch in batches(system, clips["train"], rng):
            _, loss = system.judge(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
        area = float(nanmean(auroc(*answers(system, clips["val"]))))
        if area > best[0]:
            best = (area, epoch + 1, copy.deepcopy(system.state_dict()))
    system.load_state_dict(best[2])
    print(f"  epoch {best[1]} of {epochs}, mean AUC on val {best[0]:.3f}, last loss {loss.item():.3f}", flush=True)
    return answers(system, clips["test"])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretrain", type=int, default=30, help="epochs of VideoMAE")
    parser.add_argument("--keep", type=Path, help="file for the probabilities")
    given = parser.parse_args()
    keep_memory()
    clips = read_set()
    truth = np.array([[case.labels[name] for name in LABELS] for case, _ in clips["test"]])
    patient = np.array([case.patient for case, _ in clips["test"]])
    print(f"{len(truth)} test clips of {len(set(patient))} patients", flush=True)
    weights = pretrain(clips["train"], given.pretrain)
    kept = {}
    for name in ("video ViT from scratch", "video ViT after VideoMAE", "3-D U-Net"):
        torch.manual_seed(0)
        start = time.process_time()
        if name == "3-D U-Net":
            system = ERDES(labels=LABELS, net="unet3d", frames=FRAMES, side=SIDE, slim=8)
        else:
            system = ERDES(labels=LABELS, net="video_vit", **SHAPE)
        if name.endswith("VideoMAE"):
            system.net.load_state_dict(weights, strict=False)
        score = learn(system, clips, given.epochs, UNET_LR if name == "3-D U-Net" else VIT_LR).numpy()
        kept[name] = score.tolist()
        told = ", ".join(f"{one} {interval(truth[:, k], score[:, k], patient)}" for k, one in enumerate(LABELS))
        print(f"{name}: {told}; {time.process_time() - start:.0f} s of processor time", flush=True)
    if given.keep:
        given.keep.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()

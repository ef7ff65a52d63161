"""Boxes on real images beside a network without: ``python tests/benchmarks/real_masks.py hippocampus|wbc --minutes 30``.

A small SAM of medvit's, from scratch, learns the structures by boxes; MONAI's 2-D BasicUNet learns them without, for as many
minutes of processor time, on the same training split. Then Dice of each structure on the test split: over volumes of the
hippocampus (boxes from the truth on every slice, and one box on the slice that shows most, carried on), over pictures of white
blood cells. A box from the truth tells a lot: the figures show what it is worth, not which network is better; the ellipse that
fills the box shows what it is worth without a look at the image. ``--keep FILE`` writes the weights of the SAM, which
``weights`` of a system of these sizes takes.
"""

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray

from medvit.case import VOLUME, Case
from medvit.data.prompts import Object, Prompt
from medvit.data.scans import fit_of
from medvit.evaluate.segmentation import dice
from medvit.image import Image
from medvit.systems.db_sam import DBSAM
from medvit.tasks.propagation import propagate

sys.path.insert(0, str(Path(__file__).parent))
from segment import around, batches, interval, train

DATA = Path(__file__).parents[3] / "shared" / "data"
SIZES = {
    "hippocampus": {"image_size": 48, "patch": 4, "window": 6},  # about as many pixels as a slice has
    "wbc": {"image_size": 96, "patch": 8, "window": 6},
}
NET = {
    "variant": "none", "trained": "everything", "width": 96, "depth": 4, "heads": 4, "everywhere": (1, 3), "channels": 64,
    "decoder_heads": 4, "decoder_hidden": 256,
}  # fmt: skip
LABELS = {"hippocampus": {1: "anterior", 2: "posterior"}, "wbc": {128: "cytoplasm", 255: "nucleus"}}
MARGIN, BATCH, LR = 0.02, 16, 1e-3
FEATURES = (16, 16, 32, 64, 128, 16)  # of the U-Net


def cases(name: str, split: str) -> list[Case]:
    """Images with masks of a split."""
    if name == "hippocampus":
        with (DATA / "seg3d" / "labels.csv").open() as file:
            rows = [
                row for row in csv.DictReader(file) if row["dataset"] == "hippocampus_images" and row["split"] == split
            ]
        paths = [DATA / "seg3d" / row["path"] for row in rows]
        return [Case(p.name, VOLUME, (p,), mask=p.parents[1] / "labels" / p.name) for p in paths]
    with (DATA / "cytology" / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "wbc_seg" and row["split"] == split]
    paths = [DATA / "cytology" / row["path"] for row in rows]
    return [Case(p.name, "", (p,), mask=p.with_name(f"{p.stem}_mask.png")) for p in paths]


def unet(name: str, images: list[Image], side: int, minutes: float) -> Any:
    """MONAI's network, trained on whole slices."""
    labels = list(LABELS[name])
    net = BasicUNet(2, images[0].pixels.shape[0], len(labels) + 1, FEATURES)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    rng = np.random.default_rng(0)
    started = time.process_time()
    for step in itertools.count():
        share = (time.process_time() - started) / 60 / minutes
        if share >= 1:
            print(f"U-Net: {step} steps, {sum(p.numel() for p in net.parameters()):,} numbers", flush=True)
            return net.eval()
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, share * 20) * (0.5 + 0.5 * np.cos(np.pi * share))
        xs, ys = [], []
        for _ in range(BATCH):
            image = images[int(rng.integers(len(images)))]
            z = int(rng.integers(image.pixels.shape[1]))
            x, y = seen(image.pixels[:, z], side), seen_mask(image, z, labels, side)
            flips = [axis for axis in (-1, -2) if rng.random() < 0.5]
            xs.append(x.flip(flips))
            ys.append(y.flip(flips))
        loss = loss_of(net(torch.stack(xs)), torch.stack(ys))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError


def seen(planes: NDArray[np.float32], side: int) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(planes))[None]
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)[0]


def seen_mask(image: Image, z: int, labels: list[int], side: int) -> torch.Tensor:
    assert image.mask is not None
    y = sum((image.mask[z] == label) * (n + 1) for n, label in enumerate(labels))
    return F.interpolate(torch.from_numpy(np.asarray(y, np.float32))[None, None], (side, side), mode="nearest")[0]


@torch.no_grad()
def found_without(net: Any, image: Image, side: int, labels: list[int]) -> dict[int, NDArray[np.bool_]]:
    x = torch.stack([seen(image.pixels[:, z], side) for z in range(image.pixels.shape[1])])
    logits = F.interpolate(net(x), image.pixels.shape[2:], mode="bilinear", align_corners=False)
    best = logits.argmax(dim=1).numpy()
    return {label: best == n + 1 for n, label in enumerate(labels)}


@torch.no_grad()
def found_by_boxes(system: DBSAM, image: Image, labels: list[int], carried: bool) -> dict[int, NDArray[np.bool_]]:
    """With a box on every slice, or on the one that shows most, from where it is carried on."""
    assert image.mask is not None
    shape = image.mask.shape
    fit = fit_of((shape[1], shape[2]), system.side, system.pixels)
    planes = torch.from_numpy((image.pixels * 255 + 0.5).astype(np.uint8))

    def answer(z: int, prompts: Any) -> Any:
        return system.answered(planes[:, z], fit, prompts)

    objects = []
    for label in labels:
        sizes = (image.mask == label).sum(axis=(1, 2))
        slices = [int(sizes.argmax())] if carried else [int(z) for z in np.flatnonzero(sizes)]
        prompts = tuple(Prompt(z, around(image.mask[z] == label, MARGIN)) for z in slices)
        objects.append(Object(str(label), prompts, "box"))
    if carried:
        results = propagate(objects, (shape[0], shape[1], shape[2]), answer, system.stop)
        return {label: one.mask for label, one in zip(labels, results, strict=True)}
    masks = {label: np.zeros(shape, bool) for label in labels}
    for one, label in zip(objects, labels, strict=True):
        for prompt in one.prompts:
            masks[label][prompt.slice] = answer(prompt.slice, [prompt])[0][0]
    return masks


def ellipses(image: Image, labels: list[int]) -> dict[int, NDArray[np.bool_]]:
    """What fills the same boxes, without a look at the image."""
    assert image.mask is not None
    masks = {label: np.zeros(image.mask.shape, bool) for label in labels}
    y, x = np.mgrid[: image.mask.shape[1], : image.mask.shape[2]] + 0.5
    for label in labels:
        for z in np.flatnonzero((image.mask == label).any(axis=(1, 2))):
            left, top, right, bottom = around(image.mask[z] == label, MARGIN)
            u, v = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
            masks[label][z] = u**2 + v**2 <= 1
    return masks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=tuple(LABELS))
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time for each network")
    parser.add_argument("--keep", type=Path, help="where the weights of the SAM go")
    chosen = parser.parse_args()
    name, labels = chosen.data, list(LABELS[chosen.data])
    torch.manual_seed(0)
    system = DBSAM(**NET, **SIZES[name])
    splits = {split: [system.read(case) for case in cases(name, split)] for split in ("train", "test")}
    wholes = [
        image for image in splits["test"] if image.mask is not None and all((image.mask == n).any() for n in labels)
    ]
    print(
        f"{name}: {len(splits['train'])} images to learn from, {len(wholes)} of {len(splits['test'])} test images hold all",
        flush=True,
    )
    steps, spent = train(
        system, batches(system, splits["train"], BATCH, 0.05, 0, len(labels)), LR, minutes=chosen.minutes
    )
    system.eval()
    if chosen.keep:
        torch.save(system.net.state_dict(), chosen.keep)
    print(
        f"boxes: {steps} steps, {spent:.1f} minutes, {sum(p.numel() for p in system.net.parameters()):,} numbers",
        flush=True,
    )
    net = unet(name, splits["train"], system.side, chosen.minutes)
    ways = {
        "box on every slice" if name == "hippocampus" else "box": lambda image: found_by_boxes(
            system, image, labels, False
        ),
        "ellipse in that box": lambda image: ellipses(image, labels),
        "BasicUNet, no prompt": lambda image: found_without(net, image, system.side, labels),
    }
    if name == "hippocampus":
        ways["one box, carried on"] = lambda image: found_by_boxes(system, image, labels, True)
    scores: dict[str, NDArray[np.float64]] = {}
    for way, find in ways.items():
        answers = [(find(image), image.mask) for image in wholes]
        scores[way] = np.array([[dice(found[n], mask == n) for n in labels] for found, mask in answers])
        for column, word in enumerate(LABELS[name].values()):
            low, mean, high = interval(scores[way][:, column])
            print(f"{way}, {word}: Dice {mean:.3f} ({low:.3f} to {high:.3f}; {len(answers)} images)", flush=True)
    other = scores.pop("BasicUNet, no prompt")
    for way, found in scores.items():
        for column, word in enumerate(LABELS[name].values()):
            low, mean, high = interval(found[:, column] - other[:, column])
            print(f"{way} less BasicUNet, {word}: {mean:+.3f} ({low:+.3f} to {high:+.3f})", flush=True)


if __name__ == "__main__":
    main()

"""What iBOT's features tell of real cells: ``python tests/benchmarks/real_cells.py [SET …] [--steps 300] [--seeds 0 1 2]``.

SET is ``wbc_seg`` (four kinds of white blood cells, a cell a group) or ``lbc_grade`` (LSIL, HSIL, SCC of liquid-based
cytology, by series) of ../shared/data/cytology. A small ViT is pre-trained by iBOT on the pictures of the train split alone; a
linear probe and nearest neighbours answer on its frozen features: the class token, as CytoFM's, or the class tokens of the four
last blocks and the mean patch token. Colours are normalised by the train split's own mean and deviation. Beside them, on the
same splits: an untrained ViT, PCA and logistic regression of the pixels, and the same ViT trained from scratch with labels
(``--without-scratch`` leaves it out). Whatever is chosen (decay, components, epoch) is chosen on val, which is printed, so
that settings compare on it. Figures are means over seeds; intervals draw groups, each with the answers of all seeds.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

from medvit.data.crops import Crops
from medvit.evaluate.probe import balanced_accuracy, linear_probe, neighbours, score
from medvit.nets.dino import Head
from medvit.nets.ibot import IBOT
from medvit.nets.vit import ViT
from medvit.optim import clip_each, decay_groups
from medvit.readers.sheet import read_picture

DATA = Path(__file__).resolve().parents[3] / "shared/data/cytology"
SIDE, PATCH, WIDTH, DEPTH, HEADS = 48, 8, 96, 4, 3
BATCH, LR = 32, 1e-3
TEMPERATURE = 0.03  # of the teacher
SPLITS = ("train", "val", "test")


def read_set(name: str) -> tuple[dict[str, np.ndarray], dict[str, Tensor], dict[str, list[str]], list[str]]:
    """Pictures (N, SIDE, SIDE, 3), types, groups by split, and what the types are called."""
    with (DATA / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    kinds = sorted({row["labels"] for row in rows})
    pictures, types, groups = {}, {}, {}
    for split in SPLITS:
        own = [row for row in rows if row["split"] == split]
        found = [
            Image.fromarray(read_picture(DATA / row["path"])).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            for row in own
        ]
        pictures[split] = np.stack([np.asarray(picture) for picture in found])
        types[split] = torch.tensor([kinds.index(row["labels"]) for row in own])
        groups[split] = [row["group_id"] for row in own]
    torn = [set(groups[a]) & set(groups[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test"))]
    if any(torn):
        raise SystemExit(f"{name} has groups in two splits: {torn}")
    return pictures, types, groups, kinds


class Look:
    """Pixels as the network sees them: by the mean and deviation of the pictures (N, H, W, 3) of the train split."""

    def __init__(self, pictures: np.ndarray) -> None:
        pixels = torch.from_numpy(pictures).float().reshape(-1, 3) / 255
        self.mean, self.std = (three.reshape(3, 1, 1) for three in (pixels.mean(dim=0), pixels.std(dim=0)))

    def crops(self, crops: Tensor) -> Tensor:
        """Crops (..., 3, H, W) uint8."""
        return (crops.float() / 255 - self.mean) / self.std

    def pictures(self, pictures: np.ndarray) -> Tensor:
        """Pictures (N, H, W, 3) uint8 as (N, 3, H, W)."""
        return self.crops(torch.from_numpy(pictures).permute(0, 3, 1, 2))


def network(classes: int = 0) -> ViT:
    return ViT(SIDE, PATCH, WIDTH, DEPTH, HEADS, classes=classes, drop_path=0.1)


def pretrain(pictures: np.ndarray, look: Look, steps: int, seed: int) -> tuple[ViT, float]:
    """The teacher after iBOT on pictures without labels, and the entropy of its answers: 1 would be a collapse."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = IBOT(network(), Head(WIDTH, 256, hidden=256, bottleneck=64), momentum=0.99,
               teacher_temperature=TEMPERATURE, first_teacher_temperature=TEMPERATURE, patch_temperature=TEMPERATURE,
               first_patch_temperature=TEMPERATURE, ratios=[(0.0, 0.0), (0.3, 0.2)])  # fmt: skip
    crops = Crops(SIDE, SIDE // 2, small=2, scale=0.5, smallest=0.2, colour=0.2, grey=0.0, blur=0.0, solarise=0.0,
                  rotate=True)  # fmt: skip
    optimizer = torch.optim.AdamW(decay_groups(net, 0.04), LR, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        cuts = [crops.cut(pictures[index], rng) for index in rng.integers(len(pictures), size=BATCH)]
        kinds = [torch.from_numpy(np.stack(kind, axis=1)) for kind in zip(*cuts, strict=True)]
        told = net([look.crops(kind) for kind in kinds])
        optimizer.zero_grad()
        told["loss"].backward()
        clip_each(net.parameters(), 3.0)
        net.before_step()
        optimizer.step()
        rates.step()
        net.after_step((step + 1) / steps)
    return net.encoder.eval(), float(told["teacher_entropy"])


def from_scratch(
    pictures: dict[str, np.ndarray], types: dict[str, Tensor], look: Look, steps: int, seed: int
) -> Tensor:
    """Types of the val and test pictures by the same network trained with labels; the best of its checks on val answers."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = network(int(types["train"].max()) + 1)
    crops = Crops(SIDE, SIDE // 2, small=0, scale=0.5, colour=0.2, solarise=0.0, grey=0.0, blur=0.0, rotate=True)
    optimizer = torch.optim.AdamW(decay_groups(net, 0.05), LR, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    weight = len(types["train"]) / types["train"].bincount().float()
    best, answers = -1.0, types["test"]
    for step in range(steps):
        drawn = rng.integers(len(pictures["train"]), size=BATCH)
        x = torch.from_numpy(np.stack([crops.cut(pictures["train"][index], rng)[0][0] for index in drawn]))
        loss = F.cross_entropy(net.train()(look.crops(x)), types["train"][drawn], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 20 == 19:
            with torch.no_grad():
                net.eval()
                told = net(look.pictures(np.concatenate([pictures["val"], pictures["test"]]))).argmax(dim=-1)
                found = balanced_accuracy(told[: len(types["val"])], types["val"])
                if found > best:
                    best, answers = found, told
    return answers


def principal(pictures: dict[str, np.ndarray], types: dict[str, Tensor]) -> Tensor:
    """Types of the val and test pictures by logistic regression of the principal components of their pixels."""
    flat = {split: part.reshape(len(part), -1) / 255 for split, part in pictures.items()}
    asked = np.concatenate([flat["val"], flat["test"]])
    best, answers = -1.0, types["test"]
    for components in (8, 16, 32, 64):
        for strength in (0.01, 0.1, 1.0, 10.0):
            model = make_pipeline(PCA(components, whiten=True, random_state=0),
                                  LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000))  # fmt: skip
            model.fit(flat["train"], types["train"].numpy())
            told = torch.from_numpy(model.predict(asked))
            found = balanced_accuracy(told[: len(types["val"])], types["val"])
            if found > best:
                best, answers = found, told
    return answers


def probed(net: ViT, deep: bool, look: Look, pictures: dict[str, np.ndarray], types: dict[str, Tensor]) -> list[Tensor]:
    """Types of the val and test pictures by a linear probe, and by nearest neighbours, on frozen features."""
    describe = net.embedding if deep else net
    with torch.no_grad():
        x = {split: describe(look.pictures(part)) for split, part in pictures.items()}
    asked = torch.cat([x["val"], x["test"]])
    return [
        linear_probe(x["train"], types["train"], x["val"], types["val"], asked),
        neighbours(x["train"], types["train"], asked),
    ]


def main() -> None:
    """Every way of answering on every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["wbc_seg", "lbc_grade"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--without-scratch", action="store_true")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is absent.")
    for name in arguments.sets:
        pictures, types, groups, kinds = read_set(name)
        print(f"{name}: {', '.join(kinds)}; {' / '.join(str(len(types[split])) for split in SPLITS)} pictures, "
              f"{len(set(groups['test']))} groups in test, {arguments.steps} steps", flush=True)  # fmt: skip
        look = Look(pictures["train"])
        answers: dict[str, list[Tensor]] = {"PCA + logistic regression": [principal(pictures, types)]}
        for seed in arguments.seeds:
            started = time.process_time()
            net, entropy = pretrain(pictures["train"], look, arguments.steps, seed)
            took = time.process_time() - started
            torch.manual_seed(seed)
            nets = {"iBOT": net, "untrained ViT": network().eval()}
            for who, of in nets.items():
                for what, deep in (("class token", False), ("4 class tokens and mean patch", True)):
                    for how, told in zip(
                        ("linear", "neighbours"), probed(of, deep, look, pictures, types), strict=True
                    ):
                        answers.setdefault(f"{who}, {what}, {how}", []).append(told)
            if not arguments.without_scratch:
                told = from_scratch(pictures, types, look, arguments.steps, seed)
                answers.setdefault("ViT from scratch with labels", []).append(told)
            print(
                f"  seed {seed}: pre-training {took:.0f} s of processor time, entropy of the teacher {entropy:.3f}",
                flush=True,
            )
        for what, each in answers.items():
            print(f"  {what:48} {figures(each, types, groups)}", flush=True)


def figures(each: list[Tensor], types: dict[str, Tensor], groups: dict[str, list[str]]) -> str:
    """Class-balanced accuracy on val and test, mean over seeds."""
    count = len(types["val"])
    val = np.mean([balanced_accuracy(told[:count], types["val"]) for told in each])
    tests = [told[count:] for told in each]
    found = score(torch.cat(tests), types["test"].repeat(len(each)), groups["test"] * len(each))
    single = " ".join(f"{balanced_accuracy(told, types['test']):.3f}" for told in tests)
    return f"val {val:.3f}  test {found.accuracy:.3f} ({found.low:.3f} to {found.high:.3f})  by seed {single}"


if __name__ == "__main__":
    main()

"""What the benchmarks of segmentation share: training for steps or processor time, and Dice with intervals over patients."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medvit.case import Case
from medvit.data.batch import Batch
from medvit.data.prompts import Prompt
from medvit.data.scans import counted, fit_of, random_choice
from medvit.evaluate.segmentation import dice
from medvit.image import Image
from medvit.nets.objective import cosine
from medvit.tasks.segmentation import Segmentation

DRAWS = 2000
NO_CASE = Case("", "", ())
# A patient, its images with masks.
Patients = Sequence[tuple[str, Image]]


def batches(
    system: Segmentation, images: Sequence[Image], size: int, jitter: float, seed: int, structures: int = 1
) -> Iterator[Batch]:
    """Random structures of random slices in random boxes, without end; the same for every system."""
    rng = np.random.default_rng(seed)
    while True:
        chosen = [images[int(rng.integers(len(images)))] for _ in range(size)]
        look = random_choice(rng, jitter=jitter, min_pixels=10, flip=0.5, structures=structures)
        yield Batch([system.sample(image, NO_CASE, look) for image in chosen])


def train(
    system: Segmentation, stream: Iterator[Batch], lr: float, steps: int | None = None, minutes: float | None = None
) -> tuple[int, float]:
    """Train for steps or minutes of processor time; returns both. The schedule follows whichever is the limit."""
    trained = [p for p in system.net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
    system.train()
    started = time.process_time()
    for step in itertools.count():
        spent = (time.process_time() - started) / 60
        share = step / steps if steps else spent / (minutes or 1)
        if share >= 1:
            return step, spent
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, share * 20) * cosine(1.0, 0.0, share)
        _, _, losses = system.judge(next(stream))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    raise AssertionError


@torch.no_grad()
def boxed_dice(system: Segmentation, patients: Patients, margin: float, every: int = 1) -> dict[str, list[float]]:
    """Dice of every structure with 10 pixels on a slice, in a box larger by a share of the longer side; by patient."""
    system.eval()
    scores: dict[str, list[float]] = {}
    for patient, image in patients:
        assert image.mask is not None
        counts = counted(image.mask, 10)
        for z in np.flatnonzero(counts.any(axis=1))[::every]:
            masks = [image.mask[z] == label for label in np.flatnonzero(counts[z])]
            H, W = masks[0].shape
            planes = torch.from_numpy((image.pixels[:, z] * 255 + 0.5).astype(np.uint8))
            prompts = [Prompt(0, around(mask, margin)) for mask in masks]
            found = system.answered(planes, fit_of((H, W), system.side, system.pixels), prompts)
            scores.setdefault(patient, []).extend(dice(f, t) for (f, _), t in zip(found, masks, strict=True))
    return scores


def around(mask: NDArray[np.bool_], margin: float) -> tuple[float, float, float, float]:
    """A box around a mask, larger by a share of its longer side, within the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (H, W), more = mask.shape, margin * max(mask.shape)
    return (
        max(columns[0] - more, 0.0),
        max(rows[0] - more, 0.0),
        min(columns[-1] + 1 + more, W),
        min(rows[-1] + 1 + more, H),
    )


def told(scores: dict[str, list[float]]) -> str:
    """Mean over patients with a 95 % interval by drawing patients."""
    low, mean, high = interval(np.array([np.mean(values) for values in scores.values()]))
    return f"{mean:.3f} ({low:.3f} to {high:.3f}; {len(scores)} patients)"


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """2.5 %, mean and 97.5 % of the mean of values drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(values.mean()), float(np.quantile(drawn, 0.975))


def paired(one: dict[str, list[float]], other: dict[str, list[float]]) -> str:
    """How much larger the one is, with its interval, patient by patient."""
    low, mean, high = interval(np.array([np.mean(one[p]) - np.mean(other[p]) for p in one]))
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


Trained = Callable[[], Segmentation]

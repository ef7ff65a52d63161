"""Clips as networks see them, and tables of clips as loaders for training.

Source: ERDES's preprocessing: mean of red, green and blue, black to a square, the whole clip resampled in space and time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from medvit.case import Case
from medvit.codes import Label
from medvit.data.batch import Sample
from medvit.data.cases import Cases
from medvit.data.clip_tables import read_clips
from medvit.data.inputs import targets
from medvit.errors import MedvitError
from medvit.image import Fit, Image, Plane
from medvit.readers.sector import bounds

Size = tuple[int, int, int]  # frames, rows, columns
Box = tuple[float, float, float, float]  # top, left, bottom, right, possibly beyond the frame


class Seen(NamedTuple):
    """The part of a clip that is seen: a rectangle, every ``step``-th frame from ``start`` to ``stop``, perhaps mirrored."""

    box: Box
    start: int
    stop: int
    step: int = 1
    mirrored: bool = False


# From the square around what a clip shows, its number of frames and the model's to what is seen of it.
Look = Callable[[Box, int, int], Seen]


def whole(box: Box, frames: int, wanted: int) -> Seen:
    """The view for answers: everything."""
    return Seen(box, 0, frames)


def random_look(
    rng: Generator, *, crop_min: float = 1.0, flip: float = 0.0, time_min: float = 1.0, stride: int | None = None
) -> Look:
    """A random part of a clip.

    Args:
        rng: Source of every random choice.
        crop_min: Smallest share of the square's area that is kept.
        flip: Probability of a left-right mirror image.
        time_min: Smallest share of the frames that is kept, without ``stride``.
        stride: Every so many frames one is taken, from a random one on; all are spread where the clip is too short.
    """

    def look(box: Box, frames: int, wanted: int) -> Seen:
        top, left, bottom, right = box
        side = (bottom - top) * float(np.sqrt(rng.uniform(crop_min, 1.0)))
        y, x = rng.uniform(0, bottom - top - side), rng.uniform(0, right - left - side)
        step = 1
        if stride is not None:
            step = stride if stride * wanted <= frames else 1
            length = min(step * wanted, frames) if step > 1 or wanted <= frames else frames
        else:
            length = max(round(frames * rng.uniform(time_min, 1.0)), min(2, frames))
        start = int(rng.integers(0, frames - length + 1))
        mirrored = bool(rng.random() < flip)
        return Seen((top + y, left + x, top + y + side, left + x + side), start, start + length, step, mirrored)

    return look


def shrunk(image: Image, side: int) -> Image:
    """A clip whose frames are averaged down by a whole factor, as long as what they show stays ``side`` pixels or larger."""
    frames = image.pixels[0]
    top, left, bottom, right = shown(frames)
    factor = max(max(bottom - top, right - left) // side, 1)
    if factor == 1:
        return image
    T, H, W = len(frames), frames.shape[1] // factor, frames.shape[2] // factor
    small = frames[:, : H * factor, : W * factor].reshape(T, H, factor, W, factor).mean(axis=(2, 4), dtype=np.float32)
    return replace(image, pixels=small[None])


def shown(frames: Plane) -> tuple[int, int, int, int]:
    """The rectangle in which frames (T, H, W) are ever brighter than 0."""
    lit = frames.max(axis=0) > 0
    return bounds(lit if lit.any() else ~lit)


def square(frames: Plane) -> Box:
    """The square around what frames (T, H, W) show; it may reach beyond them, and is black there."""
    top, left, bottom, right = shown(frames)
    side = max(bottom - top, right - left)
    y, x = top - (side - (bottom - top)) // 2, left - (side - (right - left)) // 2
    return y, x, y + side, x + side


def clip_sample(
    image: Image, case: Case, look: Look | None, *, size: Size, smooth: bool, labels: Sequence[Label]
) -> Sample:
    """A clip at model size, in [0, 1], with its labels.

    Args:
        image: (1, T, H, W) in [0, 1].
        case: Whose labels count.
        look: Which part is seen; all of it where None.
        size: Frames, rows and columns of the model's view.
        smooth: Whether large frames are averaged down first, see `shrunk`; ERDES does not.
        labels: The order of ``y``.

    Returns:
        ``x`` (1, *size).
    """
    small = shrunk(image, size[1]) if smooth else image
    factor = image.pixels.shape[2] // small.pixels.shape[2]
    frames = small.pixels[0]
    seen = (look or whole)(square(frames), len(frames), size[0])
    x = resampled(frames[seen.start : seen.stop : seen.step], seen.box, size)
    x = x.flip(-1) if seen.mirrored else x
    top, left, bottom, right = (edge * factor for edge in seen.box)
    source = (image.pixels.shape[2], image.pixels.shape[3])
    fit = Fit(source, size[1:], (top, left, bottom, right))
    return Sample(x[None], targets(case, labels), case, fit, image.origin)


def resampled(frames: Plane, box: Box, size: Size) -> Tensor:
    """Frames (T, H, W) within a box, black beyond their edges, resampled to a size without antialiasing, in space and time."""
    top, left, bottom, right = (round(edge) for edge in box)
    H, W = frames.shape[1:]
    cut = frames[:, max(top, 0) : bottom, max(left, 0) : right]
    edges = (max(-left, 0), max(right - W, 0), max(-top, 0), max(bottom - H, 0))
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(cut)), edges)
    return F.interpolate(padded[None, None], size, mode="trilinear", align_corners=False)[0, 0]


class SeesClips(Protocol):
    """What a system of clips sees of them."""

    size: Size
    smooth: bool


class Clips(Cases):
    """Labelled clips in three splits.

    Args:
        table: medvit's own CSV; or ERDES's folder of clips, or its folder ``splits/<task>`` of ``train.csv``, ``val.csv``
            and ``test.csv``.
        kind: Which of these it is.
        images: Folder that the paths of ERDES's split tables lie in.
        batch_size: Clips a step on each device.
        workers: Processes that read clips; 0 reads in the training process.
        cache: Whether decoded clips stay in memory, for small sets.
        crop_min: Smallest share of a frame's area that a training view keeps; ERDES crops nothing.
        flip: Probability of a left-right mirrored training view.
        time_min: Smallest share of the frames that a training view keeps.
        stride: Take one of so many frames for a training view, as VideoMAE does; the whole clip is resampled without it.
        folds: Into how many parts patients are dealt for cross-validation; 1 keeps the splits of the table.
        fold: Which part is test, from 0; the next is validation, the others train.
    """

    def __init__(
        self,
        table: Path,
        kind: Literal["medvit", "erdes", "erdes_splits"] = "medvit",
        images: Path | None = None,
        batch_size: int = 8,
        workers: int = 0,
        cache: bool = False,
        crop_min: float = 1.0,
        flip: float = 0.0,
        time_min: float = 1.0,
        stride: int | None = None,
        folds: int = 1,
        fold: int = 0,
    ) -> None:
        super().__init__(table, batch_size=batch_size, workers=workers, cache=cache, crop_min=crop_min, flip=flip,
                         folds=folds, fold=fold)  # fmt: skip
        if not 0 < time_min <= 1 or (stride is not None and stride < 1):
            raise MedvitError("data.time_min must lie between 0 and 1, and data.stride must be 1 or more.")
        self.layout: Literal["medvit", "erdes", "erdes_splits"] = kind
        self.images, self.time_min, self.stride = images, time_min, stride

    def read_splits(self, names: Sequence[str]) -> dict[str, list[Case]]:
        """Split to clips; those of which none of the labels is known are left out."""
        splits = read_clips(self.layout, self.table, names, self.images)
        return {split: [case for case in cases if case.labels or not names] for split, cases in splits.items()}

    def kept(self, image: Image) -> Image:
        """A clip as small as the system lets it be, where it stays in memory."""
        system = cast(SeesClips, self._system)
        return shrunk(image, system.size[1]) if self.cache and system.smooth else image

    def look(self, rng: Generator) -> Look:
        """A random view for training."""
        return random_look(rng, crop_min=self.crop_min, flip=self.flip, time_min=self.time_min, stride=self.stride)

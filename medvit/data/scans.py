"""Slices as promptable networks see them, and cases with masks as loaders for training.

Source: SAM resizes the longer side and pads to the right and below; MedSAM stretches to a square and scales each image by its
own range. Both train with a box around one structure of one slice, made larger at random.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from medvit.case import Case
from medvit.data.batch import Asked, Sample
from medvit.data.cases import Cases
from medvit.data.mask_tables import MaskLayout, read_masked
from medvit.errors import MedvitError, Rejected
from medvit.image import Fit, Image, Plane
from medvit.nets.sam import Pixels, normalise

Labels = NDArray[np.uint8]


class Chosen(NamedTuple):
    """What of a case is learned from: some structures of one slice.

    Args:
        slice: Which.
        labels: Numbers in the mask.
        margins: (labels, 4) by which boxes are larger, left, top, right, bottom, as shares of the model's side.
        mirrored: Whether rows and columns are reversed.
    """

    slice: int
    labels: tuple[int, ...]
    margins: NDArray[np.float64]
    mirrored: tuple[bool, bool] = (False, False)


Choice = Callable[[Labels], Chosen]  # from a mask (D, H, W)


def random_choice(rng: Generator, *, jitter: float, min_pixels: int, flip: float, structures: int = 1) -> Choice:
    """At most so many structures of one slice, by chance, in boxes that are up to ``jitter`` larger on each side."""

    def choose(mask: Labels) -> Chosen:
        counts = counted(mask, min_pixels)
        number = int(rng.choice(np.flatnonzero(counts.any(axis=1))))
        there = np.flatnonzero(counts[number])
        labels = tuple(int(label) for label in rng.choice(there, min(structures, len(there)), replace=False))
        mirrored = (bool(rng.random() < flip), bool(rng.random() < flip))
        return Chosen(number, labels, rng.uniform(0, jitter, (len(labels), 4)), mirrored)

    return choose


def steady_choice(*, jitter: float, min_pixels: int) -> Choice:
    """All structures of the slice that shows most of them, in boxes that are larger by half the jitter."""

    def choose(mask: Labels) -> Chosen:
        counts = counted(mask, min_pixels)
        number = int(counts.sum(axis=1).argmax())
        labels = tuple(int(label) for label in np.flatnonzero(counts[number]))
        return Chosen(number, labels, np.full((len(labels), 4), jitter / 2))

    return choose


def counted(mask: Labels, min_pixels: int) -> NDArray[np.int64]:
    """Pixels of every label on every slice, (D, labels); 0 for the background and where there are too few.

    Raises:
        Rejected: When nothing is left.
    """
    counts = np.stack([np.bincount(plane.ravel(), minlength=int(mask.max()) + 1) for plane in mask])
    counts[:, 0] = 0
    counts[counts < min_pixels] = 0
    if not counts.any():
        raise Rejected(
            "no_voxels", f"No structure in its mask has {min_pixels} pixels on a slice, so nothing is learned from it."
        )
    return counts


def fit_of(source: tuple[int, int], side: int, pixels: Pixels) -> Fit:
    """How a slice fills the model's square: stretched (``medsam``), or as it is with padding (``sam``)."""
    height, width = source if pixels == "medsam" else (max(source), max(source))
    return Fit(source, (side, side), (0, 0, height, width))


def inner(fit: Fit) -> tuple[int, int]:
    """Rows and columns of the model's square that show the source; the rest is padding."""
    return tuple(max(round(s * m / b), 1) for s, m, b in zip(fit.source, fit.model, fit.box[2:], strict=True))  # type: ignore[return-value]


def model_pixels(planes: Plane, fit: Fit, pixels: Pixels) -> Tensor:
    """Planes (C, H, W) in [0, 1] as a network sees them, (3, side, side)."""
    rows, columns = inner(fit)
    seen = np.stack(
        [np.asarray(Pillow.fromarray(plane).resize((columns, rows), Pillow.Resampling.BILINEAR)) for plane in planes]
    )
    x = torch.from_numpy(seen).expand(3, -1, -1)[None] * 255
    return F.pad(normalise(x, pixels), (0, fit.model[1] - columns, 0, fit.model[0] - rows))[0]


def model_mask(mask: NDArray[np.bool_], fit: Fit) -> Tensor:
    """A mask (H, W) on the model's square, nearest pixels."""
    rows, columns = inner(fit)
    seen = np.array(Pillow.fromarray(mask.astype(np.uint8)).resize((columns, rows), Pillow.Resampling.NEAREST))
    return F.pad(torch.from_numpy(seen).float(), (0, fit.model[1] - columns, 0, fit.model[0] - rows))


def training_sample(image: Image, case: Case, choice: Choice, *, side: int, pixels: Pixels) -> Sample:
    """A slice with prompts and masks.

    Args:
        image: (C, D, H, W) in [0, 1] with its mask.
        case: Where it comes from.
        choice: Which structures of which slice.
        side: Of the model's square.
        pixels: How the network wants them.

    Raises:
        Rejected: When the case has no mask, or nothing to learn from in it.
    """
    if image.mask is None:
        raise Rejected("no_mask", "It comes without a mask, so nothing can be learned from it.")
    chosen = choice(image.mask)
    steps = tuple(-1 if mirrored else 1 for mirrored in chosen.mirrored)
    labels = image.mask[chosen.slice][:: steps[0], :: steps[1]]
    planes = np.ascontiguousarray(image.pixels[:, chosen.slice, :: steps[0], :: steps[1]])
    fit = fit_of((labels.shape[0], labels.shape[1]), side, pixels)
    masks = torch.stack([model_mask(labels == label, fit) for label in chosen.labels])
    boxes = torch.stack(
        [box_of(labels == label, fit, m) for label, m in zip(chosen.labels, chosen.margins, strict=True)]
    )
    return Sample(model_pixels(planes, fit, pixels), torch.empty(0), case, fit, image.origin, asked=Asked(boxes, masks))


def box_of(mask: NDArray[np.bool_], fit: Fit, margins: NDArray[np.float64]) -> Tensor:
    """The box (4,) in model pixels around a mask (H, W), larger by margins, within what shows the source."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tight = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float64)
    larger = fit.to_model(tight)[0] + margins * fit.model[0] * np.array([-1, -1, 1, 1])
    height, width = inner(fit)
    return torch.from_numpy(larger.clip(0, [width, height, width, height])).float()


class Masks(Cases):
    """Cases with masks in three splits, split by patient; an epoch sees ``draws`` slices of every case, each time others.

    Args:
        table: A CSV of ``path, patient_id, split, mask``; or a folder, see ``kind``.
        kind: ``medvit``: that CSV; a path is a NIfTI file, a picture, a film or the folder of a DICOM series, its mask NIfTI, a
            PNG of label numbers or a DICOM SEG. ``folders``: a folder with ``images`` and ``masks`` (or ``labels``) whose files
            bear the same names. ``medsam``: npz of ``imgs`` and ``gts``, a case each, or ``imgs`` and ``gts`` (or
            ``npy_images`` and ``npy_gts``) with a file a slice.
        patient: For folders, what in a file's name is its patient, as a regular expression with one group; a file is a patient
            of its own where not given.
        batch_size: Slices a step on each device.
        workers: Processes that read cases; 0 reads in the training process.
        cache: Whether read cases stay in memory, for small sets.
        draws: Slices of every case in an epoch; for pictures, how often each is seen.
        jitter: By how much boxes are larger than what they hold, at most, as a share of the model's side; MedSAM 20 / 1024.
        min_pixels: Of a structure on a slice to be learned from.
        flip: Probability of each of a left-right and a top-bottom mirror image.
        structures: Of a slice that are asked about at most; MedSAM asks about one. The slice is embedded once for all of them,
            so more cost little.
    """

    def __init__(
        self,
        table: Path,
        kind: MaskLayout = "medvit",
        patient: str | None = None,
        batch_size: int = 8,
        workers: int = 0,
        cache: bool = False,
        draws: int = 1,
        jitter: float = 20 / 1024,
        min_pixels: int = 10,
        flip: float = 0.0,
        structures: int = 1,
    ) -> None:
        super().__init__(table, batch_size=batch_size, workers=workers, cache=cache, flip=flip)
        if min(draws, min_pixels, structures) < 1 or not 0 <= jitter <= 0.5:
            raise MedvitError(
                "data.draws, data.min_pixels and data.structures must be 1 or more, and data.jitter between 0 and 0.5."
            )
        self.layout: MaskLayout = kind
        self.patient, self.draws, self.jitter, self.min_pixels = patient, draws, jitter, min_pixels
        self.structures = structures

    def read_splits(self, names: Sequence[str]) -> dict[str, list[Case]]:
        """Split to cases with masks; those of training as often as they are drawn from."""
        splits = read_masked(self.layout, self.table, self.patient)
        return {split: cases * self.draws if split == "train" else cases for split, cases in splits.items()}

    def look(self, rng: Generator) -> Choice:
        """What is learned from a case this time."""
        return random_choice(
            rng, jitter=self.jitter, min_pixels=self.min_pixels, flip=self.flip, structures=self.structures
        )

    def steady_look(self) -> Choice:
        """What is asked of a case in validation."""
        return steady_choice(jitter=self.jitter, min_pixels=self.min_pixels)

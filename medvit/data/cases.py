"""Tables of labelled cases as loaders for training: the data side of a workflow."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from medvit.case import Case
from medvit.codes import Label
from medvit.data.augment import random_view
from medvit.data.batch import Batch, Sample
from medvit.data.inputs import View
from medvit.data.slide_tables import folded
from medvit.data.tables import read_dataset
from medvit.errors import MedvitError, Unanswered
from medvit.image import Image

log = logging.getLogger(__name__)


class Reads(Protocol):
    """The part of a system that turns cases into samples."""

    labels: tuple[Label, ...]

    def read(self, case: Case) -> Image: ...

    def sample(self, image: Image, case: Case, look: View | None = None) -> Sample: ...


class Cases(LightningDataModule):
    """Labelled cases in three splits.

    Args:
        table: The table of the data set: medvit's own CSV, NIH's ``Data_Entry_2017_v2020.csv``, or the folder of
            CheXpert's or MIMIC-CXR-JPG's tables.
        kind: Which of these it is.
        images: The folder that the tables' file names lie in; medvit's own tables need none.
        lists: The folder of NIH's official lists.
        uncertainty: What becomes of uncertain labels in CheXpert and MIMIC-CXR-JPG.
        batch_size: Cases a step on each device.
        workers: Processes that read cases; 0 reads in the training process.
        cache: Whether decoded cases stay in memory, for small sets.
        crop_min: Smallest share of an image's area that a training view keeps.
        flip: Probability of a left-right mirrored training view.
        randaugment: Magnitude 0 to 10 of two RandAugment operations on training views; 0 for none.
        folds: Into how many parts patients are dealt for cross-validation; 1 keeps the splits of the table.
        fold: Which part is test, from 0; the next is validation, the others train.
    """

    def __init__(
        self,
        table: Path,
        kind: Literal["medvit", "nih", "chexpert", "mimic"] = "medvit",
        images: Path | None = None,
        lists: Path | None = None,
        uncertainty: Literal["ones", "zeros", "ignore", "paper"] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        cache: bool = False,
        crop_min: float = 0.5,
        flip: float = 0.5,
        randaugment: float = 0.0,
        folds: int = 1,
        fold: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least, most in (
            ("batch_size", batch_size, 1, math.inf), ("workers", workers, 0, math.inf), ("crop_min", crop_min, 0.01, 1),
            ("flip", flip, 0, 1), ("randaugment", randaugment, 0, 10),
        ):  # fmt: skip
            if not least <= value <= most:
                raise MedvitError(f"data.{name} is {value}; it must lie between {least} and {most}.")
        self.table, self.kind, self.images, self.lists, self.uncertainty = table, kind, images, lists, uncertainty
        self.batch_size, self.workers, self.cache = batch_size, workers, cache
        self.crop_min, self.flip, self.randaugment = crop_min, flip, randaugment
        self.folds, self.fold = folds, fold
        self.seed = 0
        self.splits: dict[str, list[Case]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table and make sure that training and selection are possible with it."""
        if self.splits:
            return
        names = [label.name for label in self._system.labels]
        splits = self.read_splits(names)
        if self.folds > 1:
            splits = folded(splits, self.folds, self.fold, names)
        for split in ("train", "val"):
            if not splits.get(split):
                raise MedvitError(
                    f"The table {self.table} has no cases in split {split}; training needs train and val."
                )
        check_positives(self.table, splits, names)
        for split, cases in splits.items():
            patients = len({case.patient or case.uid for case in cases})
            several = len({case.uid for case in cases})
            log.info("%s: %d cases of %d patients (no patient is in two splits)", split, several, patients)
        self.splits = splits

    def read_splits(self, names: Sequence[str]) -> dict[str, list[Case]]:
        """Split to cases with those labels."""
        return read_dataset(self.kind, self.table, names, self.images, self.lists, self.uncertainty)

    def kept(self, image: Image) -> Image:
        """What is kept of a read case."""
        return image

    def look(self, rng: np.random.Generator) -> Any:
        """A random view for training."""
        return random_view(rng, crop_min=self.crop_min, flip=self.flip, randaugment=self.randaugment)

    def steady_look(self) -> Any:
        """The view for validation; None for that of answers."""
        return None

    @property
    def _system(self) -> Reads:
        if self.trainer is None:
            raise MedvitError("Cases asks its trainer for the system to read for; attach both to a Trainer first.")
        return cast(Reads, self.trainer.lightning_module)

    def train_dataloader(self) -> DataLoader[Sample | Unanswered]:
        """Random views in random order; the same seed gives the same views with any number of workers."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Sample | Unanswered]:
        """The validation split as a system sees it when it answers."""
        return self._loader("val", training=False)

    def answering(self, split: str) -> DataLoader[Sample | Unanswered]:
        """A split as a system sees it when it answers, in the order of the table."""
        return self._loader(split, training=False)

    def _loader(self, split: str, training: bool) -> DataLoader[Sample | Unanswered]:
        cases = self.splits[split]
        views = _Views(self._system, cases, self, random=training)
        order = SeededOrder(len(cases), self.seed, shuffle=training)
        return DataLoader(
            views,
            self.batch_size,
            sampler=order,  # it draws an index and a seed
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            drop_last=training and len(cases) >= self.batch_size,
        )


class _Views(Dataset[Sample | Unanswered]):
    """Samples of cases by index and seed."""

    def __init__(self, system: Reads, cases: Sequence[Case], data: Cases, random: bool) -> None:
        self.system, self.cases, self.data, self.random = system, cases, data, random
        self.read: dict[str, Image] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, drawn: tuple[int, int]) -> Sample | Unanswered:
        index, seed = drawn
        case, data = self.cases[index], self.data
        try:
            image = self.read.get(case.uid) or data.kept(self.system.read(case))
        except Unanswered as refusal:
            return _left_out(case, refusal)
        except Exception as error:  # its text may quote the header
            return _left_out(case, Unanswered("unread", f"Reading it failed ({type(error).__name__})."))
        if data.cache:
            self.read[case.uid] = image
        look = data.look(np.random.default_rng(seed)) if self.random else data.steady_look()
        try:
            return self.system.sample(image, case, look)
        except Unanswered as refusal:
            return _left_out(case, refusal)


def _left_out(case: Case, refusal: Unanswered) -> Unanswered:
    log.warning("%s is left out: %s", case.files[0], refusal)
    return refusal


class SeededOrder(Sampler[tuple[int, int]]):
    """Indices with a seed each, all drawn from the workflow's seed and the epoch, so that a resumed run repeats them."""

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        seeds = rng.integers(0, 2**31, self.size)
        return zip(order.tolist(), seeds.tolist(), strict=True)


def collate(samples: Sequence[Sample | Unanswered]) -> Batch:
    """Stack what could be read.

    Raises:
        MedvitError: When nothing of a batch could be read.
    """
    read = [sample for sample in samples if isinstance(sample, Sample)]
    if not read:
        raise MedvitError(f"None of {len(samples)} cases of a batch could be read; the first: {samples[0]}")
    return Batch(read)


def check_positives(table: Path, splits: dict[str, list[Case]], names: Sequence[str]) -> None:
    """Refuse labels that cannot be learned or selected on.

    Raises:
        MedvitError: For a finding without a positive case in the training split, and when no finding has both a
            positive and a negative case in the validation split.
    """

    def count(split: str, name: str, value: float) -> int:
        return sum(case.labels.get(name) == value for case in splits[split])

    absent = [name for name in names if not count("train", name, 1.0)]
    if absent:
        raise MedvitError(
            f"The table {table} has no positive case of {', '.join(absent)} in split train, so it cannot be learned. "
            "Leave it out of system.labels or change the splits."
        )
    unselectable = [name for name in names if not (count("val", name, 1.0) and count("val", name, 0.0))]
    if names and len(unselectable) == len(names):
        raise MedvitError(
            f"The table {table} has no finding with both a positive and a negative case in split val, so the best "
            "checkpoint and the thresholds cannot be chosen. Change the splits."
        )
    if unselectable:
        log.warning("left out of the validation mean, with one class only in split val: %s", ", ".join(unselectable))

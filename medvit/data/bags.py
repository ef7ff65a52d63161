"""Labelled slides as bags of described tiles, for training: the data side of a workflow."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from medvit.case import Case
from medvit.codes import Label
from medvit.data.batch import Sample
from medvit.data.cases import SeededOrder, check_positives, collate
from medvit.data.feature_imports import import_features
from medvit.data.features import Features, read_features, write_features
from medvit.data.inputs import targets
from medvit.data.slide_tables import SlideKind, read_slides
from medvit.data.slides import Resolution, thinned
from medvit.errors import MedvitError, Rejected, Unanswered
from medvit.image import Fit, Tiling

log = logging.getLogger(__name__)
NO_FIT = Fit((1, 1), (1, 1), (0, 0, 1, 1))  # of bags that are only learned from


class Describes(Protocol):
    """The part of a system that turns slides into features."""

    labels: tuple[Label, ...]
    resolution: Resolution

    @property
    def describing(self) -> dict[str, str]: ...

    @property
    def encoder_digest(self) -> str: ...

    @property
    def most_tiles(self) -> int: ...

    @property
    def feature_width(self) -> int: ...

    def embed(
        self, cases: Sequence[Case], workers: int, half: AbstractContextManager[Any]
    ) -> Iterator[tuple[Case, Features | Unanswered, float]]: ...


class Bags(LightningDataModule):
    """Labelled slides in three splits; each becomes a bag of features, computed once and kept beside the run.

    Args:
        table: A CSV with a row a slide: ``path, patient_id, split`` (train, val, test) and a column a finding; or the folder of
            Camelyon16; or such a CSV with a row a picture of a cell.
        kind: Which of these it is; see `medvit.data.slide_tables.read_slides`.
        features: Folder with the feature files (``<slide>.h5``) that `medvit embed` made with this system's encoder; without
            it the slides are described now.
        folds: Into how many parts patients are dealt for cross-validation; 1 keeps the splits of the table.
        fold: Which part is test, from 0; the next is validation, the others train.
        batch_size: Slides a step on each device.
        workers: Processes that read slides; 0 reads in the training process.
        drop: Share of a slide's tiles that is left out at random when it is learned from.
        mpp: Micrometres a level-0 pixel of slides that do not say.
    """

    def __init__(
        self,
        table: Path,
        kind: SlideKind = "medvit",
        features: Path | None = None,
        folds: int = 1,
        fold: int = 0,
        batch_size: int = 1,
        workers: int = 0,
        drop: float = 0.0,
        mpp: float | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0 or not 0 <= drop < 1:
            raise MedvitError(
                f"data.batch_size is {batch_size}, data.workers {workers}, data.drop {drop}; they must be at least 1, at least "
                "0, and 0 to below 1."
            )
        self.table, self.kind, self.features, self.mpp = table, kind, features, mpp
        self.folds, self.fold, self.batch_size, self.workers, self.drop = folds, fold, batch_size, workers, drop
        self.seed = 0
        self.splits: dict[str, list[Case]] = {}
        self._bags: dict[str, list[tuple[Case, Features]]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table and make sure that training and selection are possible with it."""
        if self.splits:
            return
        names = [label.name for label in self._system.labels]
        splits = read_slides(self.kind, self.table, names, self.folds, self.fold)
        for split in ("train", "val"):
            if not splits.get(split):
                raise MedvitError(
                    f"The table {self.table} has no slides in split {split}; training needs train and val."
                )
        check_positives(self.table, splits, names)
        for split, cases in splits.items():
            log.info(
                "%s: %d slides of %d patients", split, len(cases), len({case.patient or case.uid for case in cases})
            )
        self.splits = splits

    @property
    def _system(self) -> Describes:
        if self.trainer is None:
            raise MedvitError(
                "Bags asks its trainer for the system to describe slides; attach both to a Trainer first."
            )
        return cast(Describes, self.trainer.lightning_module)

    def train_dataloader(self) -> DataLoader[Sample | Unanswered]:
        """Bags in random order."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader[Sample | Unanswered]:
        """Bags of the validation split, whole."""
        return self._loader("val", training=False)

    def answering(self, split: str) -> DataLoader[Sample | Unanswered]:
        """The bags of a split, whole and in the order of the table."""
        return self._loader(split, training=False)

    def _loader(self, split: str, training: bool) -> DataLoader[Sample | Unanswered]:
        if split not in self._bags:
            self._bags[split] = self._described(split)
        bags = _Bags(self._bags[split], self._system.labels, self._system.most_tiles, self.drop if training else 0.0)
        order = SeededOrder(len(bags), self.seed, shuffle=training)
        return DataLoader(bags, self.batch_size, sampler=order, collate_fn=collate)

    def _described(self, split: str) -> list[tuple[Case, Features]]:
        """The slides of a split with their features; what has none is left out and said."""
        found = dict(self._imported(split) if self.features else self._embedded(split))
        bags = [(case, features) for case in self.splits[split] if isinstance(features := found[case.key], Features)]
        for case in self.splits[split]:
            if isinstance(refusal := found[case.key], Unanswered):
                log.warning("%s is left out: %s", case.files[0], refusal)
        if not bags:
            raise MedvitError(
                f"None of the {len(found)} slides of split {split} has features; the warnings above say why."
            )
        return bags

    def _imported(self, split: str) -> Iterator[tuple[str, Features | Unanswered]]:
        """Features from the folder that was given."""
        folder = self.features or Path()
        digest = self._system.encoder_digest
        for case in self.splits[split]:
            try:
                path = feature_file(folder, case)
                yield case.key, import_features(path, self.mpp, digest=digest, width=self._system.feature_width)
            except Unanswered as refusal:
                yield case.key, refusal

    def _embedded(self, split: str) -> Iterator[tuple[str, Features | Unanswered]]:
        """Features of the system's own encoder, from the run's folder where they are there already."""
        system, trainer = self._system, self.trainer
        if trainer is None:
            raise MedvitError("Bags has no trainer.")
        system.resolution = Resolution(self.mpp)
        folder = Path(trainer.default_root_dir) / "features"
        todo = []
        for case in self.splits[split]:
            kept = _kept(folder / f"{case.key}.h5", system)
            if kept:
                yield case.key, kept
            else:
                todo.append(case)
        if todo:
            log.info("describing the tiles of %d slides of split %s", len(todo), split)
        for case, found, _ in system.embed(todo, self.workers, trainer.precision_plugin.forward_context()):
            if isinstance(found, Features):
                write_features(folder / f"{case.key}.h5", found)
            yield case.key, found


def feature_file(folder: Path, case: Case) -> Path:
    """The feature file of a slide in a folder: ``<slide>.h5``, ``.csv`` or ``.pt``.

    Raises:
        Rejected: When there is none.
    """
    for suffix in (".h5", ".csv", ".pt"):
        if (path := folder / f"{case.files[0].stem}{suffix}").is_file():
            return path
    raise Rejected("missing", f"There is no {case.files[0].stem}.h5 among the features.")


def _kept(path: Path, system: Describes) -> Features | None:
    """Features that were computed before, where they are of this encoder and these tiles."""
    try:
        found = read_features(path, digest=system.encoder_digest)
    except Rejected:
        return None
    said = {"tile_overlap": str(found.grid.overlap), **found.facts}  # older files have it in their grid alone
    return found if system.describing.items() <= said.items() else None


class _Bags(Dataset[Sample | Unanswered]):
    """Bags by index and seed."""

    def __init__(self, bags: Sequence[tuple[Case, Features]], labels: Sequence[Label], most: int, drop: float) -> None:
        self.bags, self.labels, self.most, self.drop = bags, labels, most, drop

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, drawn: tuple[int, int]) -> Sample | Unanswered:
        index, seed = drawn
        case, found = self.bags[index]
        keep = np.flatnonzero(found.valid)
        keep = keep[thinned(len(keep), self.most)]
        if self.drop:
            rng = np.random.default_rng(seed)
            keep = np.sort(rng.permutation(keep)[: max(1, round(len(keep) * (1 - self.drop)))])
        grid = found.grid
        whole = Tiling(found.coords, grid.size_level0, (grid.width, grid.height), grid.mpp or 1.0, planes=found.planes)
        x = torch.from_numpy(found.features[keep].astype(np.float32))
        return Sample(x, targets(case, self.labels), case, NO_FIT, {}, whole.kept(keep))

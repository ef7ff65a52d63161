"""Unlabelled tiles of slides as loaders, for pre-training: the data side of a workflow."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medvit.case import Case
from medvit.data.crops import GREY, SOLARISE, Crops
from medvit.data.slide_tables import SlideKind, read_slides
from medvit.data.slides import Resolution
from medvit.errors import MedvitError, Unanswered
from medvit.image import Tiling

log = logging.getLogger(__name__)
Pixels = NDArray[np.uint8]
Cut = tuple[Pixels, Pixels]


class Tiled(Protocol):
    """The part of a system that knows tiles."""

    size: int
    resolution: Resolution

    def tiles_of(self, case: Case) -> tuple[Tiling, float]: ...

    def tile_of(self, case: Case, tiling: Tiling, index: int, mpp: float) -> Pixels: ...


class Views:
    """Crops of B tiles: large (2, B, 3, S, S) and small ones (L, B, 3, s, s), uint8."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        kinds = [torch.from_numpy(np.stack(kind, axis=1)) for kind in zip(*cuts, strict=True)]
        self.crops: list[Tensor] = [crops for crops in kinds if len(crops)]

    def __len__(self) -> int:
        return self.crops[0].shape[1]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the crops, as `torch.Tensor.to` does."""
        self.crops = [crops.to(*args, **kwargs) for crops in self.crops]
        return self


class SlideTiles(LightningDataModule):
    """Tiles of the slides of a table, drawn anew in every epoch and shuffled over all slides.

    Args:
        table: A CSV of ``path, patient_id, split``, or the folder of Camelyon16 (see `Bags`).
        kind: Which of these it is.
        tiles_a_slide: Tiles drawn of each slide in an epoch, with repetition only where it has fewer; 0: all of them once.
        batch_size: Tiles a step on each device.
        workers: Processes that read tiles; 0 reads in the training process.
        cache: Whether tiles stay in memory, for small sets.
        small_size: Pixels of small crops.
        small: How many small crops of each tile.
        scale: Smallest share of a tile's area that a large crop shows; small ones show less than that.
        smallest: Smallest share that a small crop shows.
        colour: Strength of colour jitter, 1 as published.
        grey: Probability of a grey crop.
        blur: Probability of a blur, as a share of the published ones.
        solarise: Probability with which the second large crop is solarised.
        rotate: Whether crops are turned by right angles too.
        mpp: Micrometres a level-0 pixel of slides that do not say.
    """

    def __init__(
        self,
        table: Path,
        kind: SlideKind = "medvit",
        tiles_a_slide: int = 1024,
        batch_size: int = 64,
        workers: int = 0,
        cache: bool = False,
        small_size: int = 96,
        small: int = 8,
        scale: float = 0.4,
        smallest: float = 0.05,
        colour: float = 1.0,
        grey: float = GREY,
        blur: float = 1.0,
        solarise: float = SOLARISE,
        rotate: bool = False,
        mpp: float | None = None,
    ) -> None:
        super().__init__()
        for name, value, right in (
            ("batch_size", batch_size, batch_size >= 1), ("workers", workers, workers >= 0),
            ("tiles_a_slide", tiles_a_slide, tiles_a_slide >= 0), ("scale", scale, 0 < scale <= 1),
            ("smallest", smallest, 0 < smallest <= scale), ("small", small, small >= 0),
        ):  # fmt: skip
            if not right:
                raise MedvitError(f"data.{name} is {value}, which makes no sense.")
        self.table, self.kind, self.tiles_a_slide, self.mpp = table, kind, tiles_a_slide, mpp
        self.batch_size, self.workers, self.cache = batch_size, workers, cache
        self.looks = {"small_size": small_size, "small": small, "scale": scale, "smallest": smallest, "colour": colour,
                      "grey": grey, "blur": blur, "solarise": solarise, "rotate": rotate}  # fmt: skip
        self.seed = 0
        self.splits: dict[str, list[Case]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table."""
        if self.splits:
            return
        splits = read_slides(self.kind, self.table, ())
        for split in ("train", "val"):
            if not splits.get(split):
                raise MedvitError(
                    f"The table {self.table} has no slides in split {split}; training needs train and val."
                )
        self.splits = splits

    @property
    def _system(self) -> Tiled:
        if self.trainer is None:
            raise MedvitError("SlideTiles asks its trainer for the system to read for; attach both to a Trainer first.")
        return cast(Tiled, self.trainer.lightning_module)

    def train_dataloader(self) -> DataLoader[Cut | Unanswered]:
        """Random crops in random order; the same seed gives the same crops with any number of workers."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Cut | Unanswered]:
        """Crops of the validation split, the same at every validation."""
        return self._loader("val")

    def _loader(self, split: str) -> DataLoader[Cut | Unanswered]:
        system = self._system
        system.resolution = Resolution(self.mpp)
        crops = Crops(size=system.size, **self.looks)  # type: ignore[arg-type]
        tiles = _Tiles(system, self.splits[split], crops, self.cache)
        order = TileOrder(tiles.counts, self.tiles_a_slide, self.seed, shuffle=split == "train")
        return DataLoader(
            tiles,
            self.batch_size,
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            drop_last=split == "train" and len(order) >= self.batch_size,
        )


class _Tiles(Dataset[Cut | Unanswered]):
    """Crops of tiles by slide, tile and seed."""

    def __init__(self, system: Tiled, cases: Sequence[Case], crops: Crops, cache: bool) -> None:
        self.system, self.crops, self.cache = system, crops, cache
        self.plans: list[tuple[Case, Tiling, float]] = []
        for case in cases:
            try:
                self.plans.append((case, *system.tiles_of(case)))
            except Unanswered as refusal:
                log.warning("%s is left out: %s", case.files[0], refusal)
        if not self.plans:
            raise MedvitError("None of the slides has tiles to train on.")
        self.counts = [len(tiling.coords) for _, tiling, _ in self.plans]
        self.held: dict[tuple[int, int], Pixels] = {}

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, drawn: tuple[int, int, int]) -> Cut | Unanswered:
        slide, tile, seed = drawn
        pixels = self.held.get((slide, tile))
        if pixels is None:
            case, tiling, mpp = self.plans[slide]
            try:
                pixels = self.system.tile_of(case, tiling, tile, mpp)
            except Unanswered as refusal:
                return refusal
            if self.cache:
                self.held[slide, tile] = pixels
        return self.crops.cut(pixels, np.random.default_rng(seed))


class TileOrder(Sampler[tuple[int, int, int]]):
    """Slide, tile and a seed, drawn from the workflow's seed and the epoch; tiles of all slides are mixed.

    The release draws slide after slide, so that a batch comes from one slide; its centre then follows that slide.
    """

    def __init__(self, counts: Sequence[int], most: int, seed: int, shuffle: bool) -> None:
        self.counts, self.most, self.seed, self.shuffle = counts, most, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.most or count for count in self.counts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch if self.shuffle else 0))
        drawn = [
            (slide, int(tile))
            for slide, count in enumerate(self.counts)
            for tile in rng.choice(count, self.most or count, replace=count < self.most)
        ]
        order = rng.permutation(len(drawn)) if self.shuffle else np.arange(len(drawn))
        seeds = rng.integers(0, 2**31, len(drawn))
        return ((*drawn[index], int(seed)) for index, seed in zip(order, seeds, strict=True))


def collate(cuts: Sequence[Cut | Unanswered]) -> Views:
    """Stack what could be read.

    Raises:
        MedvitError: When nothing of a batch could be read.
    """
    read = [cut for cut in cuts if not isinstance(cut, Unanswered)]
    if not read:
        raise MedvitError(f"None of {len(cuts)} tiles of a batch could be read; the first: {cuts[0]}")
    return Views(read)

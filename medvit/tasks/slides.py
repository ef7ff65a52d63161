"""Systems of whole slides: worker processes find and read tiles, the network here describes them, bags are made of both."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.case import MICROSCOPY, PICTURES, Case
from medvit.data.batch import Sample
from medvit.data.features import Features, check
from medvit.data.inputs import targets
from medvit.data.slides import (
    CHUNK,
    Cutting,
    Desk,
    Pixels,
    Plan,
    Resolution,
    Shelf,
    checked_pixels,
    planned,
    shown_mpp,
    shown_shape,
)
from medvit.errors import MedvitError, Skipped, Unanswered
from medvit.guard import LIMITS, Duty, Limits, Pool, Reply
from medvit.image import Fit, Image, Tiling
from medvit.lanes import lanes_of, side_by_side
from medvit.nets.vit import ViT
from medvit.tasks.pretraining import Pretraining
from medvit.tasks.system import System
from medvit.weights import read_own, state_digest

PART = 32  # tiles that a CPU describes at a time: more leave its cache


class Slides(System):
    """A system of whole slides, or of pictures of tissue whose resolution is given.

    Subclasses set ``cutting``, the ``mean`` and ``std`` of colours, how many ``last`` blocks describe a tile, and `encoder`.
    """

    modalities: ClassVar[tuple[str, ...]] = (MICROSCOPY, "")
    at_once: ClassVar[int | None] = 1  # so that a run that was killed has lost one slide
    limits: ClassVar[Limits] = LIMITS._replace(cpu_s=300, wall_s=600)  # a slide without small levels is read whole

    cutting: Cutting
    mean: tuple[float, ...]
    std: tuple[float, ...]
    last: int  # blocks of the encoder whose class tokens count
    resolution = Resolution()

    @property
    def encoder(self) -> ViT:
        """What describes tiles."""
        raise NotImplementedError

    def told(self, option: str, text: str) -> str:
        """Take ``mpp``: a number for slides that do not say it, or the path of a table of ``path, mpp``."""
        if option != "mpp":
            return super().told(option, text)
        self.resolution = Resolution.told(text)
        return text

    def refuse(self, case: Case) -> None:
        """Skip other modalities, and pictures without a resolution: they may be anything."""
        super().refuse(case)
        said = self.resolution.default or self.resolution.of(case)
        if case.files[0].suffix.lower() in PICTURES and not said:
            raise Skipped("picture", "It is a picture, which says no pixel size. Give --mpp to answer it as tissue.")

    def read(self, case: Case) -> Image:
        """The slide as people are shown it: colours (3, H, W) at a low resolution."""
        slide = self.resolution.open(case)
        mpp = shown_mpp(slide)
        picture, _ = slide.overview(mpp)
        slide.close()
        pixels = np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        return Image(pixels, (mpp / 1000, mpp / 1000))

    def duties(self) -> Mapping[str, Duty]:
        """``read`` finds the tiles of a slide and reads the first of them, ``tiles`` reads more of them."""
        return Desk(self.resolution, self.cutting).duties()

    def collect(self, case: Case, reply: Reply, pool: Pool) -> tuple[Sample, float]:
        """The bag of a slide: ``x`` (N, D), its valid tiles as the encoder describes them."""
        plan = planned(reply, self.cutting.tile)
        found, seconds = self.described(plan, case, pool)
        kept = found.only_valid()
        tiling = plan.tiling.kept(found.valid)
        lost = len(found) - len(kept)
        origin = plan.origin | ({"unreadable tiles": str(lost)} if lost else {})
        height, width = shown_shape(tiling)
        fit = Fit((height, width), (height, width), (0, 0, height, width))
        x = torch.from_numpy(kept.features.astype(np.float32))
        return Sample(x, targets(case, self.labels), case, fit, origin, tiling), seconds

    def described(self, plan: Plan, case: Case, pool: Pool) -> tuple[Features, float]:
        """The features of all tiles of a slide, and the seconds that it took; workers read some chunks ahead.

        Raises:
            Unanswered: When too many tiles cannot be read, or the network fails.
        """
        started = time.monotonic()
        device = self.encoder.cls_token.device.type
        some, most = (PART, 2 * lanes_of(device)[0]) if device == "cpu" else (CHUNK, 2)
        features: list[NDArray[np.float32]] = []
        marks: list[NDArray[np.bool_]] = []
        with side_by_side(device) as begin:
            begun: deque[Future[NDArray[np.float32]]] = deque()
            for pixels, valid in self._read_tiles(plan, case, pool):
                marks.append(valid)
                begun += [begin(self._described, pixels[at : at + some]) for at in range(0, len(pixels), some)]
                while len(begun) > most:
                    features.append(begun.popleft().result())
            features += [part.result() for part in begun]
        found = Features(
            np.concatenate(features),
            plan.tiling.coords,
            np.concatenate(marks),
            plan.grid,
            self.encoder_name,
            self.encoder_digest,
            {**self.describing, **plan.origin},
            planes=plan.tiling.planes,
        )
        return check(found), plan.seconds + time.monotonic() - started

    def _read_tiles(self, plan: Plan, case: Case, pool: Pool) -> Iterator[tuple[Pixels, NDArray[np.bool_]]]:
        """The tiles of a slide, chunk after chunk, and which of them could be read; workers are some chunks ahead."""
        yield plan.pixels, plan.valid
        coords, planes = plan.tiling.coords, plan.tiling.planes
        calls: deque[tuple[int, Future[Reply]]] = deque()
        for start in range(CHUNK, len(coords), CHUNK):
            some = slice(start, start + CHUNK)
            at = () if planes is None else (planes[some],)
            call = pool.submit("tiles", case, coords[some], plan.grid.tile_mpp, *at, urgent=True)
            calls.append((len(coords[some]), call))
            if len(calls) > 2 * pool.workers:
                yield self._checked(*calls.popleft())
        for one in calls:
            yield self._checked(*one)

    def _checked(self, count: int, call: Future[Reply]) -> tuple[Pixels, NDArray[np.bool_]]:
        return checked_pixels(call.result().arrays, count, self.cutting.tile)

    def _described(self, pixels: Pixels) -> NDArray[np.float32]:
        try:
            return self.describe(torch.from_numpy(pixels)).float().cpu().numpy()
        except (RuntimeError, ValueError) as error:  # out of memory, a shape that does not fit
            raise Unanswered("model", f"The network failed on its tiles ({type(error).__name__}).") from error

    @torch.no_grad()
    def describe(self, pixels: Tensor) -> Tensor:
        """Features (n, D) of tiles (n, H, W, 3) uint8; they are normalised where the network is."""
        self.encoder.eval()
        return self.encoder.embedding(
            self.normalised(pixels.to(self.encoder.cls_token.device).permute(0, 3, 1, 2)), self.last
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels (..., 3, H, W) of 0 to 255 as the encoder sees them."""
        mean, std = (pixels.new_tensor(three, dtype=torch.float32)[:, None, None] for three in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def check_colours(self, weights: Path) -> None:
        """Refuse weights that say they were trained on colours normalised by other numbers; published ones do not say.

        Raises:
            MedvitError: With both numbers.
        """
        try:
            card, _ = read_own(weights)
        except MedvitError:
            return
        for name, own in (("mean", self.mean), ("std", self.std)):
            theirs = card["arguments"].get(name)
            if theirs is not None and not np.allclose(theirs, own):
                raise MedvitError(
                    f"system.{name} is {list(own)}, but {weights} were trained with {list(theirs)}. Give the same in both."
                )

    @property
    def encoder_name(self) -> str:
        """The encoder in feature files: its kind and the beginning of its digest."""
        net = self.encoder
        return f"vit{net.width}x{len(net.blocks)}p{net.patch}-{self.encoder_digest[:8]}"

    @property
    def encoder_digest(self) -> str:
        """SHA-256 of the encoder's weights; computed once."""
        if "_digest" not in self.__dict__:
            self.__dict__["_digest"] = state_digest(self.encoder.state_dict())
        return str(self.__dict__["_digest"])

    @property
    def describing(self) -> dict[str, str]:
        """How tiles become features, as feature files say it."""
        return {
            "pooling": f"class tokens of the last {self.last} blocks, mean patch token",
            "mean": " ".join(map(str, self.mean)),
            "std": " ".join(map(str, self.std)),
            "stain": self.cutting.stain,
            "min_tissue": str(self.cutting.min_tissue),
            "most_tiles": str(self.cutting.most),
            "target_mpp": str(self.cutting.mpp),
            "tile_overlap": str(self.cutting.overlap),
        }

    @property
    def most_tiles(self) -> int:
        """Tiles of a bag at most."""
        return self.cutting.most

    @property
    def feature_width(self) -> int:
        """Numbers that describe a tile."""
        return (self.last + 1) * self.encoder.width

    def embed(
        self, cases: Iterable[Case], workers: int, half: AbstractContextManager[Any]
    ) -> Iterator[tuple[Case, Features | Unanswered, float]]:
        """The features of slide after slide, with the seconds of each, read by worker processes of their own."""
        with Pool(workers, reading, self.reader(), limits=self.limits) as pool, half:
            yield from embedded(self, cases, pool)

    def tiles_of(self, case: Case) -> tuple[Tiling, float]:
        """Where a slide's tiles lie, and micrometres a pixel to read them at.

        Raises:
            Rejected: When it cannot be read or has none.
        """
        tiles, tiling, _ = self.cutting.plan(self._shelf.open(case))
        return tiling, tiles.mpp

    def tile_of(self, case: Case, tiling: Tiling, index: int, mpp: float) -> Pixels:
        """A tile of a slide by its number; the slide stays open for the next one.

        Raises:
            Rejected: When it cannot be decoded.
        """
        x, y = (int(at) for at in tiling.coords[index])
        return self.cutting.read(self._shelf.open(case), (x, y), mpp, tiling.plane(index))

    @property
    def _shelf(self) -> Shelf:
        shelf: Shelf = self.__dict__.setdefault("_slides", Shelf(self.resolution))
        return shelf


class TilePretraining(Slides, Pretraining):
    """Pre-training of the network that describes tiles, on crops of them, by an objective with a teacher."""

    @property
    def encoder(self) -> ViT:
        """The teacher's backbone."""
        return cast(ViT, self.objective.encoder)

    def views(self, batch: Any) -> list[Tensor]:
        """Crops (V, B, 3, H, W), large ones first, normalised here and not by whoever cut them."""
        return [self.normalised(crops) for crops in batch.crops]


def reading(system: Slides) -> Mapping[str, Duty]:
    """The duties of a worker that reads for a system; see `medvit.guard.Pool`."""
    return system.duties()


def embedded(system: Slides, cases: Iterable[Case], pool: Pool) -> Iterator[tuple[Case, Features | Unanswered, float]]:
    """The features of slide after slide, with the seconds of each; workers look at the next slides meanwhile."""
    ahead: deque[tuple[Case, Future[Reply]]] = deque()
    for case in cases:
        ahead.append((case, pool.submit("read", case)))
        if len(ahead) > max(1, pool.workers):
            yield _embedded(system, *ahead.popleft(), pool)
    while ahead:
        yield _embedded(system, *ahead.popleft(), pool)


def _embedded(system: Slides, case: Case, call: Future[Reply], pool: Pool) -> tuple[Case, Features | Unanswered, float]:
    try:
        return case, *system.described(planned(call.result(), system.cutting.tile), case, pool)
    except Unanswered as refusal:
        return case, refusal.with_traceback(None), 0.0

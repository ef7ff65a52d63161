"""What a system answers about a case; writers turn it into files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.case import Case
from medvit.codes import Label
from medvit.image import Fit, Image, Plane, Tiling


class Finding(NamedTuple):
    """A label with its probability in [0, 1]."""

    label: Label
    probability: float

    @property
    def positive(self) -> bool:
        """Whether the probability reaches the label's threshold."""
        return self.probability >= self.label.threshold


class Distance(NamedTuple):
    """How far a case lies from the training cases, 1 for a usual one of those, and from where on its answer is in doubt."""

    value: float
    limit: float

    @property
    def far(self) -> bool:
        """Whether the case is unlike what the network learned from."""
        return self.value > self.limit


class Region(NamedTuple):
    """A mask (H, W) or (D, H, W) in source pixels, with the system's own score of it in [0, 1].

    ``spacing`` is that of the source's pixels in mm where it is known; ``told`` says how the mask came about.
    """

    label: Label
    mask: NDArray[np.bool_]
    score: float
    spacing: tuple[float, ...] | None = None
    told: Mapping[str, str] = {}

    def measures(self) -> dict[str, float | int | None]:
        """Pixels; area in mm² of a flat mask, volume in ml of a solid one, None where spacing is unknown."""
        pixels = int(self.mask.sum())
        flat = self.mask.ndim == 2
        plane = self.spacing[-2] * self.spacing[-1] if self.spacing and len(self.spacing) >= 2 else None
        solid = plane * self.spacing[0] / 1000 if plane and self.spacing and len(self.spacing) == 3 else None
        return {
            "pixels": pixels,
            "area_mm2": round(pixels * plane, 3) if flat and plane else None,
            "volume_ml": round(pixels * solid, 4) if not flat and solid else None,
        }


class Heatmap(NamedTuple):
    """Regions that influenced one label's score.

    ``values`` (h, w) cover the model's field of view, usually one a token, and are not negative; ``fit`` leads back
    to the source; ``method`` names how they were made.
    """

    label: Label
    values: Plane
    fit: Fit
    method: str


class TileScores(NamedTuple):
    """What a system says of every tile of a slide: numbers (N,) by what they mean, such as ``tumour attention``."""

    tiling: Tiling
    scores: Mapping[str, Plane]


@dataclass(frozen=True, slots=True)
class Result:
    """The answer about one case.

    Args:
        case: What was answered.
        findings: Labels with probabilities.
        regions: Masks.
        heatmaps: What influenced the scores.
        tiles: What is said of single tiles, for slides.
        origin: What was used on the way (window, spacing, …) and where it came from.
        distance: From the training cases; None where the checkpoint does not know them.
        read: Reads the case's pixels in source geometry again, for writers that draw over them.
        close_up: Reads the pixels (S, S, 3) of a tile by its number, for writers that show single ones; None where the system
            shows none.
    """

    case: Case
    findings: tuple[Finding, ...] = ()
    regions: tuple[Region, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    tiles: TileScores | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    distance: Distance | None = None
    read: Callable[[Case], Image] | None = None
    close_up: Callable[[int], NDArray[np.uint8] | None] | None = None


class Run(NamedTuple):
    """Who answers: what every written object says of its maker.

    Args:
        system: Name of the system, such as ``ThoraxMAE``.
        version: Version of medvit.
        digest: SHA-256 of the checkpoint, hexadecimal.
        started: When the run began, UTC; objects of one run carry one time, so that a resumed run repeats their bytes.
        synthetic_geometry: Whether objects of radiographs may carry an invented plane, for viewers that need one.
    """

    system: str
    version: str
    digest: str
    started: datetime
    synthetic_geometry: bool = False

"""Which sample slides there are: patients, splits, tumour and ink; and how one is written."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paint_slides import MPP, Stain, paint_slide
from pyramids import write_pyramid

SLIDES = 40
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}  # of all slides; half of each split holds tumour
TUMOUR = (0.12, 0.4)  # share of the tissue
INKED = 1 / 3
QUALITY = 55
SHAPE = (1_280, 1_536)  # pixels of 0.5 um
COLOURS = ((255, 255, 255), (240, 170, 200), (120, 40, 140), (40, 130, 80))  # of the mask's values, for the eye


@dataclass(frozen=True)
class PlannedSlide:
    """One slide before it is painted."""

    number: int
    patient: int
    split: str
    share: float  # of the tissue that is tumour
    inked: bool
    seed: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:04d}.tif"

    @property
    def mask_name(self) -> str:
        """The name of its mask."""
        return f"{self.number:04d}_mask.png"

    @property
    def patient_id(self) -> str:
        """A patient identifier nobody could take for a real one."""
        return f"SAMPLE-S{self.patient:03d}"


def plan_slides(seed: int = 0, slides: int = SLIDES) -> list[PlannedSlide]:
    """Decides everything about every slide but its pixels: one or two slides a patient, half of each split with tumour."""
    rng = np.random.default_rng([seed, 4])
    planned: list[PlannedSlide] = []
    patient = 0
    for split, share in SHARES.items():
        count = round(share * slides)
        ill = rng.permutation(count) < count // 2
        inked = np.zeros(count, bool)
        for group in (ill, ~ill):  # as often with tumour as without
            members = rng.permutation(np.flatnonzero(group))
            inked[members[: round(INKED * len(members))]] = True
        left = 0
        for index in range(count):
            if not left:
                patient, left = patient + 1, int(rng.integers(1, 3))
            left -= 1
            tumour = float(rng.uniform(*TUMOUR)) if ill[index] else 0.0
            planned.append(PlannedSlide(len(planned), patient, split, tumour, bool(inked[index]), seed))
    return planned


def write_slide(slide: PlannedSlide, folder: Path) -> None:
    """Paints one slide and writes its pyramid and its mask."""
    stain = Stain.draw(np.random.default_rng([slide.seed, 5, slide.patient]))
    rng = np.random.default_rng([slide.seed, 6, slide.number])
    pixels, mask = paint_slide(SHAPE, slide.share, slide.inked, stain, rng)
    write_pyramid(folder / slide.name, pixels, MPP, quality=QUALITY)
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([value for colour in COLOURS for value in colour])
    picture.save(folder / slide.mask_name, optimize=True)

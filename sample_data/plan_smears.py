"""Which sample smears there are: patients, splits, malignancy; and how one is written."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paint_smears import MPP, Cell, Dyes, paint_smear, plan_cells
from pyramids import write_pyramid

SMEARS = 60
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}  # of all smears; half of each split is malignant
MALIGNANT = (0.12, 0.4)  # share of the epithelial cells of a malignant smear
QUALITY = 70
SHAPE = (640, 640)  # pixels of 0.5 um
STACK_SHAPE, STACK_PLANES, STACK_CELLS = (320, 320), 5, 14


@dataclass(frozen=True)
class PlannedSmear:
    """One smear before it is painted."""

    number: int
    patient: int
    split: str
    malignant: float  # share of the epithelial cells
    seed: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:04d}.tif"

    @property
    def patient_id(self) -> str:
        """A patient identifier nobody could take for a real one."""
        return f"SAMPLE-C{self.patient:03d}"


def plan_smears(seed: int = 0, smears: int = SMEARS) -> list[PlannedSmear]:
    """Decides everything about every smear but its pixels: one or two smears a patient, half of each split malignant."""
    rng = np.random.default_rng([seed, 7])
    planned: list[PlannedSmear] = []
    patient = 0
    for split, share in SHARES.items():
        count = round(share * smears)
        ill = rng.permutation(count) < count // 2
        left = 0
        for index in range(count):
            if not left:
                patient, left = patient + 1, int(rng.integers(1, 3))
            left -= 1
            malignant = float(rng.uniform(*MALIGNANT)) if ill[index] else 0.0
            planned.append(PlannedSmear(len(planned), patient, split, malignant, seed))
    return planned


def write_smear(smear: PlannedSmear, folder: Path) -> list[Cell]:
    """Paints one smear and writes its pyramid; returns its cells."""
    dyes = Dyes.draw(np.random.default_rng([smear.seed, 8, smear.patient]))
    rng = np.random.default_rng([smear.seed, 9, smear.number])
    cells = plan_cells(rng, SHAPE, smear.malignant)
    pixels = paint_smear(SHAPE, cells, dyes, rng)[0]
    write_pyramid(folder / smear.name, pixels, MPP, levels=2, quality=QUALITY)
    return cells


def write_stack(path: Path, seed: int = 0) -> list[Cell]:
    """Writes one field of a smear as a TIFF of focal planes, each cell sharp in one of them; returns its cells."""
    rng = np.random.default_rng([seed, 10])
    cells = plan_cells(rng, STACK_SHAPE, 0.3, STACK_PLANES, STACK_CELLS)
    planes = paint_smear(STACK_SHAPE, cells, Dyes.draw(rng), rng, STACK_PLANES)
    pages = [Image.fromarray(plane) for plane in planes]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="jpeg", quality=80)
    return cells

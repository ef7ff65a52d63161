"""Paints a smear: single cells and clumps on glass, among leucocytes, red cells and debris, at any focus.

Everything is drawn in pixels of 0.5 um. Stains are optical densities: what a pixel looks like is the light that the dyes of
nuclei and of cytoplasm leave of white.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from brushes import Plane, blur, clouds, soft

MPP = 0.5
BENIGN, MALIGNANT, LEUCOCYTE, DEBRIS = "benign", "malignant", "leucocyte", "debris"
EDGE = 30  # pixels of the frame in which no cell is centred
BLUR = 1.1  # pixels of blur a plane away from a cell's own


@dataclass(frozen=True)
class Dyes:
    """How one patient's smears are stained: absorbance for red, green and blue of nuclei, cytoplasm and keratin."""

    nuclear: tuple[float, float, float]
    plasma: tuple[float, float, float]
    keratin: tuple[float, float, float]
    glass: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Dyes":
        """Draws one patient's stain."""
        strong = rng.uniform(0.85, 1.15)
        return cls(
            nuclear=(0.95 * strong, 0.85 * strong, rng.uniform(0.42, 0.55) * strong),
            plasma=(rng.uniform(0.30, 0.38) * strong, 0.14 * strong, rng.uniform(0.08, 0.13) * strong),
            keratin=(0.06 * strong, 0.36 * strong, rng.uniform(0.26, 0.34) * strong),
            glass=(rng.uniform(0.94, 0.97), rng.uniform(0.94, 0.97), rng.uniform(0.93, 0.96)),
        )


class Cell(NamedTuple):
    """A cell before it is painted: centre and plane, kind, half axes of nucleus and cell in pixels, what its nucleus is."""

    x: float
    y: float
    plane: int
    kind: str
    nucleus: tuple[float, float]
    body: tuple[float, float]
    angle: float
    dye: float
    coarse: float  # unevenness of the chromatin
    keratin: bool


def plan_cells(
    rng: np.random.Generator, shape: tuple[int, int], malignant: float, planes: int = 1, cells: int = 60
) -> list[Cell]:
    """Where which cells lie: a third of them in clumps, the malignant ones everywhere.

    Args:
        rng: For everything.
        shape: Height and width in pixels.
        malignant: Share of the epithelial cells.
        planes: Focal planes; each cell is sharp in one.
        cells: How many, of all kinds.
    """
    found: list[Cell] = []
    clump: tuple[float, float] | None = None
    left = 0
    for _ in range(60 * cells):
        if len(found) >= cells:
            break
        if not left and rng.random() < 0.12:
            clump, left = (
                (rng.uniform(EDGE, shape[1] - EDGE), rng.uniform(EDGE, shape[0] - EDGE)),
                int(rng.integers(3, 7)),
            )
        if left and clump:
            x, y = clump[0] + rng.normal(0, 26), clump[1] + rng.normal(0, 26)
            left -= 1
        else:
            x, y = rng.uniform(EDGE, shape[1] - EDGE), rng.uniform(EDGE, shape[0] - EDGE)
        if not (EDGE <= x <= shape[1] - EDGE and EDGE <= y <= shape[0] - EDGE):
            continue
        kind = str(rng.choice([LEUCOCYTE, DEBRIS, "epithelial"], p=[0.22, 0.1, 0.68]))
        if kind == "epithelial":
            kind = MALIGNANT if rng.random() < malignant else BENIGN
        cell = draw_cell(rng, x, y, int(rng.integers(planes)), kind)
        if all(np.hypot(x - other.x, y - other.y) > max(cell.nucleus) + max(other.nucleus) + 2 for other in found):
            found.append(cell)
    if malignant and not any(cell.kind == MALIGNANT for cell in found):
        first = next(index for index, cell in enumerate(found) if cell.kind == BENIGN)
        found[first] = draw_cell(rng, found[first].x, found[first].y, found[first].plane, MALIGNANT)
    return found


def draw_cell(rng: np.random.Generator, x: float, y: float, plane: int, kind: str) -> Cell:
    """One cell of a kind: the nucleus of a malignant one is large for its cell, uneven and dark."""
    radius, ratio, dye, coarse = {  # half axis of the nucleus, nucleus to cell, dye, unevenness
        BENIGN: (rng.uniform(7.0, 10.0), rng.uniform(0.25, 0.45), rng.uniform(0.8, 1.05), 0.08),
        MALIGNANT: (rng.uniform(10.5, 16.0), rng.uniform(0.62, 0.8), rng.uniform(0.95, 1.35), 0.35),
        LEUCOCYTE: (rng.uniform(5.5, 7.0), rng.uniform(0.75, 0.9), rng.uniform(1.0, 1.3), 0.1),
        DEBRIS: (rng.uniform(3.0, 9.0), 1.0, rng.uniform(0.5, 1.2), 0.2),
    }[kind]
    slim = rng.uniform(0.7, 0.9) if kind == MALIGNANT else rng.uniform(0.85, 1.0)
    body = radius / ratio
    return Cell(x, y, plane, kind, (radius, radius * slim), (body, body * rng.uniform(0.7, 1.0)),
                rng.uniform(0, np.pi), dye, coarse, bool(rng.random() < 0.4))  # fmt: skip


def paint_smear(
    shape: tuple[int, int], cells: list[Cell], dyes: Dyes, rng: np.random.Generator, planes: int = 1
) -> npt.NDArray[np.uint8]:
    """The focal planes of a smear, (planes, H, W, 3)."""
    layers = [[np.zeros(shape) for _ in range(3)] for _ in range(planes)]  # of each plane: nuclei, cytoplasm, keratin
    for cell in cells:
        _stamp(layers[cell.plane], cell, rng)
    ground = 0.015 + 0.012 * clouds(rng, shape, 40.0) + 0.006 * clouds(rng, shape, 3.0)
    pictures = []
    for focus in range(planes):
        nuclei, plasma, keratin = (np.zeros(shape) for _ in range(3))
        for at, layer in enumerate(layers):
            away = BLUR * abs(at - focus)
            parts = [blur(part, 0.6 + away) for part in layer]
            nuclei, plasma, keratin = (np.maximum(a, b) for a, b in zip((nuclei, plasma, keratin), parts, strict=True))
        absorbed = sum(
            part[..., None] * np.array(dye)
            for part, dye in ((nuclei, dyes.nuclear), (plasma + ground, dyes.plasma), (keratin, dyes.keratin))
        )
        light = np.array(dyes.glass) * np.exp(-absorbed) + rng.normal(0, 0.006, (*shape, 1))
        pictures.append(np.rint(255 * light.clip(0, 1)).astype(np.uint8))
    return np.stack(pictures)


def _stamp(layer: list[Plane], cell: Cell, rng: np.random.Generator) -> None:
    """Adds a cell to its plane's nuclei, cytoplasm and keratin."""
    reach = int(1.3 * max(*cell.body, *cell.nucleus)) + 10
    shape = layer[0].shape
    top, left = max(int(cell.y) - reach, 0), max(int(cell.x) - reach, 0)
    here = (slice(top, min(int(cell.y) + reach, shape[0])), slice(left, min(int(cell.x) + reach, shape[1])))
    v, u = np.mgrid[here[0].start : here[0].stop, here[1].start : here[1].stop]
    if cell.kind == DEBRIS:
        ragged = soft(0.4 * clouds(rng, u.shape, 2.0) + 1 - np.hypot(u - cell.x, v - cell.y) / cell.nucleus[0], 0.1)
        layer[1][here] = np.maximum(layer[1][here], 1.6 * cell.dye * ragged)
        layer[2][here] = np.maximum(layer[2][here], 1.1 * cell.dye * ragged)
        return
    wobble = 1 + (0.12 if cell.kind == MALIGNANT else 0.03) * clouds(rng, u.shape, 5.0)
    inside = soft(wobble - _distance(u, v, cell, cell.nucleus), 0.06)
    body = soft(1 + 0.06 * clouds(rng, u.shape, 8.0) - _distance(u, v, cell, cell.body), 0.05)
    chromatin = cell.dye * (1 + cell.coarse * clouds(rng, u.shape, 1.6)).clip(0.35, 1.8)
    layer[0][here] = np.maximum(layer[0][here], inside * chromatin)
    colour = 2 if cell.keratin and cell.kind == BENIGN else 1
    layer[colour][here] = np.maximum(layer[colour][here], body * (0.75 if cell.kind != MALIGNANT else 1.0))


def _distance(u: Plane, v: Plane, cell: Cell, axes: tuple[float, float]) -> Plane:
    dy, dx = v - cell.y, u - cell.x
    a = (dx * np.cos(cell.angle) + dy * np.sin(cell.angle)) / axes[0]
    b = (dy * np.cos(cell.angle) - dx * np.sin(cell.angle)) / axes[1]
    distance: Plane = np.hypot(a, b)
    return distance

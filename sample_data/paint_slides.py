"""Paints a stained section on glass: connective tissue, lymphocytes, fat, sometimes tumour, sometimes marker ink.

Everything is drawn in pixels of 0.5 um. Stains are optical densities: what a pixel looks like is the light that haematoxylin
(nuclei) and eosin (the rest) leave of white.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from brushes import Plane, clouds, soft, strokes

MPP = 0.5  # micrometres a pixel
COARSE = 8  # regions are drawn this many times coarser, then enlarged
MASK_STEP = 16  # level-0 pixels a pixel of the mask
GLASS, TISSUE, TUMOUR, PEN = range(4)  # values of the mask
INKS = ((0.10, 0.25, 0.75), (0.05, 0.45, 0.25), (0.08, 0.08, 0.10))


@dataclass(frozen=True)
class Stain:
    """How one patient's sections are stained: absorbance of both dyes for red, green and blue, and the glass behind."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    glass: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Stain":
        """Draws one patient's stain."""
        blue, pink = rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15)
        return cls(
            haematoxylin=(0.70 * blue, 0.72 * blue, rng.uniform(0.26, 0.34) * blue),
            eosin=(rng.uniform(0.05, 0.11) * pink, 0.85 * pink, rng.uniform(0.28, 0.38) * pink),
            glass=(rng.uniform(0.93, 0.96), rng.uniform(0.93, 0.96), rng.uniform(0.93, 0.96)),
        )


class Regions(NamedTuple):
    """Where what lies, each 0..1 of the slide's size."""

    tissue: Plane
    tumour: Plane
    lymphoid: Plane
    fat: Plane


class Cells(NamedTuple):
    """One kind of nucleus: pixels between neighbours, half axes, density of the dye, and how uneven it is."""

    gap: float
    long: tuple[float, float]
    short: tuple[float, float]
    dye: tuple[float, float]
    nucleolus: float


STROMAL = Cells(gap=44.0, long=(8.0, 12.0), short=(2.4, 3.4), dye=(0.8, 1.1), nucleolus=0.0)
LYMPHOCYTE = Cells(gap=17.0, long=(5.5, 6.5), short=(5.2, 6.2), dye=(1.1, 1.4), nucleolus=0.0)
MALIGNANT = Cells(gap=27.0, long=(10.0, 15.0), short=(8.0, 11.0), dye=(0.7, 1.1), nucleolus=0.7)


def paint_slide(
    shape: tuple[int, int], tumour: float, inked: bool, stain: Stain, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """One slide and its mask.

    Args:
        shape: Height and width in pixels, multiples of 16.
        tumour: Share of the tissue that is tumour, 0 for none.
        inked: Whether somebody drew on the glass.
        stain: Of the patient.
        rng: For everything else.

    Returns:
        (H, W, 3), and (H / 16, W / 16) of GLASS, TISSUE, TUMOUR and PEN.
    """
    regions = draw_regions(rng, (shape[0] // COARSE, shape[1] // COARSE), tumour)
    large = Regions(*(enlarge(plane, shape) for plane in regions))
    haematoxylin, eosin = ground(rng, large)
    stroma = large.tissue * (1 - large.tumour) * (1 - large.lymphoid) * (1 - large.fat)
    for cells, where in ((STROMAL, stroma), (LYMPHOCYTE, large.lymphoid), (MALIGNANT, large.tumour)):
        add_nuclei(haematoxylin, eosin, rng, cells, where)
    haematoxylin *= large.tissue
    absorbed = haematoxylin[..., None] * np.array(stain.haematoxylin) + eosin[..., None] * np.array(stain.eosin)
    light = np.array(stain.glass) * np.exp(-absorbed)  # (H, W, 3)
    ink = draw_ink(rng, regions.tissue.shape) if inked else np.zeros_like(regions.tissue)
    if inked:
        light = light * (1 - 0.9 * enlarge(ink, shape)[..., None] * (1 - np.array(INKS[rng.integers(len(INKS))])))
    pixels = np.rint(255 * light.clip(0, 1)).astype(np.uint8)
    return pixels, draw_mask(regions, ink)


def draw_mask(regions: Regions, ink: Plane) -> npt.NDArray[np.uint8]:
    """What every 16 x 16 pixels are."""
    step = MASK_STEP // COARSE
    small = [plane[: plane.shape[0] // step * step, : plane.shape[1] // step * step] for plane in (*regions, ink)]
    tissue, tumour, _, fat, ink = (
        plane.reshape(plane.shape[0] // step, step, plane.shape[1] // step, step).mean(axis=(1, 3)) for plane in small
    )
    mask = np.where(tissue * (1 - fat) > 0.5, TISSUE, GLASS)
    mask[tumour > 0.5] = TUMOUR
    mask[ink > 0.3] = PEN
    return mask.astype(np.uint8)


def draw_regions(rng: np.random.Generator, shape: tuple[int, int], tumour: float) -> Regions:
    """A section of irregular outline with lymphoid nodules and fat, and tumour of the given share of it."""
    v, u = np.mgrid[0.0 : shape[0], 0.0 : shape[1]]
    short = min(shape)
    reach = np.hypot(
        (u - shape[1] * rng.uniform(0.45, 0.55)) / shape[1], (v - shape[0] * rng.uniform(0.45, 0.55)) / shape[0]
    )
    tissue = soft(rng.uniform(0.36, 0.42) - reach + 0.05 * clouds(rng, shape, short / 14), 0.003)
    inner = soft(tissue - 0.98, 0.004)
    grown = clouds(rng, shape, short / 8) + 0.12 * clouds(rng, shape, short / 40) - 2.0 * reach
    grown = np.where(inner > 0.5, grown, -9.0)
    least = np.quantile(grown[inner > 0.5], 1 - tumour) if tumour else 99.0
    tumour_area = soft(grown - least, 0.03) * inner
    nodules = clouds(rng, shape, short / 16)
    share = rng.uniform(0.06, 0.22)
    lymphoid = soft(nodules - np.quantile(nodules[tissue > 0.5], 1 - share), 0.05) * tissue * (1 - tumour_area)
    drops = clouds(rng, shape, 2.6)
    fatty = soft(clouds(rng, shape, short / 12) - rng.uniform(1.0, 1.6), 0.1)
    fat = soft(drops - 0.1, 0.12) * fatty * tissue * (1 - tumour_area) * (1 - lymphoid)
    return Regions(tissue * (1 - 0.97 * fat), tumour_area, lymphoid, fat)


def ground(rng: np.random.Generator, regions: Regions) -> tuple[Plane, Plane]:
    """Density of haematoxylin and eosin between the nuclei: wavy fibres, pale lymph, dense and bluish tumour."""
    shape = regions.tissue.shape
    v, u = np.mgrid[0.0 : shape[0], 0.0 : shape[1]]
    bend = enlarge(clouds(rng, (shape[0] // COARSE, shape[1] // COARSE), 12.0), shape)
    angle = rng.uniform(0, np.pi)
    along = u * np.cos(angle) + v * np.sin(angle) + 60.0 * bend
    fibres = 0.5 + 0.5 * np.sin(along / 4.0) * np.sin(along / 13.0 + 2.0 * bend)
    uneven = 1 + 0.15 * enlarge(clouds(rng, (shape[0] // COARSE, shape[1] // COARSE), 5.0), shape)
    stroma = (0.30 + 0.30 * fibres) * (1 - regions.lymphoid) + 0.18 * regions.lymphoid
    eosin = (stroma * (1 - regions.tumour) + 0.36 * regions.tumour) * uneven
    haematoxylin = 0.05 + 0.06 * regions.lymphoid + 0.16 * regions.tumour
    return haematoxylin, eosin * regions.tissue


def add_nuclei(haematoxylin: Plane, eosin: Plane, rng: np.random.Generator, cells: Cells, where: Plane) -> None:
    """Stamps nuclei of one kind where its region is, on a jittered grid."""
    height, width = where.shape
    rows, columns = int(height / cells.gap), int(width / cells.gap)
    jitter = rng.uniform(0.1, 0.9, (rows, columns, 2))
    drawn = rng.random((rows, columns))
    forms = rng.random((rows, columns, 4))
    for row in range(rows):
        for column in range(columns):
            y, x = (row + jitter[row, column, 0]) * cells.gap, (column + jitter[row, column, 1]) * cells.gap
            if drawn[row, column] < 0.9 * where[int(y), int(x)]:
                _stamp(haematoxylin, eosin, (y, x), forms[row, column], cells)


def _stamp(haematoxylin: Plane, eosin: Plane, at: tuple[float, float], form: Plane, cells: Cells) -> None:
    long, short, dye = (low + share * (high - low) for share, (low, high) in zip(form, cells[1:4], strict=False))
    angle = np.pi * form[3]
    reach = int(long) + 3
    top, left = int(at[0]) - reach, int(at[1]) - reach
    if top < 0 or left < 0 or top + 2 * reach > haematoxylin.shape[0] or left + 2 * reach > haematoxylin.shape[1]:
        return
    v, u = np.mgrid[top : top + 2 * reach, left : left + 2 * reach]
    dy, dx = v - at[0], u - at[1]
    a, b = (dx * np.cos(angle) + dy * np.sin(angle)) / long, (dy * np.cos(angle) - dx * np.sin(angle)) / short
    distance = np.hypot(a, b)
    inside = soft(1 - distance, 0.12)
    density = dye * (1 - 0.35 * cells.nucleolus * soft(0.75 - distance, 0.1))  # open chromatin, dark rim
    density += cells.nucleolus * dye * np.exp(-((a - 0.2) ** 2 + (b + 0.1) ** 2) / 0.04)
    here = (slice(top, top + 2 * reach), slice(left, left + 2 * reach))
    haematoxylin[here] = np.maximum(haematoxylin[here], inside * density)
    eosin[here] *= 1 - 0.7 * inside


def draw_ink(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """One curved stroke of a marker along an edge of the glass, 0..1."""
    v, u = np.mgrid[0.0 : shape[0], 0.0 : shape[1]]
    side = rng.integers(4)
    at, length = rng.uniform(0.05, 0.12), rng.uniform(0.35, 0.7)
    start = rng.uniform(0.05, 0.25)
    steps = np.linspace(start, start + length, 9)
    away = at + 0.03 * np.sin(steps * rng.uniform(6, 12))
    x, y = (steps, away) if side < 2 else (away, steps)
    x, y = (1 - x if side == 3 else x) * shape[1], (1 - y if side == 1 else y) * shape[0]
    width = rng.uniform(4.0, 7.0)
    return strokes(u, v, [(x[i], y[i], x[i + 1], y[i + 1], width) for i in range(8)])


def enlarge(plane: Plane, shape: tuple[int, int]) -> Plane:
    """A plane at the slide's size."""
    picture = Image.fromarray(plane.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(np.float64).clip(plane.min(), plane.max())

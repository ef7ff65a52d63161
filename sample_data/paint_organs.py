"""Paints an abdomen as a small volume: irregular organs in a body, bowel that looks like them, shading and noise."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from brushes import Plane, blur, clouds, soft

SLICES, SIDE = 10, 72  # slices; rows and columns
SPACING_MM = (6.0, 3.0, 3.0)  # between slices, rows and columns
EDGE = 0.04  # width of an organ's edge, in shares of its radius
# Label to centre (z, y, x) and radii in shares of half the volume, and grey of 0 to 255. x leads to the patient's left.
ORGANS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "liver": ((0.15, -0.1, -0.38), (0.95, 0.42, 0.34), 150.0),
    "spleen": ((0.25, 0.12, 0.5), (0.7, 0.26, 0.17), 135.0),
    "kidney_right": ((-0.2, 0.38, -0.3), (0.75, 0.15, 0.13), 175.0),
    "kidney_left": ((-0.1, 0.38, 0.3), (0.75, 0.15, 0.13), 175.0),
    "aorta": ((0.0, 0.3, 0.04), (3.0, 0.07, 0.07), 195.0),
}
LABELS = tuple(ORGANS)  # the first is 1 in a mask
BODY, FAT, SPINE = 70.0, 45.0, 220.0
LOOPS = 7  # of bowel
NOISE = 9.0


@dataclass(frozen=True)
class Abdomen:
    """A volume before it is painted: everything follows from the seed."""

    seed: int
    slices: int = SLICES
    side: int = SIDE


def paint_abdomen(abdomen: Abdomen) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Paints a volume (slices upwards, rows backwards, columns to the patient's left) and its mask of `LABELS`, from 1."""
    rng = np.random.default_rng([abdomen.seed, 17])
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (abdomen.slices, abdomen.side, abdomen.side)), indexing="ij")
    body = _lump(rng, (z, y, x), (0.0, 0.02, 0.0), (9.0, 0.74, 0.92), 0.03)
    volume = BODY * soft(body, EDGE)
    volume += (FAT - BODY) * soft(body, EDGE) * soft(0.12 - body, EDGE)  # under the skin
    for _ in range(LOOPS):
        place = (rng.uniform(-1, 1), rng.uniform(-0.45, 0.25), rng.uniform(-0.3, 0.5))
        size = (rng.uniform(0.3, 0.8), rng.uniform(0.08, 0.16), rng.uniform(0.08, 0.16))
        loop = soft(_lump(rng, (z, y, x), place, size, 0.2), EDGE)
        volume += loop * (rng.uniform(100, 170) - volume)
    spine = soft(_lump(rng, (z, y, x), (0.0, 0.55, 0.02), (9.0, 0.15, 0.13), 0.08), EDGE)
    volume += spine * (SPINE - volume)
    mask = np.zeros(volume.shape, np.uint8)
    for number, (centre, radii, grey) in enumerate(ORGANS.values(), start=1):
        moved = tuple(c + rng.normal(0, 0.05) for c in centre)
        sized = tuple(r * rng.uniform(0.8, 1.2) for r in radii)
        lump = _lump(rng, (z, y, x), moved, sized, 0.12)
        inside = soft(lump, EDGE)
        texture = np.stack([clouds(rng, plane.shape, 2.0) for plane in volume]) * 5
        volume += inside * (grey * rng.uniform(0.9, 1.1) + texture - volume)
        mask[lump > 0] = number
    shade = 1 + 0.12 * clouds(rng, (abdomen.side, abdomen.side), abdomen.side / 3)
    volume = np.stack([blur(plane, 0.5) for plane in volume]) * shade + rng.normal(0, NOISE, volume.shape)
    return np.asarray(volume.clip(0, 255).round(), np.uint8), mask


def _lump(
    rng: np.random.Generator,
    at: tuple[Plane, Plane, Plane],
    centre: tuple[float, ...],
    radii: tuple[float, ...],
    uneven: float,
) -> Plane:
    """How deep positions lie in a lump, 1 in its middle, negative outside; its outline waves by so much."""
    z, y, x = ((p - c) / r for p, c, r in zip(at, centre, radii, strict=True))
    turn = rng.uniform(-0.4, 0.4)
    y, x = y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)
    angle = np.arctan2(y, x)
    waves = sum(
        rng.normal(0, uneven) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * z)
        for k in (2, 3, 4)
    )
    depth: Plane = 1 + waves - np.sqrt(x * x + y * y + z * z)
    return depth

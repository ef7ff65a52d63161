"""Paints a clip of an eye under ultrasound: globe, lens, optic nerve, and what floats or is torn off inside.

Positions are in globe radii from its centre, x to the right and y into the depth; angles turn from the right (0) through the
depth (pi / 2) to the left. Grey values are 0..1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brushes import Plane, blur, soft

ROWS, COLUMNS = 72, 80  # pixels of the scanner's screen
EDGE = 8  # of them left and above the scanned part
DISC = 0.28  # angle from the back of the eye to the optic nerve
ORA = 1.35  # and to where the retina ends in front
NOTHING, FLOATING, OFF, ON = "normal", "pvd", "macula_detached", "macula_intact"
KINDS = (NOTHING, FLOATING, OFF, ON)


@dataclass(frozen=True)
class Eye:
    """One clip before it is painted."""

    kind: str
    frames: int
    mirrored: bool  # the other eye: the optic nerve lies on the other side of the macula
    seed: int


Membrane = tuple[float, float, float]  # from angle, to angle (from the back of the eye), highest lift in radii


def membranes(eye: Eye, rng: np.random.Generator) -> list[Membrane]:
    """What is torn off; the optic nerve at +DISC, the macula at about -0.1, the temporal side negative."""
    lift = rng.uniform(0.35, 0.6)
    nasal, temporal = (DISC, ORA, lift), (-ORA, DISC, lift)
    if eye.kind == OFF:
        return [nasal, temporal] if rng.random() < 0.5 else [temporal]
    if eye.kind == ON:
        return [nasal] if rng.random() < 0.5 else [(-ORA, -rng.uniform(0.5, 0.6), 0.8 * lift)]
    return []


def paint_clip(eye: Eye) -> npt.NDArray[np.uint8]:
    """The frames (T, ROWS, COLUMNS) of a scanner's screen."""
    rng = np.random.default_rng(eye.seed)
    centre, radius = (COLUMNS / 2 + rng.uniform(-2, 2), EDGE + 31 + rng.uniform(-1.5, 1.5)), rng.uniform(21, 24)
    y, x = (np.mgrid[:ROWS, :COLUMNS] - np.array([centre[1], centre[0]]).reshape(2, 1, 1)) / radius
    torn, swing, pace = membranes(eye, rng), rng.uniform(0.12, 0.3), rng.uniform(0.5, 0.8)
    phase, depth, gain = rng.uniform(0, 6.28), rng.uniform(0.1, 0.4), rng.uniform(0.85, 1.1)
    words = screen(rng)
    inside = scanned()
    pictures = []
    for time in range(eye.frames):
        turn = swing * np.sin(pace * time + phase)  # the patient looks left and right
        u = -x if eye.mirrored else x
        angle = np.arctan2(u, y) - turn  # from the back of the eye, nasal positive
        distance = np.hypot(x, y)
        tissue = globe(x, y, angle, distance)
        for start, end, lift in torn:
            tissue = np.maximum(tissue, membrane(angle, distance, (start, end, lift), 0.5 * pace * time + phase))
        if eye.kind == FLOATING:
            tissue = np.maximum(tissue, floating(x, y, distance, depth, 2.2 * pace * time + phase))
        speckle = blur(rng.rayleigh(0.8, (ROWS, COLUMNS)), 0.6)
        grey = gain * tissue * speckle * inside + 0.012 * rng.random((ROWS, COLUMNS)) * inside
        pictures.append(np.maximum(grey.clip(0, 1), words))
    return (np.stack(pictures) * 255).round().astype(np.uint8)


def globe(x: Plane, y: Plane, angle: Plane, distance: Plane) -> Plane:
    """The eye without anything wrong with it, and the fat around it."""
    fat = 0.55 * soft(distance - 1.04, 0.03)
    wall = 0.95 * np.exp(-(((distance - 1.0) / 0.05) ** 2)) * (0.45 + 0.55 * soft(y - 0.1, 0.2))
    lens = 0.8 * np.exp(-(((np.hypot(x / 0.42, (y + 0.72) / 0.2) - 1) / 0.22) ** 2))
    shadow = 1 - 0.85 * np.exp(-(((angle - DISC) / 0.12) ** 2)) * soft(distance - 1.02, 0.03) * (y > 0)
    lid = 0.9 * soft(-0.98 - y, 0.04)
    tissue: Plane = np.maximum(np.maximum(fat, wall) * shadow, np.maximum(lens, lid))
    return tissue


def membrane(angle: Plane, distance: Plane, torn: Membrane, wave: float) -> Plane:
    """Detached retina: bright, taut, held at both ends, trembling a little after the eye has turned."""
    start, end, lift = torn
    along = (angle - start) / (end - start)
    height = lift * np.sin(np.pi * along.clip(0, 1)) * (1 + 0.12 * np.sin(3 * np.pi * along + wave))
    ridge: Plane = np.exp(-(((distance - 0.98 + height) / 0.05) ** 2)) * ((along > 0) & (along < 1))
    bright: Plane = 0.95 * ridge
    return bright


def floating(x: Plane, y: Plane, distance: Plane, depth: float, wave: float) -> Plane:
    """Detached vitreous: faint, thin, swaying freely, held nowhere."""
    line = depth + 0.22 * np.sin(2.6 * x + wave) + 0.1 * np.sin(5.0 * x - 1.7 * wave)
    veil: Plane = 0.38 * np.exp(-(((y - line) / 0.045) ** 2)) * soft(0.8 - distance, 0.03)
    return veil


def scanned() -> Plane:
    """Where the probe looks: a trapezoid."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    inside: Plane = ((y >= EDGE) & (abs(x - COLUMNS / 2) < 26 + 0.14 * (y - EDGE))).astype(float)
    return inside


def screen(rng: np.random.Generator) -> Plane:
    """What the scanner writes beside the scan: the same words, whatever there is to see."""
    picture = Image.new("L", (COLUMNS, ROWS))
    pen = ImageDraw.Draw(picture)
    pen.text((1, -2), f"EYE {rng.integers(5, 13)} MHz", fill=230)
    for tick in range(EDGE + 4, ROWS, 10):
        pen.line((COLUMNS - 3, tick, COLUMNS - 1, tick), fill=200)
    return np.asarray(picture, float) / 255

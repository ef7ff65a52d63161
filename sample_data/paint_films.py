"""Paints synthetic frontal chest films: bones, vessels, soft tissue, and how the detector sees them."""

import numpy as np

from brushes import Plane, Segment, blur, branches, clouds, curve, soft, strokes
from chest_findings import (
    SIDES,
    SIZE,
    SUPER,
    Anatomy,
    Box,
    Canvas,
    add_consolidation,
    add_effusion,
    add_heart,
    add_pneumothorax,
    add_round,
    lung_distance,
)

GLYPHS = {  # strokes x0, y0, x1, y1 in a unit square
    "L": ((0, 0, 0, 1), (0, 1, 0.6, 1)),
    "R": ((0, 0, 0, 1), (0, 0, 0.5, 0), (0.5, 0, 0.6, 0.25), (0.6, 0.25, 0.5, 0.5), (0.5, 0.5, 0, 0.5),
          (0.25, 0.5, 0.6, 1)),
}  # fmt: skip


def new_canvas(rng: np.random.Generator, body: Anatomy, detector_mm: float) -> Canvas:
    """An empty film with the patient placed on it: a little rotated, scaled and off centre."""
    grid = np.linspace(-1.0, 1.0, SIZE * SUPER)
    x, y = np.meshgrid(grid, grid)
    turn, scale = rng.normal(0.0, 0.03), rng.uniform(1.06, 1.20)
    x, y = x - rng.normal(0.0, 0.025), y - rng.normal(0.06, 0.025)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / scale, (y * np.cos(turn) - x * np.sin(turn)) / scale
    blank = np.zeros_like(u)
    canvas = Canvas(rng, body, u, v, 0.5 * detector_mm * scale, {}, blank, np.ones_like(u), blank.copy(), blank.copy())
    canvas.lungs = {side: soft(lung_distance(canvas, side)) for side in SIDES}
    canvas.air = canvas.lungs["right"] + canvas.lungs["left"]
    canvas.free = canvas.air * (np.abs(x) < 0.95) * (np.abs(y) < 0.95) * soft(np.abs(u) - 0.24)  # not on the hila
    return canvas


def bones(canvas: Canvas, view: str) -> Plane:
    """Attenuation of ribs, clavicles, shoulder blades and spine."""
    body, u, v = canvas.body, canvas.u, canvas.v
    w, total = np.abs(u), np.zeros_like(u)
    for rib in range(10):
        reach = body.half_width * min(1.0, 0.52 + 0.12 * rib) + 0.03
        part = np.clip(w / reach, 0.0, 1.0)
        start = body.apex - 0.02 + rib * body.rib_gap
        back = start + 0.20 * part**2.2 - 0.07 * np.sin(np.pi * part)
        front = start + 0.20 + 0.24 * (1.0 - part) ** 0.75
        thick = 0.024 + 0.001 * rib
        for line, fade in ((back, soft(w - 0.05)), (front, soft(w - 0.42 * reach, 0.05) * 0.75)):
            away = np.abs(v - line) / thick
            rim = np.exp(-(((away - 0.9) / 0.25) ** 2))
            total += (0.085 * soft(1.0 - away, 0.12) + 0.045 * rim) * fade * soft(reach + 0.01 - w)
    lift = -0.05 if view == "AP" else 0.0
    clavicle = -0.50 + lift - 0.10 * w + 0.05 * np.sin(2 * np.pi * np.clip(w / 0.7, 0, 1))
    shaft = np.abs(v - clavicle) / 0.034
    rim = np.exp(-(((shaft - 0.9) / 0.25) ** 2))
    total += (0.13 * soft(1.0 - shaft, 0.15) + 0.05 * rim) * soft(w - 0.06) * soft(0.78 - w)
    inward = 0.10 if view == "AP" else 0.0
    blade = np.minimum(w - (0.66 - inward - 0.10 * (v + 0.3)), 0.05 - v - 0.2 * w)
    total += 0.07 * soft(blade, 0.03) * soft(v + 0.62, 0.03)
    axis = u - body.spine_bow * np.sin(2.0 * v)
    discs = np.cos(2 * np.pi * (v + 0.03) / 0.105)
    total += soft(0.085 - np.abs(axis)) * (0.10 + 0.025 * discs) + 0.05 * strokes_of_processes(axis, v)
    return total


def strokes_of_processes(axis: Plane, v: Plane) -> Plane:
    """The spinous processes: a row of drops on the midline, 0..1."""
    phase = (v + 2.0) % 0.105 - 0.05
    drops: Plane = np.exp(-((axis / 0.018) ** 2) - (phase / 0.022) ** 2)
    return drops


def vessels(canvas: Canvas) -> Plane:
    """Attenuation of hila and lung vessels, and of the fine texture between them."""
    rng = canvas.rng
    segments: list[Segment] = []
    hila = np.zeros_like(canvas.u)
    for side, sign in SIDES.items():
        v0 = 0.0 if side == "right" else -0.03
        hila += np.exp(-(((sign * canvas.u - 0.17) / 0.055) ** 2) - ((canvas.v - v0) / 0.10) ** 2)
        for angle in np.linspace(-1.35, 1.35, 7):
            heading = angle + rng.uniform(-0.15, 0.15)
            heading = heading if sign > 0 else np.pi - heading
            start = (sign * 0.15, v0 + 0.06 * np.sin(angle))
            segments += branches(rng, start, heading, rng.uniform(0.38, 0.55), rng.uniform(0.013, 0.018))
    texture = 0.012 * clouds(rng, canvas.u.shape, 1.5)
    return 0.11 * strokes(canvas.u, canvas.v, segments) + 0.13 * hila + texture


def torso(canvas: Canvas, sex: str) -> Plane:
    """Attenuation of the chest wall, the neck and the belly with its gastric bubble; 0 in the air around."""
    body, u, v = canvas.body, canvas.u, canvas.v
    w = np.abs(u)
    outline = curve(v, [(-1.3, 0.20), (-0.95, 0.22), (-0.88, 0.36), (-0.78, 0.75), (-0.62, 1.05), (-0.35, 1.10),
                        (-0.1, 0.92), (0.3, 0.86), (0.6, 0.85), (1.2, 0.90)])  # fmt: skip
    inside = soft(outline + (body.half_width - 0.70) - w, 0.012)
    wall = body.wall * (0.75 + 0.45 * w**2) + 0.10 * soft(-0.45 - v, 0.10)
    level = body.domes["left"] + canvas.rng.uniform(0.13, 0.17)
    bubble = np.hypot((u - canvas.rng.uniform(0.26, 0.36)) / canvas.rng.uniform(0.10, 0.16), (v - level) / 0.09)
    belly = 0.06 * soft(v - 0.55, 0.08) - 0.20 * soft(1.0 - bubble, 0.08) * soft(level + 0.01 - v)
    if sex == "F":
        breast = np.hypot((w - 0.42) / 0.33, (v - 0.30) / 0.28)
        belly += 0.10 * soft(1.0 - breast, 0.04)
    uneven = 0.025 * clouds(canvas.rng, u.shape, 14.0)
    return inside * (wall + belly + uneven)


def mediastinum(canvas: Canvas) -> tuple[Plane, Plane]:
    """The tissue between the lungs (0..1, heart apart), and the windpipe with its two main bronchi (0..1)."""
    body, u, v = canvas.body, canvas.u, canvas.v
    middle = curve(v, [(-1.2, 0.12), (-0.7, 0.13), (-0.4, 0.12), (0.0, 0.10), (0.6, 0.10)])
    knob = body.knob - np.hypot(u - 0.105, v + 0.27)
    tissue = soft(np.maximum(middle - np.abs(u), knob))
    tubes = [(0.0, -1.2, -0.01, -0.22, 0.036), (-0.01, -0.22, -0.13, -0.06, 0.026), (-0.01, -0.22, 0.15, -0.09, 0.022)]
    return tissue, strokes(u, v, tubes)


def expose(canvas: Canvas, attenuation: Plane) -> Plane:
    """Scatter, detector blur, quantum noise and the display curve; returns brightness 0..1, (SIZE, SIZE)."""
    rng = canvas.rng
    scattered = 0.87 * attenuation + 0.13 * blur(attenuation, 14.0)
    sharp = blur(scattered, rng.uniform(0.7, 1.1))
    photons = rng.uniform(0.020, 0.034) * np.exp(0.8 * sharp)
    noisy = sharp + photons * rng.standard_normal(sharp.shape)
    small = noisy.reshape(SIZE, SUPER, SIZE, SUPER).mean(axis=(1, 3))
    middle, slope = rng.uniform(0.60, 0.68), rng.uniform(0.165, 0.205)
    return soft(small - middle, slope)


def stamp(canvas: Canvas, marker: str) -> Plane:
    """The lead marker, 'L' or 'R', near the patient's side of that name; 0..1."""
    sign, height = (1.0, 0.09) if marker == "L" else (-1.0, 0.09)
    left, top = sign * canvas.rng.uniform(0.84, 0.90) - 0.03, canvas.rng.uniform(-0.95, -0.85)
    grid = np.linspace(-1.0, 1.0, SIZE * SUPER)
    x, y = np.meshgrid(grid, grid)
    lines = [(left + a * height, top + b * height, left + c * height, top + d * height, 0.012)
             for a, b, c, d in GLYPHS[marker]]  # fmt: skip
    return strokes(x, y, lines)


def paint_film(
    findings: set[str], sex: str, view: str, marker: str, detector_mm: float, body: Anatomy, rng: np.random.Generator
) -> tuple[Plane, list[tuple[str, Box]]]:
    """Paints one film.

    Args:
        findings: names out of LABELS.
        sex: 'F' or 'M'; view: 'PA' or 'AP'; marker: 'L' or 'R'.
        detector_mm: side of the square detector.
        body: the patient's build.
        rng: the film's own generator.

    Returns:
        Brightness 0..1 (SIZE, SIZE), bone bright; and label and box of every lesion.
    """
    canvas = new_canvas(rng, body, detector_mm)
    add_heart(canvas, "Cardiomegaly" in findings)
    if "Effusion" in findings:
        add_effusion(canvas)
    if "Pneumothorax" in findings:
        add_pneumothorax(canvas)
    if "Consolidation" in findings:
        add_consolidation(canvas)
    if "Mass" in findings:
        add_round(canvas, "Mass", rng.uniform(42, 68), lobes=0.085, contrast=0.46)
    if "Nodule" in findings:
        for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])):
            add_round(canvas, "Nodule", rng.uniform(21, 29), lobes=0.0, contrast=0.44)
    tissue, windpipe = mediastinum(canvas)
    air = canvas.air * (1.0 - tissue)
    attenuation = torso(canvas, sex)
    inside = np.clip(attenuation * 8.0, 0.0, 1.0)
    filled = 0.26 + 0.24 * soft(body.half_width + 0.03 - np.abs(canvas.u), 0.03) * soft(canvas.v - body.apex, 0.05)
    attenuation += inside * (filled * (1.0 - air) - 0.12 * windpipe + bones(canvas, view) + canvas.extra)
    attenuation += inside * canvas.markings * air * vessels(canvas)
    return expose(canvas, attenuation + 0.9 * stamp(canvas, marker)), canvas.boxes

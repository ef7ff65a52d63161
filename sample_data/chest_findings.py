"""The build of a chest on a frontal film, and the six findings that can be painted into it.

Everything is drawn in a body frame (u, v): u grows towards the image's right (the patient's left), v downwards, and
the chest spans about -0.9..0.9 in both; one unit is `unit_mm` on the detector. Sides are 'right' and 'left' of the
patient; w is the distance from the midline on one side, so the same formulas serve both lungs.
"""

from dataclasses import dataclass, field

import numpy as np

from brushes import Plane, blur, branches, clouds, curve, soft, strokes

Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max in pixels, half open

SIZE = 128  # pixels a side of a finished film
SUPER = 2  # painted this many times finer
LABELS = ("Cardiomegaly", "Effusion", "Nodule", "Mass", "Pneumothorax", "Consolidation")
SIDES = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Anatomy:
    """The build of one patient, in body units (ratios without a unit)."""

    half_width: float  # midline to the inner chest wall, at its widest
    apex: float  # v of the lung apices
    domes: dict[str, float]  # v of the top of each diaphragm dome
    normal_heart: float  # cardiothoracic ratio without cardiomegaly
    large_heart: float  # and with it
    knob: float  # radius of the aortic knob
    rib_gap: float
    wall: float  # attenuation of the chest wall
    spine_bow: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """Draws one patient's build."""
        right = rng.uniform(0.37, 0.45)
        return cls(
            half_width=rng.uniform(0.66, 0.74),
            apex=rng.uniform(-0.80, -0.72),
            domes={"right": right, "left": right + rng.uniform(0.03, 0.07)},
            normal_heart=rng.uniform(0.39, 0.46),
            large_heart=rng.uniform(0.58, 0.68),
            knob=rng.uniform(0.060, 0.078),
            rib_gap=rng.uniform(0.122, 0.136),
            wall=rng.uniform(0.36, 0.44),
            spine_bow=rng.uniform(-0.02, 0.02),
        )


@dataclass
class Canvas:
    """One film while it is painted."""

    rng: np.random.Generator
    body: Anatomy
    u: Plane  # (H, W) body coordinates of every pixel
    v: Plane
    unit_mm: float
    lungs: dict[str, Plane]  # 1 inside the pleural cavity of a side
    air: Plane  # 1 where aerated lung projects, 0 where soft tissue does
    markings: Plane  # 1 where vessels may show
    extra: Plane  # attenuation added by findings
    free: Plane  # 1 where a further lesion would be seen
    boxes: list[tuple[str, Box]] = field(default_factory=list)


def lung_distance(canvas: Canvas, side: str, collapse: float = 0.0) -> Plane:
    """Signed distance to the lung's outline (positive inside), for a lung drawn in from apex and wall by collapse."""
    body, v, w = canvas.body, canvas.v, SIDES[side] * canvas.u
    apex = body.apex + 1.6 * collapse
    height = np.clip((v - apex) / (0.45 - apex), 0.0, 1.0)
    middle = 0.25 + 0.1 * collapse
    lateral = middle + (body.half_width - middle) * (1.0 - (1.0 - height) ** 2.0) ** 0.52
    lateral -= collapse * np.clip((0.55 - v) / 0.5, 0.0, 1.0)
    medial = middle - (middle - 0.10) * np.sqrt(1.0 - (1.0 - np.clip(height / 0.28, 0.0, 1.0)) ** 2)
    return np.minimum(np.minimum(lateral - w, w - medial), np.minimum(dome(canvas, side) - v, v - apex))


def dome(canvas: Canvas, side: str) -> Plane:
    """The v of the diaphragm at every pixel's distance from the midline."""
    w = SIDES[side] * canvas.u
    return canvas.body.domes[side] + 2.2 * np.abs(np.clip(w, 0.0, 1.0) - 0.34) ** 2.3


def heart_distance(canvas: Canvas, ratio: float) -> Plane:
    """Signed distance to a heart of the given cardiothoracic ratio, a third of it right of the midline."""
    width = 2.0 * canvas.body.half_width * ratio
    left, right = 0.67 * width, 0.33 * width
    leftward = [(-0.20, 0.06), (-0.10, 0.13), (0.0, 0.17), (0.12, 0.66 * left), (0.24, 0.92 * left)]
    leftward += [(0.34, 1.01 * left), (0.42, left), (0.50, 0.86 * left), (0.60, 0.4 * left)]
    rightward = [(-0.20, 0.05), (-0.08, 0.09), (0.04, 0.78 * right), (0.16, right)]
    rightward += [(0.28, 1.02 * right), (0.40, 0.92 * right), (0.60, 0.5 * right)]
    left_edge, right_edge = curve(canvas.v, leftward), curve(canvas.v, rightward)
    inside = np.minimum(left_edge - canvas.u, canvas.u + right_edge)
    return np.minimum(inside, np.minimum(canvas.v + 0.18, 0.53 - canvas.v))


def mark(canvas: Canvas, label: str, mask: Plane) -> None:
    """Notes the box of a lesion given by its mask (0..1, painted pixels)."""
    small = mask.reshape(SIZE, SUPER, SIZE, SUPER).mean(axis=(1, 3)) > 0.35
    rows, columns = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    if rows.size == 0:
        raise ValueError(f"nothing of a {label} is visible: place it elsewhere")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    canvas.boxes.append((label, box))


def place(canvas: Canvas, radius: float) -> tuple[float, float]:
    """A centre (u, v) where a lesion of that radius (body units) lies in free lung, as well as that is possible."""
    room = blur(canvas.free, max(2.0, 0.5 * radius * SIZE * SUPER / 2))
    roomy = np.flatnonzero(room.ravel() >= min(0.93, room.max() * 0.98))
    chosen = canvas.rng.choice(roomy)
    return float(canvas.u.flat[chosen]), float(canvas.v.flat[chosen])


def add_heart(canvas: Canvas, large: bool) -> None:
    """The heart shadow, which hides most of the lung behind it; Cardiomegaly if large."""
    ratio = canvas.body.large_heart if large else canvas.body.normal_heart
    heart = soft(heart_distance(canvas, ratio + canvas.rng.uniform(-0.01, 0.01)))
    canvas.air *= 1.0 - 0.88 * heart
    canvas.free *= soft(-heart_distance(canvas, ratio) - 0.02)
    if large:
        mark(canvas, "Cardiomegaly", heart)


def add_effusion(canvas: Canvas) -> None:
    """Fluid with a meniscus that rises to the lateral wall, on one side or both."""
    rng = canvas.rng
    for side in [["right"], ["left"], ["right", "left"]][rng.choice(3, p=[0.4, 0.3, 0.3])]:
        top, drop = rng.uniform(0.02, 0.27), rng.uniform(0.16, 0.24)
        w = np.clip(SIDES[side] * canvas.u / canvas.body.half_width, 0.0, 1.0)
        fluid = soft(canvas.v - top - drop * (1.0 - w**2.5), 0.02)
        fluid *= soft(np.minimum(lung_distance(canvas, side) + 0.01, SIDES[side] * canvas.u - 0.05))
        mark(canvas, "Effusion", fluid * (canvas.air > 0.3))
        canvas.air *= 1.0 - 0.97 * fluid
        canvas.free *= 1.0 - blur(fluid, 5.0)


def add_pneumothorax(canvas: Canvas) -> None:
    """Air between the chest wall and a lung drawn in at apex and side: no markings, and a thin pleural line."""
    side = str(canvas.rng.choice(list(SIDES)))
    pleura = lung_distance(canvas, side, collapse=canvas.rng.uniform(0.11, 0.20))
    gap = canvas.lungs[side] * soft(-pleura, 0.006) * soft(0.40 - canvas.v, 0.04)
    gap *= canvas.air
    canvas.markings *= 1.0 - gap
    line = np.exp(-((pleura / 0.009) ** 2)) * canvas.lungs[side] * (canvas.air > 0.3)
    canvas.extra += 0.20 * line - 0.15 * gap + 0.05 * canvas.lungs[side] * soft(pleura)
    canvas.free *= 1.0 - blur(np.maximum(gap, line), 4.0)
    mark(canvas, "Pneumothorax", gap)


def add_consolidation(canvas: Canvas) -> None:
    """A fluffy, ill-defined patch of filled lung that leaves air-filled bronchi dark."""
    rng = canvas.rng
    radius = rng.uniform(0.17, 0.26)
    cu, cv = place(canvas, radius)
    reach = np.hypot((canvas.u - cu) / rng.uniform(0.85, 1.0), (canvas.v - cv) / rng.uniform(0.95, 1.25)) / radius
    patch = soft(1.0 - reach + 0.22 * clouds(rng, reach.shape, 9.0), 0.12) * canvas.air
    hilum = (np.copysign(0.16, cu), 0.0)
    angle = float(np.arctan2(cv - hilum[1], cu - hilum[0]))
    start = (cu - 0.8 * radius * np.cos(angle), cv - 0.8 * radius * np.sin(angle))
    tubes = [line for turn in (-0.3, 0.35) for line in branches(rng, start, angle + turn, 1.5 * radius, 0.0105)]
    bronchi = strokes(canvas.u, canvas.v, tubes)
    canvas.extra += 0.36 * patch * (1.0 + 0.12 * clouds(rng, reach.shape, 4.0)) * (1.0 - 0.55 * bronchi)
    canvas.markings *= 1.0 - 0.8 * patch
    canvas.free *= 1.0 - blur(patch, 5.0)
    mark(canvas, "Consolidation", patch)


def add_round(canvas: Canvas, label: str, diameter_mm: float, lobes: float, contrast: float) -> None:
    """A round (lobes = 0) or lobulated opacity, thicker in its middle, with a sharp edge."""
    rng = canvas.rng
    radius = 0.5 * diameter_mm / canvas.unit_mm
    cu, cv = place(canvas, 1.25 * radius)
    angle = np.arctan2(canvas.v - cv, canvas.u - cu)
    waves = sum(np.cos(k * angle + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.5, 1.0) for k in (2, 3, 4))
    distance = np.hypot(canvas.u - cu, canvas.v - cv) / (radius * (1.0 + lobes * waves))
    shape = soft(1.0 - distance, 0.09)
    canvas.extra += contrast * shape * (0.55 + 0.45 * np.sqrt(np.clip(1.0 - distance**2, 0.0, 1.0)))
    canvas.free *= 1.0 - soft(1.35 - distance, 0.05)
    mark(canvas, label, shape)

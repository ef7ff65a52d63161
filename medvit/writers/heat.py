"""Heat maps: numbers in model space for programs, a picture over the source for people."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medvit import NOTICE
from medvit.atomic import whole
from medvit.codes import file_name
from medvit.image import Plane
from medvit.result import Finding, Heatmap, Result, Run
from medvit.writers.picture import software, write_caption, write_png

FAINT = 0.6  # relevance below this quantile is left transparent
OPACITY = 0.55
SAMPLE = 256  # rows or columns that the quantile is taken from, at least
# Matplotlib's "inferno" (CC0) at nine steps: perceptually uniform and readable for the colour-blind.
INFERNO = np.array([
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85),
    (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164),
], np.float32)  # fmt: skip


def write_heat(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``heat_<label>.npz`` and ``heat_<label>.png`` of every heat map of a result.

    The npz holds ``values`` (h, w) over the model's field of view, ``box`` (top, left, bottom, right of that field in
    source pixels), ``source`` (rows, columns), ``model`` (rows, columns) and ``about`` (JSON). The picture has the rows and
    columns of the source.
    """
    if not result.heatmaps or result.read is None:
        return []
    if result.heatmaps[0].values.ndim == 3:
        from medvit.writers.clip_heat import write_clip_heat  # it draws with what is below

        return write_clip_heat(result, folder, run)
    pixels = result.read(result.case).pixels
    film = pixels[0] if len(pixels) == 1 else pixels
    probability = {finding.label.name: finding for finding in result.findings}
    written = []
    for heat in result.heatmaps:
        stem = folder / f"heat_{file_name(heat.label.name)}"
        written += [
            write_numbers(heat, run, stem.with_suffix(".npz")),
            _write_picture(film, heat, probability[heat.label.name], run, stem.with_suffix(".png")),
        ]
    return written


def write_numbers(heat: Heatmap, run: Run, path: Path, **more: Any) -> Path:
    """A map as numbers, with its place in the source and what made it; ``more`` are arrays beside them."""
    about = {
        "label": heat.label.name,
        "code": str(heat.label.code),
        "method": heat.method,
        "system": run.system,
        "version": run.version,
        "weights_sha256": run.digest,
        "notice": NOTICE,
    }
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            values=heat.values,
            **more,
            box=np.array(heat.fit.box),
            source=np.array(heat.fit.source),
            model=np.array(heat.fit.model),
            about=np.array(json.dumps(about)),
        )
    return path


def _write_picture(film: Plane, heat: Heatmap, finding: Finding, run: Run, path: Path) -> Path:
    picture = Pillow.fromarray(overlay(film, heat.fit.to_source(heat.values)))
    caption = f"{heat.label.name} {finding.probability:.2f}   regions that influenced this score   {NOTICE}"
    write_caption(picture, caption)
    return write_png(picture, path, {"Description": f"{caption} Method: {heat.method}.", "Software": software(run)})


def overlay(film: Plane, relevance: Plane) -> NDArray[np.uint8]:
    """Colour a film (H, W) or a picture (3, H, W) in [0, 1] by relevance (H, W): nothing below a quantile, then more."""
    step = max(min(relevance.shape) // SAMPLE, 1)  # the map is smooth, and a quantile of every pixel slow
    sample = relevance[::step, ::step]
    seen = sample[sample > 0]
    low, high = float(np.quantile(seen, FAINT)) if seen.size else 0.0, float(relevance.max())
    scaled = ((relevance - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(relevance)
    level = (scaled * 255).astype(np.uint8)  # (H, W)
    steps = np.linspace(0, 1, 256)
    weight = (255 * OPACITY * steps**0.5).astype(np.uint16)  # of the colour; 255 - weight is the film's
    bare = (film.clip(0, 1) * 255 + 0.5).astype(np.uint16)
    clear = (255 - weight)[level]  # (H, W)
    shaded = clear * bare if bare.ndim == 2 else None
    blended = np.empty((*relevance.shape, 3), np.uint8)
    for channel in range(3):
        under = clear * bare[channel] if shaded is None else shaded
        colour = np.interp(steps, np.linspace(0, 1, len(INFERNO)), INFERNO[:, channel])
        blended[..., channel] = (under + (weight * colour).astype(np.uint16)[level] + 127) // 255  # below 2**16
    return blended

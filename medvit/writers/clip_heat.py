"""What influenced a score in a clip: numbers in space and time, a film with the map over it, its most important frame.

Source: none; the curve of a frame's importance is the mean of the map over the frame.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from medvit import NOTICE
from medvit.atomic import whole
from medvit.codes import file_name
from medvit.errors import Unreferable
from medvit.image import Plane
from medvit.result import Heatmap, Result, Run
from medvit.writers.heat import overlay, write_numbers
from medvit.writers.picture import write_caption, write_png

LONGEST = 320  # pixels of a film's longer side
MOST = 64  # frames of a film; of longer clips some are left out
FRAME_MS = 60  # without a rate of the clip's own
CURVE = 36  # rows of the curve below the frames
DARK, LINE, MARK = (12, 12, 14), (150, 150, 150), (249, 140, 10)


def is_clip(result: Result) -> bool:
    """Whether a result has maps in space and time."""
    return any(heat.values.ndim == 3 for heat in result.heatmaps)


def refuse_clip(result: Result) -> None:
    """Raise `Unreferable` for a clip, whose maps no object of planes can hold."""
    if result.case.modality == "US" or is_clip(result):
        raise Unreferable(
            "clip", "A clip's map lies in space and time: --write heat gives it as a film and as numbers."
        )


def write_clip_heat(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``heat_<label>.npz``, ``.gif`` and ``.png`` of every map of a clip.

    The npz holds ``values`` (slices, h, w) over the model's field of view and the whole clip, ``importance`` (frames,) of each
    frame of the clip, 1 for the highest, and ``box``, ``source``, ``model`` and ``about`` as for films. The picture shows the
    most important frame in the rows and columns of the source, the film every frame with the curve below it.
    """
    if not result.heatmaps or result.read is None:
        return []
    frames = result.read(result.case).pixels[0]
    findings = {finding.label.name: finding for finding in result.findings}
    written = []
    for heat in result.heatmaps:
        stem, finding = folder / f"heat_{file_name(heat.label.name)}", findings[heat.label.name]
        curve = importance(heat.values, len(frames))
        words = f"{heat.label.name} {finding.probability:.2f}   regions that influenced this score   {NOTICE}"
        written += [
            write_numbers(heat, run, stem.with_suffix(".npz"), importance=curve),
            _film(frames, heat, curve, stem.with_suffix(".gif")),
            _picture(frames, heat, curve, words, stem.with_suffix(".png")),
        ]
    return written


def importance(values: Plane, frames: int) -> NDArray[np.float32]:
    """The mean of a map (slices, h, w) at every frame of its clip, 1 for the highest."""
    means = values.mean(axis=(1, 2))
    curve = np.interp(_slice_at(np.arange(frames), frames, len(values)), np.arange(len(values)), means)
    return np.asarray(curve / max(float(curve.max()), np.finfo(np.float32).tiny), np.float32)


def at_frame(values: Plane, index: int, frames: int) -> Plane:
    """A map (slices, h, w) at one frame of its clip: (h, w)."""
    place = float(np.clip(_slice_at(np.array(index), frames, len(values)), 0, len(values) - 1))
    low, part = int(place), place - int(place)
    high = min(low + 1, len(values) - 1)
    return np.asarray((1 - part) * values[low] + part * values[high], np.float32)


def _slice_at(index: NDArray[np.integer], frames: int, slices: int) -> NDArray[np.float64]:
    """Where frames lie among the slices, counted from the middle of the first one."""
    return (index + 0.5) * slices / frames - 0.5


def _coloured(frames: Plane, heat: Heatmap, index: int) -> Pillow.Image:
    """A frame under its part of the map; one that influenced little is coloured little."""
    plane = heat.fit.to_source(at_frame(heat.values, index, len(frames)))
    high, low = float(heat.values.max()), float(np.quantile(heat.values, 0.6))
    scaled = ((plane - low) / max(high - low, 1e-12)).clip(0, 1)
    if not scaled.any():
        return Pillow.fromarray((frames[index] * 255).astype(np.uint8)).convert("RGB")
    scaled[0, 0] = 1.0 if float(scaled.max()) > 0 else 0.0  # one scale for all frames
    return Pillow.fromarray(overlay(frames[index], scaled.astype(np.float32)))


def _film(frames: Plane, heat: Heatmap, curve: NDArray[np.float32], path: Path) -> Path:
    shown = np.unique(np.linspace(0, len(frames) - 1, min(MOST, len(frames))).round().astype(int))
    share = min(LONGEST / max(frames.shape[1:]), 1.0)
    width, height = (max(round(side * share), 1) for side in (frames.shape[2], frames.shape[1]))
    pages = []
    for index in shown:
        page = Pillow.new("RGB", (width, height + CURVE), DARK)
        page.paste(_coloured(frames, heat, int(index)).resize((width, height), Pillow.Resampling.BILINEAR))
        _draw_curve(ImageDraw.Draw(page), curve, int(index), width, height)
        pages.append(page.quantize(128, method=Pillow.Quantize.FASTOCTREE, dither=Pillow.Dither.NONE))
    with whole(path) as part:
        pages[0].save(part, "GIF", save_all=True, append_images=pages[1:], duration=FRAME_MS, loop=0, comment=NOTICE)
    return path


def _draw_curve(pen: ImageDraw.ImageDraw, curve: NDArray[np.float32], index: int, width: int, top: int) -> None:
    across = np.linspace(0, width - 1, len(curve)).tolist()
    places = [(x, top + CURVE - 3 - value * (CURVE - 8)) for x, value in zip(across, curve.tolist(), strict=True)]
    pen.line(places, fill=LINE)
    x, y = places[index]
    pen.line([(x, top + 2), (x, top + CURVE - 1)], fill=MARK)
    pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=MARK)


def _picture(frames: Plane, heat: Heatmap, curve: NDArray[np.float32], words: str, path: Path) -> Path:
    peak = int(curve.argmax())
    picture = Pillow.fromarray(overlay(frames[peak], heat.fit.to_source(at_frame(heat.values, peak, len(frames)))))
    write_caption(picture, f"{words}   frame {peak + 1} of {len(frames)}")
    return write_png(picture, path)

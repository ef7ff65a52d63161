"""Masks as pictures: each as a PNG of the source's size, and all of them over the source for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from medvit import NOTICE
from medvit.codes import file_name
from medvit.result import Region, Result, Run
from medvit.writers.picture import write_png

COLOURS = np.array([
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
], np.float32)  # fmt: skip  # Okabe and Ito: told apart by the colour-blind
FILLED, OUTLINE = 0.25, 0.9  # opacity
READABLE = 512  # pixels of the longer side to which smaller slices are enlarged, in whole steps
THIN = 3  # pixels of an enlarged source pixel for one of its outline
LINE, LINES = 18, 12  # rows of a line of the legend, and lines at most
INK, PAPER = (230, 230, 230), (0, 0, 0)


def write_mask_pictures(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``mask_<label>.png`` of every flat mask, 0 or 255, and ``masks.png``, all of them over the source.

    Of a volume ``masks.png`` shows the slice with the largest part of all masks; its masks are written as NIfTI. It is enlarged
    where the slice is small, in the proportions of its pixels, and names every mask below with its colour, score and size.
    """
    if not result.regions or result.read is None:
        return []
    written = []
    for region in result.regions:
        if region.mask.ndim == 2:
            mask = Pillow.fromarray(region.mask.astype(np.uint8) * 255)
            written.append(write_png(mask, folder / _name(region), {"Description": _told(region, run)}))
    pixels = result.read(result.case).pixels  # (C, D, H, W)
    masks = [region.mask.reshape(-1, *region.mask.shape[-2:]) for region in result.regions]  # (D, H, W)
    number = int(np.sum([mask.sum(axis=(1, 2)) for mask in masks], axis=0).argmax())
    shown = f"slice {number}   " if pixels.shape[1] > 1 else ""
    steps = _steps(pixels.shape[2:], result.regions[0].spacing)
    picture = drawn(
        _enlarged(pixels[:, number], steps),
        [_enlarged(mask[number], steps) for mask in masks],
        max(min(steps) // THIN, 1),
    )
    listed = _with_legend(picture, result.regions, f"{shown}{NOTICE}")
    caption = f"{shown}{', '.join(f'{r.label.name} {r.score:.2f}' for r in result.regions)}   {NOTICE}"
    return [*written, write_png(listed, folder / "masks.png", {"Description": caption})]


def _steps(size: tuple[int, ...], spacing: tuple[float, ...] | None) -> tuple[int, int]:
    """How many rows and columns of the picture show one of the source."""
    usual = max(READABLE // max(size), 1)
    rows, columns = spacing[-2:] if spacing else (1.0, 1.0)
    least = min(rows, columns)
    return max(round(usual * rows / least), 1), max(round(usual * columns / least), 1)


def _enlarged(planes: NDArray[Any], steps: tuple[int, int]) -> NDArray[Any]:
    return planes.repeat(steps[0], axis=-2).repeat(steps[1], axis=-1)


def _with_legend(picture: NDArray[np.uint8], regions: Sequence[Region], last: str) -> Pillow.Image:
    """A picture above lines that tell which colour is what."""
    lines = [_line(region) for region in regions[:LINES]]
    more = f"and {len(regions) - LINES} more, see masks.csv" if len(regions) > LINES else ""
    height, width = picture.shape[:2]
    font = ImageFont.load_default(LINE * 0.7)
    told = [*lines, *([more] if more else []), last]
    sheet = Pillow.new("RGB", (max(width, READABLE), height + LINE * len(told) + LINE // 2), PAPER)
    sheet.paste(Pillow.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(told):
        top = height + LINE * number + LINE // 4
        if number < len(lines):
            colour = tuple(int(c) for c in COLOURS[number % len(COLOURS)])
            draw.rectangle((LINE // 4, top + 2, LINE, top + LINE - 4), fill=colour)
        draw.text((LINE * 1.5, top), text, fill=INK, font=font)
    return sheet


def _line(region: Region) -> str:
    size = region.measures()
    measure = (
        f"{size['volume_ml']:g} ml" if size["volume_ml"] is not None
        else f"{size['area_mm2']:g} mm²" if size["area_mm2"] is not None
        else f"{size['pixels']:,} pixels"
    )  # fmt: skip
    return f"{region.label.name}: score {region.score:.2f}, {measure}, asked by {region.told.get('prompt', '?')}"


def drawn(planes: NDArray[np.float32], masks: list[NDArray[np.bool_]], thick: int = 1) -> NDArray[np.uint8]:
    """A slice (C, H, W) in [0, 1] with masks (H, W) in colours, filled faintly, their outlines strongly."""
    out = np.broadcast_to(planes, (3, *planes.shape[1:])).transpose(1, 2, 0) * np.float32(255)
    for number, mask in enumerate(masks):
        opacity = np.where(mask & ~binary_erosion(mask, iterations=thick), OUTLINE, FILLED)[..., None] * mask[..., None]
        out = out * (1 - opacity) + COLOURS[number % len(COLOURS)] * opacity
    return np.asarray(out.round().clip(0, 255), np.uint8)


def _name(region: Region) -> str:
    return f"mask_{file_name(region.label.name)}.png"


def _told(region: Region, run: Run) -> str:
    return f"{region.label.name}, score {region.score:.3f}. {run.system}, weights SHA-256 {run.digest}. {NOTICE}"

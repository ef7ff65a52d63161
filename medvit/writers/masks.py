"""Masks as pictures: each as a PNG of the source's size, and all of them over the source for people."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.ndimage import binary_erosion

from medvit import NOTICE
from medvit.codes import file_name
from medvit.result import Region, Result, Run
from medvit.writers.picture import write_caption, write_png

COLOURS = np.array([
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
], np.float32)  # fmt: skip  # Okabe and Ito: told apart by the colour-blind
FILLED, OUTLINE = 0.25, 0.9  # opacity


def write_mask_pictures(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``mask_<label>.png`` of every flat mask, 0 or 255, and ``masks.png``, all of them over the source.

    Of a volume ``masks.png`` shows the slice with the largest part of all masks; its masks are written as NIfTI.
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
    picture = Pillow.fromarray(drawn(pixels[:, number], [mask[number] for mask in masks]))
    shown = f"slice {number}   " if pixels.shape[1] > 1 else ""
    caption = f"{shown}{', '.join(f'{r.label.name} {r.score:.2f}' for r in result.regions)}   {NOTICE}"
    write_caption(picture, caption)
    return [*written, write_png(picture, folder / "masks.png", {"Description": caption})]


def drawn(planes: NDArray[np.float32], masks: list[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """A slice (C, H, W) in [0, 1] with masks (H, W) in colours, filled faintly, their outlines strongly."""
    out = np.broadcast_to(planes, (3, *planes.shape[1:])).transpose(1, 2, 0) * np.float32(255)
    for number, mask in enumerate(masks):
        opacity = np.where(mask & ~binary_erosion(mask), OUTLINE, FILLED)[..., None] * mask[..., None]
        out = out * (1 - opacity) + COLOURS[number % len(COLOURS)] * opacity
    return np.asarray(out.round().clip(0, 255), np.uint8)


def _name(region: Region) -> str:
    return f"mask_{file_name(region.label.name)}.png"


def _told(region: Region, run: Run) -> str:
    return f"{region.label.name}, score {region.score:.3f}. {run.system}, weights SHA-256 {run.digest}. {NOTICE}"

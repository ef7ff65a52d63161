"""The tiles that a score came from, side by side: what a cytologist wants to see first."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from medvit import NOTICE
from medvit.atomic import whole
from medvit.codes import file_name
from medvit.errors import Unanswered
from medvit.result import Finding, Result, Run

SHOWN = 24  # tiles of a gallery, at most
COLUMNS = 6
SIDE = 128  # pixels of a tile in the picture
GAP = 6
LINE = 14  # pixels of a line of text
INK, PAPER = (30, 30, 30), (255, 255, 255)


def write_gallery(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``gallery_<label>.png`` for every finding of a result with tiles, positive or not.

    Its tiles are those of the highest attention, highest first, each with its share of the attention of all tiles and its
    centre in level-0 pixels.
    """
    if result.tiles is None or result.close_up is None or _pixels(result, 0) is None:
        return []
    written = []
    for finding in result.findings:
        attention = result.tiles.scores.get(f"{finding.label.name} attention")
        if attention is not None:
            path = folder / f"gallery_{file_name(finding.label.name)}.png"
            written.append(_write(result, finding, np.asarray(attention), run, path))
    return written


def most_attended(attention: NDArray[np.floating], count: int = SHOWN) -> list[int]:
    """Numbers of the tiles of the highest attention, highest first; of equal ones the first."""
    return [int(index) for index in np.argsort(-attention, kind="stable")[:count]]


def _write(result: Result, finding: Finding, attention: NDArray[np.floating], run: Run, path: Path) -> Path:
    chosen = most_attended(attention)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    width = max(columns * (SIDE + GAP) + GAP, 3 * SIDE)
    sheet = Pillow.new("RGB", (width, rows * (SIDE + LINE + GAP) + GAP + 2 * LINE), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    total = float(attention.sum()) or 1.0
    for place, index in enumerate(chosen):
        left, top = GAP + place % columns * (SIDE + GAP), GAP + place // columns * (SIDE + LINE + GAP)
        _paste(sheet, result, index, (left, top))
        draw.text((left, top + SIDE + 1), _caption(result, index, float(attention[index]) / total), INK, font)
    said = f"{finding.label.name} {finding.probability:.2f}: {len(chosen)} of {len(attention)} tiles by attention"
    bottom = sheet.height - 2 * LINE
    draw.text((GAP, bottom), said, INK, font)
    draw.text((GAP, bottom + LINE), NOTICE, INK, font)
    info = PngInfo()
    info.add_text("Description", f"{said}. {NOTICE}")
    info.add_text("Software", f"{run.system}, medvit {run.version}, weights SHA-256 {run.digest}")
    with whole(path) as part:
        sheet.save(part, "PNG", pnginfo=info, compress_level=6)
    return path


def _paste(sheet: Pillow.Image, result: Result, index: int, at: tuple[int, int]) -> None:
    """Draw a tile; one that cannot be read any more stays empty."""
    pixels = _pixels(result, index)
    if pixels is not None and pixels.size:
        sheet.paste(Pillow.fromarray(pixels).resize((SIDE, SIDE), Pillow.Resampling.BICUBIC), at)


def _pixels(result: Result, index: int) -> NDArray[np.uint8] | None:
    """The pixels of a tile: none at all where it cannot be read any more, None where the system shows none."""
    try:
        return result.close_up(index) if result.close_up else None
    except Unanswered:
        return np.zeros((0, 0, 3), np.uint8)


def _caption(result: Result, index: int, share: float) -> str:
    if result.tiles is None:
        return ""
    tiling = result.tiles.tiling
    x, y = (tiling.coords[index] + tiling.size_level0 / 2).round().astype(int)
    return f"{share:.1%} at {x}, {y}"

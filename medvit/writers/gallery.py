"""The tiles that a score came from, side by side: what a cytologist wants to see first."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from medvit import NOTICE
from medvit.cell_folders import BAG
from medvit.codes import file_name
from medvit.errors import Unanswered
from medvit.readers.sheet import number_of
from medvit.result import Finding, Result, Run
from medvit.writers.picture import software, write_png

SHOWN = 24  # tiles of a gallery, at most
COLUMNS = 6
SIDE = 128  # pixels of a tile in the picture
GAP = 6
LINE = 14  # pixels of a line of text
INK, PAPER = (30, 30, 30), (255, 255, 255)


def write_gallery(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``gallery_<label>.png`` for every finding of a result with tiles, positive or not.

    Its tiles are those of the highest attention, highest first, each with its share of the attention of all tiles and its
    centre in level-0 pixels. A tile that was read at several focal planes is shown once, at the plane that was attended to
    most, with the share of all its planes.
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


def most_attended(
    attention: NDArray[np.floating], coords: NDArray[np.int64], count: int = SHOWN
) -> list[tuple[int, float]]:
    """Numbers of the tiles of the highest attention, highest first, of equal ones the first, each with its share of it all.

    Tiles at one place (coords (N, 2)) are planes of one; the highest of them stands for all.
    """
    _, place = np.unique(coords, axis=0, return_inverse=True)
    sums = np.bincount(place, attention.astype(np.float64)) / (float(attention.sum()) or 1.0)
    order = np.argsort(-attention, kind="stable")
    first = np.sort(np.unique(place[order], return_index=True)[1])  # in order, where each place comes first
    return [(int(index), float(sums[place[index]])) for index in order[first[:count]]]


def _write(result: Result, finding: Finding, attention: NDArray[np.floating], run: Run, path: Path) -> Path:
    coords = result.tiles.tiling.coords if result.tiles else np.zeros((0, 2), np.int64)
    chosen = most_attended(attention, coords)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    width = max(columns * (SIDE + GAP) + GAP, 3 * SIDE)
    sheet = Pillow.new("RGB", (width, rows * (SIDE + LINE + GAP) + GAP + 2 * LINE), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, (index, share) in enumerate(chosen):
        left, top = GAP + place % columns * (SIDE + GAP), GAP + place // columns * (SIDE + LINE + GAP)
        _paste(sheet, result, index, (left, top))
        draw.text((left, top + SIDE + 1), _caption(result, index, share), INK, font)
    of = len(np.unique(coords, axis=0))
    said = f"{finding.label.name} {finding.probability:.2f}: {len(chosen)} of {of} tiles by attention"
    bottom = sheet.height - 2 * LINE
    draw.text((GAP, bottom), said, INK, font)
    draw.text((GAP, bottom + LINE), NOTICE, INK, font)
    return write_png(sheet, path, {"Description": f"{said}. {NOTICE}", "Software": software(run)}, effort=6)


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
    if result.case.header.get("bag") == BAG:
        return f"{share:.1%} picture {number_of(tiling, index)}"
    x, y = (tiling.coords[index] + tiling.size_level0 / 2).round().astype(int)
    plane = tiling.plane(index)
    return f"{share:.1%} at {x}, {y}" + ("" if plane is None else f", z {plane}")

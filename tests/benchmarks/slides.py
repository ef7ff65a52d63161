"""Reading slides beside the plain loop, and memory as the slide grows: ``python tests/benchmarks/slides.py``.

Asked for: at least 1.2 times the tiles a second of ``read_region(...).convert("RGB")`` on the same tiles, and at most 1.5 GB
for a slide of 40,000 x 40,000 pixels, with and without levels of low resolution. Tiles are read row by row; seconds are those
of the processor, so that others on the machine do not count.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sample_data")]

from medvit.readers.slide import Slide  # noqa: E402
from medvit.readers.tiles import find_tiles, map_tissue  # noqa: E402
from paint_slides import Stain, paint_slide  # noqa: E402
from pyramids import Page, cut, jpeg, write_pages  # noqa: E402

REAL = ROOT.parent / "shared/data/wsi/open/CMU-1-Small-Region.svs"
TILE = 224
Corner = tuple[int, int]


def write_repeated(path: Path, picture: np.ndarray, side: int, levels: int, mpp: float) -> None:
    """A slide of any size whose picture repeats, so that it takes seconds to write and little room on the disk."""
    pages = []
    for level in range(levels):
        small = np.asarray(Image.fromarray(picture).reduce(2**level))
        pattern = np.tile(small, (2**level, 2**level, 1))  # as large as the picture again
        tiles = [jpeg(tile, 70) for tile in cut(pattern)]
        across, down = pattern.shape[1] // 256, pattern.shape[0] // 256
        count = -(-(side >> level) // 256)
        places = [tiles[y % down * across + x % across] for y in range(count) for x in range(count)]
        pages.append(Page(side >> level, side >> level, places))
    write_pages(path, pages, mpp)


def plain(path: Path, corners: Sequence[Corner], level: int, mpp: float) -> list[np.ndarray]:
    """What one would write: the level that fits, four channels to three, resized where it must be."""
    with openslide.OpenSlide(path) as slide:
        own = float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) * slide.level_downsamples[level]
        side = round(TILE * mpp / own)
        tiles = [slide.read_region(corner, level, (side, side)).convert("RGB") for corner in corners]
        if side != TILE:
            tiles = [tile.resize((TILE, TILE), Image.Resampling.BILINEAR) for tile in tiles]
        return [np.asarray(tile) for tile in tiles]


def ours(path: Path, corners: Sequence[Corner], level: int, mpp: float) -> list[np.ndarray]:
    """The same tiles by `Slide.read`."""
    slide = Slide(path)
    tiles = [slide.read(corner, TILE, mpp) for corner in corners]
    slide.close()
    return tiles


def compare(name: str, path: Path, level: int, mpp: float, rounds: int, most: int) -> None:
    """Print tiles a second of both, read by turns, and their ratio."""
    slide = Slide(path)
    side = TILE * mpp / slide.mpp
    corners = [
        (round(x), round(y))
        for y in np.arange(0, slide.size[1] - side, side)
        for x in np.arange(0, slide.size[0] - side, side)
    ]
    corners = corners[:most]
    seconds: dict[Callable[..., list[np.ndarray]], list[float]] = {plain: [], ours: []}
    for turn in range(rounds):
        for way in (plain, ours) if turn % 2 else (ours, plain):
            started = time.process_time()
            tiles = way(path, corners, level, mpp)
            seconds[way].append(time.process_time() - started)
            del tiles
    pairs = zip(plain(path, corners[:50], level, mpp), ours(path, corners[:50], level, mpp), strict=True)
    apart = float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))
    rates = {way: len(corners) / statistics.median(found) for way, found in seconds.items()}
    print(
        f"{name:<38} plain {rates[plain]:5.0f}   medvit {rates[ours]:5.0f} tiles/s   {rates[ours] / rates[plain]:.2f}x"
        f"   mean difference {apart:.2f}",
        flush=True,
    )


def measure(path: Path, tiles: int) -> None:
    """Find tissue, lay the grid, read tiles from all over; print tiles and the most memory this process took."""
    started = time.perf_counter()
    slide = Slide(path)
    tissue = map_tissue(slide, TILE * 0.5)
    found = find_tiles(slide, TILE, 0.5, tissue=tissue)
    mapped = time.perf_counter() - started
    for corner in found.coords[:: max(1, len(found) // tiles)]:
        slide.read((int(corner[0]), int(corner[1])), TILE, found.mpp)
    # Not getrusage, which counts what the parent had when this process began.
    (most,) = (
        int(line.split()[1]) / 1e6 for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    print(f"{len(found):>7} tiles, tissue and grid in {mapped:5.1f} s, at most {most:.2f} GB")


def main() -> None:
    """Compare, or measure one slide in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--tiles", type=int, default=2_000, help="to read of each large slide")
    parser.add_argument("--rounds", type=int, default=5, help="of reading by turns")
    parser.add_argument("--most", type=int, default=1_000, help="tiles that are read in a round")
    arguments = parser.parse_args()
    turns = (arguments.rounds, arguments.most)
    if arguments.measure:
        measure(arguments.measure, arguments.tiles)
        return
    rng = np.random.default_rng(0)
    picture, _ = paint_slide((1_280, 1_536), 0.2, False, Stain.draw(rng), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        for side in (8_000, 40_000):
            write_repeated(path, picture, side, 4, 0.25)
            compare(f"{side} px wide, level 0", path, 0, 0.25, *turns)
            compare(f"{side} px wide, level 1", path, 1, 0.5, *turns)
            compare(f"{side} px wide, between levels 0 and 1", path, 0, 0.4, *turns)
        if REAL.is_file():
            compare(REAL.name, REAL, 0, 0.499, *turns)
        for side in (5_000, 40_000):
            for levels, said in ((6, "six levels"), (1, "one level")):
                write_repeated(path, picture, side, levels, 0.25)
                print(f"{side} x {side}, {said}:", end=" ", flush=True)
                command = [sys.executable, __file__, "--measure", str(path), "--tiles", str(arguments.tiles)]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

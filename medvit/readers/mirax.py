"""MIRAX slides: ``NAME.mrxs`` with a folder ``NAME`` of settings, an index and packed images.

OpenSlide reads them, but opens data files only when it needs them: that one was cut would show tile by tile.

Source: the format notes of OpenSlide (MIRAX); its properties hold the settings.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from medvit.errors import Rejected

LEVELS = "Slide zoom level"  # what the first records of the index are about
VERSION = 5  # bytes before the slide's identifier in the index
ROW = np.dtype([("image", "<i4"), ("offset", "<i4"), ("length", "<i4"), ("file", "<i4")])


def refuse_cut(path: Path, facts: Mapping[str, str]) -> None:
    """Refuse a slide of which a data file ends before its last image.

    Args:
        path: The ``.mrxs``, which OpenSlide has opened.
        facts: OpenSlide's properties of it.

    Raises:
        Rejected: ``truncated``, with the file.
    """
    folder = path.with_suffix("")
    try:
        ends = _ends(folder, facts)
    except (KeyError, ValueError, IndexError, OSError, struct.error):  # too odd for us; OpenSlide read it
        return
    for name, end in ends.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if size < end:
            raise Rejected(
                "truncated", f"Its {file.name} has {size} of at least {end} bytes: it was cut. Copy its folder again."
            )


def _ends(folder: Path, facts: Mapping[str, str]) -> dict[str, int]:
    """Where the last image of each data file ends, by the file's name."""
    if facts["mirax.HIERARCHICAL.HIER_0_NAME"] != LEVELS:
        return {}
    index = (folder / facts["mirax.HIERARCHICAL.INDEXFILE"]).read_bytes()
    start = VERSION + len(facts["mirax.GENERAL.SLIDE_ID"].encode())
    names = [facts[f"mirax.DATAFILE.FILE_{number}"] for number in range(int(facts["mirax.DATAFILE.FILE_COUNT"]))]
    ends = np.zeros(len(names), np.int64)
    for level in range(int(facts["mirax.HIERARCHICAL.HIER_0_COUNT"])):
        for rows in _pages(index, start, level):
            np.maximum.at(ends, rows["file"], rows["offset"].astype(np.int64) + rows["length"])
    return dict(zip(names, ends.tolist(), strict=True))


def _pages(index: bytes, start: int, level: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.void]]]:
    """The images of a level, page by page; the first page of a list is empty."""
    (table,) = struct.unpack_from("<i", index, start)
    (at,) = struct.unpack_from("<i", index, table + 4 * level)
    seen = {0}
    while at not in seen:  # a damaged list may lead back into itself
        seen.add(at)
        count, following = struct.unpack_from("<2i", index, at)
        yield np.frombuffer(index, ROW, count, at + 8)
        at = following

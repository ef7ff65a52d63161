"""A MIRAX slide, written here: ``NAME.mrxs`` beside a folder ``NAME`` of settings, an index and packed JPEG images.

Source: the format notes of OpenSlide (MIRAX). Photographs of level 0 share a margin with their neighbours, and a list says
where they lie; an image of the next level holds two by two of them, margins and all, at half the size, by the number of the
first. Photographs of bare glass are left out, as scanners do, so that the scanned part is smaller than level 0.
"""

import io
import math
import struct
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SHARED = 64, 8  # pixels of a photograph, and of its margin
STEP = SIDE - SHARED
NAME, VERSION = "5A1D0000C0FFEE00", "01.02"
GLASS = 255
Place = tuple[int, int, int]  # offset, length and number of a data file


def write_mirax(path: Path, pixels: np.ndarray, mpp: float, levels: int = 3) -> Path:
    """Write pixels (H, W, 3), with glass at the right and below to whole photographs; the folder lies beside ``path``."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "white").save(path, "JPEG")  # what scanners put there is a small picture
    rows, columns = (math.ceil((side - SHARED) / STEP) for side in pixels.shape[:2])
    whole = np.full((rows * STEP + SHARED, columns * STEP + SHARED, 3), GLASS, np.uint8)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    photos = [[whole[y * STEP :, x * STEP :][:SIDE, :SIDE] for x in range(columns)] for y in range(rows)]
    taken = [(y, x) for y in range(rows) for x in range(columns) if (photos[y][x] != GLASS).any()]
    files, pages = [], []
    for level in range(levels):
        step, images = 2**level, {}
        for y, x in taken:
            image = images.setdefault((y // step, x // step), np.full((step * SIDE, step * SIDE, 3), GLASS, np.uint8))
            image[y % step * SIDE :, x % step * SIDE :][:SIDE, :SIDE] = photos[y][x]
        packed = [_jpeg(Image.fromarray(image).reduce(step)) for image in images.values()]
        numbers = [step * (y * columns + x) for y, x in images]
        file, places = _data(len(files), packed)
        files.append(file)
        pages.append([(number, *place) for number, place in zip(numbers, places, strict=True)])
    listed = b"".join(
        struct.pack("<B2i", (y, x) in taken, *((x * STEP, y * STEP) if (y, x) in taken else (0, 0)))
        for y in range(rows)
        for x in range(columns)
    )
    file, (place,) = _data(len(files), [listed])
    for number, data in enumerate([*files, file]):
        (folder / f"Data{number:04d}.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(pages, place))
    (folder / "Slidedat.ini").write_text(_settings(rows, columns, mpp, levels), encoding="utf-8-sig")
    return path


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _data(number: int, parts: list[bytes]) -> tuple[bytes, list[Place]]:
    """A data file and where its parts lie."""
    head = f"{VERSION}{NAME}{number:03d}".encode() + bytes(256)
    starts = [len(head) + sum(map(len, parts[:index])) for index in range(len(parts))]
    return head + b"".join(parts), [(start, len(part), number) for start, part in zip(starts, parts, strict=True)]


def _index(pages: list[list[tuple[int, ...]]], positions: Place) -> bytes:
    """Two tables: of the levels, and of the list of places. Each record is an empty page and one that holds everything."""
    head = f"{VERSION}{NAME}".encode()
    table = len(head) + 8
    records = [*pages, [(0, 0, *positions)]]
    body, starts = b"", []
    for rows in records:
        starts.append(table + 4 * len(records) + len(body))
        body += struct.pack("<4i", 0, starts[-1] + 8, len(rows), 0) + b"".join(
            struct.pack(f"<{len(row)}i", *row) for row in rows
        )
    return head + struct.pack(f"<{2 + len(starts)}i", table, table + 4 * len(pages), *starts) + body


def _settings(rows: int, columns: int, mpp: float, levels: int) -> str:
    sections = {
        "GENERAL": {
            "SLIDE_VERSION": VERSION, "SLIDE_ID": NAME, "IMAGENUMBER_X": columns, "IMAGENUMBER_Y": rows,
            "OBJECTIVE_MAGNIFICATION": round(10 / mpp), "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1, "NONHIER_COUNT": 1, "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": levels,
            **{f"HIER_0_VAL_{level}": f"ZoomLevel_{level}" for level in range(levels)},
            **{f"HIER_0_VAL_{level}_SECTION": f"LAYER_0_LEVEL_{level}_SECTION" for level in range(levels)},
            "NONHIER_0_NAME": "VIMSLIDE_POSITION_BUFFER", "NONHIER_0_COUNT": 1,
            "NONHIER_0_VAL_0": "default", "NONHIER_0_VAL_0_SECTION": "NONHIERLAYER_0_LEVEL_0_SECTION",
        },
        "NONHIERLAYER_0_LEVEL_0_SECTION": {"VIMSLIDE_POSITION_DATA_FORMAT_VERSION": 257},
        "DATAFILE": {"FILE_COUNT": levels + 1, **{f"FILE_{n}": f"Data{n:04d}.dat" for n in range(levels + 1)}},
    }  # fmt: skip
    for level in range(levels):
        sections[f"LAYER_0_LEVEL_{level}_SECTION"] = {
            "OVERLAP_X": SHARED / 2**level, "OVERLAP_Y": SHARED / 2**level,
            "MICROMETER_PER_PIXEL_X": mpp * 2**level, "MICROMETER_PER_PIXEL_Y": mpp * 2**level,
            "IMAGE_FORMAT": "JPEG", "IMAGE_FILL_COLOR_BGR": 0xFFFFFF, "IMAGE_CONCAT_FACTOR": int(level > 0),
            "DIGITIZER_WIDTH": SIDE, "DIGITIZER_HEIGHT": SIDE,
        }  # fmt: skip
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
        for name, values in sections.items()
    )

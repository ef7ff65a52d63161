"""Scores of tiles for QuPath and other viewers, and a picture of where the tiles lie.

Source: QuPath's GeoJSON: objectType within properties, UUIDs as ids, measurements as an object, closed rings, ``plane`` within
geometry for focal planes behind the first. Coordinates count from the scanned part, as QuPath's do.
"""

import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from medvit import NOTICE
from medvit.atomic import whole
from medvit.cell_folders import BAG
from medvit.image import Plane, rescaled
from medvit.readers.sheet import number_of
from medvit.readers.tiles import TissueMap, preview
from medvit.result import Result, Run
from medvit.writers.picture import write_png

SPACE = uuid.UUID("6d656476-6974-5000-8000-74696c657300")  # of the ids of tiles
COLOUR = (200, 0, 0)
DIGITS = 5
PREVIEW = "tiles.png"


def write_tiles(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``tiles.geojson.gz``, a tile object a tile with its scores, and ``tiles.png``, the slide with tissue and tiles.

    A tile is classified by the label of a positive finding where its attention is among the highest tenth. Of attention there
    are the share of its range in the slide (0 to 1) and the rank among its tiles. Nothing is written without scores of tiles.
    """
    if result.tiles is None:
        return []
    path = folder / "tiles.geojson.gz"
    with whole(path) as part, part.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, 0) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for number, feature in enumerate(_features(result, run)):
            file.write((b",\n" if number else b"\n") + json.dumps(feature, separators=(",", ":")).encode())
        file.write(b"\n]}\n")
    return [path, *_preview(result, folder)]


def _features(result: Result, run: Run) -> Iterator[dict[str, Any]]:
    tiles = result.tiles
    if tiles is None:
        return
    measured = {name: column for said, values in tiles.scores.items() for name, column in _measured(said, values)}
    positive = [finding.label.name for finding in result.findings if finding.positive]
    corner = np.array(tiles.tiling.corner)
    about = {"system": run.system, "version": run.version, "weights_sha256": run.digest, "notice": NOTICE}
    for index, (left, top) in enumerate((tiles.tiling.coords - corner).tolist()):
        side = tiles.tiling.size_level0
        right, bottom = round(left + side, 2), round(top + side, 2)
        numbers = {name: round(float(column[index]), DIGITS) for name, column in measured.items()}
        properties: dict[str, Any] = {
            "objectType": "tile",
            "isLocked": True,
            "measurements": {f"medvit: {name}": value for name, value in numbers.items() if np.isfinite(value)},
            "metadata": about,
        }
        high = [name for name in positive if numbers.get(f"{name} attention percentile", 0) >= 0.9]
        if high:
            properties["classification"] = {"name": high[0], "color": COLOUR}
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [ring]}
        plane = tiles.tiling.plane(index)
        if result.case.header.get("bag") == BAG:
            properties["name"] = f"picture {number_of(tiles.tiling, index)}"
        if plane is not None:
            properties["measurements"]["medvit: focal plane"] = plane
        if plane:  # QuPath leaves the first one out
            geometry["plane"] = {"c": -1, "z": plane, "t": 0}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(SPACE, f"{result.case.key} {run.digest} {left} {top}{f' {plane}' if plane else ''}")),
            "geometry": geometry,
            "properties": properties,
        }


def _measured(said: str, values: Plane) -> list[tuple[str, Plane]]:
    """Attention as shares of its range and ranks, everything else as it is."""
    if not said.endswith("attention"):
        return [(said, values)]
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return [(said, rescaled(values)), (f"{said} percentile", np.asarray((ranks + 1) / len(values), np.float32))]


def _preview(result: Result, folder: Path) -> list[Path]:
    tiling = result.tiles.tiling if result.tiles else None
    if tiling is None or tiling.tissue is None or result.read is None:
        return []
    shown = result.read(result.case).pixels  # (3, H, W)
    pixels = np.ascontiguousarray((shown.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    mask = Pillow.fromarray(tiling.tissue).resize((pixels.shape[1], pixels.shape[0]), Pillow.Resampling.NEAREST)
    tissue = TissueMap(pixels, np.asarray(mask), tiling.slide[0] * tiling.mpp / pixels.shape[1])
    return [write_png(Pillow.fromarray(preview(tiling, tiling, tissue)), folder / PREVIEW)]

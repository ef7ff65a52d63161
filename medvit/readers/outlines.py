"""Where lesions lie on a slide: a picture of the whole slide, or outlines in level-0 pixels.

Outlines are ASAP's XML, as Camelyon16 and 17 have it, or GeoJSON, as QuPath writes it.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from medvit.errors import MedvitError

XML, GEOJSON = (".xml",), (".geojson", ".json", ".geojson.gz", ".json.gz")
LEAST_UM = 8.0  # a pixel of a painted mask: that of Camelyon16's evaluation, level 5
LONGEST = 4_096  # pixels of one
MOST_BYTES = 256 << 20  # of a file of outlines
HOLES = ("_2", "exclusion", "ignore*", "ignore")  # groups and classes whose outlines are taken out again


class Outline(NamedTuple):
    """A polygon: ``points`` (n, 2) of x, y in level-0 pixels; ``hole`` where it is taken out."""

    points: NDArray[np.float64]
    hole: bool


def lesion_plane(
    path: Path, slide: tuple[int, int], mpp: float, values: Sequence[int] = (), corner: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.bool_], float]:
    """A mask (h, w) over a whole slide, and the level-0 pixels of one of its pixels.

    Args:
        path: A picture of the slide's shape, ASAP's XML or GeoJSON.
        slide: Width and height of level 0.
        mpp: Micrometres a level-0 pixel.
        values: Of a picture, which values or palette numbers count; any but 0 where empty.
        corner: x, y of the scanned part in level 0; QuPath's outlines count from there.

    Raises:
        MedvitError: When the file cannot be read as what its name says.
    """
    width, height = slide
    if path.name.lower().endswith((*XML, *GEOJSON)):
        step = max(LEAST_UM / mpp, max(slide) / LONGEST)
        outlines = read_outlines(path)
        if not path.name.lower().endswith(XML):
            outlines = [one._replace(points=one.points + corner) for one in outlines]
        return painted(outlines, (max(1, round(height / step)), max(1, round(width / step))), step), step
    try:
        with Pillow.open(path, formats=("PNG", "TIFF")) as picture:
            held = np.asarray(picture)
    except (OSError, ValueError, Pillow.DecompressionBombError) as error:
        raise MedvitError(f"The mask {path} is no PNG or TIFF picture, no XML and no GeoJSON of outlines.") from error
    if held.ndim != 2:
        raise MedvitError(f"The mask {path} is a picture in colours; one grey channel or a palette is needed.")
    return np.isin(held, values) if values else held > 0, width / held.shape[1]


def painted(outlines: Sequence[Outline], shape: tuple[int, int], step: float) -> NDArray[np.bool_]:
    """Outlines filled in a mask (h, w) of ``step`` level-0 pixels a pixel; holes are taken out last."""
    picture = Pillow.new("1", (shape[1], shape[0]))
    pen = ImageDraw.Draw(picture)
    for one in sorted(outlines, key=lambda one: one.hole):
        if len(one.points) > 2:
            pen.polygon([(x, y) for x, y in (one.points / step).tolist()], fill=0 if one.hole else 1)
    return np.array(picture, dtype=bool)


def read_outlines(path: Path) -> list[Outline]:
    """The outlines of a file.

    Raises:
        MedvitError: When it is too large or not what its name says.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content: bytes = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise MedvitError(f"{path} holds more than {MOST_BYTES >> 20} MB of outlines.")
        return _of_xml(content) if path.suffix.lower() in XML else _of_geojson(content)
    except (OSError, EOFError, ElementTree.ParseError, ValueError, KeyError, TypeError, IndexError) as error:
        raise MedvitError(f"{path} cannot be read as outlines ({type(error).__name__}).") from error


def _of_xml(content: bytes) -> list[Outline]:
    """``Annotation`` elements with a ``PartOfGroup`` and ``Coordinate`` elements with ``X`` and ``Y``."""
    if b"<!ENTITY" in content:
        raise ValueError("entities")
    found = []
    for one in ElementTree.fromstring(content).iter("Annotation"):
        corners = sorted(one.iter("Coordinate"), key=lambda corner: float(corner.get("Order", 0)))
        points = [
            (float(corner.attrib["X"].replace(",", ".")), float(corner.attrib["Y"].replace(",", ".")))
            for corner in corners
        ]
        found.append(Outline(_points(points), one.get("PartOfGroup", "").lower() in HOLES))
    return found


def _of_geojson(content: bytes) -> list[Outline]:
    """Polygons of features; the first ring is the outline, the others are holes."""
    tree = json.loads(content)
    features = (
        tree["features"]
        if isinstance(tree, dict) and "features" in tree
        else tree
        if isinstance(tree, list)
        else [tree]
    )
    found = []
    for feature in features:
        geometry: Any = feature.get("geometry", feature)
        named = (feature.get("properties") or {}).get("classification") or {}
        out = str(named.get("name", "")).lower() in HOLES
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        if geometry["type"] in ("Polygon", "MultiPolygon"):
            found += [
                Outline(_points(ring), out or number > 0) for rings in polygons for number, ring in enumerate(rings)
            ]
    return found


def _points(points: Any) -> NDArray[np.float64]:
    held = np.array(points, np.float64).reshape(-1, 2) if len(points) else np.empty((0, 2))
    if not np.isfinite(held).all():
        raise ValueError("a place that is no number")
    return held

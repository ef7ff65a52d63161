"""Feature files of TRIDENT, CLAM, WSInfer and STAMP, told apart by what they hold and brought to level-0 pixels.

Attributes are read as numbers and texts, never evaluated; ``.pt`` files are opened with weights_only.
"""

import csv
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from medvit.case import DAMAGE, read_csv
from medvit.data.features import (
    SCHEMA,
    Features,
    Grid,
    array,
    check,
    from_trident,
    number,
    open_h5,
    text,
)
from medvit.errors import Rejected

WSINFER_BOX = ("minx", "miny", "width", "height")
PROBABILITY = "prob_"


def import_features(
    path: Path, mpp: float | None = None, encoder: str = "", digest: str = "", width: int = 0
) -> Features:
    """Read a feature file of medvit or another tool.

    Args:
        path: medvit or TRIDENT ``features_*/<slide>.h5``; CLAM ``h5_files/<slide>.h5`` or ``pt_files/<slide>.pt`` beside it;
            STAMP ``<slide>.h5``; WSInfer ``model-outputs-csv/<slide>.csv``, whose probabilities stand for features.
        mpp: Micrometres a level-0 pixel of the slide. STAMP's files cannot be placed without it; others that lack it keep None.
        encoder, digest, width: See `features.check`.

    Raises:
        Rejected: When the layout is none of these, or `check` refuses what it holds.
    """
    if path.suffix.lower() == ".csv":
        found = _wsinfer(path, mpp)
    elif path.suffix.lower() == ".pt":
        found = _clam_pt(path, mpp)
    else:
        with open_h5(path) as file:
            found = _sniff(file, path, mpp)
    return check(found, encoder, digest, width)


def _sniff(file: h5py.File, path: Path, mpp: float | None) -> Features:
    if "stamp_version" in file.attrs or "feats" in file:
        return _stamp(file, path, mpp)
    if number(file, "target_magnification") is not None:
        return from_trident(file, path, "medvit" if text(file, "coords", "schema") == SCHEMA else "TRIDENT")
    if number(file, "patch_level") is not None:
        return _clam(file, path, mpp, array(file, "features", 2) if "features" in file else None)
    raise Rejected("features", "Its layout is none of medvit, TRIDENT, CLAM, WSInfer or STAMP.")


def _clam(file: h5py.File, path: Path, mpp: float | None, features: NDArray[Any] | None) -> Features:
    """CLAM and, by its explicit spacing, WSInfer: ``patch_size`` in pixels of ``patch_level``."""
    size, level = number(file, "patch_size"), number(file, "patch_level")
    spacing = number(file, "patch_spacing_um_px")
    reduced = number(file, "downsample") or number(file, "custom_downsample") or (1.0 if level == 0 else None)
    if not size or reduced is None:
        raise Rejected("features", "Its coordinates lack patch_size, or the downsample of their level.")
    if features is None:
        raise Rejected("features", "It holds coordinates only. Give the file with the features.")
    side = size * reduced
    grid = Grid(path.stem, 0, 0, mpp, int(size), spacing or (mpp and mpp * reduced), side)
    coords = array(file, "coords", 2).astype(np.int64)
    return _plain(features, coords, grid, "", "WSInfer" if spacing else "CLAM")


def _clam_pt(path: Path, mpp: float | None) -> Features:
    """A bare tensor; its coordinates are in CLAM's ``h5_files`` beside its folder."""
    import torch

    beside = path.parent.parent / "h5_files" / f"{path.stem}.h5"
    if not beside.is_file():
        raise Rejected("features", "It holds features without places; ../h5_files must hold its coordinates.")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
        features = tensor.numpy() if isinstance(tensor, torch.Tensor) else None
    except (*DAMAGE, UnpicklingError) as error:
        raise Rejected("unreadable", "It is no file of one tensor.") from error
    if features is None:
        raise Rejected("features", "It is no file of one tensor.")
    with open_h5(beside) as file:
        return _clam(file, path, mpp, features)


def _stamp(file: h5py.File, path: Path, mpp: float | None) -> Features:
    """STAMP: ``feats``, and ``coords`` in micrometres."""
    if mpp is None:
        raise Rejected("no_mpp", "STAMP writes micrometres: the mpp of the slide is needed to place its tiles.")
    if _root(file, "unit") not in ("um", ""):
        raise Rejected("features", "Its coordinates are in another unit than micrometres.")
    features, coords_um = array(file, "feats", 2), array(file, "coords", 2)
    tile_um, size = _root_number(file, "tile_size_um"), _root_number(file, "tile_size_px")
    if not tile_um or not size:
        raise Rejected("features", "It lacks tile_size_um or tile_size_px.")
    grid = Grid(path.stem, 0, 0, mpp, int(size), tile_um / size, tile_um / mpp)
    coords = np.rint(coords_um / mpp).astype(np.int64)
    return _plain(features, coords, grid, _root(file, "extractor"), "STAMP")


def _wsinfer(path: Path, mpp: float | None) -> Features:
    """WSInfer's table of probabilities; the coordinates and what they mean are in its ``patches`` beside."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    classes = [name for name in header if name.startswith(PROBABILITY)]
    if not classes:
        raise Rejected("features", f"It has no column that begins with {PROBABILITY}: it is no table of WSInfer.")
    rows = read_csv(path, (*WSINFER_BOX, *classes))
    try:
        boxes = np.array([[float(row[name]) for name in WSINFER_BOX] for row in rows])
        features = np.array([[float(row[name]) for name in classes] for row in rows], np.float32)
    except ValueError as error:
        raise Rejected("features", "A cell that must be a number is none.") from error
    side = float(boxes[0, 2])
    if not (boxes[:, 2:] == side).all():
        raise Rejected("features", "Its tiles are not all squares of one size.")
    size, spacing = round(side), mpp
    beside = path.parent.parent / "patches" / f"{path.stem}.h5"
    if beside.is_file():
        with open_h5(beside) as file:
            spacing = number(file, "patch_spacing_um_px") or spacing
    if mpp and spacing:
        size = round(side * mpp / spacing)
    grid = Grid(path.stem, 0, 0, mpp, size, spacing, side)
    names = {"classes": ",".join(name.removeprefix(PROBABILITY) for name in classes)}
    found = _plain(features, np.rint(boxes[:, :2]).astype(np.int64), grid, "", "WSInfer")
    return Features(found.features, found.coords, found.valid, grid, facts=names, source="WSInfer")


def _plain(features: NDArray[Any], coords: NDArray[np.int64], grid: Grid, encoder: str, source: str) -> Features:
    """Features of a file without marks: every tile counts."""
    return Features(features, coords, np.ones(len(features), bool), grid, encoder, source=source)


def _root(file: h5py.File, name: str) -> str:
    value = file.attrs.get(name, "")
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""


def _root_number(file: h5py.File, name: str) -> float | None:
    value = file.attrs.get(name)
    return float(value) if isinstance(value, int | float | np.number) and value > 0 else None

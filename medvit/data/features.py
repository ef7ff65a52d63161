"""Features of a slide's tiles in HDF5: one layout, written so that TRIDENT and torchmil read it too.

``features`` (N, D) float32 or float16, ``coords`` (N, 2) int64 level-0 top left corners x, y, ``valid`` (N,) bool; where focal
planes were named ``z`` (N,) int64, and a tile described at several planes is there several times. TRIDENT's
attributes lie on ``features`` and ``coords``, ours beside them; magnifications are floats, 10 / mpp, because TRIDENT then finds
the tiles where they are (with its own round 40 and 20 a slide of 0.265 um is read 6 % too large).
Files of other tools are read by `medvit.data.feature_imports`.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from medvit import budgets
from medvit.atomic import whole
from medvit.case import DAMAGE
from medvit.cell_folders import READER
from medvit.errors import MedvitError, Rejected

SCHEMA = "medvit/1"
CHUNK = 4_096  # tiles; TRIDENT's chunks of one tile are slow and large
MAGNIFICATION_MPP = 10.0
WORST = 0.01  # share of tiles that may be unreadable: more of them mean a damaged slide
MOST_BYTES = 8 * budgets.GIB  # of one dataset; 500,000 tiles of 3840 numbers

Matrix = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Grid:
    """What the coordinates of a file mean.

    Args:
        slide: Name of the slide, without folder and suffix.
        width, height: Of level 0, pixels; 0 where unknown.
        mpp: Micrometres a level-0 pixel; None where the file does not say.
        size: Pixels a side of a tile as the encoder saw it.
        tile_mpp: Micrometres a pixel of a tile.
        size_level0: Level-0 pixels a side of a tile.
        overlap: Pixels of a tile that neighbours share.
    """

    slide: str
    width: int
    height: int
    mpp: float | None
    size: int
    tile_mpp: float | None
    size_level0: float
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """The tiles of one slide as an encoder sees them.

    Args:
        features: (N, D); rows that are not valid hold zeros.
        coords: (N, 2) int64, level-0 x, y of the top left corner.
        valid: (N,) False where the tile could not be read.
        grid: What the coordinates mean.
        encoder: Name of what made them; "" where the file does not say.
        digest: SHA-256 of its weights; "" where the file does not say.
        facts: Whatever else is worth keeping, such as mpp_source or pooling: text by name.
        source: The tool whose layout was read.
        planes: (N,) int64, the focal plane of each tile, from 0; None where nobody says.
    """

    features: Matrix
    coords: NDArray[np.int64]
    valid: NDArray[np.bool_]
    grid: Grid
    encoder: str = ""
    digest: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    source: str = "medvit"
    planes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.coords)

    def only_valid(self) -> "Features":
        """The tiles that could be read."""
        keep = self.valid
        planes = None if self.planes is None else self.planes[keep]
        return replace(
            self, features=self.features[keep], coords=self.coords[keep], valid=self.valid[keep], planes=planes
        )


def check(found: Features, encoder: str = "", digest: str = "", width: int = 0) -> Features:
    """Refuse features that no bag can be made of.

    Args:
        found: What was read or is to be written.
        encoder: Name that they must be of; "" for any.
        digest: Weights that they must be of; "" for any. A file that does not say is refused when this is asked for.
        width: D; 0 for any.

    Raises:
        Rejected: ``features`` for lengths or shapes that disagree, ``no_tiles`` for an empty bag or one without a valid tile,
            ``tiles`` when too many could not be read, ``not_finite`` for NaN, ``encoder`` for another encoder's.
    """
    count = len(found.features)
    if found.features.ndim != 2 or found.coords.shape != (count, 2) or found.valid.shape != (count,):
        raise Rejected(
            "features",
            f"Its features are {found.features.shape}, its coordinates {found.coords.shape} and its valid marks "
            f"{found.valid.shape}; they must be (N, D), (N, 2) and (N,) of one N.",
        )
    if found.planes is not None and found.planes.shape != (count,):
        raise Rejected("features", f"Its focal planes are {found.planes.shape}; they must be ({count},), one a tile.")
    if not found.valid.any():
        raise Rejected("no_tiles", "It has no tiles." if not count else f"None of its {count} tiles could be read.")
    lost = count - int(found.valid.sum())
    if (
        lost > max(1, WORST * count) and found.facts.get("reader") != READER
    ):  # of separate files each costs itself alone
        raise Rejected(
            "tiles", f"{lost} of its {count} tiles could not be read; {WORST:.0%} are allowed. Copy the slide again."
        )
    bad = int((~np.isfinite(found.features[found.valid])).any(axis=1).sum())
    if bad:
        raise Rejected(
            "not_finite", f"{bad} of its {count} tiles have features that are not finite. Embed the slide again."
        )
    _check_encoder(found, encoder, digest, width)
    return found


def _check_encoder(found: Features, encoder: str, digest: str, width: int) -> None:
    wanted = {"encoder": (encoder, found.encoder), "weights of the encoder": (digest[:16], found.digest[:16])}
    for what, (asked, given) in wanted.items():
        if asked and asked != given:
            said = f"they are of {given}" if given else "the file does not say"
            raise Rejected("encoder", f"Its features are of another {what}: {asked} is needed, {said}. Embed it again.")
    if width and found.features.shape[1] != width:
        raise Rejected("encoder", f"Its features have {found.features.shape[1]} numbers a tile; {width} are needed.")


def folder_name(grid: Grid) -> str:
    """TRIDENT's folder for tiles of one kind, such as ``20x_256px_0px_overlap``."""
    power = f"{MAGNIFICATION_MPP / grid.tile_mpp:.4g}" if grid.tile_mpp else "unknown"
    return f"{power}x_{grid.size}px_{grid.overlap}px_overlap"


def write_features(path: Path, found: Features) -> Path:
    """Write a whole file or none; equal features give equal bytes.

    Raises:
        Rejected: When `check` refuses them.
        Halted: When the disk refuses.
    """
    check(found)
    features = np.where(found.valid[:, None], found.features, 0).astype(_stored(found.features), copy=False)
    shared = {**_trident(found.grid), **_ours(found)}
    with whole(path) as part, h5py.File(part, "w") as file:
        _dataset(file, "features", features, {**shared, "encoder": found.encoder, "dtype": str(features.dtype)})
        _dataset(file, "coords", found.coords.astype(np.int64), shared)
        _dataset(file, "valid", found.valid, {})
        if found.planes is not None:
            _dataset(file, "z", found.planes.astype(np.int64), {})
    return path


def write_coords(path: Path, coords: NDArray[np.int64], grid: Grid, planes: NDArray[np.int64] | None = None) -> Path:
    """Write TRIDENT's ``patches/<slide>_patches.h5``: coordinates alone, and focal planes where they are known."""
    with whole(path) as part, h5py.File(part, "w") as file:
        _dataset(file, "coords", coords.astype(np.int64), {**_trident(grid), "schema": SCHEMA})
        if planes is not None:
            _dataset(file, "z", planes.astype(np.int64), {})
    return path


def export_clam(found: Features, folder: Path) -> Path:
    """Write CLAM's ``h5_files/<slide>.h5``; CLAM's own script makes ``pt_files`` of it.

    By ``patch_size`` CLAM means pixels of ``patch_level`` and TRIDENT pixels of the tile: hence another file, of level 0.

    Raises:
        Rejected: When `check` refuses them.
    """
    kept = check(found).only_valid()
    path = folder / "h5_files" / f"{found.grid.slide}.h5"
    attributes = {
        "patch_size": round(found.grid.size_level0),
        "patch_level": 0,
        "downsample": np.array([1.0, 1.0]),
        "downsampled_level_dim": np.array([found.grid.width, found.grid.height]),
        "level_dim": np.array([found.grid.width, found.grid.height]),
        "name": found.grid.slide,
        "save_path": "None",
    }
    with whole(path) as part, h5py.File(part, "w") as file:
        _dataset(file, "features", kept.features.astype(np.float32), {})
        _dataset(file, "coords", kept.coords.astype(np.int32), attributes)
    return path


def read_features(path: Path, encoder: str = "", digest: str = "", width: int = 0) -> Features:
    """Read and check a file of medvit's own; `medvit.data.feature_imports.import_features` reads those of others too.

    Raises:
        Rejected: When it is no such file, or `check` refuses it.
    """
    with open_h5(path) as file:
        if text(file, "coords", "schema") != SCHEMA:
            raise Rejected("features", "It is no feature file of medvit.")
        return check(from_trident(file, path, "medvit"), encoder, digest, width)


def open_h5(path: Path) -> h5py.File:
    """An HDF5 file to read.

    Raises:
        Rejected: When it is not there or cannot be read.
    """
    if not path.is_file():
        raise Rejected("missing", "The feature file is not there.")
    try:
        return h5py.File(path, "r")
    except DAMAGE as error:
        raise Rejected("unreadable", "It is no HDF5 file, or it was cut.") from error


def from_trident(file: h5py.File, path: Path, source: str) -> Features:
    """Features of a file whose ``coords`` carry TRIDENT's attributes."""
    level0, target = number(file, "level0_magnification"), number(file, "target_magnification")
    size = number(file, "patch_size")
    if not level0 or not target or not size:
        raise Rejected("features", "Its coordinates lack patch_size, level0_magnification or target_magnification.")
    mpp = number(file, "mpp") or MAGNIFICATION_MPP / level0
    grid = Grid(
        slide=text(file, "coords", "name") or path.stem.removesuffix("_patches"),
        width=int(number(file, "level0_width") or 0),
        height=int(number(file, "level0_height") or 0),
        mpp=mpp,
        size=int(size),
        tile_mpp=number(file, "tile_mpp") or MAGNIFICATION_MPP / target,
        size_level0=number(file, "size_level0") or number(file, "patch_size_level0") or size * level0 / target,
        overlap=int(number(file, "overlap") or 0),
    )
    features = array(file, "features", 2)
    coords = array(file, "coords", 2)
    valid = array(file, "valid", 1).astype(bool) if "valid" in file else np.ones(len(features), bool)
    planes = array(file, "z", 1).astype(np.int64) if "z" in file else None
    named = text(file, "features", "encoder")
    facts = {
        name.removeprefix("fact_"): text(file, "coords", name)
        for name in file["coords"].attrs
        if name.startswith("fact_")
    }
    digest = text(file, "coords", "encoder_digest")
    return Features(features, coords.astype(np.int64), valid, grid, named, digest, facts, source, planes)


def array(file: h5py.File, name: str, axes: int) -> NDArray[Any]:
    """A dataset, its shape checked before anything is read.

    Raises:
        Rejected: When it is missing, too large, of other axes or cannot be read.
    """
    dataset = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != axes or dataset.dtype.kind not in "fiub":
        raise Rejected("features", f"Its dataset {name} is missing or no array of numbers with {axes} axes.")
    if dataset.external or dataset.is_virtual:
        raise Rejected("features", f"Its dataset {name} lies in another file. Give a file that holds it.")
    if dataset.nbytes > MOST_BYTES:
        raise Rejected("features", f"Its dataset {name} declares {dataset.shape}, more than any slide has.")
    try:
        return np.asarray(dataset[()])
    except DAMAGE as error:
        raise Rejected("truncated", f"Its dataset {name} cannot be read: the file was cut.") from error


def number(file: h5py.File, name: str, dataset: str = "coords") -> float | None:
    """A finite number among a dataset's attributes, None where there is none."""
    value = file[dataset].attrs.get(name) if isinstance(file.get(dataset), h5py.Dataset) else None
    try:
        found = float(np.asarray(value).ravel()[0]) if value is not None else math.nan
    except (TypeError, ValueError, IndexError):
        return None
    return found if math.isfinite(found) else None


def text(file: h5py.File, dataset: str, name: str) -> str:
    """A text among a dataset's attributes, "" where there is none."""
    value = file[dataset].attrs.get(name, "") if isinstance(file.get(dataset), h5py.Dataset) else ""
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) and value != "None" else ""


def _trident(grid: Grid) -> dict[str, Any]:
    if not grid.mpp or not grid.tile_mpp:
        raise MedvitError(f"The mpp of {grid.slide} is unknown, so its tiles have no size in micrometres. Give it.")
    return {
        "patch_size": grid.size,
        "patch_size_level0": round(grid.size_level0),
        "level0_magnification": MAGNIFICATION_MPP / grid.mpp,
        "target_magnification": MAGNIFICATION_MPP / grid.tile_mpp,
        "overlap": grid.overlap,
        "name": grid.slide,
        "savetodir": "None",
        "level0_width": grid.width,
        "level0_height": grid.height,
        "mpp": grid.mpp,
        "tile_mpp": grid.tile_mpp,
        "size_level0": grid.size_level0,
    }


def _ours(found: Features) -> dict[str, Any]:
    facts = {f"fact_{name}": value for name, value in found.facts.items()}
    return {"schema": SCHEMA, "encoder_digest": found.digest, **facts}


def _stored(features: Matrix) -> np.dtype[Any]:
    return np.dtype(np.float16 if features.dtype == np.float16 else np.float32)


def _dataset(file: h5py.File, name: str, values: NDArray[Any], attributes: dict[str, Any]) -> None:
    chunks = (min(max(len(values), 1), CHUNK), *values.shape[1:])
    dataset = file.create_dataset(name, data=values, chunks=chunks)
    for key, value in attributes.items():
        dataset.attrs[key] = value

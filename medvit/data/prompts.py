"""What is asked about a case: boxes and points from tables, or boxes that a stated rule proposes."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medvit.case import UID, Box, Case, read_boxes, read_csv, slice_of
from medvit.codes import file_name
from medvit.errors import MedvitError, Rejected
from medvit.image import Plane
from medvit.readers.tissue import otsu

SMOOTHED = 0.01  # of the longer side, before a threshold is looked for
LEAST, MOST = 0.003, 0.6  # share of the image that a proposed part covers
RULE = (
    "the middle slice is smoothed and split in two by Otsu's threshold; the half that has less of the image's border is asked "
    f"about: boxes around its largest connected parts of {LEAST:.1%} to {MOST:.0%} of the image, no box above {MOST:.0%} of it"
)


class Point(NamedTuple):
    """A place in source pixels, 0-based, that belongs to an object or not."""

    label: str
    x: float
    y: float
    inside: bool
    slice: int | None = None


class Prompt(NamedTuple):
    """What says where an object lies on one slice: a box (x_min, y_min, x_max, y_max), points (x, y, inside), or both."""

    slice: int
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float, bool], ...] = ()


class Object(NamedTuple):
    """One thing to be outlined, with its prompts in the order of slices, and where these came from."""

    label: str
    prompts: tuple[Prompt, ...]
    told: str
    proposed: bool = False


@dataclass(frozen=True)
class Prompts:
    """Prompts by the path or UID that the user wrote them for."""

    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)
    points: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    def of(self, case: Case, shape: tuple[int, ...]) -> list[Object]:
        """What is asked about a case; nothing where the tables do not name it.

        Args:
            case: Named by the path of its file, of its folder where its files are a series, or by its UID.
            shape: Slices, rows and columns.

        Raises:
            Rejected: For a prompt outside the image, or on no slice of it.
        """
        keys = _names(case)
        boxes = [box for key in keys for box in self.boxes.get(key, ())]
        points = [point for key in keys for point in self.points.get(key, ())]
        objects = _objects(boxes, points, shape)
        for one in objects:
            _check(one, shape)
        return objects


def read_prompts(boxes: Path | None, points: Path | None) -> Prompts:
    """Prompts from a table of boxes (see `medvit.case.read_boxes`) and one of points: ``path, label, x, y, inside[, slice]``.

    Raises:
        MedvitError: For what is no number, a box without area, and for a file that is not there.
    """
    placed: dict[str, list[Point]] = defaultdict(list)
    if points:
        for number, row in enumerate(read_csv(points, ("path", "label", "x", "y", "inside")), 2):
            placed[row["path"]].append(_point(row, f"{points}:{number}"))
    found = read_boxes(boxes) if boxes else {}
    return Prompts(
        {_key(boxes, path): rows for path, rows in found.items() if boxes},
        {_key(points, path): rows for path, rows in placed.items() if points},
    )


def _point(row: Mapping[str, str], where: str) -> Point:
    try:
        x, y = float(row["x"]), float(row["y"])
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)) or row["inside"].strip() not in ("0", "1"):
        raise MedvitError(f"{where}: x and y must be numbers of source pixels, and inside 1 or 0.")
    return Point(row["label"], x, y, row["inside"].strip() == "1", slice_of(row, where))


def _key(table: Path | None, path: str) -> str:
    """A path of a table as it is looked for: absolute, or a UID as it is."""
    if UID.fullmatch(path):
        return path
    found = ((table.parent if table else Path()) / path).resolve()
    if not found.exists():
        raise MedvitError(
            f"The table {table} names {path}, which is not there. Paths are relative to the table's folder; a series is named "
            "by its folder or its UID."
        )
    return str(found)


def _names(case: Case) -> list[str]:
    files = [file.resolve() for file in case.files]
    folder = [str(files[0].parent)] if len({file.parent for file in files}) == 1 < len(files) else []
    uids = {case.uid, case.header.get("series_uid", ""), case.header.get("sop_uid", "")} - {""}
    return list(dict.fromkeys([*map(str, files), *folder, *sorted(uids)]))


def _objects(boxes: Sequence[Box], points: Sequence[Point], shape: tuple[int, ...]) -> list[Object]:
    """One object a label; boxes of one label on one slice are objects of their own."""
    objects: list[Object] = []
    for label in dict.fromkeys([*(box.label for box in boxes), *(point.label for point in points)]):
        mine = [box for box in boxes if box.label == label]
        at = [_on(one.slice, shape, label) for one in mine]
        dots: dict[int, list[tuple[float, float, bool]]] = defaultdict(list)
        for point in points:
            if point.label == label:
                dots[_on(point.slice, shape, label)].append((point.x, point.y, point.inside))
        if len(set(at)) < len(at):
            if dots:
                raise Rejected(
                    "prompt", f"Several boxes named {label} on one slice and points beside: whose? Name each."
                )
            objects += [Object(label, (Prompt(z, box[1:5]),), "box") for z, box in zip(at, mine, strict=True)]
            continue
        boxed = {z: box[1:5] for z, box in zip(at, mine, strict=True)}
        prompts = tuple(Prompt(z, boxed.get(z), tuple(dots.get(z, ()))) for z in sorted({*boxed, *dots}))
        told = " and ".join(name for name, given in (("box", boxed), ("points", dots)) if given)
        objects.append(Object(label, prompts, told))
    return _named_apart(objects)


def _named_apart(objects: Sequence[Object]) -> list[Object]:
    """Objects whose labels are also different file names: the second of a name gets a number."""
    taken: set[str] = set()
    out = []
    for one in objects:
        label, number = one.label or "object", 1
        while file_name(label) in taken:
            number += 1
            label = f"{one.label or 'object'} {number}"
        taken.add(file_name(label))
        out.append(one._replace(label=label))
    return out


def _on(index: int | None, shape: tuple[int, ...], label: str) -> int:
    if index is None and shape[0] > 1:
        raise Rejected(
            "prompt", f"The prompt for {label} names no slice, and this is a volume of {shape[0]}. Give slice."
        )
    return index or 0


def _check(one: Object, shape: tuple[int, ...]) -> None:
    D, H, W = shape
    for prompt in one.prompts:
        if not prompt.slice < D:
            raise Rejected("prompt", f"The prompt for {one.label} is on slice {prompt.slice}; slices are 0 to {D - 1}.")
        x0, y0, x1, y1 = prompt.box or (0, 0, W, H)
        if min(x0, y0) < 0 or x1 > W or y1 > H:
            raise Rejected(
                "prompt", f"The box for {one.label} lies outside the image of {W} x {H} pixels, at least in part."
            )
        if any(not (0 <= x <= W and 0 <= y <= H) for x, y, _ in prompt.points):
            raise Rejected("prompt", f"A point for {one.label} lies outside the image of {W} x {H} pixels.")


def proposed(plane: Plane, middle: int, most: int) -> list[Object]:
    """Boxes by `RULE` around parts of the middle slice (H, W) in [0, 1], the largest first, at most so many.

    Raises:
        Rejected: When the rule finds nothing.
    """
    plane = ndimage.gaussian_filter(plane, SMOOTHED * max(plane.shape))
    plane = (plane - plane.min()) / max(float(np.ptp(plane)), 1e-6)
    inside = plane > otsu(plane)
    border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    bright = border.mean() <= 0.5
    parts, count = ndimage.label(inside if bright else ~inside)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:] / parts.size
    places = [(rows, columns) for rows, columns in ndimage.find_objects(parts, max_label=count)]
    boxes = np.array([(r.stop - r.start) * (c.stop - c.start) for r, c in places]) / parts.size
    fit = (sizes >= LEAST) & (boxes <= MOST)
    chosen = [int(i) for i in np.argsort(-sizes, kind="stable") if fit[i]][:most]
    if not chosen:
        raise Rejected(
            "no_prompt", f"No box or point is given for it, and the rule proposes none ({RULE}). Give --boxes."
        )
    objects = []
    for number, index in enumerate(chosen, 1):
        rows, columns = places[index]
        box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
        told = f"proposed: {'bright' if bright else 'dark'} part {number} of {len(chosen)} on slice {middle}"
        objects.append(Object(f"part_{number}", (Prompt(middle, box),), told, proposed=True))
    return objects

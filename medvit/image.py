"""Pixels with their geometry, and the way back from model pixels to source pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

Plane = NDArray[np.float32]


class Place(Protocol):
    """Where the voxels of a volume lie in the patient: what is needed to write masks of it as NIfTI."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) from array indices to mm, right-anterior-superior."""

    @property
    def codes(self) -> tuple[int, int]:
        """Of qform and sform: their affines' meaning."""

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3): unit vectors, right-anterior-superior, that slices, rows and columns follow as displayed."""

    def to_source(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Slices, rows and columns as the array that the affine is about."""

    def to_display(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """That array as slices, rows and columns."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a reader returns.

    Args:
        pixels: (C, *spatial) float32; radiographs lie in [0, 1], dark to bright as displayed.
        spacing: Millimetres between pixel centres along each spatial axis, same order; None where unknown.
        origin: What was used to get there and where it came from, such as ``{"voi": "window 550/1024 of the file"}``.
        mask: (*spatial) whole numbers, 0 = nothing, of a case that comes with a segmentation to learn from.
        place: Of a volume, where its voxels lie; None where nobody knows.
    """

    pixels: Plane
    spacing: tuple[float, ...] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    mask: NDArray[np.uint8] | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """The rectangle of the source that fills the model's field of view.

    Args:
        source: Rows and columns of the source.
        model: Rows and columns the model sees.
        box: Top, left, bottom, right of the rectangle in source pixels, half open, possibly fractional.
    """

    source: tuple[int, int]
    model: tuple[int, int]
    box: tuple[float, float, float, float]

    def to_model(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map boxes (N, 4) of x_min, y_min, x_max, y_max from source pixels to model pixels."""
        top, left, bottom, right = self.box
        scale_y, scale_x = self.model[0] / (bottom - top), self.model[1] / (right - left)
        offset = np.array([left, top, left, top])
        mapped: NDArray[np.float64] = (boxes - offset) * np.array([scale_x, scale_y, scale_x, scale_y])
        return mapped

    def to_source(self, plane: Plane) -> Plane:
        """Spread a plane over the model's field of view, (h, w) at any resolution, to source pixels (H, W).

        What the model did not see is 0.
        """
        top, left, bottom, right = (round(edge) for edge in self.box)
        spread = Pillow.fromarray(plane.astype(np.float32)).resize(
            (right - left, bottom - top), Pillow.Resampling.BILINEAR
        )
        out = np.zeros(self.source, np.float32)
        inside = out[max(top, 0) : bottom, max(left, 0) : right]
        inside[:] = np.asarray(spread)[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
        return out


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where the tiles of a slide lie.

    Args:
        coords: (N, 2) int64, top left corners x, y in level-0 pixels.
        size_level0: Level-0 pixels a side of a tile.
        slide: Width and height of level 0.
        mpp: Micrometres a level-0 pixel.
        corner: x, y of the scanned part in level 0; viewers such as QuPath count from there.
        tissue: (h, w), True where tissue was found, over the whole slide at a low resolution; None where nobody looked.
        planes: (N,) int64, the focal plane, from 0, that each tile is read at; None where that is left to the tile.
    """

    coords: NDArray[np.int64]
    size_level0: float
    slide: tuple[int, int]
    mpp: float
    corner: tuple[int, int] = (0, 0)
    tissue: NDArray[np.bool_] | None = None
    planes: NDArray[np.int64] | None = None

    def kept(self, which: NDArray[Any]) -> "Tiling":
        """Some of the tiles, by a mask or by their numbers."""
        planes = None if self.planes is None else self.planes[which]
        return replace(self, coords=self.coords[which], planes=planes)

    def plane(self, index: int) -> int | None:
        """The focal plane of a tile; None where that is left to the tile."""
        return None if self.planes is None else int(self.planes[index])

    def rectangles(self, scale: float | NDArray[np.float64]) -> NDArray[np.int64]:
        """(N, 4) left, top, right, bottom of the tiles on a plane of so many pixels a level-0 pixel (of x and y, or both).

        Every edge is rounded for itself, so that nothing drifts; no tile is smaller than a pixel.
        """
        first = (self.coords * scale).round().astype(np.int64)
        last = np.maximum(((self.coords + self.size_level0) * scale).round().astype(np.int64), first + 1)
        return np.concatenate([first, last], axis=1)


def view(plane: Plane, fit: Fit) -> Plane:
    """Resample the rectangle of a plane (H, W) to model pixels (h, w): bicubic, antialiased when it shrinks."""
    top, left, bottom, right = fit.box
    size = (fit.model[1], fit.model[0])
    return np.asarray(Pillow.fromarray(plane).resize(size, Pillow.Resampling.BICUBIC, box=(left, top, right, bottom)))


def centre(source: tuple[int, int], size: int, share: float) -> Fit:
    """The square at the centre whose side is ``share`` of the shorter side of the source.

    ``share`` 224 / 256 is the usual "resize the shorter side to 256, crop 224" in one step.
    """
    height, width = source
    side = min(source) * share
    top, left = (height - side) / 2, (width - side) / 2
    return Fit(source, (size, size), (top, left, top + side, left + side))


def rescaled(values: Plane) -> Plane:
    """Values as shares of their range in this slide, 0 to 1, as DSMIL draws attention; 0 where all are alike."""
    low, high = float(values.min()), float(values.max())
    return (values - np.float32(low)) / np.float32(high - low) if high > low else np.zeros_like(values)

"""How smears are cut: a crop around every cell, or a grid where cells are, each at a focal plane; and pictures of cells."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvit.data.slides import MASK_SIDE, Cutting, thinned
from medvit.errors import MedvitError
from medvit.image import Tiling
from medvit.readers.cells import Layout, find_cells, map_cells
from medvit.readers.sheet import SIDE, Sheet
from medvit.readers.slide import Slide
from medvit.readers.tiles import Tiles

Pixels = NDArray[np.uint8]
Plane = int | Literal["best"]


@dataclass(frozen=True, slots=True)
class CellCutting(Cutting):
    """How smears are cut to tiles.

    Args:
        tile: Pixels of a tile's side.
        mpp: Micrometres a pixel of a tile.
        min_tissue: Share of a tile of the grid that must be cells.
        most: Tiles of a smear at most; of more, so many evenly spaced ones.
        stain: ``macenko`` or ``none``.
        layout: ``cells`` centres a tile on every nucleus, ``grid`` lays tiles side by side.
        z: Focal plane, from 0, or ``best``: the sharpest of each tile.

    Raises:
        MedvitError: For what makes no sense.
    """

    layout: Layout = "cells"
    z: Plane = "best"

    def __post_init__(self) -> None:
        Cutting.__post_init__(self)
        if isinstance(self.z, int) and self.z < 0:
            raise MedvitError(
                f"z is {self.z}; focal planes are counted from 0, and 'best' is the sharpest of each tile."
            )

    def plan(self, slide: Slide) -> tuple[Tiles, Tiling, dict[str, str]]:
        """The tiles of a smear, where those that are kept lie, and what to say about that.

        Raises:
            Rejected: When it has no cells.
        """
        if isinstance(slide, Sheet):
            return self._plan_pictures(slide)
        mask, centres = map_cells(slide)
        tiles = find_cells(
            slide, self.tile, self.mpp, layout=self.layout, min_cells=self.min_tissue, cells=(mask, centres)
        )
        kept = thinned(len(tiles), self.most)
        every = max(1, -(-max(mask.mask.shape) // MASK_SIDE))
        tiling = Tiling(
            tiles.coords[kept],
            tiles.size_level0,
            slide.size,
            slide.mpp,
            slide.bounds[:2],
            mask.mask[::every, ::every],
        )
        said = f"{len(kept)} of {self.tile} px at {tiles.mpp:.4g} um"
        origin = {
            "reader": slide.reader,
            "mpp": f"{slide.mpp:.6g}",
            "mpp_source": slide.mpp_source,
            "cells": str(len(centres)),
            "tiles": said if len(kept) == len(tiles) else f"{said}, evenly spaced among {len(tiles)}",
        }
        if slide.planes > 1:
            origin["focal planes"] = f"{slide.planes}, read: {'the sharpest' if self.z == 'best' else self.z}"
        if slide.notes:
            origin["notes"] = " ".join(slide.notes)
        return tiles, tiling, origin

    def _plan_pictures(self, sheet: Sheet) -> tuple[Tiles, Tiling, dict[str, str]]:
        """Every picture of a patient is a tile."""
        kept = thinned(len(sheet.files), self.most)
        corners = sheet.corners[kept]
        tiles = Tiles(corners, np.ones(len(kept), np.float32), self.tile, SIDE / self.tile, SIDE / self.tile, 0, SIDE)
        said = f"{len(kept)} pictures of cells, as {self.tile} px"
        origin = {
            "reader": sheet.reader,
            "mpp_source": sheet.mpp_source,
            "tiles": said if len(kept) == len(sheet.files) else f"{said}, evenly spaced among {len(sheet.files)}",
        }
        everywhere = np.ones((sheet.size[1] // SIDE, sheet.columns), np.bool_)
        return tiles, Tiling(corners, SIDE, sheet.size, sheet.mpp, (0, 0), everywhere), origin

    def read(self, slide: Slide, corner: tuple[int, int], mpp: float) -> Pixels:
        """A tile at its focal plane, its stain normalised where that is asked for and its colours allow it.

        Raises:
            Rejected: When it cannot be decoded, or there is no such plane.
        """
        return self.same_stain(slide.read(corner, self.tile, mpp, z=self.z))

"""How smears are cut: a crop around every cell, or a grid where cells are, each at a focal plane; and pictures of cells."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvit.data.slides import Cutting, among, thinned
from medvit.errors import MedvitError, Rejected
from medvit.image import Tiling
from medvit.readers.cells import Layout, find_cells, map_cells
from medvit.readers.sheet import SIDE, Sheet
from medvit.readers.slide import Focus, Slide
from medvit.readers.tiles import Tiles

Pixels = NDArray[np.uint8]
Plane = int | Literal["best", "all"]


@dataclass(frozen=True, slots=True)
class CellCutting(Cutting):
    """How smears are cut to tiles.

    Args:
        tile: Pixels of a tile's side.
        mpp: Micrometres a pixel of a tile.
        min_tissue: Share of a tile of the grid that must be cells.
        most: Tiles of a smear at most; of more, so many evenly spaced ones.
        stain: ``macenko`` or ``none``.
        overlap: Pixels of a tile of the grid that neighbours share.
        layout: ``cells`` centres a tile on every nucleus, ``grid`` lays tiles side by side.
        z: Focal plane, from 0; ``best``: the sharpest of each tile; ``all``: every plane of a tile is a tile of its own.

    Raises:
        MedvitError: For what makes no sense.
    """

    layout: Layout = "cells"
    z: Plane = "best"

    def __post_init__(self) -> None:
        Cutting.__post_init__(self)
        if self.overlap and self.layout != "grid":
            raise MedvitError(
                f"tile_overlap is {self.overlap}; it is of tiles of `layout: grid`, crops around cells lie where the cells do."
            )
        if isinstance(self.z, int) and self.z < 0:
            raise MedvitError(
                f"z is {self.z}; focal planes are counted from 0, 'best' is the sharpest of each tile, 'all' takes every one."
            )

    def plan(self, slide: Slide) -> tuple[Tiles, Tiling, dict[str, str]]:
        """The tiles of a smear, where those that are kept lie, and what to say about that.

        Raises:
            Rejected: When it has no cells, or no such focal plane.
        """
        if isinstance(slide, Sheet):
            return self._plan_pictures(slide)
        if isinstance(self.z, int) and self.z >= slide.planes:
            raise Rejected("plane", f"It has {slide.planes} focal planes, counted from 0; there is no plane {self.z}.")
        cells = map_cells(slide)
        tiles = find_cells(
            slide, self.tile, self.mpp, layout=self.layout, overlap=self.overlap, min_cells=self.min_tissue, cells=cells
        )
        mask, centres = cells
        facts = {"cells": str(len(centres))}
        if slide.planes > 1:
            said = {"best": "the sharpest of each tile", "all": "every one of each tile"}
            facts["focal planes"] = f"{slide.planes}, read: {said.get(str(self.z), f'number {self.z}')}"
        each = slide.planes if self.z == "all" else 1
        kept = thinned(len(tiles), max(1, self.most // each))
        tiling, origin = self.laid(slide, tiles, kept, mask, facts)
        tiling = replace(tiling, coords=np.repeat(tiling.coords, each, axis=0), planes=self._planes(len(kept), each))
        return tiles, tiling, origin

    def _planes(self, tiles: int, each: int) -> NDArray[np.int64] | None:
        """The focal plane of each tile, where it is known before the tile is read."""
        if self.z == "best":
            return None
        return np.tile(np.arange(each), tiles) if self.z == "all" else np.full(tiles, self.z)

    def _plan_pictures(self, sheet: Sheet) -> tuple[Tiles, Tiling, dict[str, str]]:
        """Every picture of a patient is a tile."""
        kept = thinned(len(sheet.files), self.most)
        corners = sheet.corners[kept]
        tiles = Tiles(corners, np.ones(len(kept), np.float32), self.tile, SIDE / self.tile, SIDE / self.tile, 0, SIDE)
        origin = {
            "reader": sheet.reader,
            "mpp_source": sheet.mpp_source,
            "tiles": among(f"{len(kept)} pictures of cells, as {self.tile} px", len(kept), len(sheet.files)),
        }
        if sheet.notes:
            origin["notes"] = " ".join(sheet.notes)
        everywhere = np.ones((sheet.size[1] // SIDE, sheet.columns), np.bool_)
        return tiles, Tiling(corners, SIDE, sheet.size, sheet.mpp, (0, 0), everywhere), origin

    def read(self, slide: Slide, corner: tuple[int, int], mpp: float, plane: int | None = None) -> Pixels:
        """See `Cutting.read`; without a plane the sharpest one of the tile, unless ``z`` names one."""
        z: Focus = plane if plane is not None else self.z if isinstance(self.z, int) else "best"
        return self.same_stain(slide.read(corner, self.tile, mpp, z))

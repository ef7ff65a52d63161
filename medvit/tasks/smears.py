"""Systems of smears: slides whose tiles are cells, each described by the class token of a frozen ViT."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from medvit.case import CELL_PICTURES, Case
from medvit.data.slide_tables import by_patient
from medvit.data.smears import CellCutting, Pixels
from medvit.readers.slide import Slide
from medvit.result import Result
from medvit.tasks.slides import Slides


class Smears(Slides):
    """A system of smears, or of pictures of their fields whose resolution is given.

    Subclasses set ``cutting``, ``mean``, ``std`` and `encoder`.
    """

    cutting: CellCutting
    last: int = 1
    cells: bool = False  # whether pictures show a cell each

    def told(self, option: str, text: str) -> str:
        """Take ``cells``, pictures show a cell each and those of a folder are one case; else as `Slides`."""
        if option != "cells":
            return super().told(option, text)
        self.cells = True
        return text

    def together(self, case: Case) -> bool:
        """See `System.together`."""
        return self.cells and not case.header and case.files[0].suffix.lower() in CELL_PICTURES

    def gathered(self, table: Path, cases: Sequence[Case]) -> list[Case]:
        """Pictures of cells, those of a patient as one case, where they are that."""
        return by_patient(table, cases) if self.cells else list(cases)

    def refuse(self, case: Case) -> None:
        """As `Slides`, but for pictures of cells."""
        if not self.together(case):
            super().refuse(case)

    @torch.no_grad()
    def describe(self, pixels: Tensor) -> Tensor:
        """Class tokens (n, D) of tiles (n, H, W, 3) uint8."""
        self.encoder.eval()
        tokens: Tensor = self.encoder(self.normalised(pixels.to(self.encoder.cls_token.device).permute(0, 3, 1, 2)))
        return tokens

    @property
    def describing(self) -> dict[str, str]:
        """How tiles become features, as feature files say it."""
        facts = {"pooling": "class token", "layout": self.cutting.layout, "z": str(self.cutting.z)}
        return super().describing | facts

    @property
    def feature_width(self) -> int:
        """Numbers that describe a tile."""
        return self.encoder.width

    def close_up(self, result: Result, index: int) -> Pixels:
        """The pixels (tile, tile, 3) of a tile of an answered slide.

        Raises:
            Rejected: When it cannot be decoded.
        """
        if result.tiles is None:
            raise ValueError("a result without tiles has none to show")
        tiling = result.tiles.tiling
        return self.tile_of(result.case, tiling, index, tiling.size_level0 * tiling.mpp / self.cutting.tile)

    def slide_of(self, case: Case) -> Slide:
        """The open smear of a case, which stays open for the next one of the same file.

        Raises:
            Rejected: When it cannot be read.
        """
        return self._shelf.open(replace(case, uid=str(case.files[0])))

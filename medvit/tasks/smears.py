"""Systems of smears: slides whose tiles are cells, each described by the class token of a frozen ViT."""

from dataclasses import replace

import torch
from torch import Tensor

from medvit.case import Case
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

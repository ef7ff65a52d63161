"""Whether answers name the right places: FROC of films against boxes, of slides against masks and outlines of lesions."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvit.case import Case
from medvit.evaluate.detections import Marks, marks_in_boxes, marks_in_mask, measured, peaks
from medvit.evaluate.froc import BOX_UM, found_in_tiles
from medvit.image import rescaled
from medvit.readers.outlines import lesion_plane
from medvit.result import Heatmap, Result

log = logging.getLogger(__name__)

NAMES = {"attention": "attention of tiles", "score": "scores of tiles"}  # of what a tile is given, as a method
OF_FILMS = (
    "Detections are the peaks of a finding's map, scored by the film's probability times their share of the map's maximum; a "
    "box is found where a peak lies in it."
)
OF_SLIDES = (
    "Detections are the highest tiles of slides answered as positive, found where a tile's middle lies in a lesion; lesions "
    "nearer than 75 um are one, isolated cells count for neither side."
)


class Places:
    """Collects detections while cases are answered.

    Args:
        names: Labels of the table.
        thresholds: From which probability a label is positive.
        boxed: Whether films are scored against the boxes of their cases.
        masks: Masks or outlines by a case's uid, of slides.
        values: Of masks that are pictures, what counts; any but 0 where empty.
        silence_um: Side of the square that a detection on a slide silences.
    """

    def __init__(
        self,
        names: Sequence[str],
        thresholds: Mapping[str, float],
        *,
        boxed: bool = False,
        masks: Mapping[str, Path] | None = None,
        values: Sequence[int] = (),
        silence_um: float = BOX_UM,
    ) -> None:
        self.names, self.thresholds, self.boxed = tuple(names), thresholds, boxed
        self.masks, self.values, self.silence_um = masks or {}, values, silence_um
        self._marks: dict[tuple[str, str], list[tuple[str, Marks]]] = defaultdict(list)

    def take(self, case: Case, result: Result) -> None:
        """Keep what an answer detects; a case whose lesions nobody drew does not count."""
        probability = {finding.label.name: finding.probability for finding in result.findings}
        for name in self.names:
            truth = case.labels.get(name)
            if truth is None or name not in probability:
                continue
            if result.tiles is not None:
                self._of_slide(case, result, name, truth, probability[name])
            elif self.boxed:
                heat = next((one for one in result.heatmaps if one.label.name == name), None)
                boxes = [box for box in case.boxes if box.label == name]
                if heat and bool(boxes) == (truth == 1):
                    places, shares = _peaks_in_source(heat)
                    marks = marks_in_boxes(places, shares * probability[name], boxes)
                    self._marks[name, heat.method].append((case.patient, marks))

    def _of_slide(self, case: Case, result: Result, name: str, truth: float, probability: float) -> None:
        tiles = result.tiles
        if tiles is None or (truth == 1 and case.uid not in self.masks):
            return
        tiling = tiles.tiling
        width, height = tiling.slide
        if truth == 1:
            plane, step = lesion_plane(self.masks[case.uid], tiling.slide, tiling.mpp, self.values, tiling.corner)
        else:
            step = max(tiling.slide) / 64
            plane = np.zeros((int(np.ceil(height / step)), int(np.ceil(width / step))), bool)
        positive = np.float32(probability >= self.thresholds[name])
        for said in NAMES:
            if (values := tiles.scores.get(f"{name} {said}")) is not None:
                shown = rescaled(values) if said == "attention" else values
                found = found_in_tiles(
                    tiling.coords, tiling.size_level0, shown * positive, tiling.mpp, step, box_um=self.silence_um
                )
                inside = found._replace(places=np.minimum(found.places, np.array(plane.shape) - 1))
                self._marks[name, NAMES[said]].append((case.patient, marks_in_mask(inside, plane, step * tiling.mpp)))

    def told(self, draws: int) -> dict[str, Any]:
        """FROC by label and method, with intervals over patients; empty where nothing was to be found."""
        told: dict[str, Any] = {}
        for (name, method), each in self._marks.items():
            found = measured([marks for _, marks in each], [patient for patient, _ in each], draws)
            if found:
                told.setdefault(name, {})[method] = {**found, "is": OF_FILMS if self.boxed else OF_SLIDES}
            else:
                log.warning("No lesion of %s was drawn, or none that counts: there is no FROC of it.", name)
        return told


def _peaks_in_source(
    heat: Heatmap,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Places (n, 2) of x, y in source pixels of a map's peaks, each the middle of its cell, and their shares of the maximum."""
    cells, shares = peaks(heat.values)
    top, left, bottom, right = heat.fit.box
    rows, columns = heat.values.shape
    y = top + (cells[:, 0] + 0.5) / rows * (bottom - top)
    x = left + (cells[:, 1] + 0.5) / columns * (right - left)
    return np.stack([x, y], axis=1), shares

"""FROC with intervals: detections of many images, already told apart into lesions that were found and false alarms.

The curve and the score are those of `medvit.evaluate.froc`; draws of patients weigh images, as every other interval does.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from monai.metrics.froc import compute_fp_tp_probs_nd
from numpy.typing import NDArray

from medvit.case import Box
from medvit.evaluate.bootstrap import DRAWS, Floats, draws, interval, numbered
from medvit.evaluate.froc import FALSE_ALARMS, Found, Mask, lesions_of
from medvit.image import Plane

MOST_THRESHOLDS = 400  # of draws; the curve itself has all of them
PEAK = 0.5  # of a map's maximum, above which a peak is a detection
SILENCED = 4  # a detection silences others within this share of the map's longer side


class Marks(NamedTuple):
    """What was detected on one image.

    Attributes:
        false: Scores (f,) of detections outside every lesion.
        lesions: (l,) the highest score in each lesion that counts, 0 where it was missed.
    """

    false: Floats
    lesions: Floats


def marks_in_mask(found: Found, mask: Mask, pixel_um: float) -> Marks:
    """Detections against a mask (H, W) of tumour, by Camelyon16's rules, see `medvit.evaluate.froc`."""
    truth = lesions_of(mask, pixel_um)
    wrong, right, _ = compute_fp_tp_probs_nd(found.scores, found.places, truth.labels, truth.isolated)
    counted = [at for at in range(1, int(truth.labels.max()) + 1) if at not in truth.isolated]
    return Marks(np.asarray(wrong, np.float64), np.asarray(right, np.float64)[[at - 1 for at in counted]])


def marks_in_boxes(places: Floats, scores: Floats, boxes: Sequence[Box]) -> Marks:
    """Detections at places (n, 2) of x, y in source pixels against boxes, each a lesion; one may lie in several."""
    inside = np.array([[b.x_min <= x < b.x_max and b.y_min <= y < b.y_max for b in boxes] for x, y in places], bool)
    inside = inside.reshape(len(places), len(boxes))
    found = np.where(inside, scores[:, None], 0).max(axis=0, initial=0)
    return Marks(scores[~inside.any(axis=1)], found)


def peaks(values: Plane) -> tuple[NDArray[np.intp], Floats]:
    """The places (n, 2) of row and column, and heights (n,) as shares of the maximum, of a map's peaks.

    The highest cell is one, then the highest that lies a quarter of the longer side from all before, down to `PEAK`.
    """
    top = float(values.max(initial=0))
    if top <= 0:
        return np.empty((0, 2), np.intp), np.empty(0)
    shares = values.astype(np.float64) / top
    cells = np.argwhere(shares >= PEAK)
    left = cells[np.argsort(-shares[tuple(cells.T)], kind="stable")]
    apart, kept = max(values.shape) / SILENCED, []
    while len(left):
        kept.append(left[0])
        left = left[np.abs(left - left[0]).max(axis=1) >= apart]
    found = np.stack(kept)
    return found, shares[tuple(found.T)]


def measured(marks: Sequence[Marks], patients: Sequence[str], count: int = DRAWS) -> dict[str, Any] | None:
    """Score, sensitivity at every number of false alarms, and the curve; None where no image has a lesion that counts.

    Args:
        marks: Of n images, those without a lesion as well.
        patients: Of each; "" where unknown.
        count: Draws.
    """
    lesions = sum(len(one.lesions) for one in marks)
    if not lesions:
        return None
    every = np.unique(np.concatenate([np.concatenate([one.false, one.lesions]) for one in marks]))
    every = every[every > 0][::-1]  # the highest threshold first
    few = every if len(every) <= MOST_THRESHOLDS else every[:: -(-len(every) // MOST_THRESHOLDS)]
    alarms, share = _curves(marks, every)(np.ones((len(marks), 1)))
    value = np.interp(FALSE_ALARMS, alarms[:, 0], share[:, 0])
    drawn, curves = [], _curves(marks, few)
    for weights in draws(numbered(patients), count):
        x, y = curves(weights.astype(np.float64))
        drawn += [np.interp(FALSE_ALARMS, x[:, b], y[:, b]) for b in range(weights.shape[1]) if np.isfinite(y[-1, b])]
    held = np.array(drawn).reshape(-1, len(FALSE_ALARMS))
    return {
        "score": list(interval(float(value.mean()), held.mean(axis=1))),
        "sensitivity": {
            f"{at:g}": list(interval(float(one), held[:, k]))
            for k, (at, one) in enumerate(zip(FALSE_ALARMS, value, strict=True))
        },
        "curve": np.stack([alarms[:, 0], share[:, 0]], axis=1).tolist(),
        "lesions": lesions,
        "false_alarms": sum(len(one.false) for one in marks),
        "images": len(marks),
    }


def _reached(parts: Sequence[Floats], thresholds: Floats) -> Floats:
    """How many of each image's scores reach each threshold (1 + thresholds, n), from none on."""
    return np.stack([[0, *(len(part) - np.searchsorted(np.sort(part), thresholds, "left"))] for part in parts], axis=1)


def _curves(marks: Sequence[Marks], thresholds: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """What gives false alarms an image and shares of lesions, (1 + thresholds, b) each, for weights (n, b) of the images."""
    false, true = (
        _reached([one.false for one in marks], thresholds),
        _reached([one.lesions for one in marks], thresholds),
    )
    lesions = np.array([len(one.lesions) for one in marks], np.float64)

    def weighed(weights: Floats) -> tuple[Floats, Floats]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return false @ weights / weights.sum(axis=0), true @ weights / (lesions @ weights)

    return weighed

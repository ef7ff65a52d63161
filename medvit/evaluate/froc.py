"""FROC: how many lesions are found, at how many false alarms a slide.

Source: the second measure of Camelyon16 (Ehteshami Bejnordi et al. 2017), with the numbers of its code as MONAI's
`LesionFROC` has them: regions nearer than 75 um to each other are one lesion, those no longer than 200 um are isolated cells
and count for neither side, and one detection silences its neighbourhood. Detections, hits and the curve are MONAI's
functions; `LesionFROC` itself reads files whose levels halve, through libraries that medvit does without, and needs
scikit-image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from monai.metrics.froc import compute_fp_tp_probs_nd, compute_froc_curve_data, compute_froc_score
from monai.transforms.post.array import ProbNMS
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, find_objects
from scipy.ndimage import label as connected

from medvit.errors import MedvitError

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

FALSE_ALARMS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # a slide; the score is the mean sensitivity at these
GROW_UM = 75.0  # between regions that are one lesion: five tumour cells
ISOLATED_UM = 200.0  # the longest that isolated tumour cells are
THRESHOLD = 0.5  # of a detection
BOX_UM = 746.0  # side of the square that a detection silences: 48 px of level 6 at 0.243 um
EIGHT = np.ones((3, 3), dtype=bool)  # neighbours that touch at corners are connected


class Lesions(NamedTuple):
    """The lesions of a slide.

    Attributes:
        labels: (H, W), 0 where none is.
        isolated: Labels of those that are too small to count.
    """

    labels: NDArray[np.int32]
    isolated: list[int]


class Found(NamedTuple):
    """The detections of a slide: ``scores`` (n,) and ``places`` (n, 2), row and column of the mask's pixels."""

    scores: NDArray[np.float32]
    places: NDArray[np.int64]


class Froc(NamedTuple):
    """What was found.

    Attributes:
        score: Mean of ``sensitivity``.
        sensitivity: Share of lesions found at each of `FALSE_ALARMS`.
        false_alarms: (n,) a slide, falling, and ``found`` (n,), the share of lesions: the curve.
        lesions: How many count.
        isolated: How many were too small to count.
        slides: How many.
    """

    score: float
    sensitivity: tuple[float, ...]
    false_alarms: NDArray[np.float64]
    found: NDArray[np.float64]
    lesions: int
    isolated: int
    slides: int


def froc(
    found: Sequence[Found],
    masks: Sequence[Mask],
    pixel_um: Sequence[float],
    *,
    grow_um: float = GROW_UM,
    isolated_um: float = ISOLATED_UM,
) -> Froc:
    """Score the detections on slides against masks of their lesions.

    Slides without a lesion belong in: what is detected there is false.

    Args:
        found: Of every slide, by `found_in_map` or `found_in_tiles`.
        masks: Of every slide (H, W), True where tumour is.
        pixel_um: Micrometres a pixel of the mask, one number a slide.
        grow_um: Regions nearer to each other are one lesion.
        isolated_um: Lesions whose main axis is no longer than this and ``grow_um`` together are left out.

    Raises:
        MedvitError: When a detection lies outside its mask, or no slide has a lesion that counts.
    """
    if not len(found) == len(masks) == len(pixel_um):
        raise ValueError(f"there are {len(found)} slides, {len(masks)} masks and {len(pixel_um)} pixel sizes")
    false, true, lesions, isolated = [np.zeros(0)], [np.zeros(1)], 0, 0
    for index, (own, mask, um) in enumerate(zip(found, masks, pixel_um, strict=True)):
        if not (math.isfinite(um) and um > 0):
            raise MedvitError(f"Slide {index}: the pixels of its mask cannot be {um} um wide.")
        if ((own.places < 0) | (own.places >= mask.shape)).any():
            raise MedvitError(f"Slide {index}: a detection lies outside its mask of {mask.shape} pixels.")
        truth = lesions_of(mask, um, grow_um, isolated_um)
        wrong, right, count = compute_fp_tp_probs_nd(own.scores, own.places, truth.labels, truth.isolated)
        false.append(np.asarray(wrong))
        true.append(np.asarray(right))
        lesions += count
        isolated += len(truth.isolated)
    if not lesions:
        raise MedvitError(f"None of {len(found)} slides has a lesion that counts; FROC needs at least one.")
    # MONAI's curve leaves out the lowest probability, as Camelyon16's does; the 0 in front of `true` is that one
    alarms, share = compute_froc_curve_data(np.concatenate(false), np.concatenate(true), lesions, len(found))
    sensitivity = tuple(float(compute_froc_score(alarms, share, (at,))) for at in FALSE_ALARMS)
    return Froc(float(np.mean(sensitivity)), sensitivity, alarms, share, lesions, isolated, len(found))


def lesions_of(mask: Mask, pixel_um: float, grow_um: float = GROW_UM, isolated_um: float = ISOLATED_UM) -> Lesions:
    """The lesions in a mask (H, W): grown by half of ``grow_um``, holes filled, numbered; the small ones are named."""
    if not mask.any():
        return Lesions(np.zeros(mask.shape, np.int32), [])
    near = distance_transform_edt(~mask) < grow_um / (2 * pixel_um)
    labels, count = connected(binary_fill_holes(near), EIGHT)
    longest = (isolated_um + grow_um) / pixel_um
    parts = find_objects(labels)
    small = [at + 1 for at in range(count) if main_axis(labels[parts[at]] == at + 1) < longest]
    return Lesions(np.asarray(labels, np.int32), small)


def main_axis(region: Mask) -> float:
    """Pixels along the longer axis of the ellipse with a region's second moments, as scikit-image has it."""
    places = np.stack(np.nonzero(region)).astype(np.float64)
    spread = np.cov(places, bias=True) + np.eye(2) / 12  # a pixel is a square, no point
    return float(4 * np.sqrt(np.linalg.eigvalsh(spread)[-1]))


def found_in_map(
    scores: Plane, shape: tuple[int, int], pixel_um: float, threshold: float = THRESHOLD, box_um: float = BOX_UM
) -> Found:
    """The peaks of a map, the highest first; one lies at the middle of its pixel.

    Args:
        scores: (h, w), each in 0 to 1, over the whole slide; its pixels may be larger than the mask's.
        shape: Rows and columns (H, W) of the mask over the same slide.
        pixel_um: Micrometres a pixel of the map.
        threshold: Above which a score must lie.
        box_um: Side of the square around a detection in which no other is.

    Raises:
        MedvitError: When it holds other values than numbers from 0 to 1.
    """
    check_scores(scores)
    peaks = ProbNMS(prob_threshold=threshold, box_size=max(1, round(box_um / pixel_um)))(
        scores.copy()
    )  # it blackens it
    found = np.array(peaks, np.float64).reshape(-1, 3)
    places = (found[:, 1:] + 0.5) * shape / scores.shape
    return Found(found[:, 0].astype(np.float32), places.astype(np.int64))


def found_in_tiles(
    corners: NDArray[np.int64],
    side: float,
    scores: NDArray[np.float32],
    mpp: float,
    step: float,
    threshold: float = THRESHOLD,
    box_um: float = BOX_UM,
) -> Found:
    """The highest tiles of a slide; one lies at the middle of its tile.

    Args:
        corners: (N, 2), top left x, y of tiles in level-0 pixels.
        side: Level-0 pixels of a tile's side.
        scores: (N,), each in 0 to 1.
        mpp: Micrometres a level-0 pixel.
        step: Level-0 pixels a pixel of the mask.
        threshold: Above which a score must lie.
        box_um: Side of the square around a detection in which no other is.

    Raises:
        MedvitError: When scores are other values than numbers from 0 to 1.
    """
    check_scores(scores)
    middles = corners + side / 2
    left, kept = np.argsort(-scores, kind="stable"), []
    left = left[scores[left] > threshold]
    while len(left):
        kept.append(int(left[0]))
        apart = np.abs(middles[left] - middles[left[0]]).max(axis=1) * mpp
        left = left[apart > box_um / 2]
    return Found(scores[kept].astype(np.float32), (middles[kept][:, ::-1] / step).astype(np.int64))


def check_scores(scores: NDArray[np.float32]) -> None:
    """Refuse what FROC's thresholds have no meaning for.

    Raises:
        MedvitError: When some are no numbers from 0 to 1.
    """
    if not (np.isfinite(scores).all() and scores.min(initial=0) >= 0 and scores.max(initial=0) <= 1):
        raise MedvitError(
            "The scores hold other values than numbers from 0 to 1. Stretch attention over its slide first."
        )

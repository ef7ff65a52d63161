"""How a promptable system is measured: what it is asked about cases whose masks are known, and how its answers are scored.

Every way says where the boxes come from, because a box around the truth gives part of the answer away.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from medvit.case import Case
from medvit.data.prompts import Object, Prompt
from medvit.data.scans import fit_of
from medvit.errors import Rejected
from medvit.evaluate.segmentation import PAPER_SIDE, Mask, Scores, dice, paper_box, paper_scores, surface_dice
from medvit.image import Fit
from medvit.tasks.propagation import around, propagate
from medvit.tasks.segmentation import Segmentation

Protocol = Literal["slices", "carried", "paper"]
Labels = NDArray[np.uint8]
MARGIN = 10 / 1024  # of the longer side, by which boxes are larger: the middle of MedSAM's 0 to 20
PROTOCOLS: dict[str, str] = {
    "slices": "a box from the true mask, a hundredth of the longer side larger, around each structure on every slice that "
    "shows it; masks of whole cases in source pixels, distances in mm",
    "carried": "one box a structure on the slice that shows most of it, or those of --boxes, carried through the volume as "
    "`medvit predict` does; masks of whole cases in source pixels, distances in mm",
    "paper": f"DB-SAM's: images and masks of {PAPER_SIDE} pixels a side, a box 9 pixels larger on every slice that shows the "
    "structure, slices without it left out, distances in pixels with a tolerance of one",
}


class Published(NamedTuple):
    """A structure by DB-SAM's protocol.

    Attributes:
        found: (slices, 256, 256).
        truth: Of the same shape.
        slices: Which slices of the case these are.
    """

    found: Mask
    truth: Mask
    slices: list[int]


def asked_by_slices(system: Segmentation, x: Tensor, fit: Fit, truth: Labels) -> dict[int, Mask]:
    """Masks (D, H, W) of the structures in ``truth`` (D, H, W), each asked about by a box on every slice that shows it.

    Args:
        system: Answers.
        x: Slices (C, D, H, W) of 0 to 255.
        fit: Of a slice.
        truth: Numbers of structures, 0 = nothing.
    """
    found = {number: np.zeros(truth.shape, bool) for number in numbers_in(truth)}
    for z, plane in enumerate(truth):
        here = numbers_in(plane)
        prompts = [Prompt(z, around(plane == number, MARGIN)) for number in here]
        for number, (mask, _) in zip(here, system.answered(x[:, z], fit, prompts) if here else [], strict=True):
            found[number][z] = mask
    return found


def asked_once(
    system: Segmentation, case: Case, x: Tensor, fit: Fit, truth: Labels, names: dict[int, str]
) -> dict[int, Mask]:
    """Masks of the structures, each carried from the user's boxes, or from one around the truth where it shows most.

    Args:
        system: Answers; its prompts are the user's.
        case: Whose boxes count.
        x: Slices (C, D, H, W) of 0 to 255.
        fit: Of a slice.
        truth: Numbers of structures (D, H, W).
        names: What those are called in the table of boxes.

    Raises:
        Rejected: When boxes were given, but none names a structure of this case.
    """
    if system.prompts.boxes:
        given = {one.label: one for one in system.prompts.of(case, truth.shape)}
        objects = {number: given[names[number]] for number in numbers_in(truth) if names[number] in given}
        if not objects:
            raise Rejected("no_prompt", "No box is given for a structure of its mask, by the names of --structures.")
    else:
        objects = {number: _where_largest(truth == number, names[number]) for number in numbers_in(truth)}

    def answer(z: int, prompts: Sequence[Prompt]) -> list[tuple[Mask, float]]:
        return system.answered(x[:, z], fit, prompts)

    shape = (truth.shape[0], truth.shape[1], truth.shape[2])
    found = propagate(list(objects.values()), shape, answer, system.stop)
    return {number: one.mask for number, one in zip(objects, found, strict=True)}


def _where_largest(mask: Mask, name: str) -> Object:
    z = int(mask.sum(axis=(1, 2)).argmax())
    return Object(name, (Prompt(z, around(mask[z], MARGIN)),), "box")


def asked_as_published(system: Segmentation, x: Tensor, truth: Labels) -> dict[int, Published]:
    """Every structure by DB-SAM's protocol.

    Source: DB-SAM's release, as `medvit.evaluate.segmentation` has it. The release compares at the 256 pixels that its decoder
    gives; a network of another size is brought there before its probabilities are cut.
    """
    fit = fit_of((PAPER_SIDE, PAPER_SIDE), system.side, system.pixels)
    told: dict[int, list[tuple[Mask, Mask, int]]] = {}
    for z, plane in enumerate(truth):
        labels = square(plane, Pillow.Resampling.NEAREST)
        here = numbers_in(labels)
        if not here:
            continue
        pixels = np.stack([square(one, Pillow.Resampling.BILINEAR) for one in x[:, z].cpu().numpy()])
        prompts = [Prompt(z, (*map(float, paper_box(labels == number)),)) for number in here]  # type: ignore[arg-type]
        planes = torch.from_numpy(pixels).to(x.device)
        for number, (mask, _) in zip(here, system.answered(planes, fit, prompts), strict=True):
            told.setdefault(number, []).append((mask, labels == number, z))
    return {
        number: Published(
            np.stack([one[0] for one in some]), np.stack([one[1] for one in some]), [one[2] for one in some]
        )
        for number, some in sorted(told.items())
    }


def square(plane: NDArray[np.uint8], how: Pillow.Resampling) -> NDArray[np.uint8]:
    """A plane (H, W) at the 256 pixels a side of DB-SAM's protocol."""
    return np.asarray(Pillow.fromarray(plane).resize((PAPER_SIDE, PAPER_SIDE), how))


def scores_of(found: Mask, truth: Mask, spacing: tuple[float, ...] | None, tolerance_mm: float) -> Scores:
    """Dice and surface Dice of masks (D, H, W) in source pixels; the latter is NaN where spacing is unknown.

    A single image is compared by the lengths of outlines, a volume by the areas of surfaces.
    """
    overlap = dice(found, truth)
    if len(found) == 1:
        found, truth = found[0], truth[0]
    if spacing is None or len(spacing) < found.ndim:
        return Scores(overlap, float("nan"))
    return Scores(overlap, surface_dice(found, truth, tuple(spacing[-found.ndim :]), tolerance_mm))


def paper_scores_of(one: Published) -> Scores:
    """Scores of one structure of one case by DB-SAM's protocol; a picture is a stack of one."""
    return paper_scores(one.found, one.truth, flat=len(one.found) == 1)


def numbers_in(labels: Labels) -> list[int]:
    """The structures in a mask."""
    return [int(number) for number in np.unique(labels) if number]

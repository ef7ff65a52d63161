"""From a case to a sample: the one place where source pixels become model pixels."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medvit.case import Case
from medvit.codes import Label
from medvit.data.batch import Sample
from medvit.guard import Reply
from medvit.image import Fit, Image, Plane, centre, view

# Source pixels (H, W) and the model's side -> model pixels (side, side) and the way back.
View = Callable[[Plane, int], tuple[Plane, Fit]]


def centre_view(share: float) -> View:
    """The view for answers: the square at the centre, see `medvit.image.centre`."""

    def look(plane: Plane, size: int) -> tuple[Plane, Fit]:
        fit = centre((plane.shape[0], plane.shape[1]), size, share)
        return view(plane, fit), fit

    return look


def targets(case: Case, labels: Sequence[Label]) -> Tensor:
    """The labels of a case (K,), NaN where unknown."""
    return torch.tensor([case.labels.get(label.name, float("nan")) for label in labels])


def film_sample(
    image: Image, case: Case, look: View, *, size: int, mean: float, std: float, labels: Sequence[Label]
) -> Sample:
    """A radiograph at model size, normalised, with its labels.

    Args:
        image: (1, H, W) in [0, 1].
        case: Whose labels count.
        look: Which part of the film is seen, and how.
        size: Side of the model's square field of view in pixels.
        mean: Subtracted from the grey values.
        std: Divides them.
        labels: The order of ``y``.

    Returns:
        ``x`` (1, size, size).
    """
    plane, fit = look(image.pixels[0], size)
    x = (torch.from_numpy(plane.copy()) - mean) / std
    return Sample(x[None], targets(case, labels), case, fit, image.origin)


def packed(sample: Sample, seconds: float) -> Reply:
    """A sample on its way out of a worker; labels stay behind, they are the parent's."""
    return Reply(
        {
            "fit": dataclasses.astuple(sample.fit),
            "origin": dict(sample.origin),
            "spacing": sample.spacing,
            "seconds": seconds,
        },
        (sample.x.numpy(),),
    )


def unpacked(reply: Reply, case: Case, labels: Sequence[Label]) -> tuple[Sample, float]:
    """The sample of a reply, and the seconds that reading it took."""
    source, model, box = reply.plain["fit"]
    fit = Fit(tuple(source), tuple(model), tuple(box))
    x, spacing = torch.from_numpy(reply.arrays[0]), reply.plain["spacing"]
    sample = Sample(x, targets(case, labels), case, fit, reply.plain["origin"], spacing=spacing and tuple(spacing))
    return sample, reply.plain["seconds"]

"""Outlines what lies in a reader's box by a trained promptable network; the one place of the app that computes with torch.

It runs in a worker process of its own, which `apps.review.desk` starts for the first box: ``--segment CHECKPOINT``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.review.files import files_of
from medvit.case import Case
from medvit.data.prompts import Object, Prompt
from medvit.errors import MedvitError
from medvit.guard import Duty, Reply
from medvit.tasks.propagation import propagate
from medvit.tasks.segmentation import Segmentation
from medvit.workflow import load_system


def duties(checkpoint: str) -> Mapping[str, Duty]:
    """The duty of the worker: ``box``.

    Raises:
        MedvitError: When the checkpoint holds no system that takes boxes.
    """
    system = load_system(Path(checkpoint))
    if not isinstance(system, Segmentation):
        raise MedvitError(
            f"--segment {checkpoint} holds a {type(system).__name__}, which takes no boxes. Give one of DBSAM."
        )
    system.eval()

    @torch.no_grad()
    def box(path: str, key: str, modality: str, slices: int, number: int, corners: Sequence[float]) -> Reply:
        """The mask (D, H, W) as bits of what lies in a box (x_min, y_min, x_max, y_max) on a slice, and its score."""
        files, _ = files_of(path, key, slices)
        case = Case(path, modality, tuple(files))
        sample = system.sample(system.read(case), case)
        left, top, right, bottom = (float(edge) for edge in corners)
        asked = Object("box", (Prompt(int(number), (left, top, right, bottom)),), "the reader's box")
        shape = (int(sample.x.shape[1]), *sample.fit.source)

        def answer(z: int, prompts: Sequence[Prompt]) -> Any:
            return system.answered(sample.x[:, z], sample.fit, prompts)

        (found,) = propagate([asked], shape, answer, system.stop)
        told = {"score": float(found.score), "shape": list(found.mask.shape), "ends": list(found.ends)}
        return Reply(told, (np.packbits(found.mask),))

    return {"box": box}

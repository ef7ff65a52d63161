"""A reader's masks for others: NIfTI over the source's voxels (PNG of what is flat), and SEG where the source is DICOM."""

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from apps.review.files import files_of
from apps.review.volumes import read, read_drawn
from medvit import NOTICE
from medvit.atomic import whole_folder
from medvit.case import Case
from medvit.codes import Code, Label, code_of, file_name
from medvit.errors import Rejected, Unreferable
from medvit.guard import Reply
from medvit.readers.survey import read_facts
from medvit.result import Region, Result, Run
from medvit.writers import dicom
from medvit.writers.nifti import write_masks
from medvit.writers.picture import write_png
from medvit.writers.segmentation import Maker, write_segmentation

SERIES = 9013
WHAT, BY_HAND = "Outlined with a neural network, corrected or chosen by a reader.", "Drawn by a reader."


def hand_out(
    path: str, case: str, count: int, modality: str, masks: Sequence[Sequence[str]], folder: str, reviewer: str,
    told: Mapping[str, str],
) -> Reply:  # fmt: skip
    """Write the masks of a case; a duty of a worker process.

    Args:
        path: The case's first file.
        case: Its key.
        count: Of its slices, see `apps.review.files.files_of`.
        modality: Of the case.
        masks: Finding, code, file and SHA-256 of each, and whether it was drawn ``by hand`` alone.
        folder: Where to; an older one there is replaced.
        reviewer: Whose they are.
        told: ``system``, ``version`` and ``digest`` of the AI, ``at`` and ``hash`` of the last row about them.

    Returns:
        ``files``, and ``left out``: why no SEG was written, "" where one was.

    Raises:
        Rejected: When a mask is one of another image, or was changed after it was kept.
    """
    image, _ = read(path, case, count)
    files, kind = files_of(path, case, count)
    shape = image.pixels.shape[1:]
    regions = []
    for label, code, file, digest, _ in masks:
        mask = read_drawn(file, digest)
        if mask.shape != shape:
            raise Rejected("mask", "A mask is one of another image.")
        scheme, _, value = code.partition(":")
        named = Label(label, Code(value, scheme, label) if value else code_of(label))
        regions.append(Region(named, mask if shape[0] > 1 or image.place else mask[0], 1.0, image.spacing))
    part, target = Path(f"{folder}.{os.getpid()}.part"), Path(folder)
    try:
        written = [_write(region, image.place, part, reviewer) for region in regions]
        why = "The source is no DICOM."
        if kind:
            facts, _ = read_facts(files[0])
            answered = Case(facts["sop_uid"], modality, tuple(files), header=facts)
            run = Run(told["system"], told["version"], told["digest"], datetime.fromisoformat(told["at"]))
            name = dicom.Kind(f"masks {reviewer} {told['hash']}", SERIES, "Reader's masks")
            by_hand = frozenset(mask[0] for mask in masks if mask[-1])
            what = " ".join([WHAT] * (len(by_hand) < len(masks)) + [BY_HAND] * bool(by_hand))
            maker = Maker(name, "READER_SEGMENTS", "SEMIAUTOMATIC", reviewer, what, by_hand)
            try:
                written += write_segmentation(Result(answered, regions=tuple(regions)), part, run, maker)
                why = ""
            except Unreferable as refusal:
                why = str(refusal)
        whole_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Reply({"files": [file.name for file in written], "left out": why})


def _write(region: Region, place: Any, folder: Path, reviewer: str) -> Path:
    stem = f"mask_{file_name(region.label.name)}"
    if place is not None:
        return write_masks([region.mask], place, folder / f"{stem}.nii.gz")
    picture = Pillow.fromarray(region.mask.reshape(region.mask.shape[-2:]).astype(np.uint8) * 255)
    return write_png(picture, folder / f"{stem}.png", {"Description": f"{region.label.name}, by {reviewer}. {NOTICE}"})

"""Write masks as NIfTI over the voxels of the file that they were found in."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medvit.atomic import whole
from medvit.codes import file_name
from medvit.image import Place
from medvit.result import Result, Run

MAX_LABELS = 255  # of one byte a voxel


def write_nifti(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``mask_<label>.nii.gz`` of every mask over the voxels of its source; nothing where nobody knows where these lie."""
    place = result.read(result.case).place if result.regions and result.read else None
    if place is None:
        return []
    return [
        write_masks(
            [one.mask.reshape(-1, *one.mask.shape[-2:])], place, folder / f"mask_{file_name(one.label.name)}.nii.gz"
        )
        for one in result.regions
    ]


def write_masks(masks: Sequence[NDArray[np.bool_]], placed: Place, path: Path) -> Path:
    """One label map of several masks; the same masks always give the same bytes.

    Args:
        masks: Each (D, H, W) as displayed; the first becomes label 1, and where masks overlap the later one stays.
        placed: Where the source's voxels lie: shape, affine and the codes of its forms are taken from there. Nothing else is
            copied, since descriptions in the source's header may name a person.
        path: Ends in ``.nii.gz``.
    """
    if not 0 < len(masks) <= MAX_LABELS:
        raise ValueError(f"a label map holds 1 to {MAX_LABELS} masks, not {len(masks)}")
    labels: NDArray[Any] = np.zeros(masks[0].shape, np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask] = value
    nifti = nibabel.Nifti1Image(placed.to_source(labels), placed.affine)
    q_code, s_code = placed.codes
    nifti.set_sform(placed.affine, code=s_code)
    nifti.set_qform(placed.affine, code=q_code)
    nifti.header.set_xyzt_units("mm")
    with whole(path) as part:
        part.write_bytes(gzip.compress(nifti.to_bytes(), mtime=0))
    return path

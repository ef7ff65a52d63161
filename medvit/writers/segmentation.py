"""Masks over the film as a binary Segmentation, a segment a region.

Radiographs lie on no plane in space, which these objects need: they are written for radiographs only with an invented one,
asked for and flagged, see `medvit.writers.dicom.placed`.

Source: DICOM PS3.3 A.51 (Segmentation), C.8.20.
"""

from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medvit.errors import Unanswered
from medvit.result import Region, Result, Run
from medvit.writers import dicom
from medvit.writers.source import Source, open_source

SEGMENTS = dicom.Kind("segments", 9003, "AI segments")


def write_segmentation(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``seg.dcm`` with every region of a result, which may overlap.

    Nothing is written about a picture, or where there are no regions.

    Raises:
        Unanswered: For a film on no plane, unless the run invents one, and for masks of volumes.
    """
    source = open_source(result.case) if result.regions else None
    if source is None:
        return []
    if any(region.mask.ndim != 2 for region in result.regions):
        raise Unanswered("unwritten", "Masks of volumes are not written as DICOM yet. Leave `seg` out of --write.")
    masks = np.stack([region.mask for region in result.regions], axis=-1)[None]  # (1, H, W, regions)
    image, description = dicom.placed(source, masks.shape[1:3], run)
    segments = Segmentation(
        source_images=[image],
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(n, region, source, run) for n, region in enumerate(result.regions, 1)],
        content_label="AI_SEGMENTS",
        content_description=description,
        omit_empty_frames=False,
        **dicom.identify(source, run, SEGMENTS),
    )
    if "BodyPartExamined" in source.evidence:
        segments.BodyPartExamined = source.evidence.BodyPartExamined
    dicom.sign(segments, source, run)
    return [dicom.write_object(folder / "seg.dcm", segments, lambda back: np.array_equal(read_masks(back), masks[0]))]


def _segment(number: int, region: Region, source: Source, run: Run) -> SegmentDescription:
    name, uid = dicom.tracking(source, run, region.label.name)
    return SegmentDescription(
        segment_number=number,
        segment_label=region.label.name[:64],
        segmented_property_category=dicom.term("abnormal structure"),
        segmented_property_type=dicom.concept(region.label.code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=dicom.algorithm(run),
        tracking_id=name,
        tracking_uid=uid,
    )


def read_masks(segments: Dataset) -> NDArray[np.bool_]:
    """The masks (H, W, regions) of a Segmentation of ours, whose frames are its regions in order."""
    count, rows, columns = int(segments.NumberOfFrames), segments.Rows, segments.Columns
    bits = np.unpackbits(np.frombuffer(segments.PixelData, np.uint8), bitorder="little")
    masks: NDArray[np.bool_] = bits[: count * rows * columns].reshape(count, rows, columns).astype(bool)
    return masks.transpose(1, 2, 0)

"""Masks over a film, the slices of a series or the frames of an enhanced object as a binary Segmentation, a segment a region.

Radiographs lie on no plane in space, which these objects need: they are written for radiographs only with an invented one,
asked for and flagged, see `medvit.writers.dicom.placed`.

Source: DICOM PS3.3 A.51 (Segmentation), C.8.20.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medvit.case import ENHANCED, UID, Case
from medvit.codes import category_of
from medvit.errors import Unanswered, Unreferable
from medvit.readers.dicom import integer, open_dicom
from medvit.readers.positions import along_normal, planes
from medvit.result import Region, Result, Run
from medvit.writers import dicom
from medvit.writers.source import Source, open_source

MOST_FRAMES = 65535
SEGMENTS = dicom.Kind("segments", 9003, "AI segments")


class Maker(NamedTuple):
    """How masks came about, as the object says it.

    Args:
        kind: The object's name in UIDs, and its series.
        label: Of its content, as DICOM's code strings are written.
        algorithm: ``AUTOMATIC``, or ``SEMIAUTOMATIC`` where a reader had a hand in it.
        reader: Who that was; "" for nobody.
        told: What was done to the masks, for the equipment that worked on them; "" for the usual sentence.
        by_hand: Labels of the masks that no network had a hand in.
    """

    kind: dicom.Kind = SEGMENTS
    label: str = "AI_SEGMENTS"
    algorithm: str = "AUTOMATIC"
    reader: str = ""
    told: str = ""
    by_hand: frozenset[str] = frozenset()


AI = Maker()


def write_segmentation(result: Result, folder: Path, run: Run, maker: Maker = AI) -> list[Path]:
    """Write ``seg.dcm`` with every region of a result, which may overlap.

    Nothing is written about a picture, or where there are no regions.

    Raises:
        Unreferable: For a film on no plane, unless the run invents one.
    """
    source = open_source(result.case) if result.regions else None
    if source is None:
        return []
    masks = np.stack(
        [one.mask.reshape(-1, *one.mask.shape[-2:]) for one in result.regions], axis=-1
    )  # (D, H, W, regions)
    description = "Planes of the source images"
    if result.case.header.get("sop_class") in ENHANCED:
        image, order = _frames(result.case, source, masks.shape[1:3])
        images, places = [image], {(image.SOPInstanceUID, n + 1): n for n in range(len(order))}
        masks = masks[np.argsort(order)] if len(order) == len(masks) else masks  # in the order of the file
    elif len(masks) > 1:
        images = _slices(result.case, masks.shape[1:3])
        places = {(image.SOPInstanceUID, 1): n for n, image in enumerate(images)}
    else:
        image, description = dicom.placed(source, masks.shape[1:3], run)
        images, places = [image], {(image.SOPInstanceUID, 1): 0}
    if len(places) != len(masks):
        raise Unanswered("unwritten", f"Masks of {len(masks)} slices do not fit its {len(places)} images.")
    segments = Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(n, region, source, run, maker) for n, region in enumerate(result.regions, 1)],
        content_label=maker.label,
        content_description=description,
        content_creator_name=f"{maker.reader}^" if maker.reader else None,
        omit_empty_frames=len(masks) > 1 and bool(masks.any()),
        **dicom.identify(source, run, maker.kind),
    )
    if "BodyPartExamined" in source.evidence:
        segments.BodyPartExamined = source.evidence.BodyPartExamined
    dicom.sign(segments, source, run, maker.told)
    return [
        dicom.write_object(folder / "seg.dcm", segments, lambda back: np.array_equal(read_masks(back, places), masks))
    ]


def _frames(case: Case, source: Source, shape: tuple[int, ...]) -> tuple[Dataset, NDArray[np.intp]]:
    """The evidence of an enhanced object with the planes of its frames, and its frames' numbers along their normal."""
    held = open_dicom(case.files[0])
    lying = planes(held, integer(held, "NumberOfFrames", 1, MOST_FRAMES, default=1))
    order, heights = along_normal(lying)
    image = Dataset()
    image.update(source.evidence)
    image.Rows, image.Columns, image.NumberOfFrames = *shape, len(lying)
    image.FrameOfReferenceUID = str(held.get("FrameOfReferenceUID", ""))
    if not UID.fullmatch(image.FrameOfReferenceUID):
        raise Unreferable("no_plane", "It names no frame of reference that an object could refer to.")
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(lying[0].spacing)
    measures.SliceThickness = round(float(np.diff(heights).mean()), 6) if len(heights) > 1 else 1
    orientation.ImageOrientationPatient = _decimal_strings([*lying[0].across, *lying[0].down])
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence, groups = [shared], []
    for one in lying:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = _decimal_strings(one.position)
        group.PlanePositionSequence = [position]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    return image, order


def _decimal_strings(numbers: Iterable[float]) -> list[str]:
    """Numbers in the 16 characters that DICOM has for them."""
    return [format_number_as_ds(float(number)) for number in numbers]


def _slices(case: Case, shape: tuple[int, ...]) -> list[Dataset]:
    """The evidence of the slices of a series, in the order in which they lie along their normal."""
    sources = [open_source(replace(case, files=(file,))) for file in case.files]
    images = []
    for source in sources:
        image = Dataset()
        image.update(source.evidence if source else {})
        image.Rows, image.Columns = shape
        if "ImagePositionPatient" not in image or "PixelSpacing" not in image:
            raise Unreferable("no_plane", "A slice of it lies on no plane in space that an object could refer to.")
        images.append(image)
    cosines = np.array(images[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    images.sort(key=lambda image: float(np.array(image.ImagePositionPatient, float) @ normal))
    step = np.array(images[1].ImagePositionPatient, float) - np.array(images[0].ImagePositionPatient, float)
    for image in images:
        image.SliceThickness = round(float(np.linalg.norm(step)), 6)
    return images


def _segment(number: int, region: Region, source: Source, run: Run, maker: Maker) -> SegmentDescription:
    name, uid = dicom.tracking(source, run, region.label.name)
    manual = region.label.name in maker.by_hand
    return SegmentDescription(
        segment_number=number,
        segment_label=region.label.name[:64],
        segmented_property_category=dicom.term(category_of(region.label.name)),
        segmented_property_type=dicom.concept(region.label.code),
        algorithm_type="MANUAL" if manual else maker.algorithm,
        algorithm_identification=None if manual else dicom.algorithm(run),
        tracking_id=name,
        tracking_uid=uid,
    )


def read_masks(segments: Dataset, places: Mapping[tuple[str, int], int]) -> NDArray[np.bool_]:
    """The masks (D, H, W, regions) of a Segmentation of ours, each frame where its source's UID and frame number stand."""
    count, rows, columns = int(segments.NumberOfFrames), segments.Rows, segments.Columns
    bits = np.unpackbits(np.frombuffer(segments.PixelData, np.uint8), bitorder="little")
    frames = bits[: count * rows * columns].reshape(count, rows, columns).astype(bool)
    masks = np.zeros((len(places), rows, columns, len(segments.SegmentSequence)), bool)
    shared = segments.SharedFunctionalGroupsSequence[0]
    for frame, group in zip(frames, segments.PerFrameFunctionalGroupsSequence, strict=True):
        # What is the same for all frames stands with what they share.
        segment, derived = (
            (group.get(keyword) or shared[keyword].value)[0]
            for keyword in ("SegmentIdentificationSequence", "DerivationImageSequence")
        )
        source = derived.SourceImageSequence[0]
        place = places[source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber") or 1)]
        masks[place, :, :, int(segment.ReferencedSegmentNumber) - 1] = frame
    return masks

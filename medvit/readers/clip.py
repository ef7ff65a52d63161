"""Read an ultrasound clip as grey frames: multi-frame DICOM US in every colour space, or a video file.

Grey is the mean of red, green and blue, as ERDES has it. Everything outside the scanned sector is set to 0, so that no
burnt-in text is learned from.

Source: DICOM PS3.3 C.8.5 (ultrasound), C.7.6.3.1.2 (photometric interpretation), C.7.6.5 (cine).
"""

from collections.abc import Iterator
from os import dup, fdopen
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_fragmented_frames
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import MPEGTransferSyntaxes

from medvit import budgets
from medvit.case import CLIPS, DAMAGE
from medvit.errors import Rejected, Unanswered
from medvit.image import Image, Plane
from medvit.readers.dicom import decimals, integer, open_dicom
from medvit.readers.pixels import GREY, KEYWORDS, Form, decode, read_form
from medvit.readers.sector import Bounds, bounds, find_sector
from medvit.readers.survey import regular_file
from medvit.readers.video import Film, read_video, too_long, video_of_bytes

RGB_SUM = 3 * 255
RGB = ("RGB", "YBR_ICT", "YBR_RCT")  # the last two are undone with their JPEG 2000
YBR = ("YBR_FULL", "YBR_FULL_422")
MIN_CONTRAST = 0.01  # between the darkest and the brightest pixel of a clip
MIN_CHANGE = 1 / 255  # of at least one pixel, else nothing moves
LAST_COLUMN = 65535
CENTIMETRES = 3  # Physical Units of an ultrasound region
SPACING_MM = (1e-3, 5.0)  # smallest and largest that make sense
TWO_D, TISSUE = 1, (1, 2)  # Region Spatial Format; Region Data Type: tissue, colour flow


def read_clip(path: Path, crop: bool = True) -> Image:
    """Read a clip.

    Args:
        path: A DICOM file, or a video with one of the suffixes `CLIPS`.
        crop: Whether everything outside the scanned sector is set to 0.

    Returns:
        Pixels (1, T, H, W) in [0, 1]; spacing is that of rows and columns where the file gives one.

    Raises:
        Rejected: When it is no clip, damaged or truncated, holds other frames than it declares, does not move, or has no
            sector that could be found.
    """
    try:
        frames, region, spacing, origin = _video(path) if path.suffix.lower() in CLIPS else _dicom(path)
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise Rejected("undecodable", f"The pixels cannot be decoded ({type(error).__name__}).") from error
    _check(frames)
    if crop:
        sector = find_sector(frames, region)
        if sector is None:
            raise Rejected(
                "no_sector",
                "No scanned sector was found: nothing large enough moves. Crop it and set system.crop to false.",
            )
        frames *= sector
        top, left, bottom, right = bounds(sector)
        origin["sector"] = f"rows {top} to {bottom}, columns {left} to {right}, {sector.mean():.0%} of the frame"
    return Image(frames[None], spacing, origin | {"frames": f"{len(frames)} decoded"})


def _check(frames: Plane) -> None:
    if len(frames) < 2:
        raise Rejected("one_frame", "It holds one frame: a still image, no clip.")
    if not np.isfinite(frames).all() or np.ptp(frames) < MIN_CONTRAST:
        raise Rejected("no_contrast", "Every pixel has the same grey value, or some are not finite.")
    if all(np.abs(frame - frames[0]).max() <= MIN_CHANGE for frame in frames[1:]):
        raise Rejected("still", f"Nothing moves in its {len(frames)} frames: a still image, no clip.")


_Read = tuple[Plane, Bounds | None, tuple[float, ...] | None, dict[str, str]]


def _video(path: Path) -> _Read:
    with regular_file(path, follow=True) as descriptor, fdopen(dup(descriptor), "rb") as file:
        film = read_video(file)
    return _grey(film), None, None, _told(film)


def _grey(film: Film) -> Plane:
    return film.grey.astype(np.float32) / np.float32(RGB_SUM)


def _told(film: Film) -> dict[str, str]:
    rate = f"{film.rate:g} frames a second of the file" if film.rate else "none in the file"
    return {"colour": f"mean of RGB, {film.coded_as}", "rate": rate, "spacing": "none in the file"}


def _dicom(path: Path) -> _Read:
    dataset = open_dicom(path)
    spacing, spaced_by = _spacing(dataset)
    origin = {"rate": _rate(dataset), "spacing": spaced_by}
    if dataset.file_meta.TransferSyntaxUID in MPEGTransferSyntaxes:
        film = _encapsulated(dataset)
        return _grey(film), _region(dataset), spacing, _told(film) | origin
    form = read_form(dataset)
    if form.frames * form.rows * form.columns > budgets.CLIP_PIXELS:
        raise too_long()
    if form.frames < 2:
        raise Rejected("one_frame", "It holds one frame: a still image, no clip.")
    stored = decode(dataset, form)
    frames = np.empty((form.frames, form.rows, form.columns), np.float32)
    for index, frame in enumerate(_displayed(stored, dataset, form)):
        frames[index] = frame
    return frames, _region(dataset), spacing, {"colour": f"mean of RGB, {form.photometric}", **origin}


def _encapsulated(dataset: Dataset) -> Film:
    """A video inside a DICOM file: one stream in all its fragments."""
    held = dataset.get(KEYWORDS[0])
    if not held:
        raise Rejected("no_pixels", "It holds no pixel data.")
    fragments = next(generate_fragmented_frames(held, number_of_frames=1))
    return video_of_bytes(b"".join(fragments), integer(dataset, "NumberOfFrames", 1, budgets.FRAMES))


def _displayed(stored: NDArray[Any], dataset: Dataset, form: Form) -> Iterator[Plane]:
    """Stored frames as they are seen: grey in [0, 1], the mean of red, green and blue."""
    if form.keyword != "PixelData" or form.allocated not in (8, 16):
        raise Rejected("bits", f"It holds {form.allocated} bits a value; a clip has 8 to 16.")
    top = float(2**form.stored - 1)
    for frame in stored:
        if form.photometric in GREY and not form.signed:
            grey = frame.astype(np.float32) / np.float32(top)
            yield 1 - grey if form.photometric == "MONOCHROME1" else grey
        elif form.photometric == "PALETTE COLOR":
            colours = apply_color_lut(frame, dataset)
            yield _mean(colours, np.iinfo(colours.dtype).max)
        elif form.photometric in RGB and form.samples == 3:
            yield _mean(frame, top)
        elif form.photometric in YBR and form.samples == 3 and form.stored == 8:
            yield _mean(convert_color_space(frame, form.photometric, "RGB"), top)
        else:
            raise Rejected("photometric", "Its photometric interpretation is none that clips have. Convert it to RGB.")


def _mean(colours: NDArray[Any], top: float) -> Plane:
    return np.asarray(colours[..., :3].sum(axis=2, dtype=np.uint32) / np.float32(3 * top), np.float32)


def _rate(dataset: Dataset) -> str:
    """Frames a second and the element they came from."""
    for keyword in ("FrameTime", "FrameTimeVector"):
        milliseconds = [value for value in _numbers(dataset, keyword) if value > 0]
        if milliseconds:
            return f"{1000 * len(milliseconds) / sum(milliseconds):.4g} frames a second of {keyword}"
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        for rate in _numbers(dataset, keyword):
            if rate > 0:
                return f"{rate:.4g} frames a second of {keyword}"
    return "none in the file"


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Numbers of the header that only describe: nonsense counts as none."""
    try:
        return decimals(dataset, keyword)
    except Rejected:
        return ()


def _regions(dataset: Dataset) -> Iterator[Dataset]:
    """The items that describe two-dimensional images of tissue."""
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        try:
            two_d = integer(item, "RegionSpatialFormat", 0, 65535, default=0) == TWO_D
            if two_d and integer(item, "RegionDataType", 0, 65535, default=0) in TISSUE:
                yield item
        except Rejected:
            continue


def _region(dataset: Dataset) -> Bounds | None:
    """The rectangle around its two-dimensional regions; None where the header names none that makes sense."""
    edges = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")
    try:
        found = [[integer(item, edge, 0, LAST_COLUMN) for edge in edges] for item in _regions(dataset)]
    except Rejected:
        return None
    if not found:
        return None
    top, left = (min(corners[i] for corners in found) for i in (0, 1))
    bottom, right = (max(corners[i] for corners in found) + 1 for i in (2, 3))
    return (top, left, bottom, right) if top < bottom and left < right else None


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Row and column spacing in mm, of the first two-dimensional region in centimetres, or of Pixel Spacing."""
    for item in _regions(dataset):
        units = {_numbers(item, keyword) for keyword in ("PhysicalUnitsXDirection", "PhysicalUnitsYDirection")}
        deltas = [abs(value) * 10 for axis in "YX" for value in _numbers(item, f"PhysicalDelta{axis}")]
        if units == {(float(CENTIMETRES),)} and len(deltas) == 2 and _sensible(deltas):
            return (deltas[0], deltas[1]), "SequenceOfUltrasoundRegions"
    spacing = _numbers(dataset, "PixelSpacing")
    if len(spacing) == 2 and _sensible(spacing):
        return (spacing[0], spacing[1]), "PixelSpacing"
    return None, "none in the file"


def _sensible(spacing: list[float] | tuple[float, ...]) -> bool:
    return all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in spacing)

"""Read a radiograph as it is displayed: DICOM CR/DX through its grey-scale pipeline, or a PNG or JPEG.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation),
C.7.5.1.1.2 (pixel padding).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps
from pydicom import Dataset

from medvit.case import DAMAGE, PICTURES, blame
from medvit.errors import Rejected, Unanswered
from medvit.image import Image, Plane
from medvit.readers.dicom import code, decimals, integer, open_dicom
from medvit.readers.pixels import GREY, decode, read_form

MIN_CONTRAST = 1e-6  # of a range of 1; less is rounding
BLOCK = 2**17  # pixels looked up at a time, so that their indices stay in the processor's cache
MAX_SLOPE = 1e6
SPACING_MM = 0.001, 10.0  # what a pixel of a film may measure
NOT_PADDED = -(2**31)  # a padding value that no film of 16 bits holds

Grey = NDArray[np.float64]
Step = Callable[[Grey], Grey]


def read_radiograph(path: Path) -> Image:
    """One film as displayed.

    Args:
        path: DICOM CR or DX of one frame, 8 to 16 bits, or PNG or JPEG.

    Returns:
        (1, H, W) float32 in [0, 1], bone bright; `Image.origin` says which window, inversion and spacing were used and
        where they came from.

    Raises:
        Rejected: When the file cannot be decoded or is no single grey-scale frame with contrast.
    """
    return _read_picture(path) if path.suffix.lower() in PICTURES else _read_dicom(path)


def _read_picture(path: Path) -> Image:
    try:
        with Pillow.open(path, formats=("PNG", "JPEG")) as file:
            picture = ImageOps.exif_transpose(file)
            depth = 65535 if picture.mode.startswith("I") else 255
            grey = picture if depth == 65535 else picture.convert("L")
            pixels = np.asarray(grey, np.float32)[None] / np.float32(depth)  # (1, H, W)
    except MemoryError:
        raise
    except (Pillow.DecompressionBombError, *DAMAGE) as error:
        raise blame(error, "undecodable", "The picture cannot be decoded") from error
    _check_contrast(pixels)
    origin = {
        "voi": f"full range of the file, 0 to {depth}",
        "photometric": picture.mode,
        "spacing": "none in the file",
    }
    return Image(pixels, None, origin)


def _read_dicom(path: Path) -> Image:
    try:
        dataset = open_dicom(path)
        pixels, origin = _display(dataset, _stored(dataset))
        spacing, source = _spacing(dataset)
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise blame(error, "undecodable", "The pixels cannot be decoded") from error
    return Image(pixels[None], spacing, {**origin, "spacing": source})


def _stored(dataset: Dataset) -> NDArray[np.integer]:
    """Stored values (H, W) of a single grey-scale frame."""
    form = read_form(dataset)
    if form.frames != 1:
        raise Rejected("frames", f"It holds {form.frames} frames; a film has one.")
    if form.photometric not in GREY:
        raise Rejected("photometric", f"Its photometric interpretation is none of {' and '.join(GREY)}.")
    if form.allocated not in (8, 16) or form.keyword != "PixelData":
        raise Rejected("bits", f"It holds {form.allocated} bits a pixel; a film has 8 to 16.")
    return decode(dataset, form)


def _display(dataset: Dataset, stored: NDArray[np.integer]) -> tuple[Plane, dict[str, str]]:
    """Stored values to [0, 1] as displayed, and what was used on the way."""
    low, high, padding, padded = _range(dataset, stored)
    modality, modality_name = _modality(dataset)
    voi, voi_name = _voi(dataset, modality, low, high)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"

    # Send every value of the film through the chain once and look the pixels up; what is padded is black.
    values = np.arange(low, high + 1)
    grey = voi(modality(values.astype(np.float64)))
    table = np.zeros(2 ** (8 * stored.dtype.itemsize), np.float32)
    table[values] = 1 - grey if inverted else grey  # a negative value counts from the end, as in two's complement
    table[padding] = 0
    pixels = _look_up(table, stored)
    if abs(table[low] - table[high]) < MIN_CONTRAST or not np.isfinite(table).all():
        _check_contrast(pixels)
    origin = {
        "modality": modality_name,
        "voi": voi_name,
        "photometric": "MONOCHROME1, inverted" if inverted else "MONOCHROME2",
        "padding": f"{padded / stored.size:.1%} of pixels set to black" if padded else "none",
    }
    return pixels, origin


def _look_up(table: Plane, stored: NDArray[np.integer]) -> Plane:
    """Entries of a table of all values of a type, negative ones at its end, for every pixel (H, W)."""
    flat = stored.astype(stored.dtype.newbyteorder("="), copy=False).ravel()
    flat = flat.view(f"u{flat.dtype.itemsize}")
    pixels = np.empty(flat.shape, np.float32)
    for start in range(0, len(flat), BLOCK):
        indices = flat[start : start + BLOCK].astype(np.intp)
        table.take(indices, out=pixels[start : start + BLOCK], mode="wrap")  # "raise" would take twice the time
    return pixels.reshape(stored.shape)


def _check_contrast(pixels: Plane) -> None:
    if not np.isfinite(pixels).all() or np.ptp(pixels) < MIN_CONTRAST:
        raise Rejected("no_contrast", "Every pixel has the same grey value, or some are not finite.")


def _range(dataset: Dataset, stored: NDArray[np.integer]) -> tuple[int, int, NDArray[np.intp], int]:
    """Smallest and largest value that is not padded, the values that mean padding, and how many pixels have one."""
    smallest, largest = int(stored.min()), int(stored.max())
    value = integer(dataset, "PixelPaddingValue", -(2**15), 2**16 - 1, default=NOT_PADDED)
    limit = integer(dataset, "PixelPaddingRangeLimit", -(2**15), 2**16 - 1, default=value)
    first, last = max(min(value, limit), smallest), min(max(value, limit), largest)
    shown = (stored < first) | (stored > last) if first <= last else None
    padded = 0 if shown is None else stored.size - int(np.count_nonzero(shown))
    if shown is None or padded in (0, stored.size):
        return smallest, largest, np.arange(0), 0
    low = int(stored.min(where=shown, initial=largest))
    high = int(stored.max(where=shown, initial=smallest))
    return low, high, np.arange(first, last + 1), padded


def _modality(dataset: Dataset) -> tuple[Step, str]:
    if dataset.get("ModalityLUTSequence"):
        lookup, top = _lookup(dataset.ModalityLUTSequence[0])
        return (lambda values: lookup(values) * top), "modality LUT of the file"
    slope, intercept = rescale(dataset)
    if (slope, intercept) == (1, 0):
        return (lambda values: values), "identity"
    return (lambda values: values * slope + intercept), f"rescale {slope:g}, {intercept:g} of the file"


def rescale(dataset: Dataset) -> tuple[float, float]:
    """Rescale Slope and Intercept, 1 and 0 where the file has none."""
    try:
        slope, intercept = (
            (decimals(dataset, keyword) or (0.0,)) if keyword in dataset else (default,)
            for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
    except Rejected:
        slope, intercept = (0.0,), (0.0,)
    if len(slope) != 1 or len(intercept) != 1 or not 0 < abs(slope[0]) <= MAX_SLOPE:
        raise Rejected("rescale", "Its RescaleSlope and RescaleIntercept cannot be used.")
    return slope[0], intercept[0]


def _voi(dataset: Dataset, modality: Step, smallest: int, largest: int) -> tuple[Step, str]:
    """The first view of interest of the file; without one, the range of its values."""
    if dataset.get("VOILUTSequence"):
        return _lookup(dataset.VOILUTSequence[0])[0], "VOI LUT of the file"
    centres, widths = decimals(dataset, "WindowCenter"), decimals(dataset, "WindowWidth")
    function = code(dataset, "VOILUTFunction") or "LINEAR"
    narrowest = 1 if function == "LINEAR" else 1e-6
    if centres and widths and widths[0] >= narrowest:
        centre, width = centres[0], widths[0]
        return _window(centre, width, function), f"window {centre:g}/{width:g} {function} of the file"
    # Without a usable window: from the smallest to the largest value that the film holds.
    span = modality(np.arange(smallest, largest + 1, dtype=np.float64))
    low, high = float(span.min()), float(span.max())
    if low == high:
        raise Rejected("no_contrast", "Every pixel has the same grey value.")
    return (
        lambda values: ((values - low) / (high - low)).clip(0, 1)
    ), f"no window in the file: its range {low:g} to {high:g}"


def _window(centre: float, width: float, function: str) -> Step:
    """A VOI window to [0, 1]: PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""
    if function == "SIGMOID":
        return lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise Rejected("voi_function", "Its VOILUTFunction is none of LINEAR, LINEAR_EXACT and SIGMOID.")
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return lambda values: ((values - centre) / width + 0.5).clip(0, 1)


def _lookup(item: Dataset) -> tuple[Step, float]:
    """A modality or VOI LUT as a function to [0, 1], and its largest possible output."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data)
    if len(table) < entries or not 8 <= bits <= 16:
        raise Rejected("lut", f"Its look-up table declares {entries} entries of {bits} bits and holds {len(table)}.")
    top = float(2**bits - 1)
    table = table[:entries].astype(np.float64) / top
    if table.max() > 1 or table.min() < 0:
        raise Rejected("lut", f"Its look-up table declares outputs of {bits} bits and holds other ones.")
    return (lambda values: table[(values - first).clip(0, entries - 1).astype(np.int64)]), top


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Row and column spacing in mm, and the element it came from; None where the file gives none that can be used."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            row_mm, column_mm = decimals(dataset, keyword)
        except (Rejected, ValueError):  # no numbers, or not two
            continue
        if all(SPACING_MM[0] <= spacing <= SPACING_MM[1] for spacing in (row_mm, column_mm)):
            return (row_mm, column_mm), keyword
    return None, "none in the file"

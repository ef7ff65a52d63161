"""Read a radiograph as it is displayed: DICOM CR/DX through its grey-scale pipeline, or a PNG or JPEG.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation),
C.7.5.1.1.2 (pixel padding).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGBaseline8Bit

from medvit.case import DAMAGE, PICTURES
from medvit.errors import Rejected
from medvit.image import Image, Plane

# Tried alone where they can decode: on damaged files others (pylibjpeg for RLE, gdcm for JPEG-LS) end the process.
PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls")
MIN_CONTRAST = 1e-6  # of a range of 1; less is rounding
MAX_PIXELS = 200_000_000  # a 43 cm detector at 0.1 mm has 18 million

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
    image = _read_picture(path) if path.suffix.lower() in PICTURES else _read_dicom(path)
    if not np.isfinite(image.pixels).all() or np.ptp(image.pixels) < MIN_CONTRAST:
        raise Rejected("no_contrast", "Every pixel has the same grey value, or some are not finite.")
    return image


def _read_picture(path: Path) -> Image:
    try:
        with Pillow.open(path, formats=("PNG", "JPEG")) as file:
            picture = ImageOps.exif_transpose(file)
            depth = 65535 if picture.mode.startswith("I") else 255
            grey = picture if depth == 65535 else picture.convert("L")
            pixels = np.asarray(grey, np.float32)[None] / np.float32(depth)  # (1, H, W)
    except (Pillow.DecompressionBombError, *DAMAGE) as error:
        raise Rejected("undecodable", f"The picture cannot be decoded ({type(error).__name__}).") from error
    origin = {
        "voi": f"full range of the file, 0 to {depth}",
        "photometric": picture.mode,
        "spacing": "none in the file",
    }
    return Image(pixels, None, origin)


def _read_dicom(path: Path) -> Image:
    try:
        dataset = pydicom.dcmread(path)
        stored = _decode(dataset)
        pixels, origin = _display(dataset, stored)
        spacing, source = _spacing(dataset)
    except DAMAGE as error:
        raise Rejected("undecodable", f"The pixels cannot be decoded ({type(error).__name__}).") from error
    return Image(pixels[None], spacing, {**origin, "spacing": source})


def _decode(dataset: Dataset) -> NDArray[np.integer]:
    """Stored values (H, W) of a single grey-scale frame."""
    syntax = dataset.file_meta.TransferSyntaxUID
    photometric = dataset.get("PhotometricInterpretation")
    if "PixelData" not in dataset:
        raise Rejected("no_pixels", "It holds no pixel data.")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise Rejected("frames", f"It holds {dataset.NumberOfFrames} frames; a film has one.")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Rejected("photometric", f"Its photometric interpretation is {photometric!r}, not grey-scale.")
    if int(dataset.BitsAllocated) > 16:
        raise Rejected("bits", f"It holds {dataset.BitsAllocated} bits a pixel; a film has 8 to 16.")
    pixels = int(dataset.Rows) * int(dataset.Columns)
    if not 0 < pixels <= MAX_PIXELS:
        raise Rejected("pixel_budget", f"Its header declares {dataset.Rows} x {dataset.Columns} pixels.")
    if not syntax.is_encapsulated and len(dataset.PixelData) < pixels * int(dataset.BitsAllocated) // 8:
        raise Rejected(
            "truncated", f"It holds {len(dataset.PixelData)} bytes of {pixels * dataset.BitsAllocated // 8}."
        )
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise Rejected("no_decoder", f"No decoder for {syntax.name} is installed: `pip install medvit[codecs]`.")
    sturdy = ("pillow",) if syntax == JPEGBaseline8Bit else PLUGINS
    plugin = next((name for name in sturdy if name in decoder.available_plugins), "")  # "": whatever there is
    stored = pixel_array(dataset, raw=True, decoding_plugin=plugin)
    if stored.ndim != 2:
        raise Rejected("frames", f"Its pixel data has the shape {stored.shape}; a film has rows and columns only.")
    return stored


def _display(dataset: Dataset, stored: NDArray[np.integer]) -> tuple[Plane, dict[str, str]]:
    """Stored values to [0, 1] as displayed, and what was used on the way."""
    padding = _padding(dataset, stored)
    modality, modality_name = _modality(dataset)
    shown = stored if padding is None else stored[~padding]
    voi, voi_name = _voi(dataset, modality, shown)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"

    def chain(values: NDArray[np.integer]) -> Plane:
        grey = voi(modality(values.astype(np.float64)))
        return (1 - grey if inverted else grey).astype(np.float32)

    # Send every possible stored value through the chain once and look the pixels up.
    every = np.arange(2 ** (8 * stored.dtype.itemsize)).astype(f"u{stored.dtype.itemsize}")
    pixels = chain(every.view(stored.dtype))[stored.view(every.dtype)]
    if padding is not None:
        pixels[padding] = 0
    origin = {
        "modality": modality_name,
        "voi": voi_name,
        "photometric": "MONOCHROME1, inverted" if inverted else "MONOCHROME2",
        "padding": "none" if padding is None else f"{padding.mean():.1%} of pixels set to black",
    }
    return pixels, origin


def _padding(dataset: Dataset, stored: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    """Where the film is padded (H, W), or None."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() and not padding.all() else None


def _modality(dataset: Dataset) -> tuple[Step, str]:
    if dataset.get("ModalityLUTSequence"):
        lookup, top = _lookup(dataset.ModalityLUTSequence[0])
        return (lambda values: lookup(values) * top), "modality LUT of the file"
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 0), float(dataset.get("RescaleIntercept", 0) or 0)
    if slope == 0 or not np.isfinite([slope, intercept]).all() or abs(slope) > 1e6:
        raise Rejected("rescale", f"Its rescale slope {slope} and intercept {intercept} cannot be used.")
    if (slope, intercept) == (1, 0):
        return (lambda values: values), "identity"
    return (lambda values: values * slope + intercept), f"rescale {slope:g}, {intercept:g} of the file"


def _voi(dataset: Dataset, modality: Step, shown: NDArray[np.integer]) -> tuple[Step, str]:
    """The first view of interest of the file; without one, the range of its values."""
    if dataset.get("VOILUTSequence"):
        return _lookup(dataset.VOILUTSequence[0])[0], "VOI LUT of the file"
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    narrowest = 1 if function == "LINEAR" else 1e-6
    if centre is not None and width is not None and width >= narrowest and np.isfinite([centre, width]).all():
        return _window(centre, width, function), f"window {centre:g}/{width:g} {function} of the file"
    # Without a usable window: from the smallest to the largest value that the film holds.
    span = modality(np.arange(int(shown.min()), int(shown.max()) + 1, dtype=np.float64))
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
        raise Rejected("voi_function", f"Its VOI LUT Function {function!r} is unknown.")
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


def _first(value: object) -> float | None:
    """The first of a possibly multi-valued number, None where there is none."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(str(value))


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Row and column spacing in mm, and the element it came from; None where the file gives none that can be used."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(keyword)
        if value is None:
            continue
        try:
            row_mm, column_mm = (float(number) for number in value)
        except (TypeError, ValueError):
            continue
        if 0 < row_mm < 10 and 0 < column_mm < 10:
            return (row_mm, column_mm), keyword
    return None, "none in the file"

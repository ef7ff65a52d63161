"""Stored values of DICOM pixel data: checked and bounded before anything is decoded, then frame by frame.

Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 section 8.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medvit import budgets
from medvit.case import DAMAGE
from medvit.errors import Rejected, Unanswered
from medvit.readers.codecs import CODECS, JPEG_2000, JPEG_LS, Codec, Values
from medvit.readers.codestream import Stream, frames_of
from medvit.readers.dicom import code, integer

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
AS_IS: dict[str, Any] = {"view_only": True, "correct_unused_bits": False, "allow_excess_frames": False}
GREY = ("MONOCHROME1", "MONOCHROME2")


class Form(NamedTuple):
    """What a header says of its pixels."""

    syntax: UID
    keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame: (rows, columns) or (rows, columns, samples)."""
        return (self.rows, self.columns, *((self.samples,) if self.samples > 1 else ()))

    @property
    def values(self) -> int:
        """Of one frame."""
        return math.prod(self.shape)

    @property
    def stream(self) -> Stream:
        """What a compressed frame should say of itself."""
        return Stream(self.rows, self.columns, self.samples, self.allocated, self.signed)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded values, little endian."""
        return np.dtype(np.uint8 if self.allocated == 1 else f"<{'i' if self.signed else 'u'}{self.allocated // 8}")


def decode(dataset: Dataset, form: Form | None = None) -> Values:
    """Stored values as they are in the file: no colour conversion, no look-up, possibly read-only.

    Args:
        dataset: See `medvit.readers.dicom.open_dicom`.
        form: What `read_form` says of it, when that is known already.

    Returns:
        (rows, columns), with frames before them where there is more than one and samples behind them likewise;
        integers of Bits Allocated, signed as Pixel Representation says, or floats.

    Raises:
        Rejected: When header and pixels disagree, pixels are missing, damaged, too many or of a transfer syntax for
            which there is no decoder.
    """
    try:
        form = form or read_form(dataset)
        if form.syntax in NATIVE:
            return _native(dataset, form)
        return _compressed(dataset, form, CODECS[form.syntax])
    except (Unanswered, MemoryError):
        raise
    except DAMAGE as error:
        raise Rejected("undecodable", f"The pixels cannot be decoded ({type(error).__name__}).") from error


def available(syntax: str) -> bool:
    """Whether pixels of a transfer syntax can be decoded with what is installed."""
    if syntax in NATIVE:
        return True
    return syntax in CODECS and CODECS[syntax].installed


def read_form(dataset: Dataset) -> Form:
    """What the header says of the pixels, refused where it is not possible or beyond `medvit.budgets`.

    Raises:
        Rejected: See `decode`.
    """
    syntax = _syntax(dataset)
    held = [keyword for keyword in KEYWORDS if keyword in dataset and dataset[keyword].value]
    if len(held) != 1:
        raise Rejected("no_pixels", "It holds no pixel data." if not held else "It holds pixel data of several kinds.")
    allocated = integer(dataset, "BitsAllocated", 1, 64)
    form = Form(
        syntax=syntax,
        keyword=held[0],
        rows=integer(dataset, "Rows", 0, 65535),
        columns=integer(dataset, "Columns", 0, 65535),
        samples=integer(dataset, "SamplesPerPixel", 1, 4, default=1),
        frames=_frames(dataset),
        allocated=allocated,
        stored=integer(dataset, "BitsStored", 1, 64, default=allocated),
        signed=held[0] == "PixelData" and integer(dataset, "PixelRepresentation", 0, 1) == 1,
        photometric=code(dataset, "PhotometricInterpretation"),
    )
    pixels = form.rows * form.columns
    if not 0 < pixels <= budgets.FRAME_PIXELS:
        raise Rejected("pixel_budget", f"Its header declares {form.rows} x {form.columns} pixels.")
    if form.allocated not in (1, 8, 16, 32, 64) or form.stored > form.allocated:
        raise Rejected("bits", f"Its header declares {form.stored} bits in {form.allocated} bits a value.")
    if form.samples == 2 or (form.samples > 1 and form.photometric in (*GREY, "PALETTE COLOR")):
        raise Rejected("undecodable", f"Its header declares {form.samples} samples a pixel of its colour space.")
    if form.frames * form.values * max(form.allocated // 8, 1) > budgets.DECODED_BYTES:
        raise Rejected("pixel_budget", f"Its header declares {form.frames} frames of {form.rows} x {form.columns}.")
    return form


def _syntax(dataset: Dataset) -> UID:
    syntax = UID(str(getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID") or ""))
    if syntax not in NATIVE and syntax not in CODECS:
        raise Rejected("transfer_syntax", "Its transfer syntax is missing or none that medvit reads: convert the file.")
    return syntax


def _frames(dataset: Dataset) -> int:
    """Number of Frames, 1 where the header does not say."""
    try:
        return integer(dataset, "NumberOfFrames", 1, budgets.FRAMES, default=1)
    except Rejected:
        raise Rejected("frames", f"Its NumberOfFrames is no number from 1 to {budgets.FRAMES}.") from None


def _native(dataset: Dataset, form: Form) -> Values:
    """Uncompressed pixels, a view of the data set's bytes where that is possible."""
    held = len(dataset[form.keyword].value)
    bits = form.values * form.allocated
    frame = bits / 8 * 2 / 3 if form.photometric == "YBR_FULL_422" else bits / 8  # PS3.3 C.7.6.3.1.2: two of three
    if held < math.ceil(frame * form.frames):
        raise Rejected("truncated", f"It holds {held} bytes of {math.ceil(frame * form.frames)}.")
    if held >= frame * (form.frames + 1) and held - frame * form.frames >= 2:
        raise Rejected("frames", "It holds more frames than its header declares.")
    if held - frame * form.frames >= max(
        2, frame / max(form.rows, form.columns)
    ):  # rows of another length would shear the image
        raise Rejected("size_mismatch", f"It holds {held} bytes; its header declares {math.ceil(frame * form.frames)}.")
    values, _ = get_decoder(form.syntax).as_array(dataset, raw=True, **AS_IS)
    return _cleared(values, form) if form.keyword == "PixelData" else values


def _cleared(values: Values, form: Form) -> Values:
    """Values whose bits beyond Bits Stored repeat the sign or are 0, copied only where they are not already."""
    spare = 8 * values.dtype.itemsize - form.stored
    if spare == 0 or form.allocated == 1:
        return values
    low, high = (-(1 << form.stored - 1), 1 << form.stored - 1) if form.signed else (0, 1 << form.stored)
    if values.max() < high and (low == 0 or values.min() >= low):
        return values
    shifted: Values = (values << spare) >> spare
    return shifted


def _compressed(dataset: Dataset, form: Form, codec: Codec) -> Values:
    """Encapsulated pixels, frame by frame."""
    if not codec.installed:
        raise Rejected("no_decoder", f"No decoder for {form.syntax.name} is installed: `pip install medvit[codecs]`.")
    if form.keyword != "PixelData" or (form.allocated == 1 and form.syntax not in JPEG_2000):
        raise Rejected("bits", f"Its {form.allocated} bits a value cannot be compressed as {form.syntax.name}.")
    data = dataset[form.keyword].value
    decoded = form.frames * form.values * form.dtype.itemsize
    if decoded > budgets.RATIO_FREE_BYTES and decoded > budgets.DECODED_RATIO * len(data):
        raise Rejected("pixel_budget", f"Its {len(data)} bytes would decode to {decoded}.")
    values = np.empty((form.frames, *form.shape), form.dtype)
    for index, frame in enumerate(frames_of(data, form.frames)):
        stream = _agreed(codec.look(frame, form.stream), form)
        values[index] = _frame(frame, form, codec, stream)
    return _corrected(values if form.frames > 1 else values[0], form, stream)


def _agreed(stream: Stream, form: Form) -> Stream:
    """What a frame says of itself, refused unless the header says the same."""
    if stream[:3] != form.stream[:3]:
        said, declared = (" x ".join(map(str, sizes[:3])) for sizes in (stream, form.stream))
        raise Rejected("size_mismatch", f"Its compressed pixels are {said}, its header declares {declared}.")
    if stream.depth > max(form.allocated, 8):
        raise Rejected("bits", f"Its compressed pixels have {stream.precision} bits in {form.allocated} bits a value.")
    return stream


def _frame(frame: bytes, form: Form, codec: Codec, stream: Stream) -> Values:
    try:
        values = codec.decode(frame, stream)
    except (Unanswered, MemoryError):
        raise
    except Exception as error:  # whatever a library raises on damaged bytes
        raise Rejected("undecodable", f"The pixels cannot be decoded ({type(error).__name__}).") from error
    if values.size != form.values or values.dtype.itemsize * 8 != stream.depth:
        raise Rejected("undecodable", f"Its decoder gave {values.size} values instead of {form.values}.")
    return values.view(f"{form.dtype.kind}{stream.depth // 8}").reshape(form.shape)


def _corrected(values: Values, form: Form, stream: Stream) -> Values:
    """Values whose sign is that of Pixel Representation, as pydicom has it (it corrects J2K of grey films alone)."""
    if form.syntax in JPEG_2000:
        wrong = form.photometric in GREY and stream.signed != form.signed
        stored = stream.precision if wrong else form.allocated
    elif form.syntax in JPEG_LS:
        stored = stream.precision if form.signed else form.allocated
    else:
        stored = form.stored
    return _cleared(values, form._replace(stored=stored))

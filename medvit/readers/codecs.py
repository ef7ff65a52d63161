"""The one decoder that is trusted with each compressed transfer syntax; whether its library is installed.

On damaged frames others end the process: gdcm, and pylibjpeg for RLE. Libraries are imported when they are needed.
"""

import importlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvit.errors import Rejected
from medvit.readers import codestream
from medvit.readers.codestream import LOSSLESS, LS, SEQUENTIAL, Stream

Values = NDArray[Any]

RLE_PADDING = 1  # bytes behind a segment


class Codec(NamedTuple):
    """A decoder of single frames.

    Args:
        look: From a frame and what the header declares to what the frame says of itself.
        decode: From a frame and what it says to its values, rows by columns by samples or flat, of 8, 16 or 32 bits.
        library: What must be importable; "" where nothing is needed.
    """

    look: Callable[[bytes, Stream], Stream]
    decode: Callable[[bytes, Stream], Values]
    library: str

    @property
    def installed(self) -> bool:
        """Whether it can be used here."""
        return not self.library or importlib.util.find_spec(self.library) is not None


def _jpeg(kinds: tuple[int, ...]) -> Callable[[bytes, Stream], Stream]:
    return lambda frame, declared: codestream.jpeg(frame, kinds)


def _jpeg_2000(frame: bytes, _: Stream) -> Stream:
    return codestream.jpeg_2000(frame)


def _rle(frame: bytes, declared: Stream) -> Stream:
    codestream.rle(frame, declared)
    return declared  # it says no more than how many segments there are


def _unpack_rle(frame: bytes, stream: Stream) -> Values:
    """Byte planes, the most significant first, to values."""
    width, pixels = stream.precision // 8, stream.rows * stream.columns
    edges = codestream.rle(frame, stream)
    planes = np.empty((pixels, stream.samples, width), np.uint8)
    for index in range(stream.samples * width):
        sample, byte = divmod(index, width)
        segment = _unpack_bits(frame[edges[index] : edges[index + 1]], pixels)
        planes[:, sample, width - 1 - byte] = np.frombuffer(segment, np.uint8)
    return planes.reshape(-1).view(f"<u{width}")


def _unpack_bits(data: bytes, size: int) -> bytearray:
    """One RLE segment. Source: PS3.5 G.3.1."""
    out, at, end = bytearray(), 0, len(data)
    while at < end and len(out) < size:
        head = data[at]
        if head < 128:  # so many bytes and one more
            start, at = at + 1, at + 2 + head
            out += data[start:at]
        elif head > 128:  # a byte so often
            out += data[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    if len(out) < size:
        raise Rejected("truncated", f"An RLE segment of it holds {len(out)} bytes of {size}.")
    if len(out) > size or end - at > RLE_PADDING:
        raise Rejected(
            "size_mismatch", f"An RLE segment of it holds more than the {size} bytes that its header declares."
        )
    return out


def _with_pillow(frame: bytes, stream: Stream) -> Values:
    """JPEG of 8 bits."""
    with Pillow.open(io.BytesIO(frame), formats=("JPEG",)) as picture:
        if stream.samples == 3 and picture.info.get("adobe_transform") != 0 and stream.component_ids != b"RGB":
            picture.draft("YCbCr", picture.size)  # asked for what is stored, it converts nothing
        return np.asarray(picture)


def _with_turbo(frame: bytes, stream: Stream) -> Values:
    """JPEG of 8 to 16 bits, lossy or lossless."""
    as_stored = {"colorspace": "YCBCR", "outcolorspace": "YCBCR"} if stream.samples == 3 else {}
    values: Values = importlib.import_module("imagecodecs").jpeg8_decode(frame, **as_stored)
    return values


def _with_charls(frame: bytes, stream: Stream) -> Values:
    """JPEG-LS."""
    flat, info = importlib.import_module("jpeg_ls").decode_pixel_data(frame)
    values = np.frombuffer(flat, "u1" if stream.precision <= 8 else "<u2")
    if stream.samples > 1 and info["interleave_mode"] == 0:  # plane after plane
        return np.ascontiguousarray(values.reshape(stream.samples, stream.rows, stream.columns).transpose(1, 2, 0))
    return values


def _with_openjpeg(frame: bytes, stream: Stream) -> Values:
    """JPEG 2000 and HTJ2K, without the boxes of a JP2 file."""
    flat = importlib.import_module("openjpeg").decode_pixel_data(frame[stream.start :], version=2)
    return np.frombuffer(flat, f"<u{stream.depth // 8}")


JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
CODECS: dict[str, Codec] = {
    RLELossless: Codec(_rle, _unpack_rle, ""),
    JPEGBaseline8Bit: Codec(_jpeg(SEQUENTIAL), _with_pillow, "PIL"),
    JPEGExtended12Bit: Codec(_jpeg(SEQUENTIAL), _with_turbo, "imagecodecs"),
    JPEGLossless: Codec(_jpeg(LOSSLESS), _with_turbo, "imagecodecs"),
    JPEGLosslessSV1: Codec(_jpeg(LOSSLESS), _with_turbo, "imagecodecs"),
    **dict.fromkeys(JPEG_LS, Codec(_jpeg(LS), _with_charls, "jpeg_ls")),
    **dict.fromkeys(JPEG_2000, Codec(_jpeg_2000, _with_openjpeg, "openjpeg")),
}

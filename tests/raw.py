"""DICOM files written byte by byte, so that they may lie in every place."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword

IMPLICIT, EXPLICIT, DEFLATED, BIG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
RLE, JPEG, JPEG_12, JPEG_LOSSLESS = "1.2.840.10008.1.2.5", *(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "70"))
JPEG_LS, J2K_LOSSLESS, J2K = (f"1.2.840.10008.1.2.4.{end}" for end in ("80", "90", "91"))
COMPRESSED = (RLE, JPEG, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, J2K)
DX = "1.2.840.10008.5.1.4.1.1.1.1"
ROWS, COLUMNS = 48, 64
UID = "2.25.100000"  # of the film, unless another is asked for
UNDEFINED = 0xFFFFFFFF
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT")
NUMBERS = {"US": "H", "UL": "I", "SS": "h", "SL": "i", "FL": "f", "FD": "d"}
PIXEL_DATA = 0x7FE00010
Value = Any  # int, float or text by the dictionary's VR; bytes as they are; (VR, bytes); None: left out


def stored(bits: int = 12) -> np.ndarray:
    """The grey values of the film: noise over a slope, (ROWS, COLUMNS)."""
    noise = np.random.default_rng(5).integers(0, 2 ** (bits - 2), (ROWS, COLUMNS))
    return noise + np.linspace(0, 2**bits * 0.7, COLUMNS).astype(int)


def element(
    tag: int, value: bytes, vr: str = "UN", *, implicit: bool = False, big: bool = False, length: int = -1
) -> bytes:
    """One data element, of another length than its value's where one is given."""
    order = ">" if big else "<"
    count = length if length >= 0 else len(value)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(f"{order}I", count) + value
    if vr in LONG_VRS:
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}I", count) + value
    return head + vr.encode() + struct.pack(f"{order}H", count & 0xFFFF) + value


def item(content: bytes = b"", undefined: bool = False) -> bytes:
    """One item of a sequence, little endian."""
    if undefined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def sequence(tag: int, *items: bytes, undefined: bool = False, implicit: bool = False, vr: str = "SQ") -> bytes:
    """A sequence of items, little endian."""
    content = b"".join(items)
    if undefined:
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return element(tag, content + end, vr, implicit=implicit, length=UNDEFINED)
    return element(tag, content, vr, implicit=implicit)


def nested(
    depth: int, leaf: bytes = b"", tag: int = 0x00400275, undefined: bool = False, implicit: bool = False
) -> bytes:
    """Sequences within sequences, written from the outside in, so that any depth is possible."""
    head = 8 if implicit else 12
    if undefined:
        begin = sequence(tag, undefined=True, implicit=implicit)[:head] + item(undefined=True)[:8]
        return begin * depth + leaf + (item(undefined=True)[8:] + sequence(tag, undefined=True)[12:]) * depth
    parts, size = [], len(leaf)
    for _ in range(depth):
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, size))
        parts.append(element(tag, b"", "SQ", implicit=implicit, length=size + 8))
        size += 8 + head
    return b"".join(reversed(parts)) + leaf


def encode(value: Value, vr: str, big: bool = False) -> bytes:
    """A value as its VR demands."""
    if isinstance(value, bytes):
        return value + b"\0" * (len(value) % 2)
    if vr in NUMBERS:
        several = value if isinstance(value, list) else [value]
        return struct.pack(f"{'>' if big else '<'}{len(several)}{NUMBERS[vr]}", *several)
    text = str(value).encode()
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


def fragments(*parts: bytes, end: bool = True, table: bytes = b"") -> bytes:
    """Encapsulated pixel data: an offset table and the fragments."""
    closing = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b""
    return b"".join(item(part + b"\0" * (len(part) % 2)) for part in (table, *parts)) + closing


@cache
def stream(syntax: str) -> bytes:
    """The film as one compressed frame."""
    if syntax == JPEG:
        return bytes(imagecodecs.jpeg8_encode(stored(8).astype(np.uint8), level=95))
    grey = stored().astype(np.uint16)
    if syntax == RLE:
        return rle(grey)
    if syntax == JPEG_12:
        return bytes(imagecodecs.jpeg8_encode(grey, level=95, bitspersample=12))
    if syntax == JPEG_LOSSLESS:
        return bytes(imagecodecs.jpeg8_encode(grey, lossless=True, predictor=1, bitspersample=12))
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(grey))
    return bytes(imagecodecs.jpeg2k_encode(grey, codecformat="j2k", reversible=True, bitspersample=12))


def rle(grey: np.ndarray) -> bytes:
    """RLE of 16 bits without a single run: PS3.5 annex G."""
    planes = [(grey >> 8).astype(np.uint8).tobytes(), (grey & 0xFF).astype(np.uint8).tobytes()]
    packed = [b"".join(bytes([len(run) - 1]) + run for run in _cut(plane, 128)) for plane in planes]
    packed = [segment + b"\x80" * (len(segment) % 2) for segment in packed]
    return struct.pack("<16I", 2, 64, 64 + len(packed[0]), *[0] * 13) + b"".join(packed)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def film(
    changes: Mapping[str, Value] = {},
    syntax: str = EXPLICIT,
    pixels: bytes | Sequence[bytes] | None = None,
    extra: Mapping[int, bytes] = {},
    *,
    named: str | None = None,
    preamble: bytes = bytes(128),
    uid: str = UID,
) -> bytes:
    """A chest film, DX, of 12 bits (8 for JPEG baseline).

    Args:
        changes: Elements by keyword.
        syntax: What the file is written in.
        pixels: Bytes of the pixel element, or fragments of it; None for the film's own.
        extra: Whole elements, already written, by the tag that decides their place.
        named: The transfer syntax that the file meta information names, where it lies.
        preamble: The first 128 bytes.
        uid: SOP Instance UID.
    """
    bits = 8 if syntax == JPEG else 12
    values: dict[str, Value] = {
        "SOPClassUID": DX, "SOPInstanceUID": uid, "Modality": "DX", "PatientName": "Film^Test", "PatientID": "TEST-1",
        "BodyPartExamined": "CHEST", "ViewPosition": "PA", "StudyInstanceUID": "2.25.11", "SeriesInstanceUID": "2.25.12",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": ROWS, "Columns": COLUMNS,
        "BitsAllocated": 8 if bits == 8 else 16, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
        **changes,
    }  # fmt: skip
    implicit, big = syntax == IMPLICIT, syntax == BIG
    parts = dict(extra)
    for keyword, given in values.items():
        if given is None:
            continue
        tag = tag_for_keyword(keyword) or 0
        vr, value = given if isinstance(given, tuple) else (dictionary_VR(tag), given)
        vr = "US" if vr == "US or SS" else vr
        parts[tag] = element(tag, encode(value, vr, big), vr, implicit=implicit, big=big)
    if PIXEL_DATA not in parts:
        parts[PIXEL_DATA] = pixel_element(syntax, pixels)
    body = b"".join(parts[tag] for tag in sorted(parts))
    return wrap(body, syntax, named=named, preamble=preamble, uid=uid)


def pixel_element(syntax: str, pixels: bytes | Sequence[bytes] | None = None) -> bytes:
    """The pixel data element of the film."""
    native = syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG)
    if pixels is None:
        pixels = stored().astype(">u2" if syntax == BIG else "<u2").tobytes() if native else [stream(syntax)]
    if isinstance(pixels, bytes):
        return element(PIXEL_DATA, pixels, "OW", implicit=syntax == IMPLICIT, big=syntax == BIG)
    return element(PIXEL_DATA, fragments(*pixels), "OB", length=UNDEFINED)


def wrap(body: bytes, syntax: str, *, named: str | None = None, preamble: bytes = bytes(128), uid: str = UID) -> bytes:
    """A data set with preamble and file meta information."""
    if syntax == DEFLATED:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = deflate.compress(body) + deflate.flush()
        body += b"\0" * (len(body) % 2)
    said = syntax if named is None else named
    meta = element(0x00020001, b"\0\1", "OB") + element(0x00020002, encode(DX, "UI"), "UI")
    meta += element(0x00020003, encode(uid, "UI"), "UI")
    meta += element(0x00020010, encode(said, "UI"), "UI") if said else b""
    return preamble + b"DICM" + element(0x00020000, struct.pack("<I", len(meta)), "UL") + meta + body

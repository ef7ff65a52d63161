"""Compressed frames: where they lie in the pixel data and what they say of themselves, without decoding anything.

Source: DICOM PS3.5 A.4 (encapsulation) and annex G (RLE), ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5.1
(JPEG 2000).
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from medvit import budgets
from medvit.errors import Rejected

ITEM, LAST_ITEM = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"  # (FFFE,E000) and (FFFE,E0DD)
STARTS = (b"\xff\xd8", b"\xff\x4f")  # of a JPEG and of a JPEG 2000 stream

END = b"\xff\xd9"  # of every JPEG, JPEG-LS and JPEG 2000 stream
END_WITHIN = 10  # bytes after it that writers are known to leave
SEGMENTS = 1_000  # before the frame header of a JPEG; real ones have ten
J2K_START = b"\xff\x4f\xff\x51"
J2K_BOXES = 4_096  # bytes of JP2 boxes that may precede a JPEG 2000 codestream
SEQUENTIAL, LOSSLESS, LS = (0xC0, 0xC1), (0xC3,), (0xF7,)  # frame header markers
SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
SOS = 0xDA
RLE_HEADER = 64
RLE_GAIN = 64  # two bytes of RLE hold 128 at most


class Stream(NamedTuple):
    """Rows, columns, components and bits of a compressed frame; where it starts and whether it holds signed values."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    start: int = 0
    component_ids: bytes = b""

    @property
    def depth(self) -> int:
        """Bits of the integers that hold its values."""
        return 8 if self.precision <= 8 else 16 if self.precision <= 16 else 32


def frames_of(data: bytes, frames: int) -> Iterator[bytes]:
    """The compressed frames of encapsulated pixel data.

    Args:
        data: The pixel data with its items.
        frames: How many the header declares.

    Raises:
        Rejected: When they are more or fewer, or the items are damaged.
    """
    table, fragments = _fragments(data)
    if frames > len(fragments):
        raise Rejected("frames", f"It holds {len(fragments)} compressed frames of {frames}.")
    if len(fragments) == frames:
        groups = [[fragment] for fragment in fragments]
    elif frames == 1:
        if all(bytes(fragment[:2]) in STARTS for fragment in fragments):
            raise Rejected("frames", f"It holds {len(fragments)} compressed frames and declares one.")
        groups = [fragments]
    else:
        groups = _grouped(fragments, table)
    if len(groups) != frames:
        raise Rejected("frames", f"It holds {len(groups)} compressed frames of {frames}.")
    for group in groups:
        yield bytes(group[0]) if len(group) == 1 else b"".join(group)


def _fragments(data: bytes) -> tuple[list[int], list[memoryview]]:
    """The offset table and the fragments of encapsulated pixel data."""
    view, at, items = memoryview(data), 0, []
    while at + 8 <= len(view) and view[at : at + 4] == ITEM:
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        if at + 8 + length > len(view):
            raise Rejected("truncated", "Its last compressed fragment breaks off.")
        items.append(view[at + 8 : at + 8 + length])
        if len(items) > budgets.FRAGMENTS:
            raise Rejected("frames", f"It holds more than {budgets.FRAGMENTS} compressed fragments.")
        at += 8 + length
    if not items:
        raise Rejected("transfer_syntax", "Its pixels are not encapsulated as its transfer syntax demands.")
    if at < len(view) and view[at : at + 4] != LAST_ITEM:
        raise Rejected("undecodable", "Something else stands between its compressed fragments.")
    table = items[0][: len(items[0]) // 4 * 4]
    return list(struct.unpack(f"<{len(table) // 4}I", table)), items[1:]


def _grouped(fragments: list[memoryview], table: list[int]) -> list[list[memoryview]]:
    """Fragments by frame: after the offset table, or else where streams end."""
    groups: list[list[memoryview]] = []
    starts, at, ended = set(table), 0, True
    for fragment in fragments:
        if at in starts if table else ended:
            groups.append([])
        if not groups:
            raise Rejected("frames", "Its offset table does not begin with its first frame.")
        groups[-1].append(fragment)
        at += 8 + len(fragment)
        ended = END in bytes(fragment[-END_WITHIN:])
    return groups


def jpeg(data: bytes, kinds: tuple[int, ...]) -> Stream:
    """The frame header of a JPEG or JPEG-LS stream.

    Args:
        data: One frame.
        kinds: The frame header markers that its transfer syntax allows.

    Raises:
        Rejected: ``undecodable`` for a stream of another kind, ``truncated`` for one without its end.
    """
    if data[:2] != b"\xff\xd8":
        raise Rejected("undecodable", "Its compressed pixels do not begin as JPEG does.")
    _ended(data)
    found: Stream | None = None
    at = 2
    for _ in range(SEGMENTS):
        while data[at + 1 : at + 2] == b"\xff":  # fill bytes
            at += 1
        if data[at : at + 1] != b"\xff" or at + 4 > len(data):
            break
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if length < 2 or at + 2 + length > len(data):
            break
        content = data[at + 4 : at + 2 + length]
        if marker in SOF:
            if marker not in kinds:
                raise Rejected("transfer_syntax", "Its pixels hold another kind of JPEG than its transfer syntax says.")
            if found is not None or len(content) < 6 + 3 * content[5]:
                break
            precision, rows, columns, samples = struct.unpack(">BHHB", content[:6])
            found = Stream(rows, columns, samples, precision, component_ids=content[6 : 6 + 3 * samples : 3])
        if marker == SOS and found is not None:
            # T.81 table B.3: a sequential scan holds all 64 coefficients; decoders make noise of one that holds fewer.
            if kinds == SEQUENTIAL and content[-3:-1] != b"\x00\x3f":
                break
            _enough(found, len(data) - at, kinds)
            return found
        at += 2 + length
    raise Rejected("undecodable", "The header of its compressed pixels is damaged.")


def _enough(found: Stream, held: int, kinds: tuple[int, ...]) -> None:
    """Refuse a JPEG too short for its size: decoders fill up what is missing without a word.

    Huffman codes have a bit at least: a block of 8 x 8 takes two of them, a sample of lossless JPEG one (T.81 F.1.2, H.1.2).
    """
    bits = {SEQUENTIAL: -(-found.rows // 8) * -(-found.columns // 8) * 2, LOSSLESS: found.rows * found.columns}
    if held * 8 < bits.get(kinds, 0):
        raise Rejected(
            "truncated", f"Its {held} compressed bytes are too few for {found.rows} x {found.columns} pixels."
        )


def jpeg_2000(data: bytes) -> Stream:
    """The image and tile size segment of a JPEG 2000 or HTJ2K codestream, also inside JP2 boxes.

    Raises:
        Rejected: ``undecodable`` where there is none, ``truncated`` for a codestream without its end.
    """
    start = data.find(J2K_START, 0, J2K_BOXES)
    if start < 0 or len(data) < start + 45:
        raise Rejected("undecodable", "Its compressed pixels do not begin as JPEG 2000 does.")
    _ended(data)
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    samples, first = struct.unpack_from(">H", data, start + 40)[0], data[start + 42]
    components = data[start + 42 : start + 42 + 3 * samples]
    if len(components) < 3 * samples or components != components[:3] * samples:
        raise Rejected("undecodable", "The components of its JPEG 2000 codestream differ in depth or size.")
    if components[1:3] != b"\x01\x01":
        raise Rejected("undecodable", "The components of its JPEG 2000 codestream are subsampled.")
    return Stream(bottom - top, right - left, samples, (first & 0x7F) + 1, bool(first & 0x80), start)


def rle(data: bytes, declared: Stream) -> list[int]:
    """Where the segments of an RLE frame start, one a byte of a pixel, and at last where it ends.

    Args:
        data: One frame.
        declared: What the header says of it.

    Raises:
        Rejected: When its header disagrees, or its segments are too short to hold that many pixels.
    """
    planes, pixels = declared.samples * declared.precision // 8, declared.rows * declared.columns
    if len(data) < RLE_HEADER:
        raise Rejected("truncated", "Its RLE header is cut off.")
    count, *offsets = struct.unpack("<16L", data[:RLE_HEADER])
    if count != planes:
        raise Rejected("size_mismatch", f"Its RLE frame holds {count} segments; its header declares {planes}.")
    edges = [*offsets[:count], len(data)]
    if edges[0] < RLE_HEADER or any(first >= second for first, second in pairwise(edges)):
        raise Rejected("undecodable", "The offsets of its RLE segments are damaged.")
    if any((second - first) * RLE_GAIN < pixels for first, second in pairwise(edges)):
        raise Rejected("truncated", "Its RLE segments are too short for the pixels that its header declares.")
    return edges


def _ended(data: bytes) -> None:
    if END not in data[-END_WITHIN:] and END not in data.rstrip(b"\0")[-END_WITHIN:]:
        raise Rejected("truncated", "Its compressed pixels break off before their end.")

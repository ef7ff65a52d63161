"""A walk over the data elements of a DICOM data set, byte by byte, before any library takes it apart.

Nothing here recurses, allocates what a header asks for or reads past the element that is wanted, so that a hostile file costs
milliseconds. Limits come from `medvit.budgets`.

Source: DICOM PS3.5 section 7 (data elements, sequences) and annex A (transfer syntaxes).
"""

import zlib
from collections.abc import Callable, Collection
from struct import Struct
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from medvit import budgets
from medvit.errors import Rejected

WINDOW = 16_384  # bytes read at a time; the header of most films fits into one
VALUE_BYTES = 1024  # of a wanted value; longer ones are cut
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integers
LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

Fetch = Callable[[int, int], bytes]  # (position, count) -> the bytes there, fewer at the end


class Pixels(NamedTuple):
    """Where the pixel data of the top level lies.

    Args:
        tag: Which of `PIXEL_DATA`.
        start: Position of its value: in the file, or in the inflated data set.
        length: Bytes of native pixels, None when encapsulated.
        fragments: Lengths of the encapsulated items, that of the offset table first.
        closed: False when encapsulated items lack their end delimiter.
    """

    tag: int
    start: int
    length: int | None
    fragments: tuple[int, ...] = ()
    closed: bool = True

    @property
    def end(self) -> int:
        """Position behind its last byte, the end delimiter not counted."""
        return self.start + (self.length if self.length is not None else sum(self.fragments) + 8 * len(self.fragments))


class Layout(NamedTuple):
    """How data elements are written: PS3.5 section 7.1."""

    implicit: bool
    element: Struct  # group, element, value representation, short length
    length: Struct
    item: Struct  # group, element, length


EXPLICIT = Layout(False, Struct("<HH2sH"), Struct("<I"), Struct("<HHI"))
IMPLICIT = EXPLICIT._replace(implicit=True)
BIG_ENDIAN = Layout(False, Struct(">HH2sH"), Struct(">I"), Struct(">HHI"))


class _Place(NamedTuple):
    """What encloses the elements that are read: the data set, a sequence or an item."""

    end: int
    undefined: bool
    is_sequence: bool
    layout: Layout


class Inflated:
    """A deflated data set, inflated as far as it is read: PS3.5 section A.5."""

    def __init__(self, fetch: Fetch, start: int) -> None:
        self._fetch, self._position = fetch, start
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()

    def fetch(self, position: int, count: int) -> bytes:
        """The bytes at a position of the inflated data set."""
        while len(self._data) < position + count and self._more():
            pass
        return bytes(self._data[position : position + count])

    def size(self) -> int:
        """Bytes of the whole data set, inflated."""
        while self._more():
            pass
        if not self._inflate.eof:
            raise Rejected("truncated", "It ends within its deflated data set.")
        return len(self._data)

    def _more(self) -> bool:
        packed = self._inflate.unconsumed_tail
        if not packed:
            packed = self._fetch(self._position, WINDOW)
            self._position += len(packed)
        if not packed or self._inflate.eof:
            return False
        try:
            self._data += self._inflate.decompress(packed, 16 * WINDOW)
        except zlib.error as error:
            if not self._data:
                raise Rejected("transfer_syntax", "Its transfer syntax is deflated and its data set is not.") from error
            raise Rejected("unreadable", "Its deflated data set is damaged.") from error
        if len(self._data) > budgets.INFLATED_BYTES:
            raise Rejected("inflate_budget", f"Its data set inflates to more than {budgets.INFLATED_BYTES} bytes.")
        return True


class Walk:
    """A walk over data elements, in and out of sequences, that keeps what encloses it in a list instead of recursing."""

    def __init__(
        self, fetch: Fetch, size: int, layout: Layout, wanted: Collection[int], until: int | None, first: int = 0
    ) -> None:
        self.fetch, self.size = fetch, size
        self.values: dict[int, bytes] = {}
        self.elements = self.items = self.depth = 0
        self.pixels: Pixels | None = None
        self._wanted, self._first, self._until = frozenset(wanted), first, until
        self._place = _Place(size, False, False, layout)
        self._around: list[_Place] = []

    def check_layout(self, position: int, buffer: bytes) -> None:
        """Refuse a data set that is not written as its transfer syntax says."""
        first, layout = buffer[position : position + 8] or self.fetch(position, 8), self._place.layout
        if len(first) < 8:
            raise Rejected("truncated", "It ends before its data set.")
        group = layout.element.unpack(first)[0]
        swapped = group and not group & 0xFF  # 0008 read as 0800
        if swapped or _is_implicit(first) != layout.implicit:
            raise Rejected("transfer_syntax", "Its data set is not written in the transfer syntax that it names.")

    def run(self, position: int, buffer: bytes) -> int:
        """Walk from a position to the end, or to the first element that is not needed, and return where that is.

        Args:
            position: Where the first element begins.
            buffer: The first bytes of what `fetch` reads.
        """
        base = 0
        wanted, first, until, thorough = self._wanted, self._first, self._until or 1 << 32, self._until is None
        while True:
            place = self._place
            if position >= place.end:
                if not self._leave(position):
                    return position
                continue
            here = position - base
            if here + 12 > len(buffer):
                buffer, base, here = self.fetch(position, WINDOW), position, 0
                if len(buffer) < 8:
                    self._check_end()
                    return position
            tag, vr, length, header = _head(place, buffer, here)
            if place.is_sequence or tag >> 16 == 0xFFFE:
                position = self._delimiter(tag, length, position)
                continue
            if not first <= tag < until and not self._around:
                return position
            self.elements += 1
            if self.elements > budgets.ELEMENTS:
                raise Rejected("elements", f"It holds more than {budgets.ELEMENTS} data elements.")
            position += header
            if not self._around and tag in wanted and length != UNDEFINED:
                self.values[tag] = self._value(position, length, buffer, here + header)
            if tag in PIXEL_DATA:
                position = self._pixel_data(tag, position, length)
            elif length == UNDEFINED or (thorough and (vr == b"SQ" or not vr or vr == b"UN")):
                position = self._perhaps_sequence(tag, vr, position, length)
            else:
                position += length

    def _value(self, position: int, length: int, buffer: bytes, here: int) -> bytes:
        count = min(length, VALUE_BYTES)
        value = buffer[here : here + count]
        return value if len(value) == count else self.fetch(position, count)

    def _leave(self, position: int) -> bool:
        """Go back to what encloses the place that ends here; False at the end of the data set."""
        end, undefined, *_ = self._place
        if position > self.size or (undefined and self._around):
            raise _truncated()
        if position > end:
            raise Rejected("unreadable", "An element is longer than the sequence item that holds it.")
        if not self._around:
            return False
        self._place = self._around.pop()
        return True

    def _check_end(self) -> None:
        """Fewer bytes are left than an element takes: padding, unless something is still open."""
        if self._around:
            raise _truncated()

    def _enter(self, position: int, length: int, is_sequence: bool, layout: Layout) -> None:
        undefined = length == UNDEFINED
        end = self._place.end if undefined else position + length
        if end > self.size:
            raise _truncated()
        self._around.append(self._place)
        self._place = _Place(end, undefined, is_sequence, layout)
        self.depth = max(self.depth, (len(self._around) + 1) // 2)
        if self.depth > budgets.NESTING:
            raise Rejected("nesting", f"Its sequences are nested deeper than {budgets.NESTING}.")

    def _delimiter(self, tag: int, length: int, position: int) -> int:
        """What is due between elements: an item begins, an item or a sequence ends."""
        place, position = self._place, position + 8
        if place.is_sequence and tag == ITEM:
            self.items += 1
            if self.items > budgets.ITEMS:
                raise Rejected("items", f"It holds more than {budgets.ITEMS} sequence items.")
            implicit = place.layout.implicit or (length and _is_implicit(self.fetch(position, 6)))
            layout = place.layout._replace(implicit=True) if implicit else place.layout
            self._enter(position, length, False, layout)
        elif tag == (SEQUENCE_END if place.is_sequence else ITEM_END) and place.undefined:
            self._place = self._around.pop()
        elif place.is_sequence and tag != SEQUENCE_END:
            raise Rejected("unreadable", "A sequence holds something else than items.")
        elif tag != SEQUENCE_END:  # strayed; some writers leave them behind a sequence of length 0
            position += length
        return position

    def _perhaps_sequence(self, tag: int, vr: bytes, position: int, length: int) -> int:
        """Enter a sequence, or pass over a value whose representation is not told."""
        layout = self._place.layout
        if vr == b"UN" or (not vr and not layout.implicit):
            layout = IMPLICIT
        if vr != b"SQ":
            begin = self.fetch(position, 8)
            items = len(begin) == 8 and layout.item.unpack(begin)[:2] in ((0xFFFE, 0xE000), (0xFFFE, 0xE0DD))
            if length != UNDEFINED and not (items and _is_sequence(tag)):
                return position + length
            if not items:
                raise Rejected("unreadable", "An element of undefined length is no sequence.")
        self._enter(position, length, True, layout)
        return position

    def _pixel_data(self, tag: int, position: int, length: int) -> int:
        """Pass over pixel data and its fragments, keeping where those of the top level lie."""
        pixels, after = Pixels(tag, position, length), position + length
        if length == UNDEFINED:
            fragments, closed, after = self._fragments(position)
            pixels = Pixels(tag, position, None, fragments, closed)
        if after > self.size:
            raise _truncated()
        if not self._around:
            self.pixels = pixels
        return after

    def _fragments(self, position: int) -> tuple[tuple[int, ...], bool, int]:
        """Lengths of encapsulated fragments, whether their end is marked, and the position behind."""
        fragments: list[int] = []
        unpack = self._place.layout.item.unpack
        while len(head := self.fetch(position, 8)) == 8:
            group, element, length = unpack(head)
            tag, position = group << 16 | element, position + 8
            if tag == SEQUENCE_END:
                return tuple(fragments), True, position
            if tag != ITEM:
                raise Rejected("unreadable", "Its compressed pixels hold something else than fragments.")
            position += length
            if position > self.size:
                raise _truncated()
            fragments.append(length)
            if len(fragments) > budgets.FRAGMENTS:
                raise Rejected("fragments", f"Its pixels lie in more than {budgets.FRAGMENTS} fragments.")
        return tuple(fragments), False, self.size


def _head(place: _Place, buffer: bytes, here: int) -> tuple[int, bytes, int, int]:
    """Tag, value representation ("" where it is not written), length and size of the head of an element."""
    layout = place.layout
    group, element, vr, length = layout.element.unpack_from(buffer, here)
    if place.is_sequence or group == 0xFFFE or layout.implicit or not b"AA" <= vr <= b"ZZ":
        return group << 16 | element, b"", layout.length.unpack_from(buffer, here + 4)[0], 8
    if vr not in LONG_VRS:
        return group << 16 | element, vr, length, 8
    if here + 12 > len(buffer):
        raise _truncated()
    return group << 16 | element, vr, layout.length.unpack_from(buffer, here + 8)[0], 12


def _is_implicit(first: bytes) -> bool:
    """Whether an element that begins so has no value representation: no two capital letters."""
    return len(first) >= 6 and not (0x41 <= first[4] <= 0x5A and 0x41 <= first[5] <= 0x5A)


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _truncated() -> Rejected:
    return Rejected("truncated", "It ends before it should: it was cut, or a length in it is wrong.")

"""Bad inputs by structure: cut, of another transfer syntax, of lying elements, nested deep."""

import itertools
import struct
from collections.abc import Iterator

import numpy as np
import raw
from raw import (
    BIG,
    COLUMNS,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    J2K_LOSSLESS,
    JPEG,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    ROWS,
    element,
    film,
)

# Where a cut falls into the header it depends on the place which of these is seen first.
CUT = ("truncated", "no_sop_uid", "no_pixels", "transfer_syntax", "not_dicom")
UNREADABLE = ("unreadable", "truncated", "transfer_syntax")
UNDECODED = ("undecodable", "truncated", "size_mismatch")
KEPT = ("ok",)

Case = tuple[str, bytes, tuple[str, ...]]  # name (with the suffix, where it is not .dcm), bytes, expected


def truncated() -> Iterator[Case]:
    """Cut at offsets spread over the whole file, native and compressed."""
    for syntax, count in ((EXPLICIT, 30), (IMPLICIT, 10), (BIG, 8), (DEFLATED, 8)):
        whole = film(syntax=syntax)
        for at in sorted({*np.linspace(0, len(whole) - 1, count).astype(int).tolist(), len(whole) - 2}):
            if syntax == DEFLATED:  # its identity cannot be changed later
                whole = film(syntax=syntax, uid=f"2.25.3{at:05d}")
            padding = syntax == DEFLATED and at >= len(whole) - 1
            yield f"{syntax} cut at {at} of {len(whole)}", whole[:at], (*CUT, "ok") if padding else CUT
    for syntax in (*raw.COMPRESSED, raw.JPEG_12):
        whole = film(syntax=syntax)
        for at in np.linspace(140, len(whole) - 12, 8).astype(int).tolist():
            yield f"{syntax} cut at {at} of {len(whole)}", whole[:at], (*CUT, "undecodable")
        lost = "the end delimiter alone is lost"
        yield f"{syntax}: {lost}", whole[:-8], KEPT
        yield f"{syntax}: half of it", whole[:-3], KEPT
    for at in (1, 64, 127, 128, 131, 132):
        yield f"first {at} bytes", film()[:at], ("not_dicom", "truncated", "transfer_syntax")


def syntaxes() -> Iterator[Case]:
    """Files that name another transfer syntax than their own."""
    native = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
    for own, named in itertools.permutations(native, 2):
        yield (
            f"{own} named {named}",
            film(syntax=own, named=named),
            ("transfer_syntax", "unreadable", "truncated", "no_sop_uid"),
        )
    for named in raw.COMPRESSED:
        yield f"native named {named}", film(named=named), ("transfer_syntax",)
    for own in raw.COMPRESSED:
        yield f"{own} named native", film(syntax=own, named=EXPLICIT), ("transfer_syntax",)
    for own, named in itertools.permutations((RLE, JPEG, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS), 2):
        yield (
            f"{own} named {named}",
            film(syntax=own, named=named),
            ("transfer_syntax", "undecodable", "size_mismatch", "bits", "truncated"),
        )
    for named in (
        "",
        "1.2.3",
        "1.2.840.113619.5.2",
        "1.2.840.10008.1.2.4.100",
        "1.2.840.10008.1.2.4.999",
        raw.DX,
        "JPEG",
        "../..",
    ):
        yield f"named {named!r}", film(named=named), ("transfer_syntax", "no_decoder")


def representations() -> Iterator[Case]:
    """Elements of another value representation than the standard's, values that are none, lengths that lie."""
    two = struct.pack("<HH", 48, 64)
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        number = {"Rows": ROWS, "Columns": COLUMNS, "BitsAllocated": 16}[keyword]
        yield f"{keyword} as UL", film({keyword: ("UL", struct.pack("<I", number))}), ("ok", "tag", "undecodable")
        for vr, value in (
            ("LO", str(number).encode()),
            ("DS", b"48.5"),
            ("US", two),
            ("US", b""),
            ("OB", b"\x30\0"),
            ("FD", struct.pack("<d", number)),
            ("UT", b"48"),
            ("IS", b"4x"),
            ("AT", bytes(4)),
        ):
            yield (
                f"{keyword} as {vr} {value!r}",
                film({keyword: (vr, value)}),
                ("tag", "undecodable", "pixel_budget", "bits"),
            )
        yield f"{keyword} as a sequence", film({keyword: ("SQ", raw.item())}), ("tag", "undecodable")
        yield (
            f"{keyword} as an unknown VR",
            film({keyword: ("ZZ", struct.pack("<H", number))}),
            ("tag", "undecodable", "unreadable"),
        )
    yield (
        "pixel data as text",
        film(extra={raw.PIXEL_DATA: element(raw.PIXEL_DATA, raw.stored().astype("<u2").tobytes(), "UT")}),
        ("ok", "no_pixels", "undecodable", "unreadable", "tag"),
    )
    yield (
        "pixel data as a sequence",
        film(extra={raw.PIXEL_DATA: element(raw.PIXEL_DATA, raw.item(), "SQ")}),
        ("truncated", "no_pixels", "undecodable"),
    )
    for length in (2**31, 2**32 - 2, 10**7):
        pixels = element(raw.PIXEL_DATA, raw.stored().astype("<u2").tobytes(), "OW", length=length)
        yield f"pixel data of {length} bytes", film(extra={raw.PIXEL_DATA: pixels}), ("truncated",)
        private = element(0x00091001, b"x" * 10, "OB", length=length)
        yield f"a private element of {length} bytes", film(extra={0x00091001: private}), ("truncated", "no_pixels")
    open_end = element(raw.PIXEL_DATA, raw.stored().astype("<u2").tobytes(), "OW", length=2**32 - 1)
    yield (
        "native pixel data of undefined length",
        film(extra={raw.PIXEL_DATA: open_end}),
        ("transfer_syntax", "unreadable", "truncated"),
    )
    yield "an odd length", film({"StudyDescription": None}, extra={0x00081030: element(0x00081030, b"abc", "LO")}), KEPT
    yield (
        "a text of undefined length",
        film(extra={0x00081030: element(0x00081030, b"abcd", "UT", length=2**32 - 1)}),
        ("unreadable", "truncated"),
    )
    for tag in (0x00020010, 0x00080018, 0x00280010):
        whole = film()
        at = whole.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF)) + 6
        for length in (0, 0xFFFE, 3):
            lied = whole[:at] + struct.pack("<H", length) + whole[at + 2 :]
            yield (
                f"{tag:08x} of {length} bytes",
                lied,
                (*CUT, "sop_uid", "modality", "tag", "unreadable", "undecodable", "elements"),
            )
    yield "no pixel data", film(extra={raw.PIXEL_DATA: b""}), ("no_pixels",)
    yield "empty pixel data", film(pixels=b""), ("no_pixels", "truncated")
    yield (
        "pixel data twice",
        film(extra={raw.PIXEL_DATA: raw.pixel_element(EXPLICIT) * 2}),
        ("ok", "frames", "unreadable"),
    )
    yield "compressed pixels without a fragment", film(syntax=RLE, pixels=[]), ("truncated",)
    yield "an empty fragment", film(syntax=J2K_LOSSLESS, pixels=[b""]), ("truncated", "undecodable", "frames")
    yield "a fragment too many", film(syntax=J2K_LOSSLESS, pixels=[raw.stream(J2K_LOSSLESS)] * 2), ("frames",)
    yield (
        "a frame in two fragments",
        film(syntax=JPEG_LS, pixels=[raw.stream(JPEG_LS)[:400], raw.stream(JPEG_LS)[400:]]),
        KEPT,
    )
    yield "a million fragments", film(syntax=RLE, pixels=[b""] * 300_000), ("fragments", "frames")
    yield (
        "noise instead of fragments",
        film(syntax=RLE, extra={raw.PIXEL_DATA: element(raw.PIXEL_DATA, noise(3000), "OB", length=2**32 - 1)}),
        ("unreadable", "truncated"),
    )
    for syntax in (RLE, JPEG, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS):
        yield f"noise as {syntax}", film(syntax=syntax, pixels=[noise(3000)]), UNDECODED
        frame = bytearray(raw.stream(syntax))
        frame[len(frame) // 2 : len(frame) // 2 + 400] = bytes(400)
        yield f"a hole in {syntax}", film(syntax=syntax, pixels=[bytes(frame)]), ("ok", "no_contrast", *UNDECODED)


def noise(count: int) -> bytes:
    """Bytes without meaning."""
    return np.random.default_rng(3).integers(0, 256, count).astype(np.uint8).tobytes()


def structures() -> Iterator[Case]:
    """Sequences nested deep, items and elements without number."""
    bad_leaf = (
        element(0x00280010, b"1\\x", "DS")
        + element(0x00080005, b"NOSUCH", "CS")
        + element(0x00404009, b"\xff\xfe", "PN")
    )
    for depth in (4, 8, 12, 16, 60):
        for undefined in (False, True):
            deep = raw.nested(depth, bad_leaf, undefined=undefined)
            yield f"a bad leaf at depth {depth}, undefined {undefined}", film(extra={0x00400275: deep}), KEPT
    for depth in (65, 100, 300, 1000, 5000, 20_000):
        for undefined in (False, True):
            deep = raw.nested(depth, bad_leaf, undefined=undefined)
            yield f"depth {depth}, undefined {undefined}", film(extra={0x00400275: deep}), ("nesting",)
    for syntax in (IMPLICIT, DEFLATED):
        deep = raw.nested(5000, undefined=True, implicit=syntax == IMPLICIT)
        yield f"depth 5000 of {syntax}", film(syntax=syntax, extra={0x00400275: deep}, uid="2.25.400001"), ("nesting",)
    yield "depth 100,000", film(extra={0x00091001: raw.nested(100_000, undefined=True, tag=0x00091001)}), ("nesting",)
    yield (
        "depth 100,000 behind UN",
        film(
            extra={
                0x00091001: raw.sequence(
                    0x00091001, raw.item(raw.nested(1000, undefined=True, implicit=True)), undefined=True, vr="UN"
                )
            }
        ),
        ("nesting", "truncated", "unreadable"),
    )
    yield (
        "depth 300 before the identity",
        film(extra={0x00080006: raw.nested(300, tag=0x00080006, undefined=True)}),
        ("nesting",),
    )
    yield "a million items", film(extra={0x00400275: raw.sequence(0x00400275, raw.item() * 1_000_000)}), ("items",)
    yield (
        "100,000 items of undefined length",
        film(extra={0x00400275: raw.sequence(0x00400275, raw.item(undefined=True) * 100_000, undefined=True)}),
        ("items",),
    )
    yield "40,000 items", film(extra={0x00400275: raw.sequence(0x00400275, raw.item() * 40_000, undefined=True)}), KEPT
    yield "a million elements", film(extra={0x00091001: element(0x00091001, b"", "LO") * 1_000_000}), ("elements",)
    yield (
        "a million elements before the identity",
        film(extra={0x00080006: element(0x00080006, b"", "LO") * 1_000_000}),
        ("elements",),
    )
    yield (
        "half a million elements within",
        film(extra={0x00400275: raw.sequence(0x00400275, raw.item(element(0x00091001, b"", "LO") * 500_000))}),
        ("elements",),
    )
    yield (
        "a sequence without end",
        film(extra={0x00400275: raw.sequence(0x00400275, raw.item(), undefined=True)[:-8]}),
        ("unreadable", "truncated"),
    )
    yield (
        "an item without end",
        film(extra={0x00400275: raw.sequence(0x00400275, raw.item(undefined=True)[:-8], undefined=True)}),
        ("unreadable", "truncated", "no_pixels"),
    )
    yield (
        "an item longer than its sequence",
        film(extra={0x00400275: element(0x00400275, raw.item(bytes(100))[:50], "SQ")}),
        UNREADABLE,
    )
    yield (
        "an element longer than its item",
        film(extra={0x00400275: raw.sequence(0x00400275, raw.item(element(0x00091001, b"ab", "LO", length=5000)))}),
        UNREADABLE,
    )
    yield "a sequence of text", film(extra={0x00400275: element(0x00400275, b"no item is here!", "SQ")}), UNREADABLE
    yield (
        "delimiters astray",
        film(extra={0x00091001: raw.item() + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)}),
        ("ok", "unreadable"),
    )
    yield (
        "the end of an item at the top",
        film(extra={0x00091001: struct.pack("<HHI", 0xFFFE, 0xE00D, 0)}),
        ("unreadable", "no_pixels"),
    )
    yield (
        "elements in the wrong order",
        film(extra={0x00080001: raw.pixel_element(EXPLICIT), raw.PIXEL_DATA: b""}),
        ("ok", "no_sop_uid"),
    )

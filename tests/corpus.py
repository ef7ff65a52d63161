"""Inputs that a hospital's folder may hold and no run may fall over: cut, lying, huge, deep, hostile, or not images at all.

`cases` writes them; each says which outcomes are right. ``ok`` is one only where a film can be answered in spite of it.
"""

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import raw
from PIL import Image as Pillow
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
BUDGET = ("pixel_budget",)
UNREADABLE = ("unreadable", "truncated", "transfer_syntax")
LYING_FRAME = ("size_mismatch", "pixel_budget", "undecodable", "bits", "truncated")
KEPT = ("ok",)


class Bad(NamedTuple):
    """An input and what may become of it.

    Args:
        name: Of the case, in words.
        path: The file.
        expected: Reasons that are right; ``ok`` for an answer.
    """

    name: str
    path: Path
    expected: frozenset[str]


Case = tuple[str, bytes, tuple[str, ...]]  # name (with the suffix, where it is not .dcm), bytes, expected


def cases(folder: Path) -> list[Bad]:
    """Write every input into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for group in GROUPS:
        for number, (name, data, expected) in enumerate(group()):
            suffix = Path(name).suffix if Path(name).suffix in SUFFIXES else ".dcm"
            path = folder / f"{group.__name__}_{number:03d}{suffix}"
            path.write_bytes(data)
            found.append(Bad(f"{group.__name__}: {name}", path, frozenset(expected)))
    return found


SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg", ".txt", ".zip", ".gif", ".bin", ".exe")


def truncated() -> Iterator[Case]:
    """Cut at offsets spread over the whole file, native and compressed."""
    for syntax, count in ((EXPLICIT, 30), (IMPLICIT, 10), (BIG, 8), (DEFLATED, 8)):
        whole = film(syntax=syntax)
        for at in {*np.linspace(0, len(whole) - 1, count).astype(int).tolist(), len(whole) - 2}:
            padding = syntax == DEFLATED and at == len(whole) - 1
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


def bombs() -> Iterator[Case]:
    """Small files that ask for very much."""
    header = film(syntax=EXPLICIT, named=DEFLATED)
    begin = header.index(b"\x08\0\x16\0UI")
    body = header[begin : header.index(b"\xe0\x7f\x10\0OW")]
    zeros = element(raw.PIXEL_DATA, b"", "OW", length=2**30)
    yield "deflated: 1 GiB of pixels", header[:begin] + deflate_bomb(body + zeros, 1024), ("inflate_budget",)
    yield "deflated: 1 GiB of nothing", header[:begin] + deflate_bomb(b"", 1024), ("inflate_budget", "transfer_syntax")
    private = element(0x00091001, b"", "UN") * 60_000
    yield (
        "deflated: elements",
        header[:begin] + deflate_bomb(body, 1, private * 5),
        ("elements", "inflate_budget", "truncated"),
    )
    huge = {"Rows": 65000, "Columns": 65000}
    yield "native 65000 squared", film(huge), ("pixel_budget", "truncated")
    for syntax in (RLE, JPEG, raw.JPEG_12, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS):
        yield f"{syntax}: header 65000 squared", film(huge, syntax), BUDGET
        yield (
            f"{syntax}: header 14000 squared",
            film({"Rows": 14000, "Columns": 14000}, syntax),
            (*BUDGET, *LYING_FRAME),
        )
        yield f"{syntax}: header small", film({"Rows": 8, "Columns": 8}, syntax), (*LYING_FRAME, "frames")
    for syntax in (JPEG, raw.JPEG_12, JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS):
        for size in (65_000, 20_000):
            frame = claiming(syntax, size, size)
            yield f"{syntax}: codestream claims {size} squared", film({}, syntax, [frame]), LYING_FRAME
            both = film({"Rows": size, "Columns": size}, syntax, [frame])
            yield f"{syntax}: codestream and header claim {size} squared", both, (*BUDGET, *LYING_FRAME)
        frame = claiming(syntax, 4000, 4000)
        both = film({"Rows": 4000, "Columns": 4000}, syntax, [frame])
        yield f"{syntax}: both claim 4000 squared", both, (*LYING_FRAME, "truncated", "no_contrast")
    black = bytes(imagecodecs.jpeg2k_encode(np.zeros((4096, 4096), np.uint16), codecformat="j2k", reversible=True))
    yield (
        "4096 squared black in JPEG 2000",
        film({"Rows": 4096, "Columns": 4096}, J2K_LOSSLESS, [black]),
        ("no_contrast", "pixel_budget"),
    )
    runs = struct.pack("<16I", 2, 64, 64 + 2**14, *[0] * 13) + b"\x81\0" * 2**14
    yield "RLE of runs", film({"Rows": 1448, "Columns": 1448}, RLE, [runs]), ("no_contrast", "truncated", "undecodable")
    yield (
        "RLE of no operations",
        film({}, RLE, [struct.pack("<16I", 2, 64, 128, *[0] * 13) + b"\x80" * 9000]),
        UNDECODED,
    )
    yield "RLE of 15 segments", film({}, RLE, [struct.pack("<16I", 15, *range(64, 79)) + bytes(100)]), UNDECODED
    yield (
        "RLE with offsets far behind",
        film({}, RLE, [struct.pack("<16I", 2, 64, 2**31, *[0] * 13) + bytes(999)]),
        UNDECODED,
    )


UNDECODED = ("undecodable", "truncated", "size_mismatch")


def deflate_bomb(begin: bytes, mib: int, end: bytes = b"") -> bytes:
    """A deflated stream of a beginning, so many MiB of zeros and an end."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = deflate.compress(begin) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**20)) + deflate.flush(
        zlib.Z_FULL_FLUSH
    )  # stands for itself, so it may be repeated
    return first + block * mib + deflate.compress(end) + deflate.flush()


def claiming(syntax: str, rows: int, columns: int) -> bytes:
    """The film's compressed frame with another size in its header."""
    frame = raw.stream(syntax)
    if syntax == J2K_LOSSLESS:
        at = frame.index(b"\xff\x51") + 6
        sizes = struct.pack(">8I", columns, rows, 0, 0, columns, rows, 0, 0)
        return frame[:at] + sizes + frame[at + 32 :]
    marker = {JPEG: 0xC0, raw.JPEG_12: 0xC1, JPEG_LOSSLESS: 0xC3, JPEG_LS: 0xF7}[syntax]
    at = frame.index(bytes((0xFF, marker))) + 5
    return frame[:at] + struct.pack(">HH", rows, columns) + frame[at + 4 :]


def sizes() -> Iterator[Case]:
    """Headers that lie about size, frames, bits, samples and colour."""
    for rows, columns in (
        (0, COLUMNS),
        (ROWS, 0),
        (ROWS + 1, COLUMNS),
        (65535, COLUMNS),
        (ROWS, COLUMNS + 1),
        (65535, 65535),
    ):
        yield f"{rows} x {columns}", film({"Rows": rows, "Columns": columns}), ("tag", "truncated", "pixel_budget")
    for rows, columns in ((ROWS // 2, COLUMNS), (1, COLUMNS), (ROWS, COLUMNS - 1), (ROWS - 1, COLUMNS), (1, 1)):
        yield (
            f"{rows} x {columns}",
            film({"Rows": rows, "Columns": columns}),
            ("frames", "size_mismatch", "no_contrast"),
        )
    for syntax, keyword in itertools.product((RLE, JPEG, JPEG_LS, J2K_LOSSLESS), ("Rows", "Columns")):
        changes = {keyword: (ROWS if keyword == "Rows" else COLUMNS) - 1}
        yield f"{syntax}: {changes}", film(changes, syntax), (*LYING_FRAME, "truncated")
    for frames in (0, -5, 2, 2**31 - 1, 10**6, "1.5", "abc", "1\\2", "", "9" * 12, b"1\0\0\0"):
        expected = KEPT if frames == "" or isinstance(frames, bytes) else ("frames", "tag", "truncated", "pixel_budget")
        yield f"{frames!r} frames", film({"NumberOfFrames": frames}), (*expected, "frames")
        yield f"{frames!r} compressed frames", film({"NumberOfFrames": frames}, RLE), (*expected, "frames")
    for keyword, values in {
        "BitsAllocated": (0, 1, 7, 12, 24, 32, 64, 255, 65535),
        "BitsStored": (0, 17, 32, 65535),
        "SamplesPerPixel": (0, 2, 3, 4, 255),
    }.items():
        for value in values:
            reasons = (
                "bits",
                "tag",
                "undecodable",
                "truncated",
                "photometric",
                "pixel_budget",
                "size_mismatch",
                "frames",
            )
            yield f"{keyword} {value}", film({keyword: value}), reasons
    for syntax in (RLE, JPEG, JPEG_LS, J2K_LOSSLESS):
        yield (
            f"{syntax}: 32 bits",
            film({"BitsAllocated": 32, "BitsStored": 32}, syntax),
            ("bits", "size_mismatch", "undecodable"),
        )
        yield (
            f"{syntax}: 3 samples",
            film({"SamplesPerPixel": 3, "PlanarConfiguration": 0}, syntax),
            ("undecodable", "photometric", "size_mismatch"),
        )
        yield f"{syntax}: no bits", film({"BitsAllocated": None}, syntax), ("tag", "undecodable")
    yield "8 bits stored of values of 12", film({"BitsStored": 8, "HighBit": 7}), ("ok", "bits", "undecodable")
    yield "high bit 15", film({"HighBit": 15}), ("ok", "bits")
    for value in (2, 7, 65535):
        yield f"pixel representation {value}", film({"PixelRepresentation": value}), ("ok", "tag")
    for photometric in (
        "RGB",
        "PALETTE COLOR",
        "YBR_FULL",
        "YBR_FULL_422",
        "XENON",
        "",
        "MONOCHROME3",
        "MONOCHROME2\\X",
        "\0",
    ):
        reasons = ("photometric", "tag", "undecodable", "truncated")
        yield f"photometric {photometric!r}", film({"PhotometricInterpretation": photometric}), reasons
    for keyword in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation", "PhotometricInterpretation"):
        yield f"no {keyword}", film({keyword: None}), ("tag", "undecodable", "photometric")
    for keyword in ("SamplesPerPixel", "BitsStored", "HighBit"):
        yield f"no {keyword}", film({keyword: None}), ("ok", "tag", "undecodable")


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
        DX_CLASS,
        "JPEG",
        "../..",
    ):
        yield f"named {named!r}", film(named=named), ("transfer_syntax", "no_decoder")


DX_CLASS = raw.DX


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


def values() -> Iterator[Case]:
    """Spacing, rescale, windows and look-up tables that cannot be used."""
    spacings = (
        b"0\\0",
        b"-0.5\\0.5",
        b"0.5",
        b"abc",
        b"abc\\0.5",
        b"nan\\inf",
        b"0,5\\0,5",
        b"1\\1\\1",
        b"",
        b"1e999\\1",
        b"\\",
        b"1e-300\\1e-300",
    )
    for spacing in spacings:
        yield f"no_spacing {spacing!r}", film({"PixelSpacing": ("DS", spacing + b" " * (len(spacing) % 2))}), KEPT
    for slope, intercept in (
        (b"0", b"0"),
        (b"1e308", b"0"),
        (b"nan", b"0"),
        (b"1", b"inf"),
        (b"one", b"0"),
        (b"1\\2", b"0"),
        (b"1", b"-1e300"),
        (b"1,5", b"0"),
        (b"0x10", b"0"),
    ):
        changes = {"RescaleSlope": ("DS", slope.ljust(4)), "RescaleIntercept": ("DS", intercept.ljust(6))}
        yield f"rescale {slope!r} {intercept!r}", film(changes), ("rescale", "tag", "undecodable", "no_contrast")
    for centre, width in (
        (b"100", b"0"),
        (b"100", b"-5"),
        (b"nan", b"100"),
        (b"inf", b"100"),
        (b"", b"100"),
        (b"2000", b""),
    ):
        changes = {"WindowCenter": ("DS", centre.ljust(4)), "WindowWidth": ("DS", width.ljust(4))}
        yield f"window {centre!r} {width!r}", film(changes), ("ok", "tag")
    for centre, width in ((b"wide", b"open"), (b"1,5", b"2")):
        changes = {"WindowCenter": ("DS", centre.ljust(4)), "WindowWidth": ("DS", width.ljust(4))}
        yield f"window {centre!r} {width!r}", film(changes), ("ok", "tag", "undecodable")
    window = {"WindowCenter": "2000", "WindowWidth": "3000"}
    yield "a VOI function that is none", film({**window, "VOILUTFunction": "CUBIC"}), ("voi_function",)
    yield "a window far from every value", film({"WindowCenter": "60000", "WindowWidth": "2"}), ("no_contrast",)
    for name, descriptor, table in (
        ("short", (4096, 0, 12), 100), ("none", (0, 0, 16), 0), ("of 99 bits", (100, 0, 99), 100),
        ("of 0 bits", (100, 0, 0), 100),
        ("of 8 bits holding 12", (4096, 0, 8), 4096), ("with one number", (4096,), 4096), ("with two numbers", (4096, 0), 4096),
    ):  # fmt: skip
        for tag in (0x00283000, 0x00283010):
            content = element(0x00283002, struct.pack(f"<{len(descriptor)}H", *descriptor), "US")
            content += element(0x00283006, np.arange(table).astype("<u2").tobytes(), "OW")
            yield (
                f"a LUT {name} at {tag:08x}",
                film(extra={tag: raw.sequence(tag, raw.item(content))}),
                ("lut", "tag", "undecodable"),
            )
    odd = ("lut", "tag", "undecodable")
    for tag in (0x00283000, 0x00283010):
        yield f"a LUT without table at {tag:08x}", film(extra={tag: raw.sequence(tag, raw.item())}), odd
        yield f"a LUT sequence that is empty at {tag:08x}", film(extra={tag: raw.sequence(tag)}), KEPT
        yield f"a LUT that is text at {tag:08x}", film(extra={tag: element(tag, b"text", "LO")}), (*odd, "ok")
    grey = np.full((ROWS, COLUMNS), 1000, "<u2")
    yield "one grey value", film(pixels=grey.tobytes()), ("no_contrast",)
    yield "one grey value, compressed", film({"Rows": 8, "Columns": 8}, RLE, [raw.rle(grey[:8, :8])]), ("no_contrast",)
    yield (
        "all padding",
        film({"PixelPaddingValue": ("US", struct.pack("<H", 1000))}, pixels=grey.tobytes()),
        ("no_contrast",),
    )
    yield "padding that is text", film({"PixelPaddingValue": ("LO", b"none")}), ("ok", "tag", "undecodable")
    for value in (np.nan, np.inf):
        floats = raw.stored().astype("<f4")
        floats[3, 4] = value
        extra = {0x7FE00008: element(0x7FE00008, floats.tobytes(), "OF"), raw.PIXEL_DATA: b""}
        yield (
            f"a float film with {value}",
            film({"BitsAllocated": 32}, extra=extra),
            ("no_contrast", "bits", "tag", "no_pixels", "undecodable", "not_finite"),
        )


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
        yield f"depth 5000 of {syntax}", film(syntax=syntax, extra={0x00400275: deep}), ("nesting",)
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


def texts() -> Iterator[Case]:
    """Character sets, hostile names and UIDs."""
    sets = (
        b"ISO_IR 192",
        b"ISO_IR 100",
        b"\\ISO 2022 IR 87",
        b"GB18030",
        b"NO SUCH SET",
        b"\\\\\\",
        b"ISO_IR 192\\ISO 2022 IR 87",
        b"",
    )
    for charset in sets:
        name = ("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\xff\xfe\x80 ")
        yield (
            f"character set {charset!r}",
            film({"SpecificCharacterSet": ("CS", charset + b" " * (len(charset) % 2)), "PatientName": name}),
            KEPT,
        )
    names = (
        '=HYPERLINK("http://x","y")',
        "+1+1",
        "@SUM(A1)",
        "<script>alert(1)</script>",
        "a\r\nInjected: row",
        "\u202egnp.evil",
        "A" * 60_000,
        "\0" * 50,
        "../../etc/passwd",
        "%s%n%x",
        "'; DROP TABLE cases; --",
    )
    for name in names:
        yield (
            f"patient {name[:20]!r}",
            film(
                {
                    "PatientName": ("UT", name.encode()),
                    "PatientID": ("UT", name.encode()),
                    "BodyPartExamined": ("UT", name.encode()),
                }
            ),
            KEPT,
        )
    uids = (
        b"../../../etc/passwd",
        b"1.2\0.3",
        b"1." * 2500,
        b"=1+1",
        b"1..2",
        b".1.2",
        b"1.2.",
        b"1.2\\1.3",
        b"1.2 3",
        b"9" * 65,
        "1.\u0662".encode(),
        b"-1.2",
        b"SMITH^JOHN",
        b"\n1.2\n",
    )
    for uid in uids:
        yield f"SOP Instance UID {uid[:20]!r}", film({"SOPInstanceUID": ("UT", uid)}), ("sop_uid",)
        yield (
            f"Study and Series UID {uid[:20]!r}",
            film({"StudyInstanceUID": ("UT", uid), "SeriesInstanceUID": ("UT", uid)}, uid=f"2.25.77{len(uid)}"),
            KEPT,
        )
    for uid in (b"", b"\0\0", b"    ", None):
        yield f"SOP Instance UID {uid!r}", film({"SOPInstanceUID": uid}), ("no_sop_uid",)
    yield "nothing but a preamble", bytes(128) + b"DICM", ("transfer_syntax", "truncated")
    yield "an empty data set", raw.wrap(b"", EXPLICIT), ("truncated", "no_sop_uid")
    yield "a data set of zeros", raw.wrap(bytes(5000), EXPLICIT), ("transfer_syntax", "no_sop_uid")
    yield (
        "a data set of noise",
        raw.wrap(noise(5000), EXPLICIT),
        ("transfer_syntax", "unreadable", "truncated", "no_sop_uid"),
    )
    yield "a program before the film", film(preamble=b"MZ\x90\0".ljust(128, b"\0")), KEPT
    yield "an ELF before the film", film(preamble=b"\x7fELF\2\1\1".ljust(128, b"\0")), KEPT
    yield "a TIFF before the film", film(preamble=b"II*\0\x08\0\0\0".ljust(128, b"\0")), KEPT
    yield "a script before the film", film(preamble=b"#!/bin/sh\nrm -rf /\n".ljust(128, b"\0")), KEPT


def others() -> Iterator[Case]:
    """What is no image, or not of this kind."""
    kinds = {
        "SR": "88.33", "DOC": "104.1", "RTSTRUCT": "481.3", "RTPLAN": "481.5", "PR": "11.1", "KO": "88.59", "SEG": "66.4",
        "ECG": "9.1.1", "REG": "66.1", "PLAN": "200.8", "CT": "2", "MR": "4", "US": "6.1", "SM": "77.1.6", "OT": "7",
    }  # fmt: skip
    for modality, end in kinds.items():
        changes = {"Modality": modality, "SOPClassUID": f"1.2.840.10008.5.1.4.1.1.{end}"}
        yield modality, film(changes, extra={raw.PIXEL_DATA: b""}), ("modality", "sop_class")
    for modality in ("", "dx", "DX\\CR", "XRAY", "SMITH", "D X", "\0DX"):
        yield (
            f"modality {modality!r}",
            film({"Modality": modality}),
            ("modality", "ok") if "\0" in modality else ("modality",),
        )
    directory = raw.wrap(
        raw.sequence(0x00041220, raw.item(element(0x00041500, b"..\\..\\etc\\passwd ", "CS"))), EXPLICIT
    )
    yield (
        "a DICOMDIR",
        directory.replace(b"\x1c\x001.2.840.10008.5.1.4.1.1.1.1\0", b"\x1c\x001.2.840.10008.1.3.10" + bytes(8)),
        ("dicomdir",),
    )
    yield (
        "a report that calls itself a film",
        film({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, extra={raw.PIXEL_DATA: b""}),
        ("no_pixels", "sop_class"),
    )
    yield "nothing.dcm", b"", ("not_dicom",)
    yield "one byte.dcm", b"\0", ("not_dicom",)
    yield "text.dcm", b"Dear colleague, thank you for referring " * 50, ("not_dicom",)
    yield "text.txt", b"Dear colleague, thank you for referring " * 50, ("not_an_image",)
    yield "nothing.txt", b"", ("not_an_image",)
    yield "a program.exe", b"MZ" + noise(2000), ("not_an_image",)
    yield "a picture of another kind.gif", b"GIF89a" + noise(200), ("not_an_image",)
    yield "noise.bin", noise(4000), ("not_an_image",)
    yield "a zip named a film.dcm", zipped(), ("not_dicom",)
    yield "a film without preamble and meta.dcm", film()[132 + 150 :], ("not_dicom", "transfer_syntax")
    yield "a film without a suffix.bin", film(uid="2.25.4711"), KEPT


def zipped() -> bytes:
    """A zip of one text."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return file.getvalue()


def pictures() -> Iterator[Case]:
    """PNG and JPEG."""
    grey = Pillow.fromarray(raw.stored(8).astype(np.uint8))
    png, jpg = saved(grey, "PNG"), saved(grey, "JPEG")
    for part in (0.02, 0.3, 0.6, 0.95):
        yield f"{part:.0%} of it.png", png[: int(len(png) * part)], ("undecodable",)
        yield f"{part:.0%} of it.jpg", jpg[: int(len(jpg) * part)], ("undecodable",)
    for name, rows, columns in (
        ("60000 squared.png", 60_000, 60_000),
        ("a long strip.png", 2**31 - 1, 1),
        ("no rows.png", 0, 64),
    ):
        header = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
        yield (
            name,
            png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:],
            ("undecodable", "pixel_budget"),
        )
    at = jpg.index(b"\xff\xc0") + 5
    yield (
        "65500 squared.jpg",
        jpg[:at] + struct.pack(">HH", 65500, 65500) + jpg[at + 4 :],
        ("undecodable", "pixel_budget"),
    )
    for size, expected in ((5000, ("no_contrast",)), (30_000, ("undecodable", "pixel_budget"))):
        yield f"{size} squared, all black.png", black(size), expected
    text = b"zTXtbomb\0\0" + zlib.compress(bytes(64 * 2**20), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    yield "a text that inflates.png", png[:33] + chunk + png[33:], ("ok", "undecodable")
    yield "a wrong checksum.png", png[:60] + b"\xff\xff" + png[62:], ("undecodable",)
    yield "nothing.png", b"", ("undecodable", "not_an_image")
    yield "nothing.jpg", b"", ("undecodable", "not_an_image")
    yield "text.jpeg", b"Dear colleague", ("undecodable", "not_an_image")
    yield "a film.png", film(), ("undecodable",)
    yield "a GIF.png", saved(grey, "GIF"), ("undecodable",)
    yield "a TIFF.png", saved(grey, "TIFF"), ("undecodable",)
    yield "a JPEG.png", jpg, KEPT
    yield "a PNG.jpg", png, KEPT
    yield "colour.png", saved(grey.convert("RGB"), "PNG"), KEPT
    yield "with transparency.png", saved(grey.convert("RGBA"), "PNG"), KEPT
    yield "palette.png", saved(grey.convert("P"), "PNG"), KEPT
    yield "16 bits.png", saved(Pillow.fromarray(raw.stored(16).astype(np.uint16)), "PNG"), KEPT
    yield "four colours.jpg", saved(grey.convert("CMYK"), "JPEG"), ("ok", "undecodable")
    yield "one grey value.png", saved(Pillow.new("L", (64, 48), 77), "PNG"), ("no_contrast",)
    yield "one pixel.png", saved(Pillow.new("L", (1, 1), 77), "PNG"), ("no_contrast",)
    moving = io.BytesIO()
    grey.save(moving, "PNG", save_all=True, append_images=[Pillow.new("L", grey.size, shade) for shade in range(30)])
    yield "moving.png", moving.getvalue(), ("ok", "frames")
    yield "a film named.jpg", film(), ("undecodable",)


def black(size: int) -> bytes:
    """A square PNG of one bit without anything in it."""
    rows = zlib.compress(bytes(size * (1 + -(-size // 8))), 1)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(picture: Pillow.Image, kind: str) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


GROUPS = (truncated, bombs, sizes, syntaxes, representations, values, structures, texts, others, pictures)

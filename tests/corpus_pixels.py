"""Bad inputs by their pixels: bombs, lying sizes, values that cannot be used."""

import itertools
import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import raw
from corpus_structure import KEPT, UNDECODED, Case
from raw import (
    COLUMNS,
    DEFLATED,
    EXPLICIT,
    J2K_LOSSLESS,
    JPEG,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    ROWS,
    element,
    film,
)

BUDGET = ("pixel_budget",)
LYING_FRAME = ("size_mismatch", "pixel_budget", "undecodable", "bits", "truncated")


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

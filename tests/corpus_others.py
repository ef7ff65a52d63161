"""Bad inputs by what they say and are: hostile texts, no films, pictures."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import raw
from corpus_structure import KEPT, Case, noise
from PIL import Image as Pillow
from raw import EXPLICIT, element, film


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
    for number, uid in enumerate(uids):
        yield f"SOP Instance UID {uid[:20]!r}", film({"SOPInstanceUID": ("UT", uid)}), ("sop_uid",)
        yield (
            f"Study and Series UID {uid[:20]!r}",
            film({"StudyInstanceUID": ("UT", uid), "SeriesInstanceUID": ("UT", uid)}, uid=f"2.25.77{number}"),
            (*KEPT, "no_reference"),
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

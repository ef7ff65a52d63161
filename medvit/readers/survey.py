"""What a DICOM file holds, measured before any library takes it apart: transfer syntax, header, structure, pixel data.

Source: DICOM PS3.10 section 7 (file format), PS3.5 section 9 (UIDs), PS3.3 C.7.3.1.1.1 (modalities).
"""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydicom.datadict import tag_for_keyword
from pydicom.uid import AllTransferSyntaxes

from medvit import budgets
from medvit.case import DICOM_SUFFIXES, HEADER, UID, WHOLE_SLIDE
from medvit.errors import Rejected, Skipped
from medvit.readers.elements import BIG_ENDIAN, EXPLICIT, IMPLICIT, WINDOW, Inflated, Pixels, Walk

MEDIA_CLASS, TRANSFER_SYNTAX = META = 0x00020002, 0x00020010
DICOMDIR = b"1.2.840.10008.1.3.10"
IMPLICIT_SYNTAX, DEFLATED_SYNTAX, BIG_ENDIAN_SYNTAX = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
NATIVE_SYNTAXES = frozenset((IMPLICIT_SYNTAX, "1.2.840.10008.1.2.1", DEFLATED_SYNTAX, BIG_ENDIAN_SYNTAX))
KNOWN_SYNTAXES = frozenset(str(uid) for uid in AllTransferSyntaxes)
JPEG_FAMILY = "1.2.840.10008.1.2.4."
END_OF_IMAGE = b"\xff\xd9"
FACTS = {**HEADER, "instance": "InstanceNumber", "rows": "Rows", "columns": "Columns"}
TAGS = {name: tag_for_keyword(keyword) or 0 for name, keyword in FACTS.items()}
# Elements whose words may stand in file names; see `identifying_words`.
IDENTIFYING = (
    0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00100010, 0x00100020, 0x00100030,
    0x00101000, 0x00101001, 0x00101005, 0x00101060,
)  # fmt: skip
WANTED = frozenset((*TAGS.values(), *IDENTIFYING))
BEHIND_HEADER = 0x00280012  # first tag that no fact needs
CODE = re.compile(r"[A-Z0-9_ ]{1,16}")  # PS3.5 section 6.2, CS
WHOLE = re.compile(r"[+-]?[0-9]{1,11}")  # IS
WORD = re.compile(r"[\W_]+")
CUT = 64  # characters of a fact
# PS3.3 C.7.3.1.1.1, the retired ones too.
MODALITIES = frozenset(
    (
        "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS", "DOC",
        "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS",
        "KER", "KO", "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV",
        "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG",
        "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG",
        "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG", "US", "VA", "XA", "XAPROTOCOL", "XC", "AS",
        "CD", "CF", "CP", "CS", "DD", "DF", "DM", "DS", "EC", "FA", "FS", "LP", "MA", "MS", "OPR", "ST", "VF",
    )
)  # fmt: skip


class Survey(NamedTuple):
    """What a DICOM file holds.

    Args:
        syntax: Its transfer syntax, a standard one.
        big_endian: Whether the numbers in ``values`` are.
        values: The bytes of each wanted element of the top level, cut at `medvit.readers.elements.VALUE_BYTES`.
        elements: Number of data elements, nested ones too.
        items: Number of sequence items.
        depth: Deepest nesting of sequences.
        pixels: Its pixel data; None when there is none or the survey ended before.
    """

    syntax: str
    big_endian: bool
    values: dict[int, bytes]
    elements: int
    items: int
    depth: int
    pixels: Pixels | None


@contextmanager
def regular_file(path: Path, follow: bool = False, slide: bool = False) -> Iterator[int]:
    """A descriptor of a regular file, opened without waiting for a pipe and, unless told, without following a link.

    Raises:
        Rejected: For a link, folder, device or pipe, and for a file larger than `budgets.FILE_BYTES`, or than
            `budgets.SLIDE_BYTES` where it may be a slide.
    """
    most = budgets.SLIDE_BYTES if slide else budgets.FILE_BYTES
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise Rejected("not_a_file", "It is a link or socket. Give a regular file.") from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Rejected("not_a_file", "It is a folder, pipe or device. Give a regular file.")
        if found.st_size > most:
            raise Rejected("file_budget", f"It has {found.st_size} bytes; {most} are allowed.")
        yield descriptor
    finally:
        os.close(descriptor)


def survey(path: Path, wanted: Collection[int] = (), until: int | None = None) -> Survey:
    """Measure a DICOM file.

    Args:
        path: A regular file; links are not followed.
        wanted: Tags of the top level whose bytes are kept.
        until: First tag of the top level that is not needed; None to measure everything, sequences and pixel data too. A
            file of which only the beginning is needed may be as large as a slide.

    Raises:
        Rejected: When it is no DICOM file, of a transfer syntax that is unknown or not the true one, truncated, over a budget
            or its structure cannot be followed.
    """
    with regular_file(path, slide=until is not None) as descriptor:
        return survey_file(descriptor, wanted, until)


def survey_file(descriptor: int, wanted: Collection[int] = (), until: int | None = None) -> Survey:
    """`survey` of an open file."""
    head = os.pread(descriptor, WINDOW, 0)
    begin = begins(head)
    if begin is None:
        raise Rejected("not_dicom", "It does not begin as a DICOM file (PS3.10 preamble and file meta information).")
    size = os.fstat(descriptor).st_size

    def fetch(position: int, count: int) -> bytes:
        return os.pread(descriptor, count, position)

    meta = Walk(fetch, size, EXPLICIT, META, 0x00030000, 0x00020000)
    start = meta.run(begin, head)
    syntax = meta.values.get(TRANSFER_SYNTAX, b"").strip(b"\0 ").decode("ascii", "replace")
    if syntax not in KNOWN_SYNTAXES:
        said = "an unknown or private one" if syntax else "none"
        raise Rejected("transfer_syntax", f"Its file meta information names {said} as transfer syntax.")
    layout = {IMPLICIT_SYNTAX: IMPLICIT, BIG_ENDIAN_SYNTAX: BIG_ENDIAN}.get(syntax, EXPLICIT)
    if syntax == DEFLATED_SYNTAX:
        inflated = Inflated(fetch, start)
        fetch, start, head = inflated.fetch, 0, inflated.fetch(0, WINDOW)
        size = inflated.size() if until is None else budgets.INFLATED_BYTES
    walk = Walk(fetch, size, layout, wanted, until)
    walk.check_layout(start, head)
    walk.run(start, head)
    if walk.pixels:
        _check_pixels(walk.pixels, syntax, fetch(walk.pixels.end - 3, 3))
    values = {**meta.values, **walk.values}
    return Survey(syntax, layout is BIG_ENDIAN, values, walk.elements, walk.items, walk.depth, walk.pixels)


def begins(head: bytes) -> int | None:
    """Where the file meta information of a file with these first bytes begins; None when it is no DICOM file.

    Some writers leave the preamble out; without file meta information either nobody knows the transfer syntax.
    """
    if head[128:132] == b"DICM":
        return 132
    return 0 if head[:2] == b"\2\0" and head[4:6] in (b"UL", b"OB", b"UI") else None


def _check_pixels(pixels: Pixels, syntax: str, tail: bytes) -> None:
    """Refuse pixel data that is not written as its transfer syntax says or whose end is missing."""
    encapsulated = pixels.length is None
    if encapsulated == (syntax in NATIVE_SYNTAXES):
        said = "uncompressed and its pixels are not" if encapsulated else "compressed and its pixels are not"
        raise Rejected("transfer_syntax", f"Its transfer syntax is {said}.")
    if encapsulated and len(pixels.fragments) < 2:
        raise Rejected("truncated", "It ends before its compressed pixels.")
    if not pixels.closed and syntax.startswith(JPEG_FAMILY) and END_OF_IMAGE not in tail:
        raise Rejected("truncated", "It ends within its compressed pixels.")


def read_header(path: Path) -> dict[str, str]:
    """The facts that a case keeps of a DICOM file, see `FACTS`, and its ``transfer_syntax``.

    A value that is not written as the standard demands is "" (a modality "unknown"), since it could hold anything, a name too.

    Raises:
        Skipped: For another kind of file.
        Rejected: For a DICOM file whose header cannot be read or names no instance.
    """
    return read_facts(path)[0]


def read_facts(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """`read_header`, and the words of the header that identify the patient and must be told to nobody."""
    with regular_file(path, slide=True) as descriptor:
        size = os.fstat(descriptor).st_size
        try:
            found = survey_file(descriptor, WANTED, BEHIND_HEADER)
        except Rejected as refusal:
            if refusal.reason != "not_dicom":
                raise
            raise _no_dicom(path) from None
    if found.values.get(MEDIA_CLASS, b"").strip(b"\0 ") == DICOMDIR:
        raise Skipped("dicomdir", "It is a directory of other files; those are read themselves.")
    header = {name: _text(found.values.get(tag, b"")) for name, tag in TAGS.items()}
    if size > budgets.FILE_BYTES and header["sop_class"] != WHOLE_SLIDE:
        raise Rejected("file_budget", f"It has {size} bytes and is no whole slide; {budgets.FILE_BYTES} are allowed.")
    if not header["sop_uid"]:
        raise Rejected("no_sop_uid", "Its header holds no SOP Instance UID: it is empty, damaged or no instance.")
    if not UID.fullmatch(header["sop_uid"]):
        raise Rejected("sop_uid", "Its SOP Instance UID is none: digits and dots, 64 at most, are allowed.")
    for name in ("study_uid", "series_uid", "sop_class"):
        header[name] = header[name] if UID.fullmatch(header[name]) else ""
    for name in ("body_part", "view"):
        header[name] = header[name] if CODE.fullmatch(header[name]) else ""
    if header["modality"] not in MODALITIES:  # "" is that of pictures
        header["modality"] = "unknown"
    header["instance"] = header["instance"] if WHOLE.fullmatch(header["instance"]) else ""
    for name in ("rows", "columns"):
        value = found.values.get(TAGS[name], b"")
        header[name] = str(int.from_bytes(value, "big" if found.big_endian else "little")) if len(value) == 2 else ""
    words = {word for tag in IDENTIFYING for word in _words(found.values.get(tag, b""))}
    return {**header, "transfer_syntax": found.syntax}, tuple(sorted(words))


def _no_dicom(path: Path) -> Rejected | Skipped:
    if path.suffix.lower() not in DICOM_SUFFIXES:
        return Skipped("not_an_image", "It is neither DICOM nor PNG nor JPEG nor NIfTI nor a slide.")
    return Rejected(
        "not_dicom",
        "It is named like a DICOM file but does not begin as one (PS3.10 preamble and file meta information), so its "
        "transfer syntax is unknown. Send it through a PACS or rewrite it, for example with `dcmconv -f FILE NEW`.",
    )


def _text(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace")[: CUT + 1]  # one more, so that what is too long is seen


def _words(value: bytes) -> list[str]:
    """Words of three letters or digits and more."""
    if not value:
        return []
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return [word for word in WORD.split(text) if len(word) > 2]

"""Zips taken apart under budgets: members get names of our own, and sizes count as unpacked, not as declared.

Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3 and 4.4.
"""

import os
import stat
import struct
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, EINVAL, EIO, ENOSPC, EROFS
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medvit.budgets import FILE_BYTES, MIB, ZIP_BYTES, ZIP_MEMBERS, ZIP_RATIO
from medvit.case import BITMAP, CLIPS, DICOM_SUFFIXES, NIFTI, PICTURES, SLIDES
from medvit.errors import Halted, Rejected
from medvit.readers.survey import regular_file

SUFFIX = ".zip"
MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of one that holds something, of an empty one
KEPT_SUFFIXES = frozenset((*PICTURES, BITMAP, *DICOM_SUFFIXES, *SLIDES, *CLIPS, SUFFIX))  # by which readers know a file
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BLOCK = 1 * MIB
NAME = 1_000  # characters of a member's name
SMALL = 1 * MIB  # what is unpacked to less is no bomb
INDEX_BYTES = ZIP_MEMBERS * (46 + 4 * NAME)  # central directory
END = struct.Struct("<4s4H2LH")  # end of central directory
PATIENCE_S = 5.0  # of one call
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError)
DISK = (ENOSPC, EDQUOT, EIO, EROFS)  # errors that the next zip would meet too


class Member(NamedTuple):
    """One file of a zip.

    Args:
        name: As the zip has it; nothing to open.
        file: Where it was unpacked to; "" for a link.
        size: In bytes.
    """

    name: str
    file: str
    size: int


class Progress(NamedTuple):
    """How far a zip is unpacked: members and bytes, and whether that is all."""

    members: int = 0
    size: int = 0
    done: bool = False


START = Progress()


def unpack(archive: Path, folder: Path, so_far: Progress = START) -> tuple[list[Member], Progress]:
    """Unpack the next members of a zip, for some seconds.

    Args:
        archive: The zip.
        folder: Where to; it is made.
        so_far: What the call before returned.

    Returns:
        Members, folders left out, and how far it came.

    Raises:
        Rejected: ``zip_bomb``, ``zip_encrypted``, ``zip_method``, ``zip_empty`` or ``zip_damaged``.
        Halted: When the disk refuses.
    """
    stop = time.monotonic() + PATIENCE_S
    with _opened(archive) as (opened, packed):
        folder.mkdir(parents=True, exist_ok=True)
        found: list[Member] = []
        number, size, _ = so_far
        members = [member for member in opened.infolist() if not member.is_dir()]
        _judge(members, packed)
        for member in members[number:]:
            if time.monotonic() > stop:
                return found, Progress(number, size)
            file = folder / f"{number:04d}{_suffix(member.filename)}"
            if stat.S_ISLNK(member.external_attr >> 16):
                found.append(Member(member.filename, "", 0))
            else:
                written = _unpack(opened, member, file, _allowed(packed) - size)
                size += written
                found.append(Member(member.filename, str(file), written))
            number += 1
    return found, Progress(number, size, True)


def unpack_member(archive: Path, is_wanted: Callable[[str], bool], stem: Path) -> Path:
    """Unpack one member of a zip, which is judged as a whole as `unpack` judges it.

    Args:
        archive: The zip.
        is_wanted: Whether a member of that name is the one.
        stem: Where to, without the ending by which readers know a file; its folder must be there.

    Returns:
        The file, which has appeared whole.

    Raises:
        Rejected: As `unpack` does, and ``missing`` where no member is wanted.
        Halted: When the disk refuses.
    """
    with _opened(archive) as (opened, packed):
        members = [member for member in opened.infolist() if not member.is_dir()]
        _judge(members, packed)
        for member in members:
            if is_wanted(member.filename) and not stat.S_ISLNK(member.external_attr >> 16):
                part = stem.with_name(f".{stem.name}.{os.getpid()}.part")
                _unpack(opened, member, part, _allowed(packed))
                file = stem.with_name(stem.name + _suffix(member.filename))
                part.rename(file)
                return file
    raise Rejected("missing", "The zip does not hold it any more.")


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """The zip and its bytes; whatever its bytes bring about inside is its damage."""
    with regular_file(archive) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        try:
            _refuse_large_index(file)
            with zipfile.ZipFile(file) as opened:
                yield opened, os.fstat(descriptor).st_size
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno != EINVAL:  # sought before the file's beginning
                raise
            raise Rejected("zip_damaged", f"The zip is damaged ({type(error).__name__}). Pack it again.") from error


def _refuse_large_index(file: BinaryIO) -> None:
    """Refuse before the library takes all members' names into memory."""
    start = max(0, file.seek(0, os.SEEK_END) - END.size - 0xFFFF)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0:
        raise zipfile.BadZipFile
    _, _, _, _, members, index_bytes, _, _ = END.unpack_from(tail, place)
    if members > ZIP_MEMBERS or index_bytes > INDEX_BYTES:
        raise Rejected("zip_bomb", f"The zip has more than {ZIP_MEMBERS} members. Pack fewer into one.")


def _judge(members: Sequence[zipfile.ZipInfo], packed: int) -> None:
    """Refuse what can be seen before anything is unpacked."""
    if not members:
        raise Rejected("zip_empty", "The zip holds no files.")
    if len(members) > ZIP_MEMBERS:
        raise Rejected(
            "zip_bomb", f"The zip has {len(members)} members; {ZIP_MEMBERS} are allowed. Pack fewer into one."
        )
    if any(member.flag_bits & 1 for member in members):
        raise Rejected("zip_encrypted", "The zip is encrypted. Unpack it with its password and give the files.")
    if any(member.compress_type not in METHODS for member in members):
        raise Rejected("zip_method", "The zip is packed by another method than deflate. Pack it again.")
    names = Counter(member.filename for member in members)
    if max(names.values()) > 1 or max(map(len, names)) > NAME:
        raise Rejected("zip_damaged", f"The zip has two members of one name, or a name of more than {NAME} characters.")
    if sum(member.file_size for member in members) > _allowed(packed):
        raise _bomb()


def _allowed(packed: int) -> int:
    return min(ZIP_BYTES, max(ZIP_RATIO * packed, SMALL))


def _bomb() -> Rejected:
    return Rejected(
        "zip_bomb",
        f"The zip unpacks to more than {ZIP_RATIO} times its size, to more than {ZIP_BYTES} bytes, or to a file of more than "
        f"{FILE_BYTES}. Unpack it yourself if you trust it, and give the files.",
    )


def _unpack(opened: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path, most: int) -> int:
    """Unpack one member and return its bytes; its check sum is compared on the way."""
    size = 0
    with opened.open(member) as packed, _refusing_disk(to), to.open("wb", buffering=0) as file:
        while block := packed.read(BLOCK):
            size += len(block)
            if size > min(most, FILE_BYTES):
                raise _bomb()
            file.write(block)
    return size


@contextmanager
def _refusing_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise Halted(
            f"A zip cannot be unpacked to {path.parent}: {error.strerror}. Make room, use --resume."
        ) from error


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    volume = next((end for end in NIFTI if name.lower().endswith(end)), "")
    return volume or (suffix if suffix in KEPT_SUFFIXES else "")

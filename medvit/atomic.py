"""Whole files and folders or none: written beside their place, synced, then renamed into it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from medvit.errors import Halted, MedvitError

LOCK = ".medvit.lock"  # which a run holds while it works; what lies beside it is results, no inputs


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; it takes the target's place when the block ends well.

    A crash at any point leaves the old file or the new one, never a torn one.

    Raises:
        Halted: When the disk refuses, for example because it is full.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise halted(path, error) from error
    finally:
        with suppress(OSError):  # not there any more, or the disk refuses this too
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole; characters that UTF-8 cannot hold are escaped."""
    with whole_text(path) as file:
        file.write(text)


@contextmanager
def whole_text(path: Path) -> Iterator[TextIO]:
    """Yield a text file to write line by line that appears whole, see `whole`; what UTF-8 cannot hold is escaped."""
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


def whole_folder(part: Path, folder: Path) -> None:
    """Let a finished folder take another's place by one rename, synced; an older one there is removed first.

    Raises:
        Halted: When the disk refuses.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _sync(part)
        part.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise halted(folder, error) from error


@contextmanager
def locked(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Hold a folder for one run, by a file in it; the kernel frees it when the process ends, however it ends.

    Raises:
        MedvitError: When another run holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / lock).open("a")
    except OSError as error:
        raise MedvitError(f"The folder {folder} cannot be written to: {error.strerror}. Choose another.") from error
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MedvitError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
        yield


def halted(path: Path, error: OSError, done: str = "written") -> Halted:
    """The sentence for a disk that refuses."""
    why = error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)
    return Halted(f"{path} cannot be {done}: {why}. Make room, then run it again, with --resume where it has that.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

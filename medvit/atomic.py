"""Whole files or none: written beside their place, synced, then renamed into it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvit.errors import MedvitError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside the target to write to; it takes the target's place when the block ends well.

    A crash at any point leaves the old file or the new one, never a torn one.

    Raises:
        MedvitError: When the disk refuses, for example because it is full.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise MedvitError(
            f"{path} cannot be written: {error.strerror or error}. Make room, then use --resume."
        ) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole; characters that UTF-8 cannot hold are escaped."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one run; the kernel frees it when the process ends, however it ends.

    Raises:
        MedvitError: When another run holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".medvit.lock").open("a")
    except OSError as error:
        raise MedvitError(f"The folder {folder} cannot be written to: {error.strerror}. Choose another.") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MedvitError(f"Another run is writing to {folder}. Wait for it, or choose another folder.") from None
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

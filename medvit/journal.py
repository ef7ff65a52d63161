"""What is known of every input of a run: one line of JSON each, appended and synced, the last line of an input counts.

A line is written once everything else of its input lies on the disk, so a run that ended at any moment can go on. The
tables are derived from these lines and never appended to.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from errno import ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any, Self

from medvit.atomic import halted, whole

Record = dict[str, Any]


class Journal:
    """The records of a run in ``records.jsonl``.

    A line that a crash cut short is dropped when the file is opened, so that the next one begins at a line's start.

    Args:
        path: The file; made when it is not there.

    Raises:
        Halted: When the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, str]] = {}  # an input's key to where its line begins, and its status
        self._end = 0
        self._file = self._opened()

    def _opened(self) -> FileIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(self.path, "a")  # unbuffered: what a full disk refused is not written later
            with self.path.open("rb") as lines:
                self._end = 0
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._note(line)
                    self._end += len(line)
            file.truncate(self._end)
        except OSError as error:
            raise halted(self.path, error) from error
        return file

    def _note(self, line: bytes) -> None:
        """Remember where a record lies; a damaged one counts as not written, so its input is answered anew."""
        with suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            self._places[str(record["key"])] = (self._end, str(record["status"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def status(self, key: str) -> str | None:
        """How an input ended; None while it has no record."""
        return self._places[key][1] if key in self._places else None

    def add(self, records: Iterable[Record]) -> None:
        """Append records and wait until they lie on the disk.

        Raises:
            Halted: When the disk refuses; what was written of them is cut off again.
        """
        lines = [_line(record) for record in records]
        if not lines:
            return
        try:
            content = b"".join(lines)
            if self._file.write(content) != len(content):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise halted(self.path, error) from error
        for line in lines:
            self._note(line)
            self._end += len(line)

    def read(self, keys: Iterable[str]) -> Iterator[Record]:
        """The records of those inputs in that order; inputs without one are left out.

        Raises:
            Halted: When the disk refuses.
        """
        try:
            with self.path.open("rb") as file:
                for key in keys:
                    if key in self._places:
                        file.seek(self._places[key][0])
                        yield json.loads(file.readline())
        except OSError as error:
            raise halted(self.path, error, "read") from error

    def settle(self, keys: Iterable[str]) -> None:
        """Rewrite the file with one line an input, in that order, so that it tells nothing of interruptions."""
        with whole(self.path) as part, part.open("wb") as file:
            for record in self.read(keys):
                file.write(_line(record))
        self._file.close()
        self._places.clear()
        self._file = self._opened()


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode("ascii") + b"\n"  # lone surrogates of file names are escaped

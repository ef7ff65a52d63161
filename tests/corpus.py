"""Inputs that a hospital's folder may hold and no run may fall over: cut, lying, huge, deep, hostile, or not images at all.

`cases` writes them; each says which outcomes are right. ``ok`` is one only where a film can be answered in spite of it.
"""

from pathlib import Path
from typing import NamedTuple

import raw
from corpus_others import others, pictures, texts
from corpus_pixels import bombs, sizes, values
from corpus_structure import representations, structures, syntaxes, truncated

GROUPS = (truncated, bombs, sizes, syntaxes, representations, values, structures, texts, others, pictures)
SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg", ".txt", ".zip", ".gif", ".bin", ".exe")


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


def cases(folder: Path) -> list[Bad]:
    """Write every input into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for group in GROUPS:
        for number, (name, data, expected) in enumerate(group()):
            suffix = Path(name).suffix if Path(name).suffix in SUFFIXES else ".dcm"
            path = folder / f"{group.__name__}_{number:03d}{suffix}"
            path.write_bytes(
                data.replace(raw.UID.encode(), b"2.25.2%05d" % len(found))
            )  # each with an identity of its own
            found.append(Bad(f"{group.__name__}: {name}", path, frozenset(expected)))
    return found

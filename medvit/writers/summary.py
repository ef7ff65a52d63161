"""The page of a run for people: one file, readable without a network, derived from the records like the tables."""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from medvit.atomic import write_text
from medvit.codes import file_name
from medvit.writers.page import page
from medvit.writers.tally import Tally

THUMBNAIL = 256  # pixels of a side
MASKS = "masks.png"  # see `medvit.writers.masks`
CASE = re.compile("[0-9a-f]{16}")


def write_summary(records: Iterable[Mapping[str, Any]], run: Mapping[str, Any], out: Path) -> None:
    """Write ``report.html``: counts, reasons, probabilities by label, the strongest findings, masks and timing of a run.

    The page names no file and nobody: cases go by their key, which leads to the source in ``inputs.csv``.

    Args:
        records: Each input's record, in any order; read once and not kept.
        run: What ``run.json`` holds.
        out: The run's folder; thumbnails are made of the heat maps in ``cases/``.

    Raises:
        MedvitError: When it cannot be written.
    """
    tally = Tally()
    for record in records:
        tally.add(record)
    pictures = {(one.case, one.label): thumbnail(out, one.case, one.label) for one in tally.strongest}
    outlined = {one.case: small_picture(out, one.case, MASKS) for one in tally.masks.worst}
    write_text(out / "report.html", page(tally, run, pictures, outlined))


def thumbnail(out: Path, case: str, label: str) -> str:
    """The written heat map as a small ``data:`` URI; "" where none was written."""
    return small_picture(out, case, f"heat_{file_name(label)}.png")


def small_picture(out: Path, case: str, name: str) -> str:
    """A picture that was written about a case as a small ``data:`` URI; "" where it was not."""
    path = out / "cases" / case / name
    if not CASE.fullmatch(case):
        return ""
    small = BytesIO()
    try:
        with Pillow.open(path, formats=["PNG"]) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
            picture.convert("RGB").save(small, "JPEG", quality=85)  # a new file: none of the old one's texts
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError):
        return ""
    return f"data:image/jpeg;base64,{b64encode(small.getvalue()).decode()}"

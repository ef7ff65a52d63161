"""Open a DICOM file, the only way this package does, and read its elements by their type.

Source: DICOM PS3.10 section 7, PS3.5 section 6.2 (value representations).
"""

import io
import math
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import Dataset
from pydicom.multival import MultiValue

from medvit.case import DAMAGE, blame
from medvit.errors import Rejected
from medvit.readers.elements import WINDOW
from medvit.readers.survey import Survey, begins, regular_file, survey_file

SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
CODE_LENGTH = 64  # of a coded string; PS3.5 allows 16


def open_dicom(path: Path) -> Dataset:
    """A DICOM file as a data set, after its structure was measured to the end of its pixel data.

    Never print, walk or compare it as a whole: take the elements that are needed, by `integer`, `decimals` and `code`.

    Args:
        path: A regular file, or a link to one.

    Raises:
        Rejected: When it is no DICOM file, truncated, over a budget, of an unknown or wrongly named transfer syntax, or
            names neither SOP class nor instance.
    """
    with regular_file(path, follow=True) as descriptor:
        found = survey_file(descriptor, (SOP_CLASS, SOP_INSTANCE))
        if not any(found.values.get(tag, b"").strip(b"\0 ") for tag in (SOP_CLASS, SOP_INSTANCE)):
            raise Rejected("no_sop_uid", "Its header names neither SOP class nor instance: empty or damaged.")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # they repeat header values
                    return pydicom.dcmread(_mended(file, found))
            except MemoryError:
                raise
            except DAMAGE as error:
                raise blame(error, "unreadable", "It cannot be read as DICOM") from error


def _mended(file: BinaryIO, found: Survey) -> BinaryIO:
    """The file, or a copy of it with what pydicom needs and the survey could do without: a preamble, an end delimiter."""
    file.seek(0)
    preamble = b"" if begins(file.read(WINDOW)) else bytes(128) + b"DICM"
    file.seek(0)
    pixels = found.pixels
    if pixels and not pixels.closed:
        whole = file.read(pixels.end)
        return io.BytesIO(preamble + whole + SEQUENCE_DELIMITER)
    return io.BytesIO(preamble + file.read()) if preamble else file


def integer(dataset: Dataset, keyword: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number of the header.

    Args:
        dataset: Of `open_dicom`, or an item of one of its sequences.
        keyword: Of the element, as ``Rows``.
        low: Smallest value that makes sense.
        high: Largest value that makes sense.
        default: For an element that is absent or empty; without one that is refused.

    Raises:
        Rejected: ``tag``, naming the keyword and never the value.
    """
    value = _value(dataset, keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise Rejected("tag", f"Its {keyword} is {'missing' if value is None else 'no single whole number'}.")
    if not low <= value <= high:
        raise Rejected("tag", f"Its {keyword} lies outside {low} to {high}.")
    return int(value)


def decimals(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element of the header; none when it is absent or empty.

    Raises:
        Rejected: ``tag``, naming the keyword and never the value, when one of them is no finite number.
    """
    value = _value(dataset, keyword)
    several = () if value is None else tuple(value) if isinstance(value, MultiValue | list | tuple) else (value,)
    try:
        numbers = tuple(float(str(one)) for one in several)
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise Rejected("tag", f"Its {keyword} is no number.")
    return numbers


def code(dataset: Dataset, keyword: str, default: str = "") -> str:
    """A coded string of the header in capital letters, as ``MONOCHROME2``.

    Raises:
        Rejected: ``tag``, naming the keyword and never the value, when it is something else.
    """
    value = _value(dataset, keyword)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > CODE_LENGTH or not value.isascii() or not value.isprintable():
        raise Rejected("tag", f"Its {keyword} is no code.")
    return value.strip().upper()


def _value(dataset: Dataset, keyword: str) -> object:
    """The value of an element; None when it is absent or empty."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = dataset.get(keyword)
    except MemoryError:
        raise
    except DAMAGE as error:
        raise Rejected("tag", f"Its {keyword} cannot be read ({type(error).__name__}).") from error
    return None if value is None or (isinstance(value, str | bytes | MultiValue | list) and len(value) == 0) else value

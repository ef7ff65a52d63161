"""Which library opens a slide, and in one word and one sentence why none does.

OpenSlide has one message for five causes; here missing, cut, damaged, unknown and untiled files are told apart.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import openslide

from medvit.case import MIRAX, PICTURES
from medvit.case import SLIDES as SUFFIXES
from medvit.errors import Rejected, Unanswered
from medvit.readers import mirax, tiff
from medvit.readers.planes import with_planes
from medvit.readers.slide_files import Broken, OpenSlideSource, PictureSource, Source, WsiDicomSource
from medvit.readers.survey import survey_file

WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
FOCAL_PLANES = ("TotalPixelMatrixFocalPlanes", "NumberOfFocalPlanes")
CLASS_UID, SERIES_UID = 0x00080016, 0x0020000E


def group_slides(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """The slides among files: DICOM files of one series in one folder together, every other file alone, in their order."""
    groups: dict[tuple[Path, bytes], list[Path]] = {}
    for path in paths:
        known = path.suffix.lower() in (*SUFFIXES, *PICTURES)
        series = b"" if known else _series(path)
        groups.setdefault((path.parent, series) if series else (path, b""), []).append(path)
    return [tuple(files) for files in groups.values()]


def _series(path: Path) -> bytes:
    """Series Instance UID of a DICOM whole-slide file; nothing for any other file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:  # not by `survey`, whose limit on bytes is for films
        values = survey_file(descriptor, (CLASS_UID, SERIES_UID), SERIES_UID + 1).values
    except (Unanswered, OSError):
        return b""
    finally:
        os.close(descriptor)
    is_slide = values.get(CLASS_UID, b"").strip(b"\0 ") == WHOLE_SLIDE
    return values.get(SERIES_UID, b"").strip(b"\0 ") if is_slide else b""


def open_source(path: Path) -> Source:
    """The first library that reads a file.

    Raises:
        Rejected: With the reason why none does: missing, not_a_file, unreadable, empty, truncated, unsupported, no_slide,
            incomplete_dicom, incomplete_mrxs, several_slides, undecodable.
    """
    if not path.exists():
        raise Rejected("missing", "It is not there.")
    if path.is_dir():
        path = _only_series(path)
    if not path.is_file():
        raise Rejected("not_a_file", "It is a pipe or device. Give a regular file.")
    if not os.access(path, os.R_OK):
        raise Rejected("unreadable", "It may not be read: its permissions forbid it.")
    if path.stat().st_size == 0:
        raise Rejected("empty", "It is empty.")
    if path.suffix.lower() in PICTURES:
        return PictureSource(path)
    try:
        source = OpenSlideSource(path)
    except openslide.OpenSlideError as error:
        return _otherwise(path, error)
    if any(source.facts.get(f"dicom.{name}", "1") != "1" for name in FOCAL_PLANES):
        return _by_wsidicom(path, source)
    cut = tiff.cut_at(path) if tiff.is_tiff(path) and "hamamatsu" not in source.name else None
    if cut:
        source.close()
        raise Rejected("truncated", f"It has {cut[0]} of at least {cut[1]} bytes: it was cut. Copy it again.")
    if path.suffix.lower() == MIRAX:
        mirax.refuse_cut(path, source.facts)
    return with_planes(path, source)


def _by_wsidicom(path: Path, source: Source) -> Source:
    """A DICOM slide of several focal planes through wsidicom, which reads them all; as it is where wsidicom refuses."""
    try:
        better = WsiDicomSource(_same_series(path))
    except Broken:
        return source
    if better.planes == 1:
        better.close()
        return source
    source.close()
    return better


def _same_series(path: Path) -> list[Path]:
    series = _series(path)
    return [other for other in sorted(path.parent.iterdir()) if other.is_file() and _series(other) == series]


def _only_series(folder: Path) -> Path:
    """The first file of the one DICOM slide in a folder."""
    slides: dict[bytes, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (series := _series(path)):
            slides.setdefault(series, path)
    if not slides:
        raise Rejected("unsupported", "The folder holds no DICOM whole-slide file.")
    if len(slides) > 1:
        raise Rejected(
            "several_slides", f"The folder holds {len(slides)} series. Give a file of the slide that is meant."
        )
    return next(iter(slides.values()))


def _otherwise(path: Path, refusal: openslide.OpenSlideError) -> Source:
    """What remains when OpenSlide refuses: wsidicom, Pillow, or a reason."""
    if _series(path):
        try:
            return WsiDicomSource(_same_series(path))
        except Broken:
            raise Rejected(
                "incomplete_dicom",
                "Neither OpenSlide nor wsidicom reads it: its header lacks what a whole slide must say (PS3.3 A.32.8), or its "
                "pixels are missing. Export it again from the archive.",
            ) from refusal
    if path.suffix.lower() == MIRAX:
        raise Rejected(
            "incomplete_mrxs", "Its folder of the same name is missing or damaged. Copy both, not in a zip."
        ) from refusal
    if tiff.is_tiff(path):
        found = tiff.pages(path)  # says when it is cut
        needed = max((page.end for page in found), default=0)
        if needed > path.stat().st_size:
            raise Rejected(
                "truncated", f"It has {path.stat().st_size} of at least {needed} bytes: it was cut. Copy it again."
            )
        if not any(page.tiled for page in found) and len({(page.width, page.height) for page in found}) == 1:
            return PictureSource(path)
        raise Rejected(
            "no_slide", "It is a TIFF but no slide: not tiled, or of pages that are no pyramid."
        ) from refusal
    if isinstance(refusal, openslide.OpenSlideUnsupportedFormatError):
        raise Rejected("unsupported", "It is no slide of a kind that OpenSlide, wsidicom or Pillow reads.") from refusal
    raise Rejected(
        "unreadable", "OpenSlide knows its kind but cannot read it: it is damaged or incomplete."
    ) from refusal

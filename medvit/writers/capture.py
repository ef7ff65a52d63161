"""The answer for eyes, on any PACS: the film with the strongest heat maps burnt in and every probability in words.

The picture is made for looking, not for measuring: the film is shown `PANEL` pixels long, in 8 bits, JPEG compressed.

Source: DICOM PS3.3 A.8.1 (Secondary Capture Image), C.8.6 (SC equipment), C.7.6.1.1.5 (lossy compression).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGBaseline8Bit

from medvit import NOTICE
from medvit.image import Fit, Plane
from medvit.result import Finding, Heatmap, Result, Run
from medvit.writers import dicom
from medvit.writers.clip_heat import refuse_clip
from medvit.writers.heat import overlay
from medvit.writers.source import Source, open_source

CAPTURE = dicom.Kind("capture", 9002, "AI overlay")
PANEL = 1024  # long side of the film in each panel, pixels
MAPS = 3  # strongest positive heat maps that are shown
TEXT, LINE = 24, 32  # heights in pixels
COLUMNS = 2  # of panels, and of the list below them
NARROWEST = 640  # pixels, for the words under a narrow film
SHORT = "NOT FOR DIAGNOSIS"  # above every panel, for viewers that are zoomed in
WHITE, GREY, AMBER = (235, 235, 235), (150, 150, 150), (255, 190, 60)


def write_capture(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``capture_sc.dcm``: one colour picture, also when nothing is positive, so that readers see that it was answered.

    Nothing is written about a picture, or where there are no findings or pixels.
    """
    refuse_clip(result)
    source = open_source(result.case) if result.findings and result.read else None
    if source is None or result.read is None:
        return []
    picture = draw(result.read(result.case).pixels[0], result, run)
    capture = SCImage(
        pixel_array=picture,
        photometric_interpretation="YBR_FULL_422",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # the builder insists on one; see below
        study_instance_uid=source.evidence.StudyInstanceUID,
        transfer_syntax_uid=JPEGBaseline8Bit,
        **dicom.identify(source, run, CAPTURE),
    )
    _describe(capture, source, picture)
    dicom.sign(capture, source, run)
    pixels = capture.PixelData
    return [dicom.write_object(folder / "capture_sc.dcm", capture, lambda back: back.PixelData == pixels)]


def _describe(capture: Dataset, source: Source, picture: NDArray[np.uint8]) -> None:
    """Where the picture comes from and what was done to it."""
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "SYN"
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = (
        f"Shown {PANEL} pixels long in 8 bits; coloured where the image influenced a score; findings in words. {NOTICE}"
    )
    capture.LossyImageCompression = "01"
    capture.LossyImageCompressionMethod = "ISO_10918_1"
    capture.LossyImageCompressionRatio = f"{picture.nbytes / len(capture.PixelData):.2f}"
    capture.PatientOrientation = source.evidence.get("PatientOrientation", "")
    dicom.name_body_part(capture, source)
    origin = Dataset()
    origin.ReferencedSOPClassUID = source.evidence.SOPClassUID
    origin.ReferencedSOPInstanceUID = source.evidence.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    origin.PurposeOfReferenceCodeSequence = [dicom.coded(purpose)]
    capture.SourceImageSequence = [origin]


def draw(film: Plane, result: Result, run: Run) -> NDArray[np.uint8]:
    """The picture (h, w, 3): the film, the strongest positive heat maps over it, and all findings below.

    Args:
        film: (H, W) in [0, 1].
        result: Its answer.
        run: Who answers.
    """
    share = PANEL / max(film.shape)
    rows, columns = (max(round(side * share), 1) for side in film.shape)
    small = np.asarray(Pillow.fromarray(film).resize((columns, rows), Pillow.Resampling.BILINEAR, reducing_gap=2.0))
    panels = [
        (f"The film. {SHORT}", _grey(small)),
        *(_panel(small, heat, finding) for heat, finding in strongest(result)),
    ]
    across = min(len(panels), COLUMNS)
    down = -(-len(panels) // across)
    width = max(columns * across, NARROWEST)
    found = sorted(result.findings, key=lambda finding: -finding.probability)
    sheet = Pillow.new("RGB", (width, (rows + LINE) * down + (-(-len(found) // COLUMNS) + 4) * LINE))
    pen = ImageDraw.Draw(sheet)
    for index, (title, panel) in enumerate(panels):
        x, y = columns * (index % across), (rows + LINE) * (index // across)
        sheet.paste(Pillow.fromarray(panel), (x, y + LINE))
        _write(pen, (x, y), columns, title, WHITE)
    _list(pen, (rows + LINE) * down, width, found, run)
    return np.asarray(sheet)


def strongest(result: Result) -> list[tuple[Heatmap, Finding]]:
    """The heat maps of the positive findings of highest probability, with these."""
    finding = {finding.label.name: finding for finding in result.findings}
    pairs = [(heat, finding[heat.label.name]) for heat in result.heatmaps if heat.label.name in finding]
    positive = [pair for pair in pairs if pair[1].positive]
    return sorted(positive, key=lambda pair: -pair[1].probability)[:MAPS]


def _grey(film: Plane) -> NDArray[np.uint8]:
    return (film.clip(0, 1) * 255 + 0.5).astype(np.uint8)[..., None].repeat(3, -1)


def _panel(film: Plane, heat: Heatmap, finding: Finding) -> tuple[str, NDArray[np.uint8]]:
    """A title and the small film (h, w) coloured by a heat map."""
    share = [small / side for small, side in zip(film.shape, heat.fit.source, strict=True)]
    box = tuple(edge * share[index % 2] for index, edge in enumerate(heat.fit.box))
    fit = Fit((film.shape[0], film.shape[1]), heat.fit.model, (box[0], box[1], box[2], box[3]))
    title = f"{heat.label.name} {finding.probability:.2f}: regions that influenced this score. {SHORT}"
    return title, overlay(film, fit.to_source(heat.values))


def _list(pen: ImageDraw.ImageDraw, top: int, width: int, found: Sequence[Finding], run: Run) -> None:
    """The warning, who answered, and every finding, the likeliest first."""
    positive = sum(finding.positive for finding in found)
    said = (
        f"{positive} of {len(found)} findings reach their threshold."
        if positive
        else "No finding reaches its threshold."
    )
    _write(pen, (0, top), width, f"AI RESULT. {dicom.WARNING}.", AMBER)
    _write(pen, (0, top + LINE), width, f"{run.system}, medvit {run.version}, weights {run.digest[:12]}. {said}", WHITE)
    _write(pen, (0, top + 2 * LINE), width, "Finding, probability (threshold)", GREY)
    lines = -(-len(found) // COLUMNS)
    for index, finding in enumerate(found):
        place = (width // COLUMNS * (index // lines), top + (3 + index % lines) * LINE)
        text = f"{finding.label.name}  {finding.probability:.3f}  ({finding.label.threshold:.3f})"
        _write(
            pen,
            place,
            width // COLUMNS,
            text + ("  PRESENT" if finding.positive else ""),
            AMBER if finding.positive else GREY,
        )


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], width: int, text: str, colour: tuple[int, int, int]
) -> None:
    """A line of text, smaller where it would not fit the width."""
    length, room = pen.textlength(text, _font(TEXT)), width - LINE
    font = _font(TEXT) if length <= room else _font(max(int(TEXT * room / length), 6))
    pen.text((place[0] + LINE // 4, place[1] + LINE // 8), text, fill=colour, font=font)


@lru_cache(maxsize=TEXT)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""Answers about tiny films, and the independent tools that judge what is written about them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from medvit.case import Case
from medvit.codes import labels_of
from medvit.image import Fit, Image
from medvit.readers.radiograph import read_radiograph
from medvit.result import Finding, Heatmap, Region, Result, Run

RUN = Run("ThoraxMAE", "0.1.0", "3a" * 32, datetime(2026, 3, 1, 22, 30, 15, tzinfo=UTC), synthetic_geometry=True)
LABELS = labels_of("nih14")
MASS, PNEUMOTHORAX, THICKENING = LABELS[4], LABELS[7], LABELS[12]
PROBABILITIES = (
    0.1, 0.02, 0.4999996, 0.5, 0.8312345678, 0.0, 1.0, 0.61, 1e-6, 0.33, 0.123456789, 0.25, 0.75, 0.49,
)  # fmt: skip
ROWS, COLUMNS = 90, 70


def pixels(bits: int = 12) -> np.ndarray:
    """A film (H, W) with contrast, no two corners alike."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return ((rows * 3 + columns * 5) % 251 * (2**bits - 1) // 251).astype(np.uint16)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping regions (H, W)."""
    first, second = np.zeros((ROWS, COLUMNS), bool), np.zeros((ROWS, COLUMNS), bool)
    first[10:40, 5:30], second[30:70, 20:61] = True, True
    return first, second


def answer(path: Path, read: bool = True) -> Result:
    """Fourteen findings, heat maps of two positive ones, and two regions."""
    fit = Fit((ROWS, COLUMNS), (32, 32), (5.0, -3.0, 80.0, 72.0))
    values = np.zeros((8, 8), np.float32)
    values[1:3, 5] = (0.5, 0.9)  # the upper right of the film
    first, second = masks()

    def reread(case: Case) -> Image:
        return read_radiograph(case.files[0])

    return Result(
        Case("unused", "DX", (path,)),
        tuple(Finding(label, probability) for label, probability in zip(LABELS, PROBABILITIES, strict=True)),
        (Region(MASS, first, 0.8), Region(THICKENING, second, 0.7)),
        (
            Heatmap(MASS, values, fit, "gradient x attention"),
            Heatmap(PNEUMOTHORAX, values[::-1].copy(), fit, "gradient x attention"),
        ),
        read=reread if read else None,
    )


def tool(name: str) -> str:
    """Where an apt tool or jar lies; skips without it, but never where CI is set."""
    found = shutil.which(name) or (name if Path(name).is_file() else None)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed: see .ci/run")
    if found is None:
        pytest.skip(f"{name} is not installed (apt: dicom3tools dcmtk libpixelmed-java)")
    return found


def said_by(command: Sequence[str | Path]) -> str:
    """Everything that a tool says."""
    done = subprocess.run([*map(str, command)], capture_output=True, check=False, timeout=300)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def dicom_errors(path: Path) -> list[str]:
    """What dciodvfy (dicom3tools) calls an error; its answer must name a kind of object."""
    said = said_by([tool("dciodvfy"), "-new", path])
    assert any(kind in said for kind in ("Comprehensive3DSR", "SCImage", "ParametricMap", "Segmentation")), said
    return [line for line in said.splitlines() if "Error" in line or "Abort" in line]

"""Describe the tiles of many slides by a frozen network: a feature file a slide, which TRIDENT and `medvit train` read.

The same contract as `medvit.predict`: every input ends with a row, files are whole or not there, a killed run can go on.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvit.account import Options, begin, close, settings_of
from medvit.atomic import locked
from medvit.case import Case
from medvit.data.features import Features, export_clam, folder_name, write_coords, write_features
from medvit.discover import discover
from medvit.duties import WORK, pool_of
from medvit.errors import MedvitError, Unanswered
from medvit.found import Found
from medvit.guard import Pool
from medvit.journal import Journal, Record
from medvit.memory import keep_memory
from medvit.pipeline import half
from medvit.progress import progress
from medvit.tasks.slides import Slides, embedded
from medvit.tasks.system import System

log = logging.getLogger(__name__)
TOLD = ("study_uid", "series_uid", "sop_uid", "modality")


def embed(
    system: System,
    checkpoint: Mapping[str, Any],
    inputs: Sequence[Path],
    out: Path,
    options: Options,
    small: bool = False,
    clam: bool = False,
) -> dict[str, int]:
    """Describe every slide and leave its features in ``out``.

    ``<magnification>x_<tile>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`` holds ``features``, ``coords`` and
    ``valid``, and ``patches/<slide>_patches.h5`` the coordinates alone, as TRIDENT lays them out.

    Args:
        system: One of slides.
        checkpoint: What identifies it, see `medvit.predict.predict`.
        inputs: Files, folders and zips.
        out: The folder.
        options: How to work; ``write`` and ``batch_size`` have no meaning here.
        small: Whether features are stored in half precision.
        clam: Whether ``clam/h5_files/<slide>.h5`` is written too, as CLAM reads it.

    Returns:
        How many inputs ended in which way.

    Raises:
        MedvitError: When the system describes no slides, or the folder holds another run.
        Halted: When the disk refuses.
    """
    if not isinstance(system, Slides):
        raise MedvitError(f"{type(system).__name__} describes no slides. Give a system of slides, such as SelfViTMIL.")
    system = system.to(options.device).eval()
    keep_memory()
    settings = settings_of(system.identity, checkpoint, options) | {"features": "float16" if small else "float32"}
    settings |= {"clam": True} if clam else {}
    clock = time.monotonic()
    with locked(out):
        told = begin(out, settings, inputs, options)
        shutil.rmtree(out / WORK, ignore_errors=True)
        with Journal(out / "records.jsonl") as journal, pool_of(system, options.workers, out) as pool:
            try:
                found = discover(
                    inputs, pool, system.refuse, options.modality, options.series, out / WORK, system.together
                )
                _run(system, found, journal, pool, out, options, small, clam)
            finally:
                shutil.rmtree(out / WORK, ignore_errors=True)
            return close(out, told, found, journal, time.monotonic() - clock)


def _run(
    system: Slides,
    found: Sequence[Found],
    journal: Journal,
    pool: Pool,
    out: Path,
    options: Options,
    small: bool,
    clam: bool,
) -> None:
    todo = [one for one in found if journal.status(one.key) in (None, "failed")]
    journal.add([_record(one, one.refusal) for one in todo if one.refusal])
    slides = {one.case.key: one for one in todo if one.case and not one.refusal}
    names = _names(found)
    with progress(len(slides), "slides") as advance, half(options.device, options.precision):
        for case, answer, seconds in embedded(system, (one.case for one in slides.values() if one.case), pool):
            if isinstance(answer, Features):
                write(out, names[case.key], answer, system, small, clam)
            journal.add([_record(slides[case.key], answer, seconds)])
            advance(1)


def _names(found: Sequence[Found]) -> dict[str, str]:
    """What the feature file of each slide is called: like the slide, or like its key where that names two or a patient."""
    cases = [one.case for one in found if one.case]
    stems = {case.key: case.key if case.header else case.files[0].stem for case in cases}
    often = Counter(stems.values())
    return {key: stem if often[stem] == 1 else f"{stem}-{key[:8]}" for key, stem in stems.items()}


def write(out: Path, name: str, found: Features, system: Slides, small: bool = False, clam: bool = False) -> Path:
    """Write the feature file of a slide, and its coordinates beside it; where it is asked for, the same for CLAM."""
    grid = replace(found.grid, slide=name)
    folder = out / folder_name(replace(grid, tile_mpp=system.cutting.mpp))
    write_coords(folder / "patches" / f"{name}_patches.h5", found.coords, grid, found.planes)
    kept = replace(found, grid=grid, features=found.features.astype(np.float16 if small else np.float32))
    if clam:
        export_clam(kept, out / "clam")
    return write_features(folder / f"features_{found.encoder}" / f"{name}.h5", kept)


def _record(one: Found, answer: Features | Unanswered | None, seconds: float = 0.0) -> Record:
    refusal = answer if isinstance(answer, Unanswered) else None
    header = one.case.header if isinstance(one.case, Case) else {}
    origin = {}
    if isinstance(answer, Features):
        origin = {**answer.facts, "tiles described": str(int(answer.valid.sum())), "encoder": answer.encoder}
    return {
        "key": one.key,
        "source": one.source,
        "case": one.case.key if one.case else "",
        "status": refusal.status if refusal else "ok",
        "reason": refusal.reason if refusal else "",
        "message": str(refusal) if refusal else "",
        "seconds": round(seconds, 3),
        "header": {name: header.get(name, "") for name in TOLD},
        "origin": origin,
        "findings": [],
    }

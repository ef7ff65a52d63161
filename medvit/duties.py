"""What worker processes do for a run: read headers, read cases to samples, write results.

Untrusted files are opened here and nowhere else; see `medvit.guard` for what contains these processes.
"""

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from medvit import __version__
from medvit.atomic import whole_folder
from medvit.case import MICROSCOPY
from medvit.discover import DUTIES as DISCOVERY
from medvit.errors import Halted, MedvitError, Unanswered, Unreferable
from medvit.guard import Duty, Pool, Reply, preload
from medvit.result import Result, Run
from medvit.tasks.system import System
from medvit.writers import Writer
from medvit.writers.capture import write_capture
from medvit.writers.gallery import write_gallery
from medvit.writers.geojson import write_tiles
from medvit.writers.heat import write_heat
from medvit.writers.masks import write_mask_pictures
from medvit.writers.nifti import write_nifti
from medvit.writers.parametric import write_parametric
from medvit.writers.report import write_report
from medvit.writers.segmentation import write_segmentation

# What --write knows; the tables are always written.
WRITERS: dict[str, Writer | None] = {
    "csv": None,
    "heat": write_heat,
    "sr": write_report,
    "sc": write_capture,
    "pm": write_parametric,
    "seg": write_segmentation,
    "geojson": write_tiles,
    "gallery": write_gallery,
    "png": write_mask_pictures,
    "nifti": write_nifti,
}
OF_FILMS = frozenset({"sc", "pm", "seg"})  # writers that do not know slides
NEED_HEAT = frozenset({"heat", "sc", "pm"})  # writers for which heat maps are computed
WORK = ".work"  # in the run's folder: what is not finished yet
NOBODY = Run("", __version__, "0" * 64, datetime.fromtimestamp(0, UTC))  # of a run that keeps nothing its workers write


def pool_of(system: System, workers: int, out: Path, write: Sequence[str] = (), run: Run = NOBODY) -> Pool:
    """The worker processes of a run, which do its `duties`.

    Args:
        system: Whose cases they read, within its limits.
        workers: How many; 0 does everything in this process.
        out: The run's folder.
        write: Names of `WRITERS`.
        run: Who answers.
    """
    if workers:
        preload(["medvit.duties", type(system).__module__])
    return Pool(workers, duties, system.reader(), out, write, run, limits=system.limits)


def duties(system: System, out: Path, write: Sequence[str], run: Run) -> Mapping[str, Duty]:
    """The duties of a worker process of a run.

    Args:
        system: Reads cases; its networks are not needed, see `System.reader`.
        out: The run's folder.
        write: Names of `WRITERS`.
        run: Who answers.
    """
    writers = {name: writer for name in write if (writer := WRITERS[name])}

    def put(result: Result) -> Reply:
        started = time.monotonic()
        read = functools.lru_cache(lambda: system.read(result.case))  # writers draw over the same pixels
        shown = dataclasses.replace(
            result, read=lambda _: read(), close_up=lambda index: system.close_up(result, index)
        )
        left_out = written(shown, out, writers, run)
        return Reply({"left out": left_out, "seconds": time.monotonic() - started})

    return {**DISCOVERY, **system.duties(), "write": put}


def written(result: Result, out: Path, writers: Mapping[str, Writer], run: Run) -> dict[str, str]:
    """Write what a result leaves behind; the case's folder appears whole or not at all.

    Returns:
        Which writers left nothing because no object can refer to this case, and why.

    Raises:
        Halted: When the disk refuses.
        Unanswered: When this result alone cannot be written.
    """
    part = out / WORK / f"{result.case.key}.{os.getpid()}"
    left_out = {}
    try:
        for name, writer in writers.items():
            if name in OF_FILMS and result.case.modality == MICROSCOPY:
                left_out[name] = "Of slides this object is not written; see the heat map and tiles.geojson.gz."
                continue
            try:
                writer(result, part, run)
            except Unreferable as refusal:
                left_out[name] = str(refusal)
        if part.exists():
            whole_folder(part, out / "cases" / result.case.key)
    except (Halted, Unanswered):
        raise
    except MedvitError as error:
        raise Unanswered("unwritten", f"Its results could not be written: {error}") from error
    except Exception as error:
        raise Unanswered("unwritten", f"Its results could not be written ({type(error).__name__}).") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return left_out

"""Runs as `medvit predict` leaves them, without a network; and the app started on them as a user does."""

import asyncio
import atexit
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medvit.case import MICROSCOPY, ULTRASOUND, Case, digest
from medvit.codes import Label, code_of, labels_of
from medvit.duties import WRITERS, written
from medvit.image import Fit, Image, Tiling
from medvit.readers.headers import read_facts
from medvit.readers.radiograph import read_radiograph
from medvit.readers.scan import Grey, read_scan
from medvit.result import Finding, Heatmap, Region, Result, Run, TileScores
from medvit.writers.table import findings_of, masks_of

from answers import RUN  # isort: skip

LABELS = labels_of(["Mass", "Effusion", "Nodule"])
ROWS, COLUMNS = 320, 240
HOT = (0.75, 0.25)  # row and column, as shares of the film, where the heat map is highest


def film_pixels() -> np.ndarray:
    """A film on which no quarter looks like another; bright at the upper right, grey elsewhere."""
    pixels = np.full((ROWS, COLUMNS), 900, np.uint16)
    pixels[::40], pixels[:, ::40] = 1300, 1300
    pixels[20:70, 180:220] = 3800
    return pixels


def leave_films(folder: Path, make_film: Callable[..., Path], answers: Sequence[Sequence[float]]) -> Path:
    """A finished run over films, one for each row of probabilities of `LABELS`; every positive finding has a heat map."""
    out = folder / "out"
    records = []
    for number, probabilities in enumerate(answers):
        film = make_film(
            folder / f"films/{number:02d}.dcm", film_pixels(), ImagerPixelSpacing=[0.5, 0.5], SeriesNumber=3,
            InstanceNumber=number + 1, Laterality="R", StudyInstanceUID=f"2.25.{number // 2 + 1}",
        )  # fmt: skip
        facts, _ = read_facts(film)
        findings = tuple(Finding(label, p) for label, p in zip(LABELS, probabilities, strict=True))
        values = np.zeros((8, 8), np.float32)
        values[int(HOT[0] * 8), int(HOT[1] * 8)] = 1.0
        fit = Fit((ROWS, COLUMNS), (32, 32), (0.0, 0.0, float(ROWS), float(COLUMNS)))
        heat = tuple(Heatmap(one.label, values, fit, "gradient x attention") for one in findings if one.positive)
        result = Result(Case(facts["sop_uid"], "DX", (film,), header=facts), findings, heatmaps=heat,
                        origin={"spacing": "ImagerPixelSpacing"}, read=read)  # fmt: skip
        records.append(record(result, film, folder))
        written(result, out, {name: write for name, write in WRITERS.items() if write and name in ("heat", "sr")}, RUN)
    leave(out, "ThoraxMAE", records)
    return out


def read(case: Case) -> Image:
    """The film of a case."""
    return read_radiograph(case.files[0])


def leave_slide(folder: Path, slide: Path, coords: np.ndarray, side: int, attention: np.ndarray, mpp: float) -> Path:
    """A finished run over one slide, whose tiles have that attention."""
    from medvit.readers.slide import Slide

    out, label = folder / "out", labels_of(["tumour"])[0]
    opened = Slide(slide)
    tiling = Tiling(coords, float(side), opened.size, mpp)
    result = Result(Case(os.path.realpath(slide), MICROSCOPY, (slide,)), (Finding(label, 0.9),),
                    tiles=TileScores(tiling, {"tumour attention": attention}), origin={"mpp": f"{mpp}, file"})  # fmt: skip
    written(result, out, {"geojson": WRITERS["geojson"]}, RUN)  # type: ignore[dict-item]
    leave(out, "SelfViTMIL", [record(result, slide, folder)])
    return out


def leave_stack(folder: Path, stack: Path, mpp: float) -> Path:
    """A finished run over one smear of several focal planes, whose resolution was given."""
    out = folder / "out"
    case = Case(os.path.realpath(stack), MICROSCOPY, (stack,))
    origin = {"mpp": f"{mpp}", "mpp_source": "given"}
    leave(
        out,
        "CytoFM",
        [record(Result(case, (Finding(labels_of(["malignant"])[0], 0.2),), origin=origin), stack, folder)],
    )
    return out


def leave_cells(folder: Path, pictures: Path) -> Path:
    """A finished run over a folder of pictures of cells, with the pictures that it left."""
    out, files = folder / "out", tuple(sorted(pictures.iterdir()))
    case = Case(f"cells in {pictures}", "", files, header={"bag": "pictures"})
    result = Result(case, (Finding(labels_of(["malignant"])[0], 0.9),), origin={"reader": "pictures of cells"})
    for name in ("gallery_malignant.png", "tiles.png"):
        (out / "cases" / case.key).mkdir(parents=True, exist_ok=True)
        (out / "cases" / case.key / name).write_bytes(files[0].read_bytes())
    leave(out, "CytoFM", [record(result, files[0], folder)])
    return out


def leave_volume(folder: Path, case: Case, masks: Mapping[str, np.ndarray]) -> Path:
    """A finished run over one volume (a file or the slices of a series), with the outlines that were found in it."""
    out = folder / "out"
    image = read_scan(case.files, case.modality, Grey())
    regions = tuple(Region(Label(name, code_of(name)), mask, 0.8, image.spacing) for name, mask in masks.items())
    result = Result(case, regions=regions, origin=image.origin, read=lambda _: image)
    written(result, out, {"nifti": WRITERS["nifti"]}, RUN)  # type: ignore[dict-item]
    leave(out, "DBSAM", [{**record(result, case.files[0], folder), "masks": masks_of(result)}])
    return out


def leave_network(path: Path) -> Path:
    """A checkpoint that takes boxes; untrained, so that it is quick."""
    import tiny_volumes
    import torch

    from medvit.systems.db_sam import DBSAM

    torch.manual_seed(0)
    system = DBSAM(**{**tiny_volumes.NET, "everywhere": (0, 1), "patch": 4, "window": 4})
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in system.hparams.items()}
    card = {"system": "DBSAM", "version": "0.1.0", "arguments": arguments, "labels": []}
    torch.save({"medvit": card, "state_dict": system.state_dict()}, path)
    return path


def leave_clip(folder: Path, clip: Path, heat: np.ndarray, read_clip: Callable[[Case], Image]) -> Path:
    """A finished run over one clip with a map (slices, h, w)."""
    out, label = folder / "out", labels_of(["Retinal_Detachment"])[0]
    facts, _ = read_facts(clip)
    case = Case(facts["sop_uid"], ULTRASOUND, (clip,), header=facts)
    rows, columns = read_clip(case).pixels.shape[2:]
    fit = Fit((rows, columns), (32, 32), (0.0, 0.0, float(rows), float(columns)))
    result = Result(case, (Finding(label, 0.8),), heatmaps=(Heatmap(label, heat, fit, "grad-cam"),), read=read_clip)
    written(result, out, {"heat": WRITERS["heat"]}, RUN)  # type: ignore[dict-item]
    leave(out, "ERDES", [record(result, clip, folder)])
    return out


def record(result: Result, file: Path, folder: Path) -> dict[str, object]:
    """What `predict` notes of an answered input, with a path relative to the folder."""
    header = {name: result.case.header.get(name, "") for name in ("study_uid", "series_uid", "sop_uid")}
    return {
        "key": digest(os.path.abspath(file)), "source": str(file.relative_to(folder)), "case": result.case.key, "status": "ok",  # noqa: PTH100
        "reason": "", "message": "", "seconds": 0.1, "header": {**header, "modality": result.case.modality},
        "origin": dict(result.origin), "findings": findings_of(result),
    }  # fmt: skip


def leave(
    out: Path, system: str, records: Sequence[Mapping[str, object]], finished: bool = True, run: Run = RUN
) -> None:
    """``run.json`` and ``records.jsonl`` of a run."""
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "medvit": "0.1.0", "started": "2026-11-21T02:14:00Z", "inputs": ["films"],
        "settings": {
            "system": f"{system} 0.1.0", "checkpoint": {"sha256": run.digest, "labels": [], "metrics": {"val/auroc": 0.9}},
        },
    }  # fmt: skip
    if finished:
        told["counts"] = {"inputs": len(records), "ok": len(records)}
    (out / "run.json").write_text(json.dumps(told))
    part = out / "records.part"
    part.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    part.replace(out / "records.jsonl")  # as `predict` does: readers see the old file or the new one


class App:
    """`medvit review` in a process of its own."""

    def __init__(self, *arguments: object, inputs: Path, port: int = 0, roots: Sequence[str] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "medvit", "review", *map(str, arguments), "--port", str(self.port),
                   "--workers", "1"]  # fmt: skip
        for base in [inputs / root for root in roots] or [inputs]:
            command += ["--inputs", str(base)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        atexit.register(self.process.kill)  # where a test fails before it closes the app
        self.links: dict[str, str] = {}
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.match(r"(\S+): (http://\S+)", line):
                self.links[found[1]] = found[2]
            if "Stop with" in line:
                break
        else:
            raise AssertionError("".join(said))
        answered(self)

    @property
    def root(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.communicate(timeout=30)


def answered(app: App, patience_s: float = 60) -> None:
    """Wait until the app answers; a connection made before that would stay slow."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(app.root, timeout=20)
            return
        except urllib.error.HTTPError:  # it refuses us, so it is there
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the app does not answer")


def reply_of(
    app: Callable, path: str, cookie: str, method: str = "GET", body: bytes = b"", headers: Sequence = ()
) -> tuple[int, bytes]:
    """What an address of an application answers to somebody: status and body."""
    told = {"status": 0, "body": b""}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(b"cookie", cookie.encode()), (b"host", b"127.0.0.1"), *headers],
    }

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        told["status"] = message.get("status", told["status"])
        told["body"] += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return told["status"], told["body"]

"""Tiny films, workflows and the command, for the tests of everything from a YAML file to a folder of answers."""

import csv
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

LABELS = ("Mass", "Effusion")
SECRET = "ZZSECRET"  # in every name and identifier of a patient; must turn up nowhere
SIDE = 40  # pixels of a film
EPOCHS = 6

NET = {"image_size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3, "centre_share": 1.0}
DATA = {"class": "Cases", "table": "cases.csv", "batch_size": 12, "cache": True, "crop_min": 0.8}
PRETRAIN = {
    "seed": 3,
    "system": {"class": "ThoraxMAEPretraining", **NET, "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 3,
               "mask_ratio": 0.5, "base_lr": 0.02, "warmup_epochs": 1},
    "data": DATA,
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}  # fmt: skip
FINETUNE = {
    "requires": ["pre.yaml"],
    "seed": 3,
    "system": {"class": "ThoraxMAE", "labels": list(LABELS), **NET, "base_lr": 0.1, "layer_decay": 0.9,
               "warmup_epochs": 1, "weights": "pre.yaml"},
    "data": DATA,
    "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu"},
}  # fmt: skip


def draw(seed: int, mass: bool, effusion: bool) -> np.ndarray:
    """A film (SIDE, SIDE) of 8 bits with bright, plain lesions."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    film = 60 + rng.normal(0, 6, (SIDE, SIDE)) + 30 * (abs(columns - SIDE / 2) < 4)
    if mass:
        top, left = rng.uniform(10, 20), rng.uniform(10, 30)
        film += 130 * ((rows - top) ** 2 + (columns - left) ** 2 < 36)
    if effusion:
        film += 90 * (rows > SIDE - 10)
    film[0, 0], film[0, 1] = 0, 255  # the same range on every film
    return film.clip(0, 255).round().astype(np.uint8)


def write_table(path: Path, rows: Sequence[Sequence[object]], labels: Sequence[str] = LABELS) -> Path:
    """A table of medvit's own kind."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient_id", "split", *labels), *rows])
    return path


def write_workflow(path: Path, tree: dict[str, Any], **changes: Any) -> Path:
    """A workflow; ``changes`` go by part, such as ``trainer={"max_epochs": 1}``; None takes a key out."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for key, change in changes.items():
        merged[key] = {**merged[key], **change} if isinstance(change, dict) else change
        if isinstance(change, dict):
            merged[key] = {name: value for name, value in merged[key].items() if value is not None}
    path.write_text(yaml.safe_dump({key: value for key, value in merged.items() if value is not None}))
    return path


def sample_module(name: str) -> ModuleType:
    """A module of sample_data, loaded from its path; its neighbours are importable as they are when make.py runs."""
    folder = Path(__file__).parents[1] / "sample_data"
    spec = importlib.util.spec_from_file_location(f"sample_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table of a run, by the names of the files that they are about."""
    return {Path(row["source"]).name: row for row in read_rows(path)}


def case_of(out: Path, name: str) -> Path:
    """The folder of the case that came from a file, in a run's folder."""
    return out / "cases" / rows_of(out / "inputs.csv")[name]["case"]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass
class Done:
    """How a command ended."""

    code: int | None
    out: str
    err: str


class Command:
    """``medvit`` in a process of its own, forked like its workers from one that has already imported torch."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["medvit.train", "medvit.predict", "medvit.show", "medvit.embed", "medvit.evaluation"]
    )

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self.streams = Path(mkdtemp(dir=cwd.parent))
        words = ["medvit", *map(str, arguments)]
        self.process = self.context.Process(target=_main, args=(words, str(cwd), str(self.streams)))
        self.process.start()

    def wait(self) -> Done:
        """Its end."""
        self.process.join(120)
        assert self.process.exitcode is not None, "the command hangs"
        return Done(self.process.exitcode, *((self.streams / name).read_text() for name in ("out", "err")))


def medvit(*arguments: object, cwd: Path) -> Done:
    """Run the command to its end."""
    return Command(*arguments, cwd=cwd).wait()


def _main(words: list[str], cwd: str, streams: str) -> None:
    os.chdir(cwd)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(streams, name), os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = words
    # Workers come from the fork server that this process came from, instead of from one that imports everything anew.
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
    from medvit.cli import main

    raise SystemExit(main())

"""How many films a second ``medvit predict`` answers, end to end, beside the plain loop that one would write by hand.

``python tests/benchmarks/night.py [--films 500] [--side 2048] [--turns 2] [--precision auto|32|bf16]``
``python tests/benchmarks/night.py --memory [--films 500 --more-films 5000 --side 256]``

Both sides read the same generated DX films (12 bits, a window in the file, distinct content) with the same random ViT-S/16
of 14 labels and leave a CSV. Each is a whole process, imports and start included; they take turns, and a ratio is medvit's
speed over the plain loop's in one turn. The plain loop is one process, one film at a time: pydicom's reading, modality LUT
and VOI LUT, Pillow's resizing, torch in float32. Films written a moment ago lie in the page cache for both alike.

With ``--memory`` medvit answers two folders, and what its parent and all its processes take at most is compared.
"""

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from safetensors.torch import save_file

from medvit.systems.thorax_mae import EVAL_SHARE, GREY_MEAN, GREY_STD, ThoraxMAE
from medvit.workflow import load_system

SIZE = 224
BITS = 12
POLL_S = 0.2
HEAD_STD = 0.1  # a fresh head would answer 0.5 to everything, and no two answers could differ


class Spent(NamedTuple):
    """What a process and its descendants took."""

    seconds: float
    parent_mb: float  # most resident memory of the process itself
    all_mb: float  # most memory of all together, shared pages counted once


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--films", type=int, default=500)
    asked.add_argument("--more-films", type=int, default=5000, help="of the second folder with --memory")
    asked.add_argument("--side", type=int, help="pixels of a film's side (2048; 256 with --memory)")
    asked.add_argument("--turns", type=int, default=2)
    asked.add_argument("--precision", default="auto", choices=("auto", "32", "bf16"), help="medvit's; the loop's is 32")
    asked.add_argument("--memory", action="store_true", help="compare memory at two sizes of the folder")
    asked.add_argument("--write", default="csv", help="what medvit writes")
    asked.add_argument("--plain", nargs=3, type=Path, metavar=("CHECKPOINT", "FOLDER", "CSV"), help=argparse.SUPPRESS)
    options, more = asked.parse_known_args()  # others are for `medvit predict`, such as --workers 2
    if options.plain:
        answer_plainly(*options.plain)
        return
    with tempfile.TemporaryDirectory(prefix="night") as name:
        folder = Path(name)
        save_system(folder / "random.safetensors")
        more += ["--write", options.write, "--precision", options.precision]
        if options.memory:
            compare_memory(folder, (options.films, options.more_films), options.side or 256, more)
        else:
            make_films(folder / "films", options.films, options.side or 2048)
            compare_speed(folder, options.films, options.turns, more)


def compare_speed(folder: Path, films: int, turns: int, more: Sequence[str]) -> None:
    """Take turns, the first to begin alternating, and print films a second of both."""
    ratios = []
    print(f"{films} films, {os.cpu_count()} cores; medvit predict {' '.join(more)}", flush=True)
    for turn in range(turns):
        sides = {"plain": plain_command(folder, turn), "medvit": medvit_command(folder, "films", turn, more)}
        speed = {}
        for side in sorted(sides, reverse=turn % 2 == 0):
            speed[side] = films / spent(sides[side], memory=False).seconds
        ratios.append(speed["medvit"] / speed["plain"])
        print(
            f"turn {turn + 1}: plain loop {speed['plain']:6.2f} films/s   medvit {speed['medvit']:6.2f} films/s   "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    one, other = read_plain(folder / "plain_0.csv"), read_medvit(folder / "out_films_0")
    if one.keys() != other.keys():
        raise SystemExit(f"{len(one)} answers by the loop and {len(other)} by medvit are not of the same films")
    differences = [abs(one[key] - other[key]) for key in one]
    spread = np.ptp([list(one.values())], axis=1)[0]
    print(f"ratio {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"largest difference of {len(one)} probabilities {max(differences):.2g}; they span {spread:.2f}")


def compare_memory(folder: Path, counts: Sequence[int], side: int, more: Sequence[str]) -> None:
    """Answer a small and a large folder and print what each took at most."""
    took = []
    for films in counts:
        make_films(folder / str(films), films, side)
        took.append(spent(medvit_command(folder, str(films), 0, more), memory=True))
        print(
            f"{films:6d} films of {side} pixels: {films / took[-1].seconds:6.1f} films/s   "
            f"parent {took[-1].parent_mb:7.1f} MB   all processes {took[-1].all_mb:7.1f} MB",
            flush=True,
        )
    small, large = took
    print(f"growth: parent {large.parent_mb / small.parent_mb - 1:+.1%}, all {large.all_mb / small.all_mb - 1:+.1%}")


def plain_command(folder: Path, turn: int) -> list[str]:
    """The loop as a process."""
    files = (folder / "random.safetensors", folder / "films", folder / f"plain_{turn}.csv")
    return [sys.executable, __file__, "--plain", *map(str, files)]


def medvit_command(folder: Path, films: str, turn: int, more: Sequence[str]) -> list[str]:
    """medvit as a process."""
    out = folder / f"out_{films}_{turn}"
    words = ["predict", folder / "random.safetensors", folder / films, "-o", out, *more]
    return [sys.executable, "-m", "medvit", *map(str, words)]


def answer_plainly(checkpoint: Path, folder: Path, table: Path) -> None:
    """The plain loop: film after film through pydicom, Pillow and the network."""
    system = load_system(checkpoint)
    with table.open("w", newline="") as file, torch.inference_mode():
        rows = csv.writer(file)
        rows.writerow(("source", *(label.name for label in system.labels)))
        for path in sorted(folder.iterdir()):
            dataset = dcmread(path)
            grey = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
            grey = grey / (2**dataset.BitsStored - 1)
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                grey = 1 - grey
            film = Pillow.fromarray(grey.astype(np.float32))
            side = min(film.size) * EVAL_SHARE  # the shorter side to 256, then 224 at the centre, in one step
            left, top = (film.width - side) / 2, (film.height - side) / 2
            film = film.resize((SIZE, SIZE), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side))
            x = (torch.from_numpy(np.array(film)) - GREY_MEAN) / GREY_STD
            probability = system.net(x.expand(1, 3, SIZE, SIZE)).sigmoid()[0]
            rows.writerow((path, *(f"{value:.6f}" for value in probability.tolist())))


def spent(command: Sequence[str], memory: bool) -> Spent:
    """Run a command to its end; with ``memory``, look at its processes again and again."""
    parent = everything = 0.0
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=told, stderr=told)
        if memory:
            while process.poll() is None:
                parent = max(parent, status_mb(process.pid, "VmHWM:"))
                everything = max(everything, sum(shared_mb(pid) for pid in (process.pid, *descendants(process.pid))))
                time.sleep(POLL_S)
        code = process.wait()
        seconds = time.perf_counter() - started
        if code:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)} exited with {code}:\n{told.read().decode()[-2000:]}")
    return Spent(seconds, parent, everything)


def descendants(pid: int) -> list[int]:
    """Processes below one."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                below += [child, *descendants(child)]
    return below


def status_mb(pid: int, field: str, file: str = "status") -> float:
    """A field of a process in MB; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def shared_mb(pid: int) -> float:
    """A process's share of memory: pages that several hold are divided among them."""
    return status_mb(pid, "Pss:", "smaps_rollup")


def read_plain(table: Path) -> dict[tuple[str, str], float]:
    """Probabilities of the loop by file and label."""
    with table.open(newline="") as file:
        return {
            (row["source"], label): float(value)
            for row in csv.DictReader(file)
            for label, value in row.items()
            if label != "source"
        }


def read_medvit(out: Path) -> dict[tuple[str, str], float]:
    """Probabilities of medvit by file and label."""
    with (out / "results.csv").open(newline="") as file:
        return {(row["source"], row["label"]): float(row["probability"]) for row in csv.DictReader(file)}


def save_system(path: Path) -> None:
    """A ViT-S/16 of 14 labels with random weights, as a checkpoint of medvit."""
    torch.manual_seed(0)
    system = ThoraxMAE(labels="nih14", drop_path=0.0)
    torch.nn.init.normal_(system.net.head.weight, std=HEAD_STD)
    arguments = {name: value for name, value in system.hparams.items() if name != "weights"}
    card = {"system": "ThoraxMAE", "version": "0", "arguments": arguments}
    save_file(
        {name: tensor.contiguous() for name, tensor in system.state_dict().items()}, path, {"medvit": json.dumps(card)}
    )


def make_films(folder: Path, count: int, side: int) -> None:
    """Films of smooth shapes and noise, no two alike; every third is MONOCHROME1."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 60, (side + 64, side + 64)).astype(np.float32)
    for number in range(count):
        coarse = Pillow.fromarray(rng.uniform(300, 3600, (7, 7)).astype(np.float32))
        shapes = np.asarray(coarse.resize((side, side), Pillow.Resampling.BICUBIC))
        top, left = rng.integers(0, 64, 2)
        stored = (shapes + noise[top : top + side, left : left + side]).clip(0, 2**BITS - 1).astype("<u2")
        write_film(folder / f"{number:05d}.dcm", stored, number)


def write_film(path: Path, stored: np.ndarray, number: int) -> None:
    """A DX film with a window in the file."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = f"2.25.{number + 1}"
    film.StudyInstanceUID, film.SeriesInstanceUID = f"2.25.1{number:07d}", f"2.25.2{number:07d}"
    film.PatientName, film.PatientID = f"Made^{number}", str(number)
    film.PatientBirthDate = film.PatientSex = film.StudyDate = film.StudyTime = film.AccessionNumber = ""
    film.StudyID = film.ReferringPhysicianName = film.Manufacturer = ""
    film.SeriesNumber = film.InstanceNumber = 1
    film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", "PA"
    film.PresentationIntentType = "FOR PRESENTATION"
    film.Rows, film.Columns = stored.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.PhotometricInterpretation = "MONOCHROME1" if number % 3 == 0 else "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, BITS, BITS - 1
    film.WindowCenter, film.WindowWidth = 2048 + number % 50, 3600
    film.PixelSpacing = film.ImagerPixelSpacing = [0.2, 0.2]
    film.PixelData = stored.tobytes()
    film.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    main()

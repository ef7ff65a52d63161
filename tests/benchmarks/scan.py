"""How fast a large folder is discovered: ``python tests/benchmarks/scan.py [--files N] [--workers N]``.

Hard links of a few films in folders of 1,000, each found, its header read, compared with the others of its UID and put in
order. Asked for: 200,000 files in 120 s and 1 GB. With ``--copies`` every file has a UID of its own and none is a duplicate.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the films of the tests
from conftest import _make_film

from medvit.discover import discover
from medvit.guard import Pool, preload
from medvit.readers.headers import duties

ORIGINALS = 20
FOLDER = 1_000
SIDE = 32  # pixels are not read


def fill(folder: Path, files: int, same: bool) -> None:
    """Films of a small set, as links, or as copies with UIDs of their own."""
    rng = np.random.default_rng(0)
    originals = []
    for index in range(ORIGINALS):
        uid = f"1.2.3.{index + 100}.{10**9}"
        pixels = rng.integers(0, 4096, (SIDE, SIDE))
        originals.append(_make_film(folder / "originals" / f"{index}.dcm", pixels, SOPInstanceUID=uid))
    contents = [path.read_bytes() for path in originals]
    for index in range(files - ORIGINALS):
        path, origin = folder / f"{index // FOLDER:04d}" / f"{index:09d}.dcm", index % ORIGINALS
        path.parent.mkdir(exist_ok=True)
        if same:
            os.link(originals[origin], path)
        else:
            uid = f"1.2.3.{origin + 100}."
            path.write_bytes(contents[origin].replace(f"{uid}{10**9}".encode(), f"{uid}{10**9 + index + 1}".encode()))


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(further for child in children for further in descendants(child))]


def spent(pid: int) -> tuple[float, float]:
    """Peak memory in MB (pages that processes share count in each) and seconds of computing of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3, sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Fill, discover, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--copies", action="store_true", help="every file has a UID of its own")
    options = parser.parse_args()
    preload(["medvit.readers.headers"])
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        fill(Path(name), options.files, not options.copies)
        with Pool(options.workers, duties) as pool:
            started = time.perf_counter()
            found = discover([name], pool, lambda case: None)
            seconds = time.perf_counter() - started
            here, there = spent(os.getpid()), [spent(pid) for pid in descendants(os.getpid())]
        answered = sum(one.refusal is None for one in found)
        if len(found) != options.files:
            raise SystemExit(f"{len(found)} of {options.files} files were found.")
    memory, computing = here[0] + sum(memory for memory, _ in there), sum(computing for _, computing in there)
    print(
        f"{options.files} files ({answered} to answer), {options.workers} workers: {seconds:.1f} s, "
        f"{options.files / seconds:.0f} files/s, {memory:.0f} MB at most ({here[0]:.0f} of them here); "
        f"computing: {here[1]:.1f} s here, {computing:.1f} s in workers ({1e6 * computing / options.files:.0f} us a file)"
    )


if __name__ == "__main__":
    main()

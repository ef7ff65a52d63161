"""How soon the command answers: ``python tests/benchmarks/command_line.py``; medians of five runs after one that warms up.

Asked for: help under 0.3 s, a mistyped workflow under 1 s.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5
WORKFLOW = Path(__file__).parents[2] / "workflows" / "thorax_mae.yaml"


def median_s(arguments: list[str], code: int) -> float:
    """Median wall seconds of ``medvit ARGUMENTS`` as a new process, which must exit with ``code``."""
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "medvit", *arguments], capture_output=True, check=False)
        seconds.append(time.perf_counter() - started)
        if done.returncode != code:
            raise SystemExit(f"medvit {' '.join(arguments)} exited with {done.returncode}, not {code}")
    return statistics.median(seconds[1:])


def main() -> None:
    """Time both and print a line each."""
    with tempfile.TemporaryDirectory() as folder:
        typo = Path(folder) / "typo.yaml"
        text = WORKFLOW.read_text().replace("drop_path", "drop_paht").replace("batch_size", "batch_sice")
        typo.write_text(text)
        print(f"medvit --help                    {median_s(['--help'], 0):.3f} s")
        print(f"medvit train, mistyped workflow  {median_s(['train', str(typo)], 2):.3f} s")


if __name__ == "__main__":
    main()

"""How long 500 small films take to an archive and back, verified: medvit push and pull with Orthanc on the loopback.

sudo .venv/bin/python tests/benchmarks/archive.py [COUNT]
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
import orthanc  # noqa: E402
import tiny  # noqa: E402
from conftest import _make_film  # noqa: E402

from medvit.cli import main  # noqa: E402


def timed(title: str, *words: object) -> None:
    """Run the command, which must do everything it was asked to."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([str(word) for word in words])
    print(f"{title:24} {time.perf_counter() - started:6.2f} s   {said.getvalue().partition('  in ')[0]}")
    if code:
        raise SystemExit(code)


def run(count: int) -> None:
    """Push, push again, pull, pull again."""
    os.environ["MEDVIT_DICOMWEB_USER"], os.environ["MEDVIT_DICOMWEB_PASSWORD"] = orthanc.USER, orthanc.PASSWORD
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for index in range(count):
            path, study = folder / f"out/cases/{index:05d}/report_sr.dcm", f"2.25.{1 + index // 2}"
            _make_film(path, tiny.draw(index, True, False), bits=8, StudyDate="20260101", StudyInstanceUID=study)
        archive = orthanc.Orthanc(folder)
        with archive.network.inside():
            timed("push", "push", folder / "out", orthanc.URL)
            timed("push again", "push", folder / "out", orthanc.URL)
            timed("pull", "pull", orthanc.URL, "-o", folder / "in", "--date", "20260101")
            timed("pull again", "pull", orthanc.URL, "-o", folder / "in", "--date", "20260101")
        archive.close()


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 500)

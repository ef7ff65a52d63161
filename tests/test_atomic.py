"""Files are whole or not there, and a folder belongs to one run."""

import subprocess
import sys
from pathlib import Path

import pytest

from medvit.atomic import locked, whole, write_text
from medvit.errors import MedvitError

HOLD = """
import sys, pathlib
from medvit.atomic import locked

with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_takes_its_place_when_the_block_ends(tmp_path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with whole(path) as part:
        part.write_text("new")
        assert part.parent == path.parent  # the same file system, so that the rename is atomic
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as part:
        part.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_are_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch) -> None:
    steps: list[tuple[str, str]] = []
    monkeypatch.setattr("medvit.atomic._sync", lambda path: steps.append(("sync", path.name)))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda part, to: steps.append(("rename", to.name)) or rename(part, to))
    with whole(tmp_path / "file.txt") as part:
        part.write_text("x")
    assert steps == [("sync", ".file.txt.part"), ("rename", "file.txt"), ("sync", tmp_path.name)]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    code = (
        "import os, pathlib, signal, sys; from medvit.atomic import whole\n"
        "with whole(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_text() == "old"
    write_text(path, "new")  # and what it left does not disturb the next run
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_utf8_cannot_hold_is_escaped_and_line_ends_are_kept(tmp_path) -> None:
    write_text(tmp_path / "a.txt", "ü bad\udcff\r\nend\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü bad\\udcff\r\nend\n".encode()


def test_a_folder_belongs_to_one_run_until_it_ends_however_it_ends(tmp_path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(MedvitError, match="Another run is writing to"), locked(tmp_path):
        pass
    other.kill()
    other.communicate()
    with locked(tmp_path):
        pass


def test_the_lock_is_free_again_after_the_block(tmp_path) -> None:
    for _ in range(2):
        with locked(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()

"""The sample clips: made twice alike, split by patient, readable, with words that do not survive the reader."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvit.case import read_table
from medvit.data.clip_tables import TASKS
from medvit.readers.clip import read_clip

FOLDER = Path(__file__).resolve().parents[2] / "sample_data"
SHIPPED = FOLDER / "clips"


def test_the_shipped_clips_are_those_that_the_generator_makes(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys, make\n"
        "clip = make.plan_clips(0)[int(sys.argv[2])]\n"
        "make.write_clip(clip, make.paint_clip(clip.eye), Path(sys.argv[1]), make.uid)"
    )
    for number in (0, 130):
        subprocess.run([sys.executable, "-c", code, tmp_path, str(number)], cwd=FOLDER, check=True)
        made, shipped = ((place / f"{number:04d}.dcm").read_bytes() for place in (tmp_path, SHIPPED))
        assert made == shipped


def test_the_table_is_split_by_patient_with_every_label_of_every_task() -> None:
    splits = read_table(SHIPPED / "cases.csv", list(TASKS.values()))
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 96, "val": 24, "test": 40}
    for cases in splits.values():
        for label in TASKS.values():
            assert {case.labels[label] for case in cases if label in case.labels} == {0.0, 1.0}


@pytest.mark.parametrize("name", ["0000.dcm", "0159.dcm", "video"])
def test_clips_are_read_without_the_words_of_the_scanner(name: str) -> None:
    path = sorted((SHIPPED / "videos").glob("*.mp4"))[0] if name == "video" else SHIPPED / name
    whole, cropped = read_clip(path, crop=False).pixels[0], read_clip(path).pixels[0]
    assert whole.shape[1:] == (72, 80)
    assert whole[:, :3].max() > 0.4
    assert cropped[:, :3].max() == 0
    assert np.abs(np.diff(cropped[:, 20:60, 20:60], axis=0)).mean() > 0.005


def test_the_clips_are_small() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*")) < 3_000_000

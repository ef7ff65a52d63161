"""What the app says of cases, runs and slides in words and close-ups, and what a field that only goes away does not write."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow
from review_runs import LABELS, leave_films, leave_stack

from apps.review.desk import Desk, Settings
from apps.review.runs import Run, tell_apart
from apps.review.store import Store
from medvit.cli import DONE, main
from medvit.readers.slide import Slide

STACK = Path(__file__).parents[1] / "sample_data/smears/stack/field.tif"
ANSWERS = ((0.9, 0.8, 0.7), (0.1, 0.2, 0.3))


@pytest.fixture
def films(tmp_path, make_film):
    """Two runs whose folders have the same name, each over two films."""
    outs = []
    for ward in ("ward_1", "ward_2"):
        (tmp_path / ward).mkdir()
        outs.append(leave_films(tmp_path / ward, make_film, ANSWERS))
    return outs


def test_runs_whose_folders_have_one_name_are_told_apart_and_so_are_their_exports(films, tmp_path):
    runs = [Run(out) for out in films]
    assert [run.name for run in runs] == ["out", "out"]
    tell_apart(runs)
    assert [run.name for run in runs] == ["ward_1_out", "ward_2_out"]
    alone = [Run(films[0])]
    tell_apart(alone)
    assert alone[0].name == "out"
    assert main(["review", *map(str, films), "--export", str(tmp_path / "all")]) == DONE
    assert {path.name for path in (tmp_path / "all").glob("*.csv")} == {
        "decisions_ward_1_out.csv", "decisions_ward_2_out.csv"
    }  # fmt: skip


def test_a_note_is_written_when_it_changes_and_not_when_its_field_only_goes_away(films):
    pytest.importorskip("streamlit")
    from apps.review import decide

    desk = Desk(Settings((str(films[0]),), (str(films[0].parent),), workers=0))
    visit = SimpleNamespace(desk=desk, person=SimpleNamespace(name="anna"))
    (run,) = desk.runs.values()
    row = next(iter(run.rows.values()))

    def notes():
        return [entry.said["note"] for entry in Store(films[0]).since() if entry.kind == "note"]

    decide.remark(visit, run, row, "Mass", "", "")
    assert notes() == []
    for note in ("seen before", "seen before", "", ""):
        decide.remark(visit, run, row, "Mass", note, "")
    assert notes() == ["seen before", ""]


def test_a_missing_file_a_header_without_a_side_and_a_file_without_a_header_are_said_apart(films):
    pytest.importorskip("streamlit")
    from apps.review.captions import meaning, side, spacing

    folder = films[0].parent
    desk = Desk(Settings((str(films[0]),), (str(folder),), workers=0))
    (run,) = desk.runs.values()
    row = next(iter(run.rows.values()))
    assert side(row, desk.facts(run.key, row.case)) == "laterality: right"
    shutil.rmtree(folder / "films")
    gone = Desk(Settings((str(films[0]),), (str(folder),), workers=0))
    assert "cannot be opened" in side(row, gone.facts(run.key, row.case))
    assert side(row, {}) == "no laterality in the header"
    assert side(row._replace(header={}), {}) == "no laterality: not DICOM"
    assert "at the detector" in spacing(row) and "detector" not in spacing(
        row._replace(origin={"spacing": "PixelSpacing"})
    )
    assert "0: detached" in meaning("Macula_Intact_vs_Detached") and meaning("Mass") == ""


def test_the_list_names_some_of_the_other_findings_and_the_pointer_all_of_them(films):
    pytest.importorskip("streamlit")
    from apps.review.worklist import _all, _also

    row = next(iter(Run(films[0]).refresh().rows.values()))
    names = [label.name for label in LABELS]
    assert _also(row, row.strongest, 1) == f"{names[1]} 0.80, 1 more"
    assert _all(row, row.strongest) == f"{names[0]} 0.90, {names[1]} 0.80, {names[2]} 0.70"


def test_a_close_up_of_a_stack_is_the_sharpest_plane_unless_one_is_asked_for(tmp_path):
    out = leave_stack(tmp_path, Path(shutil.copy(STACK, tmp_path)), 0.5)
    desk = Desk(Settings((str(out),), (str(tmp_path),), workers=0))
    (run,) = desk.runs.values()
    case = next(iter(run.rows))
    desk.slide(run.key, case).result()
    slide, place, side = Slide(tmp_path / STACK.name, 0.5), (240.0, 256.0), 64

    def seen(plane):
        (jpeg,) = desk.tile(run.key, case, (*place, side, side, 1.0), plane).result().arrays
        return np.asarray(Pillow.open(io.BytesIO(jpeg.tobytes())).convert("RGB"), float)

    planes = [np.asarray(slide.region(place, (side, side), 0.5, z), float) for z in range(slide.planes)]
    sharpest = np.asarray(slide.read(place, side, 0.5, "best"), float)
    away = [np.abs(seen("best") - plane).mean() for plane in planes]
    assert int(np.argmin(away)) == int(np.argmin([np.abs(sharpest - plane).mean() for plane in planes]))
    assert int(np.argmin(away)) != slide.planes // 2  # the middle one shows this cell blurred
    assert int(np.argmin([np.abs(seen(0) - plane).mean() for plane in planes])) == 0

"""``medvit explain``: maps by method and label, and what the methods are worth."""

import json

import numpy as np
import pytest
import tiny


@pytest.fixture(scope="module")
def boxes(work):
    """Where the effusions of the films are: their lowest ten rows."""
    rows = [row for row in tiny.read_rows(work / "cases.csv") if row["Effusion"] == "1"]
    path = work / "boxes.csv"
    lines = [f"{row['path']},Effusion,0,{tiny.SIDE - 10},{tiny.SIDE},{tiny.SIDE}" for row in rows]
    path.write_text("\n".join(["path,label,x_min,y_min,x_max,y_max", *lines]) + "\n")
    return path


def test_maps_of_every_method_and_label_are_written_for_every_case(trained, work, tmp_path) -> None:
    films = [work / "films/00.dcm", work / "films/01.dcm", work / "films/unreadable.dcm"]
    done = tiny.medvit(
        "explain", trained.checkpoint, *films, "-o", tmp_path / "out", "--method", "attention lrp,attention rollout",
        "--labels", "Mass", "--workers", 0, cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 3 and "explained 2  refused 1" in done.out, done.err
    cases = sorted((tmp_path / "out/cases").iterdir())
    assert len(cases) == 2
    for case in cases:
        names = sorted(path.name for path in case.iterdir())
        assert names == [f"heat_Mass-attention-{way}.{kind}" for way in ("lrp", "rollout") for kind in ("npz", "png")]
        with np.load(case / names[0]) as held:
            assert held["values"].shape == (4, 4) and json.loads(str(held["about"]))["method"] == "attention lrp"


def test_methods_are_scored_with_intervals_and_against_chance_and_boxes(trained, work, boxes, tmp_path) -> None:
    done = tiny.medvit(
        "explain", trained.checkpoint, work / "cases.csv", "-o", tmp_path / "out", "--score", "--split", "val",
        "--boxes", boxes, "--workers", 0, "--most", 8, "--method", "occlusion,raw attention", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out/faithfulness.json").read_text())
    assert told["cases"] == 8 and list(told["methods"]) == ["random", "occlusion", "raw attention"]
    assert set(told["beat_chance"]) <= {"occlusion", "raw attention"}
    for name in ("deletion mean", "insertion blur", "pointing", "iou"):
        value, low, high = told["methods"]["occlusion"][name]
        assert 0 <= low <= value <= high <= 1
    assert (tmp_path / "out/faithfulness.md").read_text() == done.out
    assert "Recommended: occlusion" in done.out or "No method is recommended" in done.out
    assert "| random |" in done.out and tiny.SECRET not in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "tea leaves"), "--method knows gradient x attention"),
        (("--labels", "Hernia"), "--labels knows Mass, Effusion"),
        (("--score",), "takes one table"),
    ],
)
def test_what_it_does_not_know_it_says(trained, work, tmp_path, words, said) -> None:
    done = tiny.medvit(
        "explain", trained.checkpoint, work / "films", "-o", tmp_path / "o", "--workers", 0, *words, cwd=tmp_path
    )
    assert done.code == 2 and said in done.err and "Traceback" not in done.err

"""``medvit train --folds``: every patient is tested once, by a run that never saw them."""

import json

import pytest
import tiny

from medvit.case import read_table
from medvit.data.slide_tables import folded


@pytest.fixture(scope="module")
def run(work, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "cv"
    system = {**tiny.FINETUNE["system"], "weights": None}
    file = tiny.write_workflow(
        work / "folds.yaml", tiny.FINETUNE, requires=None, system=system, data={"table": "readable.csv"},
        trainer={"max_epochs": 1},
    )  # fmt: skip
    rows = [row for row in tiny.read_rows(work / "cases.csv") if "unreadable" not in row["path"]]
    tiny.write_table(work / "readable.csv", [list(row.values()) for row in rows])
    done = tiny.medvit("train", file, "--folds", 3, "-o", out, cwd=work)
    assert done.code == 0, done.err
    return out, done, file


def test_each_fold_leaves_a_run_and_all_of_them_a_table(run) -> None:
    out, done, _ = run
    assert done.out.strip() == str(out / "folds.json")
    told = json.loads((out / "folds.json").read_text())
    assert [fold["cases"] for fold in told["folds"]] and sum(fold["cases"] for fold in told["folds"]) == 38
    assert all((out / f"fold_{k}" / "model.safetensors").is_file() for k in range(3))
    areas = [fold["measures"]["Mass"]["auroc"][0] for fold in told["folds"]]
    assert told["mean_of_folds"]["Mass"]["auroc"] == pytest.approx(sum(areas) / 3, abs=1e-5)
    assert len(told["together"]["mean"]["auroc"]) == 3


def test_finished_folds_are_left_alone(run, work) -> None:
    out, _, file = run
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    done = tiny.medvit("train", file, "--folds", 3, "-o", out, "--resume", "auto", cwd=work)
    assert done.code == 0 and "already trained" in done.err
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}


def test_no_patient_is_in_two_splits_of_a_fold_and_each_is_tested_once(work) -> None:
    splits = read_table(work / "cases.csv", tiny.LABELS)
    tested = []
    for fold in range(4):
        dealt = folded(splits, 4, fold, tiny.LABELS)
        who = {split: {case.patient for case in cases} for split, cases in dealt.items()}
        assert not (who["train"] & who["test"] or who["train"] & who["val"] or who["val"] & who["test"])
        tested += [case.uid for case in dealt["test"]]
    assert sorted(tested) == sorted(case.uid for cases in splits.values() for case in cases)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fine.yaml", "--folds", 2), "at least 3"),
        (("pre.yaml", "--folds", 3), "trains no system with labels"),
        (("fine.yaml", "--folds", 3, "--resume", "last.ckpt"), "not with a checkpoint"),
    ],
)
def test_what_makes_no_folds_is_refused(work, words, said) -> None:
    done = tiny.medvit("train", *words, cwd=work)
    assert done.code == 2 and said in done.err

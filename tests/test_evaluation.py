"""``medvit evaluate`` on tiny films: its numbers by another library, its page, its card, and what it refuses."""

import json
import math
import re
from collections import defaultdict

import pytest
import tiny
import torch

from medvit.tasks.trust import PREFIX

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: pip install medvit[bench]")


@pytest.fixture(scope="module")
def table(work):
    """The films of `work` with columns for subgroups."""
    rows = tiny.read_rows(work / "cases.csv")
    path = work / "with_groups.csv"
    text = [",".join([*rows[0], "sex", "age", "ward"])]
    text += [
        ",".join([*row.values(), "FM"[i % 3 == 0], str(10 + 2 * i), f"ward {i % 2}"]) for i, row in enumerate(rows)
    ]
    path.write_text("\n".join(text) + "\n")
    return path


@pytest.fixture(scope="module")
def evaluated(trained, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "out"
    words = ("evaluate", trained.checkpoint, table, "-o", out, "--split", "val", "--workers", 0, "--draws", 200,
             "--against", trained.run / "model.safetensors", "--data-licence", "CC0")  # fmt: skip
    done = tiny.medvit(*words, cwd=out.parent)
    assert done.code == 0, done.err
    return out, json.loads((out / "evaluation.json").read_text()), done


def test_its_numbers_are_those_of_scikit_learn_on_the_answers_that_it_leaves(evaluated) -> None:
    out, told, _ = evaluated
    rows = defaultdict(list)
    for row in tiny.read_rows(out / "answers.csv"):
        if row["truth"]:
            rows[row["label"]].append((float(row["truth"]), float(row["probability"])))
    assert set(rows) == set(tiny.LABELS) == set(told["labels"])
    for name, pairs in rows.items():
        y, p = zip(*pairs, strict=True)
        measured = told["labels"][name]["measures"]
        assert measured["auroc"][0] == pytest.approx(sklearn.roc_auc_score(y, p), abs=1e-5)
        assert measured["brier"][0] == pytest.approx(sklearn.brier_score_loss(y, p), abs=1e-5)
        point = told["labels"][name]["points"]["youden"]
        said = [one >= point["threshold"] for one in p]
        assert sklearn.confusion_matrix(y, said).ravel().tolist() == [point[c] for c in ("tn", "fp", "fn", "tp")]
        low, high = measured["auroc"][1:]
        assert low <= measured["auroc"][0] <= high


def test_thresholds_come_from_the_training_and_groups_from_the_columns(evaluated) -> None:
    _, told, _ = evaluated
    assert told["points_from"] == "the checkpoint (validation split of its training)"
    assert told["labels"]["Mass"]["points"]["youden"]["threshold"] == pytest.approx(
        told["checkpoint"]["thresholds"]["Mass"], abs=1e-5
    )
    groups = {(one["column"], one["group"]): one for one in told["subgroups"] if one["label"] == "Mass"}
    assert {("sex", "F"), ("sex", "M")} <= groups.keys() and any(column == "age" for column, _ in groups)
    assert sum(one["cases"] for (column, _), one in groups.items() if column == "sex") == told["cases"] == 12
    assert all(one["warning"] for one in groups.values())  # each stands on few
    assert told["splits"]["train"]["patients"] == 12


def test_against_itself_nothing_differs(evaluated) -> None:
    _, told, _ = evaluated
    for one in told["against"]["labels"].values():
        assert one["difference"] == [0, 0, 0] and one["delong_p"] == 1
    assert told["against"]["patients_repeat"] is True


def test_the_page_needs_nothing_else_and_shows_the_worst_errors(evaluated) -> None:
    out, told, _ = evaluated
    page = (out / "evaluation.html").read_text()
    assert "<script" not in page and not re.search(r"(src|href)=.(?!data:)", page) and " style=" not in page
    assert page.count("<svg") >= 6 and "Reliability" in page and "Against <bdi>model.safetensors" in page
    assert page.count("data:image/jpeg") == len(told["worst"])
    assert all(one["case"] in page for one in told["worst"])
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "answers.csv", "evaluation.html", "evaluation.json", "model_card.md",
    ]  # fmt: skip


def test_the_card_says_use_data_digests_measures_and_limits(evaluated, trained) -> None:
    out, told, _ = evaluated
    card = (out / "model_card.md").read_text()
    parts = (
        "Intended use", "no medical device", told["checkpoint"]["sha256"], told["table_sha256"], "CC0", "Limits",
        "train: 24 cases of 12 patients", "temperature of the logits", "not told; say it with --weights-licence",
    )  # fmt: skip
    for part in parts:
        assert part in card.replace("\n", " "), part


def test_nothing_that_is_written_names_a_patient(evaluated) -> None:
    out, _, done = evaluated
    assert tiny.SECRET not in done.out + done.err
    assert all(tiny.SECRET not in path.read_text() for path in out.iterdir())


def test_an_older_checkpoint_takes_its_points_from_the_validation_split_and_what_nobody_can_read_is_counted(
    trained, table, tmp_path
) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith(PREFIX)}
    for name in ("calibration", "operating_points"):
        del content["medvit"][name]
    torch.save(content, tmp_path / "older.ckpt")
    done = tiny.medvit(
        "evaluate", tmp_path / "older.ckpt", table, "-o", tmp_path / "out", "--workers", 0, "--draws", 20, "--by", "ward",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["points_from"] == "validation split of with_groups.csv" and told["calibration"].startswith("none")
    assert (told["cases"], told["unanswered"]["count"]) == (2, 1) and sum(told["unanswered"]["reasons"].values()) == 1
    assert told["out_of_distribution"] == {"known": 0, "over": 0}
    assert {one["column"] for one in told["subgroups"]} == {"ward"}
    assert not any(isinstance(value, float) and math.isnan(value) for value in told["mean"]["auroc"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--by", "hospital"), "has no column 'hospital'"),
        (("--by", "patient_id"), "makes no subgroups"),
        (("--draws", "0"), "--draws at least 1"),
    ],
)
def test_what_it_cannot_do_it_says_in_a_sentence(trained, table, tmp_path, more, said) -> None:
    done = tiny.medvit("evaluate", trained.checkpoint, table, "-o", tmp_path / "o", "--workers", 0, *more, cwd=tmp_path)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "o").exists()  # before the work


def test_a_table_without_the_labels_and_a_system_without_answers_are_refused(trained, tmp_path) -> None:
    (tmp_path / "other.csv").write_text("path,patient_id,split,Hernia\na.dcm,p,test,1\n")
    done = tiny.medvit("evaluate", trained.checkpoint, tmp_path / "other.csv", cwd=tmp_path)
    assert done.code == 2 and "no column for any of the system's labels: Mass, Effusion" in done.err
    pre = trained.folder / "runs/pre/best.ckpt"
    done = tiny.medvit("evaluate", pre, tmp_path / "other.csv", cwd=tmp_path)
    assert done.code == 2 and "answers no findings" in done.err

"""What a finished training leaves in its checkpoint beside the weights, and checkpoints without it."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file

from medvit.tasks.trust import PARTS, PREFIX, Trust
from medvit.workflow import load_system


@pytest.fixture(scope="module")
def older(trained, tmp_path_factory):
    """The trained checkpoint as medvit left it before it calibrated."""
    content = torch.load(trained.checkpoint, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith(PREFIX)}
    for name in ("calibration", "out_of_distribution", "operating_points"):
        del content["medvit"][name]
    path = tmp_path_factory.mktemp("older") / "best.ckpt"
    torch.save(content, path)
    return path


def test_both_files_of_a_run_hold_temperature_features_and_limit_and_the_card_says_so(trained) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    state, released = content["state_dict"], load_file(trained.run / "model.safetensors")
    names = {name for name in state if name.startswith(PREFIX)}
    assert len(names) == 13 and names <= released.keys()
    card = content["medvit"]
    assert list(card["calibration"]["temperature"]) == list(tiny.LABELS)
    assert list(card["calibration"]["temperature"].values()) == pytest.approx(
        state["trust.temperature"].tolist(), rel=1e-4
    )
    assert card["calibration"]["validation_cases"] == 12 and card["out_of_distribution"]["training_cases"] == 24
    assert set(card["operating_points"]["Mass"]) == {"youden", "sensitivity 0.9", "specificity 0.9"}
    assert card["operating_points"]["Mass"]["youden"] == pytest.approx(card["thresholds"]["Mass"])
    assert json.loads((trained.run / "metrics.json").read_text())["calibration"] == card["calibration"]
    assert "calibrated on 12 validation cases" in trained.err


def test_an_answer_is_at_its_temperature_and_knows_its_distance(trained) -> None:
    system = load_system(trained.checkpoint)
    assert isinstance(system.trust, Trust)
    logits = torch.tensor([[1.0, -2.0]])
    wanted = (logits / system.trust.temperature).sigmoid()
    torch.testing.assert_close(system.probability(logits), wanted)
    near, far = system.distances(torch.stack([system.trust.mean, system.trust.mean + 1e3]))
    assert near.value < near.limit and not near.far and far.far


def test_what_looks_usual_to_the_network_but_has_another_texture_lies_far(trained) -> None:
    system = load_system(trained.checkpoint)
    trust = system.trust
    assert isinstance(trust, Trust)
    features = trust.mean[None]
    usual, (other,) = trust.picture_centre[None], system.trust.distances(features, trust.picture_centre[None] + 40)
    assert trust.distances(features, usual)[0].far is False and other.far and not trust.distances(features)[0].far
    older = Trust({name: tuple(value.shape) for name, value in trust.state_dict().items() if name in PARTS})
    older.load_state_dict({name: value for name, value in trust.state_dict().items() if name in PARTS})
    assert (
        older.distances(features, usual + 40)[0].value == older.distances(features)[0].value
    )  # as it was answered then


def test_an_older_checkpoint_answers_as_before_and_says_that_it_is_not_calibrated(older, work, tmp_path) -> None:
    system = load_system(older)
    assert system.trust is None and system.distances(torch.zeros(2, 24)) == [None, None]
    done = tiny.medvit("predict", older, work / "films/00.dcm", "-o", tmp_path / "out", "--workers", 0, cwd=work)
    assert done.code == 0 and "is not calibrated" in done.err
    rows = tiny.read_rows(tmp_path / "out/results.csv")
    assert {row["distance"] + row["out_of_distribution"] for row in rows} == {""}
    assert "calibration" not in json.loads((tmp_path / "out/run.json").read_text())["settings"]["checkpoint"]
    assert "not calibrated" in (tmp_path / "out/report.html").read_text()


def test_a_run_says_how_its_answers_were_calibrated_and_marks_what_is_unlike_training(
    trained, work, tmp_path, make_film
):
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    make_film(tmp_path / "in/noise.dcm", noise, bits=8)
    make_film(tmp_path / "in/usual.dcm", tiny.draw(7, True, False), bits=8)
    done = tiny.medvit(
        "predict",
        trained.checkpoint,
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "--workers",
        0,
        "--write",
        "csv,sr",
        cwd=work,
    )
    assert done.code == 0, done.err
    marked = {row["source"].split("/")[-1]: row for row in tiny.read_rows(tmp_path / "out/results.csv")}
    assert marked["noise.dcm"]["out_of_distribution"] == "1" and marked["usual.dcm"]["out_of_distribution"] == "0"
    assert float(marked["noise.dcm"]["distance"]) > float(marked["noise.dcm"]["distance_limit"])
    told = json.loads((tmp_path / "out/run.json").read_text())["settings"]["checkpoint"]["calibration"]
    assert "temperature" in told["method"] and list(told["temperature"]) == list(tiny.LABELS)
    assert "1 of 2 cases, marked in results.csv" in (tmp_path / "out/report.html").read_text()


def test_training_goes_on_from_the_best_checkpoint_without_what_its_end_had_learned(trained) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    load_system(trained.checkpoint).on_load_checkpoint(content)
    assert not any(name.startswith(PREFIX) for name in content["state_dict"])
    assert "thresholds" in content["state_dict"]

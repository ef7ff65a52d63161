"""Training: the same again, interrupted and gone on with, chosen on validation data, and nothing that should not be kept."""

import csv
import importlib.util
import json
import shutil
import sys
import time

import pytest
import tiny
import torch
import yaml

from medvit.errors import MedvitError
from medvit.tasks.progress import Lines
from medvit.train import finished, flat, rehearse, train
from medvit.workflow import load_system, open_workflow


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different


def metrics(run):
    rows = []
    for path in sorted(run.glob("logs/*/metrics.csv")):
        with path.open(newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


@pytest.fixture
def opened(trained, request):
    """Open fine.yaml with overrides into a run of its own, beside the pre-training that `trained` left."""

    def open_(*overrides, name=None, file="fine.yaml", allow=()):
        run = trained.folder / "runs" / (name or request.node.name.replace("[", "-").rstrip("]"))
        return open_workflow(trained.folder / file, overrides, run, allow)

    return open_


def test_the_requirement_is_trained_first_and_nothing_is_said_of_the_test_split(trained):
    assert trained.err.index("training pre.yaml") < trained.err.index("training fine.yaml")
    assert "unreadable.dcm" not in trained.err and "left out" not in trained.err  # it is in the test split
    assert "Warning" not in trained.err and "Traceback" not in trained.err
    assert trained.err.count("epoch ") >= 8


def test_a_film_that_cannot_be_read_is_left_out_of_training_with_a_warning(trained, opened, caplog):
    rows = tiny.read_rows(trained.folder / "cases.csv")
    listed = [[row[name] for name in ("path", "patient_id", "split", "Mass", "Effusion")] for row in rows]
    assert listed[-1][0] == "films/unreadable.dcm"
    tiny.write_table(trained.folder / "bad.csv", [*listed[:-1], ("films/unreadable.dcm", "new", "train", 1, 0)])
    caplog.set_level("WARNING")
    train(opened(f"data.table={trained.folder}/bad.csv", "trainer.max_epochs=1", "data.batch_size=25"))
    assert "unreadable.dcm is left out" in caplog.text


def test_the_run_folder_holds_what_the_manual_says(trained):
    names = {path.name for path in trained.run.iterdir()}
    assert names >= {"best.ckpt", "last.ckpt", "model.safetensors", "workflow.yaml", "metrics.json", "logs"}
    assert not list(trained.folder.glob("lightning_logs")) and not list(trained.folder.rglob("*.part"))
    assert {row["epoch"] for row in metrics(trained.run)} == {str(epoch) for epoch in range(tiny.EPOCHS)}


def test_the_best_checkpoint_is_that_of_the_best_validation_auroc(trained):
    areas = {int(row["epoch"]): float(row["val/auroc"]) for row in metrics(trained.run) if row["val/auroc"]}
    report = json.loads((trained.run / "metrics.json").read_text())
    content = torch.load(trained.checkpoint, weights_only=True)
    assert content["epoch"] == report["epoch"] - 1 == max(areas, key=areas.get)
    assert report["selected_by"] == "val/auroc"
    assert report["value"] == pytest.approx(max(areas.values()))
    assert report["metrics"]["val/auroc"] == pytest.approx(max(areas.values()))


def test_a_middle_epoch_is_chosen_when_it_was_the_best(opened, monkeypatch):
    areas = iter([0.6, 0.9, 0.7])
    monkeypatch.setattr("medvit.tasks.findings.nanmean", lambda values: torch.tensor(next(areas)))
    workflow = opened("trainer.max_epochs=3")
    best = train(workflow)
    assert torch.load(best, weights_only=True)["epoch"] == 1
    assert torch.load(workflow.run / "last.ckpt", weights_only=True)["epoch"] == 2
    assert json.loads((workflow.run / "metrics.json").read_text())["value"] == pytest.approx(0.9)


def test_the_same_workflow_and_seed_train_the_same_tensors_and_another_seed_others(trained, opened):
    again = opened()
    torch.manual_seed(12345)  # whatever went on before
    train(again)
    assert_same(tensors(trained.checkpoint), tensors(again.best))
    assert_same(tensors(trained.run / "last.ckpt"), tensors(again.run / "last.ckpt"))
    other = opened("seed=4", name="another-seed")
    train(other)
    mine, theirs = tensors(trained.run / "last.ckpt"), tensors(other.run / "last.ckpt")
    assert not torch.equal(mine["net.head.weight"], theirs["net.head.weight"])


@pytest.mark.parametrize("batch", [0, 1])
def test_an_interrupted_run_goes_on_to_the_same_tensors(trained, opened, monkeypatch, batch):
    workflow = opened()

    def interrupt(self, trainer, system, seen, index):
        if trainer.current_epoch == 3 and index == batch:
            raise KeyboardInterrupt

    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning would ignore Ctrl-C from then on
    with monkeypatch.context() as patch:
        patch.setattr(Lines, "on_train_batch_start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(workflow)
    assert not finished(workflow)
    assert torch.load(workflow.run / "last.ckpt", weights_only=True)["epoch"] == 2
    with pytest.raises(MedvitError, match=r"already holds a run.*--resume auto"):
        train(workflow)
    train(workflow, "auto")
    assert finished(workflow)
    assert_same(tensors(trained.checkpoint), tensors(workflow.best))
    assert_same(tensors(trained.run / "last.ckpt"), tensors(workflow.run / "last.ckpt"))
    assert {row["epoch"] for row in metrics(workflow.run)} == {str(epoch) for epoch in range(tiny.EPOCHS)}


def test_a_killed_run_goes_on_to_the_same_tensors(trained, opened):
    run = trained.folder / "runs/killed"
    command = tiny.Command("train", "fine.yaml", "-o", run, cwd=trained.folder)
    while command.process.is_alive() and not (run / "last.ckpt").exists():
        time.sleep(0.001)
    command.process.kill()
    assert command.wait().code == -9
    assert not (run / "model.safetensors").exists()
    done = tiny.medvit("train", "fine.yaml", "-o", run, "--resume", "auto", cwd=trained.folder)
    assert done.code == 0, done.err
    for name in ("best.ckpt", "last.ckpt"):
        assert_same(tensors(trained.run / name), tensors(run / name))


def test_a_run_can_be_continued_from_a_named_checkpoint(trained, opened):
    workflow = opened()
    assert torch.load(trained.checkpoint, weights_only=True)["epoch"] < tiny.EPOCHS - 1
    train(workflow, str(trained.checkpoint))
    assert_same(tensors(trained.run / "last.ckpt"), tensors(workflow.run / "last.ckpt"))


def test_a_missing_checkpoint_to_resume_is_a_sentence(opened):
    with pytest.raises(MedvitError, match=r"checkpoint nowhere\.ckpt is not there"):
        train(opened(), "nowhere.ckpt")


def test_a_checkpoint_of_something_else_is_no_beginning(trained, opened, tmp_path):
    (tmp_path / "page.ckpt").write_text("<html>404</html>")
    with pytest.raises(MedvitError, match="cannot be read: not a checkpoint, or damaged"):
        train(opened(name="other"), str(tmp_path / "page.ckpt"))
    with pytest.raises(MedvitError, match=r"is of ThoraxMAEPretraining, and .* trains ThoraxMAE"):
        train(opened(name="other"), str(trained.folder / "runs/pre/best.ckpt"))


def test_a_finished_run_is_left_alone_by_resume_auto_and_refused_without(trained, opened):
    workflow = opened(name="fine")
    before = {path: path.stat().st_mtime_ns for path in trained.run.rglob("*") if path.is_file()}
    assert train(workflow, "auto") == trained.checkpoint
    assert before == {path: path.stat().st_mtime_ns for path in trained.run.rglob("*") if path.is_file()}
    with pytest.raises(MedvitError, match="already holds a run"):
        train(workflow)


def test_other_settings_are_refused_with_the_difference_named(opened):
    with pytest.raises(MedvitError, match=r"other settings: system\.drop_path was None and is 0\.3"):
        train(opened("system.drop_path=0.3", name="fine"), "auto")
    with pytest.raises(MedvitError, match=r"seed was 3 and is 5; trainer\.max_epochs was 6 and is 9"):
        train(opened("seed=5", "trainer.max_epochs=9", name="fine"), "auto")


def test_a_requirement_that_was_trained_with_other_settings_is_refused(trained, opened, tmp_path):
    shutil.copytree(trained.folder / "runs/pre", tmp_path / "runs/pre")
    saved = tmp_path / "runs/pre/workflow.yaml"
    saved.write_text(saved.read_text().replace("mask_ratio: 0.5", "mask_ratio: 0.75"))
    workflow = open_workflow(trained.folder / "fine.yaml", run=tmp_path / "runs/fine")
    with pytest.raises(MedvitError, match=r"pre.*system\.mask_ratio was 0\.75 and is 0\.5"):
        train(workflow)
    assert not (tmp_path / "runs/fine").exists()


def test_two_trainings_into_one_folder_are_refused(trained, opened):
    from medvit.atomic import locked

    with locked(trained.run), pytest.raises(MedvitError, match="Another run is writing"):
        train(opened(name="fine"), "auto")


def test_a_rehearsal_writes_nothing_and_finds_what_training_would(trained, tmp_path):
    shutil.copytree(trained.folder / "films", tmp_path / "films")
    for name in ("cases.csv", "pre.yaml", "fine.yaml"):
        shutil.copy(trained.folder / name, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    rehearse(open_workflow(tmp_path / "fine.yaml", run=tmp_path / "runs/fine"))
    assert sorted(tmp_path.rglob("*")) == before
    rows = [(f"films/{n:02d}.dcm", f"p{n}", "train" if n % 2 else "val", 1, 1) for n in range(4)]
    tiny.write_table(tmp_path / "cases.csv", rows)
    with pytest.raises(MedvitError, match="no finding with both"):
        rehearse(open_workflow(tmp_path / "fine.yaml", run=tmp_path / "runs/fine"))


def test_the_resolved_workflow_is_saved_and_opens_again(trained):
    again = open_workflow(trained.run / "workflow.yaml", run=trained.run)
    now = yaml.safe_load(yaml.safe_dump(again.resolved()))
    assert flat(now) == flat(yaml.safe_load((trained.run / "workflow.yaml").read_text()))


def plain(tree):
    """Whether a tree holds tensors and plain types only."""
    if isinstance(tree, dict):
        return all(plain(key) and plain(value) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return all(map(plain, tree))
    return isinstance(tree, torch.Tensor | str | int | float | bool | None)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_checkpoint_opens_as_plain_data_without_help_and_names_no_patient(trained, name):
    content = torch.load(trained.run / name, weights_only=True)  # no safe_globals
    assert plain(content)
    assert content["medvit"]["system"] == "ThoraxMAE"
    assert content["medvit"]["labels"] == list(tiny.LABELS)
    assert content["medvit"]["arguments"] == content["hyper_parameters"]
    assert "Research use only" in content["medvit"]["notice"]
    thresholds = content["medvit"]["thresholds"]
    assert list(thresholds.values()) == content["state_dict"]["thresholds"].tolist()
    assert any(threshold != 0.5 for threshold in thresholds.values())


def test_no_file_of_a_run_nor_its_log_names_a_patient(trained):
    assert tiny.SECRET not in trained.err
    for path in (trained.folder / "runs").rglob("*"):
        assert not path.is_file() or tiny.SECRET.encode() not in path.read_bytes(), path


def test_averaged_weights_are_validated_saved_and_answer(opened):
    workflow = opened("trainer.callbacks=[{class: EMAWeightAveraging, decay: 0.5}]")
    train(workflow)
    content = torch.load(workflow.best, weights_only=True)
    averaged, current = content["state_dict"], content["current_model_state"]
    assert {name for name in averaged if not name.startswith("trust.")} == current.keys()
    assert not torch.equal(averaged["net.head.weight"], current["net.head.weight"])
    assert list(content["medvit"]["thresholds"].values()) == averaged["thresholds"].tolist()
    assert (averaged["thresholds"] != 0.5).all()
    assert_same(load_system(workflow.best).state_dict(), averaged)


def test_half_precision_trains(opened):
    workflow = opened("trainer.precision=bf16-mixed", "trainer.max_epochs=2")
    state = tensors(train(workflow))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())


def test_accumulated_batches_scale_the_learning_rate(trained, opened):
    workflow = opened("trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")
    train(workflow)
    expected = tiny.FINETUNE["system"]["base_lr"] * tiny.DATA["batch_size"] / 256

    def highest(path):
        groups = torch.load(path, weights_only=True)["optimizer_states"][0]["param_groups"]
        return max(group["initial_lr"] for group in groups)

    assert highest(trained.run / "last.ckpt") == pytest.approx(expected)
    assert highest(workflow.run / "last.ckpt") == pytest.approx(2 * expected)


def test_workers_that_read_make_no_difference(trained, opened):
    workflow = opened("data.workers=1", "data.cache=false", "trainer.max_epochs=1")
    other = opened("trainer.max_epochs=1", name="no-workers")
    assert_same(tensors(train(workflow)), tensors(train(other)))


def test_a_callback_of_the_users_own_package_is_used_once_it_is_allowed(opened, tmp_path, monkeypatch):
    package = tmp_path / "lib/ourcallbacks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "count.py").write_text(
        "from pathlib import Path\nfrom lightning.pytorch.callbacks import Callback\n\n\n"
        "class Count(Callback):\n    def __init__(self, file: str, times: int = 1) -> None:\n"
        "        self.file, self.times = Path(file), times\n\n"
        "    def on_train_epoch_end(self, trainer, pl_module):\n"
        "        self.file.write_text('epoch ' * self.times)\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    file = tmp_path / "counted"
    callback = f"trainer.callbacks=[{{class: ourcallbacks.count.Count, file: {file}, times: 2}}]"
    with pytest.raises(MedvitError, match="--allow-import ourcallbacks"):
        opened(callback, "trainer.max_epochs=1")
    assert "ourcallbacks" not in sys.modules
    train(opened(callback, "trainer.max_epochs=1", allow=["ourcallbacks"]))
    assert file.read_text() == "epoch epoch "


def test_tensorboard_logs_by_class_or_says_what_to_install(opened, tmp_path):
    workflow = opened(f"trainer.logger={{class: TensorBoardLogger, save_dir: {tmp_path}}}", "trainer.max_epochs=1")
    if importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX"):
        train(workflow)
        assert list(tmp_path.rglob("events.out.*"))
    else:
        with pytest.raises(MedvitError, match=r"tensorboard.*pip install"):
            train(workflow)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["system.patch=7"], "patch 7 must divide image_size 32"),
        (["system.heads=5"], "heads 5 must divide width 24"),
        (["system.labels=nih15"], "no label set 'nih15'; there are nih14"),
        (["system.labels=[]"], "labels must name each finding once"),
        (["system.labels=[Mass, Efusion]"], r"no column 'Efusion' \(did you mean 'Effusion'\?\)"),
        (["system.width=48"], "do not fit ViT. Keys .*of another shape: .*blocks.0"),
        (["trainer.precision=half"], "trainer.precision: .*half"),
        (["trainer.accelerator=warp"], "warp"),
        (["trainer.callbacks=[{class: EarlyStopping, monitor: val/loss, mode: mox}]"], "mode.*min, max, got mox"),
        (["data.batch_size=0"], "batch_size"),
        (["system.depth=0"], "depth"),
        (["data.crop_min=0.0"], "crop_min"),
        (["system.base_lr=-1.0"], "system.base_lr is -1.0; it must lie between 0 and"),
        (["system.base_lr=.nan"], "system.base_lr is nan"),
        (["system.centre_share=3"], "system.centre_share is 3.0; it must lie between 0.01 and 1"),
    ],
)  # fmt: skip
def test_what_a_constructor_refuses_is_a_sentence(opened, overrides, said):
    workflow = opened(*overrides, name="refused")
    with pytest.raises(MedvitError, match=said) as error:
        train(workflow)
    assert "class_path" not in str(error.value) and "Namespace" not in str(error.value)
    shutil.rmtree(workflow.run, ignore_errors=True)


def test_a_training_that_ends_in_no_numbers_is_refused_and_not_finished(trained, tmp_path):
    overrides = ["system.base_lr=100000.0", "system.warmup_epochs=0", "trainer.max_epochs=2"]
    workflow = open_workflow(trained.folder / "pre.yaml", overrides, run=tmp_path / "diverged")
    with pytest.raises(MedvitError, match="no numbers before the first validation"):
        train(workflow)
    assert not finished(workflow)


def test_a_rehearsal_says_nothing_of_other_libraries(trained, tmp_path, capfd):
    done = tiny.medvit("train", trained.folder / "fine.yaml", "--dry-run", "-o", tmp_path / "runs", cwd=tmp_path)
    assert done.code == 0 and "can be trained" in done.out
    assert [line for line in done.err.splitlines() if not line.startswith(("train: ", "val: ", "test: "))] == []


def test_a_callback_that_replaces_the_checkpoints_is_refused(opened):
    workflow = opened("trainer.enable_checkpointing=false", "trainer.max_epochs=1")
    with pytest.raises(MedvitError):
        train(workflow)

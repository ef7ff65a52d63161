"""What people get wrong, through the real command: one sentence that says what and where, and never a traceback."""

import os

import numpy as np
import pytest
import tiny
import torch

TRAIN, PREDICT = "train", "predict"


def refused(done, *said, code=2):
    """The command ended with a code and a sentence that says all of that."""
    assert "Traceback" not in done.err and "Traceback" not in done.out
    assert done.code == code, done.err
    sentence = done.err.strip().splitlines()[-1]
    for word in said:
        assert str(word) in sentence, done.err
    assert sentence.endswith((".", "?")) or "Known here" in sentence
    assert "Namespace" not in sentence and "class_path" not in sentence


@pytest.fixture
def table(work, tmp_path):
    """Write a workflow over a changed table: ``change`` gets each row as a dict and returns it, or None to drop it."""

    def write(change):
        rows = [changed for row in tiny.read_rows(work / "cases.csv") if (changed := change(dict(row)))]
        listed = [(f"{work}/{row['path']}", *list(row.values())[1:]) for row in rows]
        tiny.write_table(tmp_path / "cases.csv", listed)
        return tiny.write_workflow(tmp_path / "bad.yaml", tiny.FINETUNE, requires=None, system={"weights": None})

    return write


def test_a_missing_workflow(tmp_path):
    refused(tiny.medvit(TRAIN, "nowhere.yaml", cwd=tmp_path), "The file nowhere.yaml is not there")


def test_a_missing_table(tmp_path):
    path = tiny.write_workflow(tmp_path / "bad.yaml", tiny.PRETRAIN)
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), f"{path}:", f"data.table: {tmp_path}/cases.csv is not there")


def test_a_workflow_with_three_typos(work):
    path = tiny.write_workflow(
        work / "three.yaml", tiny.FINETUNE, system={"labls": 1}, data={"worker": 0}, trainer={"precison": 32}
    )
    done = tiny.medvit(TRAIN, path, cwd=work)
    refused(done)
    assert [line.split("Did you mean ")[1] for line in done.err.splitlines()] == [
        "data.workers?", "system.labels?", "trainer.precision?",
    ]  # fmt: skip


def test_a_label_that_is_no_column(work, tmp_path):
    path = tiny.write_workflow(
        work / "label.yaml", tiny.FINETUNE, requires=None, system={"labels": ["Mass", "Efusion"], "weights": None}
    )
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), work / "cases.csv", "'Efusion' (did you mean 'Effusion'?)")


def test_an_unknown_label_set(work, tmp_path):
    path = tiny.write_workflow(
        work / "set.yaml", tiny.FINETUNE, requires=None, system={"labels": "nih", "weights": None}
    )
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), path, "no label set 'nih'; there are nih14")


def test_a_training_split_without_a_positive_case(table, tmp_path):
    path = table(lambda row: row | {"Mass": "0"} if row["split"] == "train" else row)
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), tmp_path / "cases.csv", "no positive case of Mass in split train")


def test_a_validation_split_without_any_positive_case(table, tmp_path):
    path = table(lambda row: row | {"Mass": "0", "Effusion": "0"} if row["split"] == "val" else row)
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), tmp_path / "cases.csv", "no finding with both", "split val")


def test_no_validation_split(table, tmp_path):
    path = table(lambda row: row if row["split"] != "val" else None)
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), "no cases in split val")


def test_a_patient_in_two_splits(table, tmp_path):
    path = table(lambda row: row | {"patient_id": f"{tiny.SECRET}1"} if row["split"] == "val" else row)
    done = tiny.medvit(TRAIN, path, cwd=tmp_path)
    refused(done, "patients in more than one split: p-")
    assert tiny.SECRET not in done.err


def test_a_table_that_names_a_missing_film(work, tmp_path):
    tiny.write_table(tmp_path / "cases.csv", [("nowhere.dcm", "p", "train", 1, 0)])
    path = tiny.write_workflow(tmp_path / "bad.yaml", tiny.PRETRAIN)
    refused(tiny.medvit(TRAIN, path, cwd=tmp_path), "nowhere.dcm, which is not there (1 of 1")


def test_training_films_that_nobody_can_read(table, work, tmp_path):
    def unreadable(row):
        if row["split"] != "train":
            return row
        path = tmp_path / row["path"].replace("/", "_")
        path.write_bytes(b"nothing that anybody could read")
        return row | {"path": os.path.relpath(path, work)}

    refused(tiny.medvit(TRAIN, table(unreadable), cwd=tmp_path), "None of 12 cases of a batch could be read")


def test_a_patch_that_does_not_divide_the_image(work, tmp_path):
    path = work / "pre.yaml"
    done = tiny.medvit(TRAIN, path, "system.patch=5", "--dry-run", cwd=tmp_path)
    refused(done, path, "patch 5 must divide image_size 32")


def test_weights_that_do_not_fit_are_named_key_by_key(trained, tmp_path):
    path = tiny.write_workflow(
        trained.folder / "wide.yaml",
        tiny.FINETUNE,
        requires=None,
        system={"weights": "runs/pre/best.ckpt", "width": 48},
    )
    done = tiny.medvit(TRAIN, path, cwd=tmp_path)
    refused(done, "runs/pre/best.ckpt do not fit ViT", "blocks.0.attn.qkv.weight (72, 24) for (144, 48)")


def test_weights_that_are_no_weights(work, tmp_path):
    (tmp_path / "weights.pth").write_text("no weights")
    words = ("requires=[]", f"system.weights={tmp_path}/weights.pth")
    refused(tiny.medvit(TRAIN, work / "fine.yaml", *words, cwd=tmp_path), "weights.pth", "no")


def test_weights_that_would_run_code(work, tmp_path):
    class Hostile:
        def __reduce__(self):
            import os

            return os.system, (f"touch {tmp_path}/canary",)

    torch.save({"model": {"x": torch.zeros(1)}, "more": Hostile()}, tmp_path / "hostile.pth")
    words = ("requires=[]", f"system.weights={tmp_path}/hostile.pth")
    refused(tiny.medvit(TRAIN, work / "fine.yaml", *words, cwd=tmp_path), "hostile.pth", "system, which could run code")
    assert not (tmp_path / "canary").exists()


def test_a_batch_larger_than_the_training_split_still_trains(work, tmp_path):
    done = tiny.medvit(TRAIN, work / "pre.yaml", "data.batch_size=500", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.code == 0, done.err


# predict


def answer(checkpoint, *inputs, cwd):
    return tiny.medvit(PREDICT, checkpoint, *inputs, "-o", "out", "--workers", 0, cwd=cwd)


def test_a_missing_checkpoint_and_a_missing_input(trained, tmp_path):
    refused(answer("none.ckpt", trained.folder / "films", cwd=tmp_path), "none.ckpt is not there")
    refused(answer(trained.checkpoint, "no/folder", cwd=tmp_path), "no/folder is not there")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_pretraining(trained, tmp_path):
    done = answer(trained.folder / "runs/pre/best.ckpt", trained.folder / "films", cwd=tmp_path)
    refused(done, "ThoraxMAEPretraining pre-trains and answers nothing")
    assert not (tmp_path / "out/run.json").exists()


@pytest.mark.parametrize("name", ["random.ckpt", "random.safetensors", "random.pth"])
def test_a_random_file_as_checkpoint(work, tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    refused(answer(tmp_path / name, work / "films", cwd=tmp_path), name, "no")


@pytest.mark.parametrize("name", ["best.ckpt", "model.safetensors"])
def test_a_truncated_checkpoint(trained, tmp_path, name):
    whole = (trained.run / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refused(answer(tmp_path / name, trained.folder / "films", cwd=tmp_path), name, "cannot be read")


def change(checkpoint, path, **changes):
    content = torch.load(checkpoint, weights_only=True)
    content["medvit"] |= changes
    torch.save(content, path)
    return path


def test_a_checkpoint_of_an_unknown_system(trained, tmp_path):
    path = change(trained.checkpoint, tmp_path / "other.ckpt", system="ThoraxGAN")
    refused(
        answer(path, trained.folder / "films", cwd=tmp_path), path, "'ThoraxGAN', a system that this medvit does not"
    )


@pytest.mark.parametrize("system", ["os.system", "medvit.weights.release", "torch.nn.Linear", "System", "Films"])
def test_a_checkpoint_that_names_something_else_than_a_system(trained, tmp_path, system):
    path = change(trained.checkpoint, tmp_path / "other.ckpt", system=system)
    refused(answer(path, trained.folder / "films", cwd=tmp_path), path)


@pytest.mark.parametrize(
    "changes", [{"depths": 2}, {"depth": "deep"}, {"patch": 7}, {"labels": "nih15"}, {"width": 48}, {"labels": 3}]
)
def test_a_checkpoint_whose_arguments_do_not_fit(trained, tmp_path, changes):
    arguments = torch.load(trained.checkpoint, weights_only=True)["medvit"]["arguments"]
    path = change(trained.checkpoint, tmp_path / "other.ckpt", arguments=arguments | changes)
    refused(answer(path, trained.folder / "films", cwd=tmp_path))


def test_a_checkpoint_that_names_a_class_of_an_installed_package_does_not_import_it(trained, tmp_path, monkeypatch):
    (tmp_path / "lib/hostile_system").mkdir(parents=True)
    touch = f"import pathlib\npathlib.Path({str(tmp_path / 'canary')!r}).touch()\nclass Thing: ...\n"
    (tmp_path / "lib/hostile_system/__init__.py").write_text(touch)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    path = change(trained.checkpoint, tmp_path / "other.ckpt", system="hostile_system.Thing")
    refused(answer(path, trained.folder / "films", cwd=tmp_path), path, "a system that this medvit does not have")
    assert not (tmp_path / "canary").exists()


def test_published_weights_are_not_answered_with(work, tmp_path):
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 24)}}, tmp_path / "mae.pth")
    refused(answer(tmp_path / "mae.pth", work / "films", cwd=tmp_path), "mae.pth is no checkpoint of a medvit system")


def test_a_folder_of_unreadable_files_is_a_table_of_reasons_and_1(trained, tmp_path):
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 60)
    done = answer(trained.checkpoint, tmp_path / "a.dcm", tmp_path / "b.dcm", cwd=tmp_path)
    assert done.code == 1 and "Traceback" not in done.err
    rows = tiny.read_rows(tmp_path / "out/inputs.csv")
    assert [row["status"] for row in rows] == ["rejected"] * 2 and all(row["message"] for row in rows)


def test_an_output_folder_that_cannot_be_made(trained, tmp_path):
    (tmp_path / "out").write_text("a file")
    refused(answer(trained.checkpoint, trained.folder / "films", cwd=tmp_path), "out")

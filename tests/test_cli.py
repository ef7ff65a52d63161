"""The command: help and refusals at once, sentences instead of tracebacks, exit codes that scripts can rely on."""

import json
import os
import subprocess
import sys

import pytest
import tiny

from medvit import __version__
from medvit.cli import main

HEAVY = ("torch", "jsonargparse", "torchmetrics")  # lightning is looked for, and cannot be imported without torch


def real(*words, cwd=None, block=True, folder=None):
    """The command in a fresh Python; with ``block`` importing anything heavy is an error."""
    environment = dict(os.environ)
    if block:
        (folder / "sitecustomize.py").write_text(
            "import sys\n\n\nclass Block:\n    def find_spec(self, name, path=None, target=None):\n"
            f"        if name in {HEAVY}:\n            raise AssertionError('imported ' + name)\n\n\n"
            "sys.meta_path.insert(0, Block())\n"
        )
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "medvit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_block_of_heavy_imports_works(tmp_path):
    done = real("doctor", folder=tmp_path)
    assert done.returncode == 1 and "imported torch" in done.stderr


def test_three_typos_are_three_lines_without_torch_or_traceback(work, tmp_path):
    path = tiny.write_workflow(
        work / "typos.yaml", tiny.PRETRAIN, system={"heds": 3}, data={"batchsize": 3}, trainer={"max_epoch": 1}
    )
    done = real("train", path, folder=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 3
    assert all(f"{path}:" in line and "Did you mean" in line for line in done.stderr.splitlines())


def test_help_comes_without_torch_and_names_verbs_and_exit_codes(tmp_path):
    done = real("--help", folder=tmp_path)
    assert done.returncode == 0 and not done.stderr
    for word in ("train", "predict", "show", "doctor", "exit codes: 0", "Research use only"):
        assert word in done.stdout


@pytest.mark.parametrize("verb", ["train", "predict", "show", "doctor"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert "exit codes" in capsys.readouterr().out


def test_the_version_says_that_it_is_for_research_only(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    told = capsys.readouterr().out
    assert end.value.code == 0 and f"medvit {__version__}" in told and "Research use only. Not a medical device" in told


@pytest.mark.parametrize(
    "words", [["tarin", "x.yaml"], [], ["train"], ["train", "x.yaml", "--fast"], ["predict", "a.ckpt", "b", "--ot", "c"],
              ["show", "a", "b"], ["predict", "a.ckpt", "b", "-o", "c", "--workers", "many"], ["doctor", "now"]]
)  # fmt: skip
def test_a_wrong_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["system.depth=deep", "-o", "RUN", "--dry-run"],
        ["-o", "RUN", "system.depth=deep", "--dry-run"],
        ["--dry-run", "-o", "RUN", "seed=1", "system.depth=deep"],
        ["seed=1", "-o", "RUN", "system.depth=deep"],
    ],
)
def test_key_value_words_are_taken_before_and_behind_options(work, words, capsys):
    assert main(["train", str(work / "pre.yaml"), *words]) == 2
    assert capsys.readouterr().err == "command line, system.depth=deep: system.depth is 'deep'; it must be int.\n"


def test_a_dry_run_says_that_it_can_be_trained_and_writes_nothing(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(trained.folder / "fine.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("fine.yaml can be trained into runs/fine.\n")
    assert list(tmp_path.iterdir()) == []


def test_train_prints_the_checkpoint_and_logs_elsewhere(trained, capsys):
    assert main(["train", str(trained.folder / "fine.yaml"), "-o", str(trained.run), "--resume", "auto"]) == 0
    assert capsys.readouterr().out == f"{trained.checkpoint}\n"


def test_ctrl_c_is_a_sentence_and_1(trained, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medvit.train.train", stop)
    assert main(["train", str(trained.folder / "fine.yaml")]) == 1
    assert "Go on with --resume" in capsys.readouterr().err


@pytest.fixture(scope="module")
def inbox(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inbox")
    (folder / "good.dcm").write_bytes((work / "films/01.dcm").read_bytes())
    (folder / "bad.dcm").write_text("no film")
    (folder / "letter.txt").write_text("a letter")
    return folder


@pytest.mark.parametrize(
    ("names", "code", "counts"),
    [
        (["good.dcm"], 0, (1, 1, 0, 0, 0)),
        (["good.dcm", "letter.txt"], 0, (2, 1, 1, 0, 0)),
        (["letter.txt"], 0, (1, 0, 1, 0, 0)),
        (["good.dcm", "bad.dcm"], 3, (2, 1, 0, 1, 0)),
        (["bad.dcm"], 1, (1, 0, 0, 1, 0)),
        (["none.dcm"], 2, None),
        (["good.dcm", "none.dcm"], 2, None),
    ],
)
def test_the_exit_code_of_predict_says_how_it_went(trained, inbox, tmp_path, capsys, names, code, counts):
    paths = [str(inbox / name) for name in names]
    words = ["predict", str(trained.checkpoint), *paths, "-o", str(tmp_path / "out"), "--workers", "0", "--json"]
    assert main(words) == code
    told = capsys.readouterr()
    if counts:
        assert tuple(json.loads(told.out).values()) == counts  # JSON and nothing else
    else:
        assert told.out == "" and "none.dcm is not there" in told.err and not (tmp_path / "out").exists()


def test_an_empty_folder_is_nothing_done(trained, tmp_path):
    (tmp_path / "in").mkdir()
    words = ["predict", str(trained.checkpoint), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 1


def test_results_are_no_inputs_when_a_run_beside_its_inputs_goes_on(trained, work, tmp_path):
    (tmp_path / "a.dcm").write_bytes((work / "films/01.dcm").read_bytes())
    words = ["predict", str(trained.checkpoint), str(tmp_path), "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 0
    first = (tmp_path / "out/inputs.csv").read_bytes()
    assert main([*words, "--resume"]) == 0
    assert (tmp_path / "out/inputs.csv").read_bytes() == first and first.count(b"\n") == 3  # header, film, out


def test_an_input_cannot_be_the_output_too(trained, inbox, capsys):
    assert main(["predict", str(trained.checkpoint), str(inbox), "-o", f"{inbox}/."]) == 2
    assert "what is written there would become one" in capsys.readouterr().err
    assert not list(inbox.glob(".*"))


@pytest.mark.parametrize("empty", [("", "-o", "out"), ("films", "-o", "")])
def test_an_empty_path_is_no_working_directory(trained, empty, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(trained.checkpoint), *empty])
    assert "it is empty; is a variable of your script not set?" in capsys.readouterr().err


def test_a_modality_may_be_typed_in_small_letters(trained, inbox, tmp_path):
    words = ["predict", str(trained.checkpoint), str(inbox / "good.dcm"), "--workers", "0", "--modality", "cr,dx"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert tiny.rows_of(tmp_path / "out/inputs.csv")["good.dcm"]["status"] == "ok"


def test_a_file_name_cannot_write_lines_into_the_log(trained, tmp_path, capsys, caplog):
    (tmp_path / "a\nb: all is well.dcm").write_text("no film")
    words = ["predict", str(trained.checkpoint), str(tmp_path), "-o", str(tmp_path / "out"), "--workers", "0"]
    assert main([*words, "--on-error", "stop"]) == 1
    assert [record.getMessage().count("\n") for record in caplog.records if "Stopped" in record.getMessage()] == [0]


def test_predict_tells_people_the_counts_and_the_notice(trained, inbox, tmp_path, capsys):
    main(["predict", str(trained.checkpoint), str(inbox), "-o", str(tmp_path / "out"), "--workers", "0"])
    told = capsys.readouterr().out
    assert "inputs 3  ok 1  skipped 1  rejected 1  failed 0" in told and "Research use only" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--write", "csv,haet"], "--write knows csv, heat, sr, sc, pm, seg, geojson, gallery, png, nifti, not haet"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--workers", "-1"], "--workers at least 0"),
        (["--device", "warp"], "warp"),
        (["--device", "cuda:7"], "cuda:7"),
    ],
)
def test_a_wrong_option_of_predict_is_a_sentence(trained, inbox, tmp_path, capsys, words, said):
    assert main(["predict", str(trained.checkpoint), str(inbox), "-o", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out/run.json").exists()


def test_show_explains_every_key_of_a_workflow_without_torch(trained, tmp_path):
    done = real("show", trained.folder / "fine.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "system.image_size = 32  (workflow; int)" in done.stdout
    assert "system.drop_path = 0.2  (default; float)  Stochastic depth of the last block." in done.stdout
    assert "data.flip = 0.5  (default; float)" in done.stdout
    told = json.loads(real("show", trained.folder / "fine.yaml", "--json", folder=tmp_path).stdout)
    keys = {one["key"]: one for one in told["system"]["keys"]}
    assert keys["system.image_size"] == {
        "key": "system.image_size", "value": 32, "from": "workflow", "type": "int",
        "meaning": "Pixels of the model's square view.",
    }  # fmt: skip
    assert told["requires"] == [str(trained.folder / "pre.yaml")]
    assert all(one["meaning"] for one in keys.values())


@pytest.mark.parametrize("name", ["best.ckpt", "model.safetensors"])
def test_show_says_what_a_checkpoint_is(trained, capsys, name):
    assert main(["show", str(trained.run / name)]) == 0
    text = capsys.readouterr().out
    for word in ("system: ThoraxMAE", "labels: Mass, Effusion", "image_size: 32", "thresholds:", "Research use only"):
        assert word in text
    assert main(["show", str(trained.run / name), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["sha256"]) == 64 and told["arguments"]["depth"] == 2
    assert told["metrics"]["val/auroc"] > 0.5
    blocks, embed, rest = 2 * (12 * 24 * 24 + 13 * 24), 8 * 8 * 3 * 24 + 24, 24 + 17 * 24 + 2 * 24 + 24 * 2 + 2
    assert told["parameters"] == blocks + embed + rest


def test_show_refuses_what_is_neither(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("notes")
    assert main(["show", str(tmp_path / "notes.txt")]) == 2
    assert main(["show", str(tmp_path / "none.yaml")]) == 2
    told = capsys.readouterr().err
    assert "notes.txt" in told and "none.yaml is not there" in told


def test_doctor_tells_versions_decoders_and_problems(capsys):
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == (1 if told["problems"] else 0)
    assert told["medvit"] == __version__ and told["versions"]["torch"] != "not installed"
    assert told["transfer syntaxes"]["Explicit VR Little Endian"] == "yes"
    assert main(["doctor"]) == code
    assert "Explicit VR Little Endian" in capsys.readouterr().out


def test_doctor_warns_of_torchvision_and_malicious_releases(monkeypatch, capsys):
    from medvit import doctor

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_version", lambda name: "2.6.3")
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "pip uninstall torchvision" in told and "lightning 2.6.3 is a malicious release" in told


def test_a_reader_that_closes_the_pipe_causes_no_traceback(trained):
    command = f"{sys.executable} -m medvit show {trained.folder / 'fine.yaml'} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr

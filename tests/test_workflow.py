"""Opening a workflow: every problem at once, with its line, before torch and without running what it names."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from medvit.errors import MedvitError
from medvit.workflow import load_system, open_workflow


@pytest.fixture
def folder(tmp_path):
    """A folder with a table of no film and the two tiny workflows."""
    (tmp_path / "film.dcm").touch()
    tiny.write_table(tmp_path / "cases.csv", [("film.dcm", "p", "train", 1, 0)])
    tiny.write_workflow(tmp_path / "pre.yaml", tiny.PRETRAIN)
    tiny.write_workflow(tmp_path / "fine.yaml", tiny.FINETUNE)
    return tmp_path


def problems(path: Path, *overrides: str, **settings: object) -> list[str]:
    with pytest.raises(MedvitError) as error:
        open_workflow(path, overrides, **settings)
    return str(error.value).splitlines()


def line_of(path: Path, key: str) -> int:
    return next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.strip().startswith(f"{key}:"))


def test_a_workflow_is_resolved_to_dotted_classes_and_absolute_paths(folder):
    workflow = open_workflow(folder / "fine.yaml")
    assert workflow.system["class"] == "medvit.systems.thorax_mae.ThoraxMAE"
    assert workflow.data["class"] == "medvit.data.cases.Cases"
    assert workflow.data["table"] == str(folder / "cases.csv")
    assert [required.path.name for required in workflow.requires] == ["pre.yaml"]
    assert workflow.system["weights"] == str(Path("runs/pre/best.ckpt").resolve())
    assert workflow.run == Path("runs/fine") and workflow.seed == 3


def test_the_runs_of_required_workflows_lie_beside_the_run(folder):
    workflow = open_workflow(folder / "fine.yaml", run=folder / "elsewhere/mine")
    assert workflow.requires[0].run == folder / "elsewhere/pre"


def test_three_typos_are_three_lines_with_file_line_and_what_was_meant(folder):
    path = tiny.write_workflow(
        folder / "typos.yaml", tiny.FINETUNE, system={"image_sise": 32}, data={"batchsize": 3}, trainer={"max_epoch": 2}
    )
    told = problems(path)
    expected = {
        "system.image_sise": "system.image_size",
        "data.batchsize": "data.batch_size",
        "trainer.max_epoch": "trainer.max_epochs",
    }
    assert len(told) == 3
    for wrong, meant in expected.items():
        line = line_of(path, wrong.split(".")[1])
        assert f"{path}:{line}: unknown key {wrong}. Did you mean {meant}?" in told
    lines = [int(sentence.removeprefix(f"{path}:").split(":")[0]) for sentence in told]
    assert lines == sorted(lines)


def test_an_unknown_key_at_the_top_and_an_unknown_class_are_named(folder):
    path = tiny.write_workflow(folder / "odd.yaml", tiny.PRETRAIN, trainers=3, system={"class": "ThoraxMAEPretrainin"})
    told = "\n".join(problems(path))
    assert "unknown key trainers. Did you mean trainer?" in told
    assert "there is no class ThoraxMAEPretrainin; did you mean ThoraxMAEPretraining" in told


@pytest.mark.parametrize(
    ("part", "key", "value", "type_text"),
    [
        ("system", "image_size", "large", "int"), ("system", "image_size", 32.5, "int"), ("system", "depth", True, "int"),
        ("system", "base_lr", "1e-3x", "float"), ("system", "labels", [1, 2], "str | list[str]"),
        ("system", "pool", "max", "Literal['mean', 'class']"), ("system", "weights", 3, "Path | None"),
        ("data", "cache", "yes", "bool"), ("data", "kind", "nhi", "Literal"), ("trainer", "max_epochs", "ten", "int"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_answered_with_the_key_the_value_and_the_type(folder, part, key, value, type_text):
    path = tiny.write_workflow(folder / "types.yaml", tiny.FINETUNE, **{part: {key: value}})
    (told,) = problems(path)
    assert told.startswith(f"{path}:{line_of(path, key)}: {part}.{key} is {value!r}; it must be")
    assert type_text in told


def test_a_number_without_a_point_is_a_float(folder):
    path = tiny.write_workflow(folder / "types.yaml", tiny.FINETUNE, system={"warmup_epochs": 1, "base_lr": 1})
    assert open_workflow(path).system["base_lr"] == 1


def test_a_missing_argument_and_a_missing_file_are_named(folder):
    path = tiny.write_workflow(folder / "lacks.yaml", tiny.PRETRAIN, data={"table": None})
    assert problems(path) == [f"{path}:{line_of(path, 'data')}: data lacks table (Path)."]
    path = tiny.write_workflow(folder / "lacks.yaml", tiny.PRETRAIN, data={"table": "tables/none.csv"})
    assert problems(path) == [f"{path}:{line_of(path, 'table')}: data.table: {folder}/tables/none.csv is not there."]


@pytest.mark.parametrize("part", ["system", "data"])
def test_a_part_without_a_class_lists_the_classes(folder, part):
    path = tiny.write_workflow(folder / "part.yaml", tiny.PRETRAIN, **{part: {"class": None}})
    assert "must be a mapping that names its class" in problems(path)[0]
    assert ("ThoraxMAE" if part == "system" else "(Bags, Cases, Clips, Masks, SlideTiles)") in problems(path)[0]


def test_a_class_that_makes_no_loaders_is_no_data(folder):
    path = tiny.write_workflow(folder / "part.yaml", tiny.PRETRAIN, data={"class": "Views"})
    assert "there is no class Views; known here: Bags, Cases" in problems(path)[0]


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_numpy_does_not_take_is_refused(folder, seed):
    assert f"seed is {seed}; it must lie between 0 and 4294967295" in problems(folder / "pre.yaml", f"seed={seed}")[0]


def test_overrides_on_the_command_line_win_and_are_named_in_errors(folder, monkeypatch):
    path = folder / "fine.yaml"
    monkeypatch.chdir(folder)
    workflow = open_workflow(
        path, ["system.depth=1", "trainer.precision=bf16-mixed", "seed=010", "data.table=cases.csv"]
    )
    assert (workflow.system["depth"], workflow.seed) == (1, 10)
    assert workflow.trainer["precision"] == "bf16-mixed"
    told = problems(path, "system.depth=deep", "data.batchsize=3", "trainer.max_epochs")
    assert sorted(told) == sorted(
        [
            "command line: 'trainer.max_epochs' is no key=value, such as trainer.max_epochs=3.",
            "command line, data.batchsize=3: unknown key data.batchsize. Did you mean data.batch_size?",
            "command line, system.depth=deep: system.depth is 'deep'; it must be int.",
        ]
    )
    assert "no mapping" in problems(path, "seed.of.all=3")[0]
    assert problems(path, "data.table=other.csv") == [
        f"command line, data.table=other.csv: data.table: {folder}/other.csv is not there."
    ]


def test_a_trainer_left_empty_can_be_set_on_the_command_line(folder):
    path = folder / "empty.yaml"
    tree = {**tiny.PRETRAIN, "trainer": None}
    path.write_text(yaml.safe_dump(tree))
    assert open_workflow(path, ["trainer.max_epochs=1"]).trainer == {"max_epochs": 1}


def test_a_circle_of_requirements_is_refused(folder):
    tiny.write_workflow(folder / "a.yaml", tiny.PRETRAIN, requires=["b.yaml"])
    tiny.write_workflow(folder / "b.yaml", tiny.PRETRAIN, requires=["a.yaml"])
    assert "a.yaml requires itself" in problems(folder / "a.yaml")[0]
    tiny.write_workflow(folder / "a.yaml", tiny.PRETRAIN, requires=["a.yaml"])
    assert "a.yaml requires itself" in problems(folder / "a.yaml")[0]


def test_problems_of_a_required_workflow_are_told_with_its_name(folder):
    tiny.write_workflow(folder / "pre.yaml", tiny.PRETRAIN, system={"hads": 3})
    told = problems(folder / "fine.yaml", "trainer.max_epoch=3")
    assert any(f"{folder}/pre.yaml:" in line and "Did you mean system.heads?" in line for line in told)
    assert any("trainer.max_epoch" in line for line in told)


def test_a_required_workflow_must_be_there_and_weights_must_be_required(folder):
    assert "the workflow none.yaml is not there" in problems(folder / "fine.yaml", "requires=[none.yaml]")[0]
    told = problems(tiny.write_workflow(folder / "alone.yaml", tiny.FINETUNE, requires=None))
    assert len(told) == 1 and "system.weights names the workflow pre.yaml, which requires must list" in told[0]


@pytest.mark.parametrize("value", ["pre.yaml", [1], {"a": 1}])
def test_requires_must_be_a_list_of_files(folder, value):
    path = tiny.write_workflow(folder / "requires.yaml", tiny.PRETRAIN)
    tree = yaml.safe_load(path.read_text()) | {"requires": value}
    path.write_text(yaml.safe_dump(tree))
    assert "requires must be a list of workflow files" in problems(path)[0]


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that the package ``hostile`` writes when it is imported."""
    package = tmp_path / "lib/hostile"
    package.mkdir(parents=True)
    file = tmp_path / "canary"
    touch = f"import pathlib\npathlib.Path({str(file)!r}).touch()\n"
    (package / "__init__.py").write_text(touch)
    (package / "parts.py").write_text(f"{touch}class Thing:\n    def __init__(self, command=''): ...\n")
    monkeypatch.syspath_prepend(package.parent)
    yield file
    assert not file.exists()
    assert "hostile" not in sys.modules


THING = "hostile.parts.Thing"
LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"
HOSTILE = {
    "system": {"system": {"class": THING}},
    "data": {"data": {"class": THING}},
    "argument of the system": {"system": {"labels": {"class": THING}}},
    "callback": {"trainer": {"callbacks": [{"class": THING}]}},
    "one callback": {"trainer": {"callbacks": {"class": THING}}},
    "logger": {"trainer": {"logger": {"class": THING}}},
    "os.system": {"trainer": {"callbacks": [{"class": "os.system", "command": "true"}]}},
    "through another module": {"trainer": {"callbacks": [{"class": "logging.os.system"}]}},
    "through torch": {"trainer": {"callbacks": [{"class": "torch.os.system"}]}},
    "a leading dot": {"trainer": {"callbacks": [{"class": ".hostile.Thing"}]}},
    "argument of a callback": {"trainer": {"callbacks": [{"class": "Timer", "duration": {"class": THING}}]}},
    "function of a callback": {"trainer": {"callbacks": [{"class": LAMBDA, "on_fit_start": {"class": THING}}]}},
    "function by name": {"trainer": {"callbacks": [{"class": LAMBDA, "on_fit_start": "os.system"}]}},
    "deep inside": {"trainer": {"strategy": {"a": [{"b": {"class": THING}}]}}},
    "jsonargparse's own layout": {"trainer": {"callbacks": [{"class_path": THING, "init_args": {"command": "x"}}]}},
    "that layout inside ours": {"trainer": {"callbacks": [{"class": "Timer", "duration": {"class_path": THING}}]}},
    "that layout for a plugin": {"trainer": {"plugins": {"class_path": THING}}},
    "that layout for the system": {"system": {"class_path": THING, "class": None}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_class_outside_the_allowed_packages_is_refused_and_never_imported(folder, canary, name):
    path = tiny.write_workflow(folder / "hostile.yaml", tiny.PRETRAIN, **HOSTILE[name])
    assert f"{path}:" in problems(path)[0]


@pytest.mark.parametrize("key", ["callbacks", "logger", "strategy", "profiler", "plugins"])
@pytest.mark.parametrize("value", [THING, "os.system", f"{{class_path: {THING}}}"])
def test_a_class_named_by_plain_text_is_refused_and_never_imported(folder, canary, key, value):
    from medvit.train import instantiate

    path = tiny.write_workflow(folder / "hostile.yaml", tiny.PRETRAIN, trainer={key: value})
    with pytest.raises(MedvitError):
        instantiate(open_workflow(path))


def test_a_package_is_allowed_by_name_only(folder, canary):
    path = tiny.write_workflow(folder / "hostile.yaml", tiny.PRETRAIN, trainer={"callbacks": [{"class": THING}]})
    assert "allow its package with --allow-import hostile" in problems(path, allow=["other"])[0]
    workflow = open_workflow(path, allow=["hostile"])  # read from source, still not imported
    assert workflow.allowed[-1] == "hostile"


def test_opening_a_workflow_does_not_import_torch(folder):
    code = (
        "import sys\nfrom medvit.workflow import open_workflow\n"
        f"open_workflow({str(folder / 'fine.yaml')!r})\n"
        "print(sorted({'torch', 'lightning', 'jsonargparse', 'numpy', 'pydicom'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_system_comes_back_from_both_of_its_files(trained):
    import torch

    from medvit.systems.thorax_mae import ThoraxMAE

    one, other = load_system(trained.checkpoint), load_system(trained.run / "model.safetensors")
    assert isinstance(one, ThoraxMAE) and not one.training
    assert [label.name for label in one.labels] == list(tiny.LABELS)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_a_system_needs_only_its_own_file(trained, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes((trained.run / "model.safetensors").read_bytes())
    hidden = (trained.folder / "runs/pre").rename(trained.folder / "runs/hidden")
    try:
        load_system(copy)
    finally:
        hidden.rename(trained.folder / "runs/pre")

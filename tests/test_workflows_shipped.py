"""Every workflow that is shipped opens; those on sample data can be trained as they stand."""

from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.train import rehearse
from medvit.workflow import open_workflow

FOLDER = Path(__file__).parents[1] / "workflows"
EVERY = sorted(FOLDER.rglob("*.yaml"))
ON_SAMPLE_DATA = [path for path in EVERY if path.parent == FOLDER and "sample_data" in path.read_text()]


def name(path):
    return str(path.relative_to(FOLDER))


def test_there_are_workflows_on_sample_data():
    assert {"thorax_mae.yaml", "thorax_mae_pretrain.yaml"} <= {path.name for path in ON_SAMPLE_DATA}


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_it_opens_but_for_data_that_is_not_here(path):
    try:
        open_workflow(path)
    except MedvitError as error:
        assert path not in ON_SAMPLE_DATA, error
        left = [line for line in str(error).splitlines() if not line.endswith("is not there.")]
        assert not left


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_it_begins_by_saying_what_it_does(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", ON_SAMPLE_DATA, ids=name)
def test_it_can_be_trained_as_it_stands(path, tmp_path):
    rehearse(open_workflow(path, run=tmp_path / "runs" / path.stem))
    assert not any(tmp_path.iterdir())

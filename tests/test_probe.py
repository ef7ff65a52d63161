"""``medvit probe``: cells on smears and pictures of cells are described and told apart; what does not fit is a sentence."""

import json
from pathlib import Path

import pytest
import tiny_smears
import torch
from PIL import Image

from medvit.cli import main
from medvit.errors import MedvitError
from medvit.probe import probe
from medvit.systems.cytofm import CytoFM
from medvit.tasks.system import System

NET = {"tile": 32, "tile_mpp": 1.0, "image_size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}


@pytest.fixture(scope="module")
def system() -> CytoFM:
    torch.manual_seed(0)
    return CytoFM(["malignant"], **NET).eval()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of large and small nuclei on tiny smears."""
    folder = tmp_path_factory.mktemp("cells")
    lines = ["path,split,class,x,y,patient_id"]
    for index, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3):
        large = tiny_smears.write_smear(folder / f"{index}.tif", index, True)
        lines += [f"{index}.tif,{split},large,{x},{y},P{index}" for x, y in large]
        lines += [f"{index}.tif,{split},glass,{x},{y},P{index}" for x, y in ((8, 8), (180, 8), (8, 180))]
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")
    return folder / "cells.csv"


def test_cells_on_smears_are_told_from_glass(system: CytoFM, cells: Path) -> None:
    told = probe(system, "table", cells, stains="mixed")
    assert told["classes"] == ["glass", "large"]
    assert told["cells"] == {"train": 36, "val": 18, "test": 18}
    assert told["groups"] == {"train": 6, "val": 3, "test": 3}
    for found in told["balanced_accuracy"].values():
        assert 0.9 < found["accuracy"] <= 1 and found["low"] <= found["accuracy"] <= found["high"]


def test_a_cell_outside_its_smear_and_a_plain_picture_are_left_out_and_said(
    system: CytoFM, cells: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (20, 20), (200, 100, 150)).save(cells.parent / "plain.png")
    more = "0.tif,train,large,900,20,P0\nplain.png,train,large,,,P0\n"
    (cells.parent / "more.csv").write_text(cells.read_text() + more)
    told = probe(system, "table", cells.parent / "more.csv", stains="mixed")
    assert told["cells"]["train"] == 36
    assert "outside its 192 x 192 pixels" in caplog.text and "of one colour" in caplog.text


def test_types_that_are_unknown_or_were_never_learned_are_sentences(
    system: CytoFM, cells: Path, tmp_path: Path
) -> None:
    with pytest.raises(MedvitError, match="did you mean 'larg'"):
        probe(system, "table", cells, ["larg", "glass"])
    rows = [line for line in cells.read_text().splitlines() if ",train,large" not in line]
    (cells.parent / "none.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(MedvitError, match="no cell of the type 'large' in split train"):
        probe(system, "table", cells.parent / "none.csv")
    rows = [line for line in cells.read_text().splitlines() if ",val," not in line]
    (cells.parent / "no_val.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(MedvitError, match="no cells in split val"):
        probe(system, "table", cells.parent / "no_val.csv")


def test_a_system_without_cells_is_refused(cells: Path) -> None:
    with pytest.raises(MedvitError, match="describes no cells"):
        probe(System(), "table", cells)


def test_the_command_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["probe", str(tmp_path / "best.ckpt"), str(tmp_path)]) == 2
    assert "is not there" in capsys.readouterr().err


def test_what_was_found_is_written_as_json(system: CytoFM, cells: Path, tmp_path: Path) -> None:
    from medvit.probe import text, write

    told = probe(system, "table", cells, stains="mixed")
    write(told, tmp_path / "out")
    assert json.loads((tmp_path / "out/probe.json").read_text()) == told
    assert "linear probe: class-balanced accuracy" in text(told)

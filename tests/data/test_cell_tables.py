"""Labelled cells: the layouts in circulation, groups in one split only, and a sentence for whatever does not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.case import Case
from medvit.data.cell_tables import centre_of, check_stains, class_of, read_cells
from medvit.errors import MedvitError, Rejected
from medvit.readers.sheet import read_picture


def picture(path: Path, colour: tuple[int, int, int] = (200, 120, 160)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(path)
    return path


def folders(root: Path) -> Path:
    for split, names in {"train": ("HSIL_1", "LSIL_2"), "val": ("HSIL_3",), "test": ("LSIL_4",)}.items():
        for name in names:
            picture(root / "images" / split / f"{name}.bmp")
    return root


def table(path: Path, *rows: str, header: str = "path,split,class,patient_id") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_folders_of_class_and_number_are_read_with_or_without_images_above_them(tmp_path: Path) -> None:
    splits = read_cells("folders", folders(tmp_path))
    assert {split: [class_of(case) for case in cases] for split, cases in splits.items()} == {
        "train": ["HSIL", "LSIL"], "val": ["HSIL"], "test": ["LSIL"],
    }  # fmt: skip
    assert splits["train"][0].labels == {"HSIL": 1.0, "LSIL": 0.0}
    assert read_cells("folders", tmp_path / "images").keys() == splits.keys()


def test_a_source_in_two_splits_is_refused_by_its_pseudonym(tmp_path: Path) -> None:
    for split, name in (("train", "HSIL_S7-1_1"), ("val", "HSIL_S8-1_1"), ("test", "HSIL_S7-2_1")):
        picture(tmp_path / split / f"{name}.png")
    read_cells("folders", tmp_path)
    with pytest.raises(MedvitError, match=r"more than one split: p-[0-9a-f]{12}") as caught:
        read_cells("folders", tmp_path, group=r"S(\d+)")
    assert "S7" not in str(caught.value)
    with pytest.raises(MedvitError, match="does not match the expression"):
        read_cells("folders", tmp_path, group=r"X\d")
    with pytest.raises(MedvitError, match="for groups is wrong"):
        read_cells("folders", tmp_path, group="(")


def test_unknown_types_are_named_with_what_was_probably_meant(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=r"2 cells of the type 'HSIL' \(did you mean 'HSIIL'\?\)"):
        read_cells("folders", folders(tmp_path), ["HSIIL", "LSIL"])


def test_a_file_without_a_number_and_a_set_without_cells_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="holds no cells"):
        read_cells("folders", tmp_path)
    picture(tmp_path / "train" / "HSIL.png")
    with pytest.raises(MedvitError, match="not named <class>_<n>"):
        read_cells("folders", tmp_path)


def test_a_table_names_places_on_smears(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = ("a.png,train,benign,P1,3.5,4", "a.png,train,malignant,P1,6,2")
    cells = read_cells("table", table(tmp_path / "cells.csv", *rows, header="path,split,class,patient_id,x,y"))["train"]
    assert [centre_of(case) for case in cells] == [(3.5, 4.0), (6.0, 2.0)]
    assert len({case.key for case in cells}) == 2 and len({case.patient for case in cells}) == 1
    bad = table(tmp_path / "bad.csv", "a.png,train,benign,P1,left,4", header="path,split,class,patient_id,x,y")
    with pytest.raises(MedvitError, match=r"bad.csv:2: x and y must be level-0 pixels"):
        read_cells("table", bad)


def test_a_patient_in_two_splits_of_a_table_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(MedvitError, match="more than one split"):
        read_cells("table", table(tmp_path / "cells.csv", "a.png,train,x,P1", "a.png,test,x,P1"))
    with pytest.raises(MedvitError, match="split is 'dev'"):
        read_cells("table", table(tmp_path / "cells.csv", "a.png,dev,x,P1"))


def test_hicervix_is_read_at_the_level_asked_for(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        picture(tmp_path / split / f"{split}.jpg")
        table(
            tmp_path / f"{split}.csv",
            f"{split}.jpg,NILM,normal,Superficial",
            header="image_name,level_1,level_2,level_3",
        )
    assert class_of(read_cells("hicervix", tmp_path)["test"][0]) == "Superficial"
    assert class_of(read_cells("hicervix", tmp_path, level="level_1")["test"][0]) == "NILM"
    with pytest.raises(MedvitError, match="no column 'level_4'"):
        read_cells("hicervix", tmp_path, level="level_4")


def test_a_picture_of_one_colour_and_a_damaged_one_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="of one colour"):
        read_picture(picture(tmp_path / "plain.png"))
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(Rejected, match="cannot be decoded"):
        read_picture(tmp_path / "cut.png")


def stained(colours: list[tuple[int, int, int]], kinds: list[str]) -> tuple[list[Case], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    cases = [Case(str(i), "", (Path("x.png"),), {kind: 1.0}) for i, kind in enumerate(kinds)]
    return cases, [
        (np.array(colour) + rng.normal(0, 6, 3) + rng.normal(0, 9, (8, 8, 3))).clip(0, 255).astype(np.uint8)
        for colour in colours
    ]


def test_a_folder_that_mixes_stains_is_refused_and_types_of_different_colour_are_not() -> None:
    pink, blue = (220, 150, 180), (130, 150, 220)
    with pytest.raises(MedvitError, match="mixes stains: 10 of 20 cells"):
        check_stains(Path("cells"), *stained([pink, blue] * 10, ["a", "a", "b", "b"] * 5))
    check_stains(Path("cells"), *stained([pink, blue] * 10, ["a", "b"] * 10))
    check_stains(Path("cells"), *stained([pink] * 20, ["a", "b"] * 10))

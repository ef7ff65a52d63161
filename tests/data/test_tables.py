import csv
import gzip
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from medvit.case import Box, Case, pseudonym
from medvit.codes import LABEL_SETS
from medvit.data import nih, tables
from medvit.data.tables import read_chexpert, read_dataset, read_mimic, read_nih, read_nih_boxes
from medvit.errors import MedvitError

ROOT = Path(__file__).parents[2]
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_ROWS = [
    ("00000001_000.png", "Cardiomegaly|Effusion", "1", "PA"),
    ("00000001_001.png", "No Finding", "1", "AP"),
    ("00000002_000.png", "Infiltration", "2", "PA"),
    ("00000003_000.png", "No Finding", "3", "PA"),
    ("00000004_000.png", "Hernia", "4", "AP"),
]
PAPER_SPLIT = {
    "train": ["00000001_000.png", "00000001_001.png"],
    "val": ["00000002_000.png"],
    "test": ["00000003_000.png"],
}
FIVE = LABEL_SETS["chexpert5"]
CHEXPERT_HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *tables.COLUMNS.values()]
POLICIES = {
    "ones": {"Cardiomegaly": 1.0, "Edema": 1.0, "Consolidation": 1.0, "Atelectasis": 1.0, "Effusion": 1.0},
    "zeros": {"Cardiomegaly": 0.0, "Edema": 0.0, "Consolidation": 0.0, "Atelectasis": 0.0, "Effusion": 0.0},
    "ignore": {},
    "paper": {"Cardiomegaly": 0.0, "Edema": 1.0, "Consolidation": 0.0, "Atelectasis": 1.0, "Effusion": 0.0},
}


def write(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"film")


def everything(splits: dict[str, list[Case]]) -> list[Case]:
    return [case for cases in splits.values() for case in cases]


def nih_table(tmp: Path, rows: Sequence[tuple[str, str, str, str]] = NIH_ROWS, header: str = NIH_HEADER) -> Path:
    lines = [f"{name},{found},0,{patient},57,M,{view},2682,2749,0.143,0.143" for name, found, patient, view in rows]
    return write(tmp / "Data_Entry_2017_v2020.csv", [header, *lines])


def nih_images(tmp: Path, names: Iterable[str]) -> Path:
    for name in names:
        touch(tmp / "images" / name)
    return tmp / "images"


def paper_lists(tmp: Path, split: dict[str, list[str]] = PAPER_SPLIT, twist: str = "") -> Path:
    found = {name: labels.split("|") for name, labels, _, _ in NIH_ROWS}
    for part, names in split.items():
        lines = []
        for name in names:
            cells = [str(int((label in found[name]) != (twist == name and label == "Mass"))) for label in nih.FINDINGS]
            lines.append(" ".join([name, *cells]))
        write(tmp / "lists" / f"{part}_official.txt", lines)
    return tmp / "lists"


def own_lists(tmp: Path, train_val: Iterable[str], test: Iterable[str]) -> Path:
    write(tmp / "lists" / "train_val_list.txt", train_val)
    write(tmp / "lists" / "test_list.txt", test)
    return tmp / "lists"


def nih_set(tmp: Path) -> tuple[Path, Path, Path]:
    return nih_table(tmp), nih_images(tmp, [row[0] for row in NIH_ROWS]), paper_lists(tmp)


def chexpert_set(tmp: Path, train: Sequence[dict[str, str]], valid: Sequence[dict[str, str]] = ()) -> tuple[Path, Path]:
    table, images = tmp / "tables", tmp / "films"
    valid = valid or [{"Path": "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg", "Edema": "1.0"}]
    for name, rows in {"train.csv": train, "valid.csv": valid}.items():
        full = [{"Sex": "Female", "Age": "68", "Frontal/Lateral": "Frontal", "AP/PA": "AP"} | row for row in rows]
        lines = [",".join(row.get(column, "") for column in CHEXPERT_HEADER) for row in full]
        write(table / name, [",".join(CHEXPERT_HEADER), *lines])
        for row in rows:
            touch(images / row["Path"].split("/", 1)[1])
    return table, images


def film(patient: int, view: str = "frontal", **cells: str) -> dict[str, str]:
    return {"Path": f"CheXpert-v1.0-small/train/patient{patient:05}/study1/view1_{view}.jpg", **cells}


def mimic_set(
    tmp: Path, rows: Sequence[tuple[str, str, str, str, str]], studies: Sequence[dict[str, str]]
) -> tuple[Path, Path]:
    """Rows of (dicom, subject, study, split, view)."""
    table, images, name = tmp / "tables", tmp / "files", "mimic-cxr-2.0.0-{}.csv.gz"
    lines = [f"{dicom},{study},{subject},{split}" for dicom, subject, study, split, _ in rows]
    write(table / name.format("split"), ["dicom_id,study_id,subject_id,split", *lines])
    lines = [f"{dicom},{subject},{study},{view},21800506" for dicom, subject, study, _, view in rows]
    write(table / name.format("metadata"), ["dicom_id,subject_id,study_id,ViewPosition,StudyDate", *lines])
    header = ["subject_id", "study_id", *sorted(tables.COLUMNS.values())]
    lines = [",".join(row.get(column, "") for column in header) for row in studies]
    write(table / name.format("chexpert"), [",".join(header), *lines])
    for dicom, subject, study, _, _ in rows:
        touch(images / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg")
    return table, images


# NIH ChestX-ray14


def test_nih_names_decide_the_split_and_findings_that_are_not_named_are_absent(tmp_path: Path) -> None:
    splits = read_nih(*nih_set(tmp_path), ["Effusion", "Hernia", "Infiltration"])
    assert {split: [case.files[0].name for case in cases] for split, cases in splits.items()} == PAPER_SPLIT
    first = splits["train"][0]
    assert first.labels == {"Effusion": 1.0, "Hernia": 0.0, "Infiltration": 0.0}
    assert splits["train"][1].labels == dict.fromkeys(first.labels, 0.0)
    assert first.patient == pseudonym("1")
    assert first.uid == str(first.files[0])
    assert first.files[0].read_bytes() == b"film"
    assert first.header == {"view": "PA", "sex": "M", "age": "57"}


def test_nih_films_in_no_list_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        splits = read_nih(*nih_set(tmp_path), ["Hernia"])
    assert "00000004_000.png" not in [case.files[0].name for case in everything(splits)]
    assert "1 of 5 films are in no list" in caplog.text
    assert "train_official.txt, val_official.txt, test_official.txt" in caplog.text


def test_nih_films_are_found_in_nihs_own_subfolders(tmp_path: Path) -> None:
    table, lists = nih_table(tmp_path), paper_lists(tmp_path)
    for number, row in enumerate(NIH_ROWS, 1):
        touch(tmp_path / "nih" / f"images_{number:03}" / "images" / row[0])
    splits = read_nih(table, tmp_path / "nih", lists, ["Hernia"])
    assert [case.files[0].parts[-3] for case in splits["train"]] == ["images_001", "images_002"]
    assert all(case.files[0].is_file() for case in everything(splits))


def test_nihs_own_lists_leave_validation_to_a_hash_of_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"{n // 2:08}_{n % 2:03}.png", "No Finding", str(n // 2), "PA") for n in range(2000)]
    names = [row[0] for row in rows]
    table, lists = nih_table(tmp_path, rows), own_lists(tmp_path, names[:1800], names[1800:])
    with caplog.at_level(logging.INFO):
        splits = nih.nih_cases(table, tmp_path, lists, ["Mass"])
    assert [len(splits["train"]) + len(splits["val"]), len(splits["test"])] == [1800, 200]
    assert len(splits["val"]) / 1800 == pytest.approx(nih.VAL_SHARE, abs=0.03)
    assert not {case.patient for case in splits["val"]} & {case.patient for case in splits["train"]}
    assert nih.nih_cases(table, tmp_path, lists, ["Mass"]) == splits
    assert "validation is 13.0 % of the patients of train_val_list.txt" in caplog.text


def test_an_nih_list_that_contradicts_the_table_is_an_error_with_both_places(tmp_path: Path) -> None:
    table, images, _ = nih_set(tmp_path)
    lists = paper_lists(tmp_path, twist="00000001_001.png")
    with pytest.raises(MedvitError, match=r"v2020\.csv:3 says No Finding, .*train_official\.txt:2 says Mass"):
        read_nih(table, images, lists, ["Hernia"])


def test_an_nih_patient_in_two_lists_is_an_error_that_names_the_pseudonym(tmp_path: Path) -> None:
    table, images, _ = nih_set(tmp_path)
    lists = paper_lists(tmp_path, PAPER_SPLIT | {"train": ["00000001_000.png"], "test": ["00000001_001.png"]})
    with pytest.raises(MedvitError, match=rf"more than one split: {pseudonym('1')} \(test and train\)"):
        read_nih(table, images, lists, ["Hernia"])


def test_an_nih_patient_in_both_of_nihs_lists_is_an_error(tmp_path: Path) -> None:
    table, images, _ = nih_set(tmp_path)
    for name in nih.PAPER_LISTS.values():
        (tmp_path / "lists" / name).unlink()
    with pytest.raises(MedvitError, match="more than one split"):
        read_nih(table, images, own_lists(tmp_path, ["00000001_000.png"], ["00000001_001.png"]), ["Hernia"])


def test_an_nih_film_in_two_lists_is_an_error_with_both_places(tmp_path: Path) -> None:
    table, images, _ = nih_set(tmp_path)
    lists = paper_lists(tmp_path, PAPER_SPLIT | {"test": ["00000002_000.png"]})
    with pytest.raises(MedvitError, match=r"test_official\.txt:1: .* already, at .*val_official\.txt:1"):
        read_nih(table, images, lists, ["Hernia"])


def test_a_listed_nih_film_without_a_row_is_an_error(tmp_path: Path) -> None:
    _, images, lists = nih_set(tmp_path)
    with pytest.raises(MedvitError, match=r"val_official\.txt:1: 00000002_000\.png has no row in .*2 listed films"):
        read_nih(nih_table(tmp_path, NIH_ROWS[:2]), images, lists, ["Hernia"])


def test_an_nih_film_with_two_rows_is_an_error(tmp_path: Path) -> None:
    _, images, lists = nih_set(tmp_path)
    with pytest.raises(MedvitError, match=r"csv:7: 00000001_000\.png has a row already, at line 2"):
        read_nih(nih_table(tmp_path, [*NIH_ROWS, NIH_ROWS[0]]), images, lists, ["Hernia"])


@pytest.mark.parametrize("line", ["00000001_000.png 0 1", "00000001_000.png" + " 2" * 14])
def test_a_line_of_the_papers_lists_must_have_fourteen_columns_of_0_or_1(tmp_path: Path, line: str) -> None:
    table, images, lists = nih_set(tmp_path)
    write(lists / "val_official.txt", ["", line])
    with pytest.raises(MedvitError, match=r"val_official\.txt:2: .* a file name and 14 columns of 0 or 1"):
        read_nih(table, images, lists, ["Hernia"])


@pytest.mark.parametrize("cell", ["Cardiomegally", "No Finding|Mass", ""])
def test_an_unknown_nih_finding_is_an_error_with_file_and_line(tmp_path: Path, cell: str) -> None:
    _, images, lists = nih_set(tmp_path)
    rows = [*NIH_ROWS, ("00000005_000.png", cell, "5", "PA")]
    with pytest.raises(MedvitError, match=r"v2020\.csv:7: Finding Labels has the unknown name"):
        read_nih(nih_table(tmp_path, rows), images, lists, ["Hernia"])


def test_an_nih_label_that_is_no_finding_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=r"data\.labels .*'Infiltrate' \(did you mean 'Infiltration'\?\)"):
        read_nih(*nih_set(tmp_path), ["Infiltrate"])


def test_a_missing_nih_column_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    _, images, lists = nih_set(tmp_path)
    table = nih_table(tmp_path, header=NIH_HEADER.replace("Finding Labels", "Finding Label"))
    with pytest.raises(MedvitError, match=r"no column 'Finding Labels' \(did you mean 'Finding Label'\?\)"):
        read_nih(table, images, lists, ["Hernia"])


def test_an_nih_row_without_a_patient_is_an_error(tmp_path: Path) -> None:
    _, images, lists = nih_set(tmp_path)
    rows = [("00000001_000.png", "Cardiomegaly|Effusion", "", "PA"), *NIH_ROWS[1:]]
    with pytest.raises(MedvitError, match=r"csv:2: Patient ID is empty"):
        read_nih(nih_table(tmp_path, rows), images, lists, ["Hernia"])


def test_missing_nih_films_are_one_error_that_counts_them(tmp_path: Path) -> None:
    table, images, lists = nih_set(tmp_path)
    (images / "00000001_001.png").unlink()
    (images / "00000003_000.png").unlink()
    with pytest.raises(MedvitError, match=r"00000001_001\.png, which is not there \(2 of 4 files"):
        read_nih(table, images, lists, ["Hernia"])


def test_the_wrong_nih_folders_are_errors_that_name_the_key(tmp_path: Path) -> None:
    table, images, lists = nih_set(tmp_path)
    with pytest.raises(MedvitError, match=r"data\.images"):
        read_nih(table, tmp_path / "nowhere", lists, ["Hernia"])
    (lists / "val_official.txt").unlink()
    with pytest.raises(MedvitError, match=r"neither all of train_official.* nor both of train_val_list.*data\.lists"):
        read_nih(table, images, lists, ["Hernia"])


def box_table(tmp: Path, *rows: str) -> Path:
    return write(tmp / "BBox_List_2017.csv", ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *rows])


def test_nih_boxes_become_corners_and_infiltrate_becomes_infiltration(tmp_path: Path) -> None:
    boxes = box_table(tmp_path, "a.png,Infiltrate,10.5,20,30,40.25", "a.png,Mass,1,2,3,4", "", "b.png,Mass,0,0,1,1")
    assert read_nih_boxes(boxes) == {
        "a.png": [Box("Infiltration", 10.5, 20, 40.5, 60.25), Box("Mass", 1, 2, 4, 6)],
        "b.png": [Box("Mass", 0, 0, 1, 1)],
    }


def test_nih_cases_carry_the_boxes_of_their_labels(tmp_path: Path) -> None:
    boxes = box_table(tmp_path, "00000002_000.png,Infiltrate,10,20,30,40", "00000002_000.png,Mass,1,2,3,4")
    splits = read_nih(*nih_set(tmp_path), ["Infiltration"], boxes)
    assert splits["val"][0].boxes == (Box("Infiltration", 10, 20, 40, 60),)
    assert splits["train"][0].boxes == ()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,Mass,1,2,x,4", "four numbers"),
        ("a.png,Mass,1,2", "four numbers"),
        ("a.png,Mass,1,2,0,4", "no area"),
        ("a.png,Nodul,1,2,3,4", r"did you mean 'Nodule'"),
    ],
)
def test_a_wrong_nih_box_is_an_error_with_file_and_line(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(MedvitError, match=rf"BBox_List_2017\.csv:3: .*{said}"):
        read_nih_boxes(box_table(tmp_path, "b.png,Mass,1,2,3,4", row))


def test_another_table_is_no_table_of_nih_boxes(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=r"csv:1: the header must be Image Index"):
        read_nih_boxes(nih_table(tmp_path))
    with pytest.raises(MedvitError, match="is not there"):
        read_nih_boxes(tmp_path / "none.csv")


# CheXpert


@pytest.mark.parametrize("policy", POLICIES)
def test_a_chexpert_policy_decides_the_uncertain_only(tmp_path: Path, policy: tables.Uncertainty) -> None:
    columns = [tables.COLUMNS[label] for label in FIVE]
    train = [film(1, **dict.fromkeys(columns, "-1.0")), film(2, **dict.fromkeys(columns, "1.0"))]
    train += [film(3, **dict.fromkeys(columns, "0.0")), film(4)]
    splits = read_chexpert(*chexpert_set(tmp_path, train), FIVE, policy)
    cases = {case.patient: case.labels for case in splits.get("train", []) + splits.get("val", [])}
    assert cases[pseudonym("patient00001")] == POLICIES[policy]
    assert cases[pseudonym("patient00002")] == dict.fromkeys(FIVE, 1.0)
    assert cases[pseudonym("patient00003")] == dict.fromkeys(FIVE, 0.0)
    assert cases[pseudonym("patient00004")] == dict.fromkeys(FIVE, 0.0), "blank is absent under every policy"


def test_chexperts_policy_and_the_cells_it_decided_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [film(1, Edema="-1.0"), film(2, Edema="-1.0", Atelectasis="-1.0"), film(3, "lateral", Edema="-1.0")]
    train[2]["Frontal/Lateral"] = "Lateral"
    with caplog.at_level(logging.INFO):
        read_chexpert(*chexpert_set(tmp_path, train), ["Edema", "Atelectasis", "Effusion"], "paper")
    assert "the policy 'paper' decided the uncertain cells of Edema 2, Atelectasis 1, Effusion 0; blank" in caplog.text


def test_chexperts_valid_table_is_test_and_validation_is_carved_out_of_train(tmp_path: Path) -> None:
    table, images = chexpert_set(tmp_path, [film(n // 2, view=f"{n}") for n in range(1200)])
    splits = read_chexpert(table, images, ["Edema"], "ones")
    assert [case.labels for case in splits["test"]] == [{"Edema": 1.0}]
    assert len(splits["train"]) + len(splits["val"]) == 1200
    assert len(splits["val"]) / 1200 == pytest.approx(tables.CHEXPERT_VAL_SHARE, abs=0.03)
    assert not {case.patient for case in splits["val"]} & {case.patient for case in splits["train"]}
    assert read_chexpert(table, images, ["Edema"], "ones") == splits


def test_chexpert_takes_the_views_that_are_asked_for(tmp_path: Path) -> None:
    side = film(2, "lateral") | {"Frontal/Lateral": "Lateral", "AP/PA": ""}
    table, images = chexpert_set(tmp_path, [film(1), side])
    views = [case.header["view"] for case in everything(read_chexpert(table, images, ["Edema"], "ones"))]
    assert views == ["AP", "AP"]
    both = everything(read_chexpert(table, images, ["Edema"], "ones", ("Frontal", "Lateral")))
    assert sorted(case.header["view"] for case in both) == ["AP", "AP", "Lateral"]
    with pytest.raises(MedvitError, match=r"views .*'frontal' \(did you mean 'Frontal'\?\)"):
        read_chexpert(table, images, ["Edema"], "ones", ("frontal",))


def test_chexpert_paths_lose_the_name_of_either_release(tmp_path: Path) -> None:
    full = film(1)["Path"].replace("CheXpert-v1.0-small/", "CheXpert-v1.0/")
    splits = read_chexpert(*chexpert_set(tmp_path, [film(2), {"Path": full}]), ["Edema"], "ones")
    names = sorted(str(case.files[0].relative_to(tmp_path.resolve() / "films")) for case in everything(splits))
    assert names == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ]


def test_other_chexpert_columns_are_labels_too_but_the_paper_does_not_decide_them(tmp_path: Path) -> None:
    table, images = chexpert_set(tmp_path, [film(1, **{"Lung Opacity": "1.0", "Support Devices": "-1.0"})])
    splits = read_chexpert(table, images, ["Lung Opacity", "Support Devices"], "ignore")
    assert everything(splits)[0].labels == {"Lung Opacity": 1.0}
    with pytest.raises(MedvitError, match=r"'paper', which decides .* but not Lung Opacity\. Set data\.uncertainty"):
        read_chexpert(table, images, ["Edema", "Lung Opacity"], "paper")


def test_a_chexpert_patient_in_both_tables_is_an_error(tmp_path: Path) -> None:
    valid = [{"Path": film(1)["Path"].replace("/train/", "/valid/")}]
    with pytest.raises(MedvitError, match=rf"more than one split: {pseudonym('patient00001')}"):
        read_chexpert(*chexpert_set(tmp_path, [film(1), film(2)], valid), ["Edema"], "ones")


def test_a_wrong_chexpert_cell_or_path_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match=r"train\.csv:3: Edema is '2'; it must be 1, 0, -1"):
        read_chexpert(*chexpert_set(tmp_path / "a", [film(1), film(2, Edema="2")]), ["Edema"], "ones")
    with pytest.raises(MedvitError, match=r"train\.csv:2: Path is 'x/y\.jpg'; it must have a folder patientNNNNN"):
        read_chexpert(*chexpert_set(tmp_path / "b", [{"Path": "x/y.jpg"}]), ["Edema"], "ones")


def test_wrong_chexpert_names_are_errors_with_the_nearest_name(tmp_path: Path) -> None:
    table, images = chexpert_set(tmp_path, [film(1)])
    with pytest.raises(MedvitError, match=r"data\.labels .*'Pleural Effusion'"):
        read_chexpert(table, images, ["Pleural Effusion"], "ones")
    with pytest.raises(MedvitError, match=r"data\.uncertainty .*'zeroes' \(did you mean 'zeros'\?\)"):
        read_chexpert(table, images, ["Edema"], "zeroes")  # type: ignore[arg-type]
    text = (table / "train.csv").read_text()
    (table / "train.csv").write_text(text.replace("Edema", "Oedema"))
    with pytest.raises(MedvitError, match=r"train\.csv has no column 'Edema' \(did you mean 'Oedema'\?\)"):
        read_chexpert(table, images, ["Edema"], "ones")


def test_missing_chexpert_films_and_tables_are_errors(tmp_path: Path) -> None:
    table, images = chexpert_set(tmp_path, [film(1), film(2)])
    (images / "train/patient00001/study1/view1_frontal.jpg").unlink()
    with pytest.raises(MedvitError, match=r"view1_frontal\.jpg, which is not there \(1 of 3 files"):
        read_chexpert(table, images, ["Edema"], "ones")
    (table / "valid.csv").unlink()
    with pytest.raises(MedvitError, match=r"valid\.csv is not there"):
        read_chexpert(table, images, ["Edema"], "ones")


# MIMIC-CXR-JPG

MIMIC_ROWS = [
    ("aa-1", "10000032", "50000001", "train", "AP"),
    ("aa-2", "10000032", "50000001", "train", "LATERAL"),
    ("bb-1", "11000033", "50000002", "validate", "PA"),
    ("cc-1", "12000034", "50000003", "test", "PA"),
    ("dd-1", "13000035", "50000004", "train", "PA"),
]
MIMIC_STUDIES = [
    {"subject_id": "10000032", "study_id": "50000001", "Edema": "-1.0", "Pleural Effusion": "1.0"},
    {"subject_id": "11000033", "study_id": "50000002", "No Finding": "1.0", "Support Devices": "1.0"},
    {"subject_id": "12000034", "study_id": "50000003", "Edema": "0.0"},
]


def test_mimic_keeps_its_splits_and_the_frontal_films(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        splits = read_mimic(*mimic_set(tmp_path, MIMIC_ROWS, MIMIC_STUDIES), ["Edema", "Effusion"], "ones")
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 2, "val": 1, "test": 1}
    first = splits["train"][0]
    assert first.files[0] == tmp_path.resolve() / "files/p10/p10000032/s50000001/aa-1.jpg"
    assert first.patient == pseudonym("10000032")
    assert first.header == {"view": "AP"}
    assert first.labels == {"Edema": 1.0, "Effusion": 1.0}
    assert splits["test"][0].labels == {"Edema": 0.0, "Effusion": 0.0}, "blank is absent"
    assert splits["train"][1].labels == {}, "a study without a row of labels is unknown"
    assert "1 AP and PA films have no labels" in caplog.text


@pytest.mark.parametrize(("policy", "edema"), [("ones", 1.0), ("zeros", 0.0), ("ignore", None), ("paper", None)])
def test_a_mimic_policy_decides_the_uncertain(
    tmp_path: Path, policy: tables.Uncertainty, edema: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        splits = read_mimic(*mimic_set(tmp_path, MIMIC_ROWS, MIMIC_STUDIES), ["Edema"], policy)
    assert splits["train"][0].labels.get("Edema") == edema
    assert f"the policy {policy!r} decided the uncertain cells of Edema 1; blank cells are 0" in caplog.text


def test_no_finding_in_mimic_makes_all_others_absent(tmp_path: Path) -> None:
    table, images = mimic_set(tmp_path, MIMIC_ROWS, MIMIC_STUDIES)
    splits = read_mimic(table, images, ["Support Devices", "No Finding"], "ones")
    assert splits["val"][0].labels == {"Support Devices": 0.0, "No Finding": 1.0}


def test_a_mimic_patient_in_two_splits_is_an_error(tmp_path: Path) -> None:
    rows = [*MIMIC_ROWS, ("aa-3", "10000032", "50000009", "test", "PA")]
    with pytest.raises(MedvitError, match=rf"more than one split: {pseudonym('10000032')}"):
        read_mimic(*mimic_set(tmp_path, rows, MIMIC_STUDIES), ["Edema"], "ones")


def test_wrong_mimic_tables_are_errors_with_file_and_line(tmp_path: Path) -> None:
    rows = [MIMIC_ROWS[0], ("ee-1", "14000036", "50000005", "valid", "PA")]
    with pytest.raises(MedvitError, match=r"split\.csv\.gz:3: split .*'valid' \(did you mean 'validate'\?\)"):
        read_mimic(*mimic_set(tmp_path / "a", rows, MIMIC_STUDIES), ["Edema"], "ones")
    table, images = mimic_set(tmp_path / "b", MIMIC_ROWS, MIMIC_STUDIES)
    (images / "p10/p10000032/s50000001/aa-1.jpg").unlink()
    with pytest.raises(MedvitError, match=r"aa-1\.jpg, which is not there \(1 of 4 files"):
        read_mimic(table, images, ["Edema"], "ones")
    packed = table / "mimic-cxr-2.0.0-metadata.csv.gz"
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(MedvitError, match=r"metadata\.csv\.gz cannot be read"):
        read_mimic(table, images, ["Edema"], "ones")


# The one entry


def test_the_entry_reads_each_kind_as_its_reader_does(tmp_path: Path) -> None:
    table, images, lists = nih_set(tmp_path / "nih")
    boxes = box_table(tmp_path, "00000002_000.png,Infiltrate,10,20,30,40")
    read = read_dataset("nih", str(table), ["Infiltration"], str(images), str(lists), boxes=boxes)
    assert read == read_nih(table, images, lists, ["Infiltration"], boxes)
    table, images = chexpert_set(tmp_path / "chexpert", [film(1, Edema="-1.0")])
    read = read_dataset("chexpert", table, ["Edema"], images, uncertainty="zeros")
    assert read == read_chexpert(table, images, ["Edema"], "zeros")
    table, images = mimic_set(tmp_path / "mimic", MIMIC_ROWS, MIMIC_STUDIES)
    read = read_dataset("mimic", table, ["Edema"], images, uncertainty="zeros")
    assert read == read_mimic(table, images, ["Edema"], "zeros")
    touch(tmp_path / "a.png")
    table = write(tmp_path / "own.csv", ["path,patient_id,split,Edema", "a.png,7,val,1"])
    assert read_dataset("medvit", table, ["Edema"])["val"][0].labels == {"Edema": 1.0}


@pytest.mark.parametrize(
    ("kind", "given", "key", "why"),
    [
        ("nih", {"lists": "l"}, "images", "names the films but not their folder"),
        ("nih", {"images": "i"}, "lists", "does not split the films"),
        ("chexpert", {"uncertainty": "ones"}, "images", "names the films but not their folder"),
        ("chexpert", {"images": "i"}, "uncertainty", "there is no default"),
        ("mimic", {"uncertainty": "ones"}, "images", "names the films but not their folder"),
        ("mimic", {"images": "i"}, "uncertainty", "there is no default"),
    ],
)
def test_a_missing_companion_is_an_error_with_the_key_and_the_reason(
    kind: tables.Kind, given: dict[str, str], key: str, why: str
) -> None:
    with pytest.raises(MedvitError, match=rf"data\.{key} is missing .*{why}.*set data\.{key}\."):
        read_dataset(kind, "table", ["Edema"], **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given", "key"),
    [
        ("medvit", {"images": "i"}, "images"),
        ("medvit", {"uncertainty": "ones"}, "uncertainty"),
        ("nih", {"images": "i", "lists": "l", "uncertainty": "ones"}, "uncertainty"),
        ("chexpert", {"images": "i", "uncertainty": "ones", "lists": "l"}, "lists"),
        ("mimic", {"images": "i", "uncertainty": "ones", "boxes": "b"}, "boxes"),
    ],
)
def test_a_companion_without_use_is_an_error(kind: tables.Kind, given: dict[str, str], key: str) -> None:
    with pytest.raises(MedvitError, match=rf"data\.{key} is set, but .* no use for it"):
        read_dataset(kind, "table", ["Edema"], **given)  # type: ignore[arg-type]


def test_an_unknown_kind_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(MedvitError, match=r"data\.kind .*'chexprt' \(did you mean 'chexpert'\?\)"):
        read_dataset("chexprt", "table", ["Edema"])  # type: ignore[arg-type]


# The true tables

NIH_POSITIVES = {  # train, val and test of the paper's lists, in the order of the paper's labels
    "train": (7205, 1501, 7649, 12036, 3574, 4060, 770, 2244, 2480, 1210, 1250, 1083, 1927, 126),
    "val": (1075, 206, 1010, 1746, 460, 648, 106, 393, 372, 168, 173, 168, 315, 15),
    "test": (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86),
}
CHEXPERT_COUNTS = {  # positive and uncertain cells of the 191,027 frontal films of train.csv
    "Cardiomegaly": (23_385, 6_707),
    "Edema": (49_675, 11_818),
    "Consolidation": (12_983, 24_381),
    "Atelectasis": (29_720, 29_863),
    "Effusion": (76_899, 9_578),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the true tables, taken out of the package that ships them."""
    cache = Path(os.environ.get("MEDVIT_TXV_WHEEL") or ROOT / ".cache" / "wheels")
    loose = sorted(cache.glob("**/Data_Entry_2017_v2020.csv.gz"))
    if loose:
        return loose[0].parent
    found = sorted(cache.glob("torchxrayvision-1.5.7*.whl"))
    if not found:
        pytest.skip(f"No tables in {cache}. Run: pip download --no-deps torchxrayvision==1.5.7 -d {cache}")
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(found[0]) as archive:
        for name in ("Data_Entry_2017_v2020.csv.gz", "BBox_List_2017.csv.gz", "chexpert_train.csv.gz"):
            (folder / name).write_bytes(archive.read(f"torchxrayvision/data/{name}"))
    return folder


def cells_of(path: Path, *columns: str) -> list[tuple[str, ...]]:
    with gzip.open(path, "rt", newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


@pytest.mark.real
def test_the_true_nih_table_gives_the_known_counts(wheel: Path, tmp_path: Path) -> None:
    table = wheel / "Data_Entry_2017_v2020.csv.gz"
    rows = cells_of(table, "Image Index", "Patient ID")
    held_out = {patient for _, patient in rows if int(patient) % 11 == 0}
    lists = own_lists(
        tmp_path, (n for n, patient in rows if patient not in held_out), (n for n, p in rows if p in held_out)
    )
    splits = nih.nih_cases(table, tmp_path, lists, nih.FINDINGS, wheel / "BBox_List_2017.csv.gz")
    cases = everything(splits)
    assert len(cases) == 112_120
    assert len({case.patient for case in cases}) == 30_805
    assert Counter(case.header["view"] for case in cases) == {"PA": 67_310, "AP": 44_810}
    assert sum(not any(case.labels.values()) for case in cases) == 60_361
    positives = Counter(label for case in cases for label, value in case.labels.items() if value)
    assert positives == dict(zip(nih.FINDINGS, map(sum, zip(*NIH_POSITIVES.values(), strict=True)), strict=True))
    carved = len(splits["val"]) / (len(splits["val"]) + len(splits["train"]))
    assert carved == pytest.approx(nih.VAL_SHARE, abs=0.01)
    assert sum(len(case.boxes) for case in cases) == 984


@pytest.mark.real
def test_the_true_nih_boxes_lie_on_films_that_show_their_finding(wheel: Path) -> None:
    boxes = read_nih_boxes(wheel / "BBox_List_2017.csv.gz")
    rows = cells_of(wheel / "Data_Entry_2017_v2020.csv.gz", "Image Index", "Finding Labels")
    found = {name: labels.split("|") for name, labels in rows}
    every = [(name, box) for name, marked in boxes.items() for box in marked]
    assert len(every) == 984
    assert len({box.label for _, box in every}) == 8
    assert all(box.label in found[name] for name, box in every)
    assert all(0 <= box.x_min < box.x_max <= 1024 and 0 <= box.y_min < box.y_max <= 1024 for _, box in every)


@pytest.fixture(scope="module")
def chexpert_tables(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true train.csv beside a valid.csv of one film, for the package ships no valid.csv."""
    folder = tmp_path_factory.mktemp("chexpert")
    table, _ = chexpert_set(folder, [film(1)])
    (table / "train.csv").write_bytes(gzip.decompress((wheel / "chexpert_train.csv.gz").read_bytes()))
    return table


@pytest.mark.real
def test_the_true_chexpert_table_has_the_known_rows(chexpert_tables: Path, tmp_path: Path) -> None:
    splits = tables.chexpert_cases(chexpert_tables, tmp_path, ["Edema"], "ones", ("Frontal", "Lateral"))
    train = splits["train"] + splits["val"]
    assert len(train) == 223_414
    assert sum(case.header["view"] != "Lateral" for case in train) == 191_027
    assert len(splits["val"]) / len(train) == pytest.approx(tables.CHEXPERT_VAL_SHARE, abs=0.005)


@pytest.mark.real
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_the_known_counts_on_the_true_chexpert_table(
    chexpert_tables: Path, tmp_path: Path, policy: tables.Uncertainty, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        splits = tables.chexpert_cases(chexpert_tables, tmp_path, FIVE, policy)
    train = splits["train"] + splits["val"]
    assert len(train) == 191_027
    for label, (positive, uncertain) in CHEXPERT_COUNTS.items():
        decided = POLICIES[policy].get(label)
        values = Counter(case.labels.get(label) for case in train)
        assert values[1.0] == positive + (uncertain if decided == 1.0 else 0), label
        assert values[None] == (uncertain if decided is None else 0), label
        assert f"{label} {uncertain}" in caplog.text

"""The sample films: made twice alike, split by patient, and readable."""

import csv
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
import tiny

FOLDER = Path(__file__).resolve().parents[2] / "sample_data"
SHIPPED = FOLDER / "films"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    return tiny.sample_module("make")


def rows(table: str) -> list[dict[str, str]]:
    with (SHIPPED / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(make: ModuleType, tmp_path: Path) -> None:
    for name, seed, films in (("a", 3, 12), ("b", 3, 12), ("c", 4, 2)):
        make.make_films(tmp_path / name, seed=seed, films=films)
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert len(first) == 14
    assert first == second
    assert first["0000.dcm"] != other["0000.dcm"]


def test_the_shipped_films_are_what_make_writes(make: ModuleType, tmp_path: Path) -> None:
    plan = make.plan_films()
    assert sorted(path.name for path in SHIPPED.glob("*.dcm")) == [film.name for film in plan]
    for film in plan[:4]:
        boxes = make.write_film(film, tmp_path)
        assert (tmp_path / film.name).read_bytes() == (SHIPPED / film.name).read_bytes()
        known = [[label, *map(str, box)] for label, box in boxes if label not in film.unknown]
        assert known == [list(row.values())[1:] for row in rows("boxes.csv") if row["path"] == film.name]


def test_the_shipped_table_is_what_make_plans(make: ModuleType) -> None:
    for film, row in zip(make.plan_films(), rows("cases.csv"), strict=True):
        assert (row["path"], row["patient_id"], row["split"]) == (film.name, film.patient_id, film.split)
        assert {label for label in make.LABELS if row[label] == "1"} == film.findings - film.unknown
        assert {label for label in make.LABELS if row[label] == ""} == film.unknown


def test_no_patient_is_in_two_splits() -> None:
    splits = defaultdict(set)
    for row in rows("cases.csv"):
        splits[row["patient_id"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {next(iter(found)) for found in splits.values()} == {"train", "val", "test"}


def test_every_finding_has_enough_positives_in_every_split(make: ModuleType) -> None:
    for split, least in (("train", 50), ("val", 12), ("test", 12)):
        members = [row for row in rows("cases.csv") if row["split"] == split]
        for label in make.LABELS:
            assert sum(row[label] == "1" for row in members) >= least, (split, label)


def test_unknown_labels_are_few_and_in_the_training_split_only(make: ModuleType) -> None:
    blank = [row["split"] for row in rows("cases.csv") for label in make.LABELS if row[label] == ""]
    assert set(blank) == {"train"}
    assert 10 <= len(blank) <= 60


def test_boxes_lie_inside_the_image_and_on_positive_films_only(make: ModuleType) -> None:
    cases = {row["path"]: row for row in rows("cases.csv")}
    boxed = set()
    for row in rows("boxes.csv"):
        x_min, y_min, x_max, y_max = (int(row[key]) for key in ("x_min", "y_min", "x_max", "y_max"))
        assert 0 <= x_min < x_max <= make.SIZE
        assert 0 <= y_min < y_max <= make.SIZE
        assert cases[row["path"]][row["label"]] == "1"
        boxed.add((row["path"], row["label"]))
    assert boxed == {(path, label) for path, row in cases.items() for label in make.LABELS if row[label] == "1"}


def test_the_shipped_folder_is_under_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 6e6


def test_every_film_reads_back_with_the_decoded_size_and_polarity() -> None:
    inverted = 0
    for row in rows("cases.csv"):
        film = pydicom.dcmread(SHIPPED / row["path"])
        pixels = film.pixel_array
        assert pixels.shape == (128, 128)
        assert pixels.dtype == np.uint8
        assert film.PatientID == row["patient_id"]
        assert film.ViewPosition == row["view"]
        middle, lung = pixels[60:100, 54:74].mean(), pixels[40:70, 25:45].mean()  # mediastinum, right lung
        assert (middle > lung) == (film.PhotometricInterpretation == "MONOCHROME2")
        inverted += film.PhotometricInterpretation == "MONOCHROME1"
    assert 75 <= inverted <= 125


def test_the_findings_do_not_follow_from_the_header(make: ModuleType) -> None:
    films = rows("cases.csv")
    negative = [
        pydicom.dcmread(SHIPPED / row["path"], stop_before_pixels=True).PhotometricInterpretation for row in films
    ]
    hints = {
        "photometric": np.array(negative) == "MONOCHROME1",
        "view": np.array([row["view"] == "AP" for row in films]),
        "sex": np.array([row["sex"] == "F" for row in films]),
        "age": np.array([float(row["age"]) for row in films]),
    }
    for label in make.LABELS:
        present = np.array([row[label] == "1" for row in films])
        for name, hint in hints.items():
            assert abs(np.corrcoef(present, hint)[0, 1]) < 0.2, (label, name)


def test_an_unknown_kind_is_refused_by_name(make: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make.main(["flims"])
    assert "unknown kind flims" in capsys.readouterr().err

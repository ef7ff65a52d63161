"""Cases listed in tables: what is taken, what is refused and how that is said."""

import csv
import gzip
import pickle
import re
from pathlib import Path

import pytest

from medvit.case import Box, pseudonym, read_csv, read_table
from medvit.errors import MedvitError, Rejected, Skipped, Unanswered


def table(folder: Path, *rows: str, header: str = "path,patient_id,split,Mass,Nodule") -> Path:
    """A table whose films are there."""
    for row in rows:
        name = row.split(",")[0]
        if name:
            (folder / name).write_bytes(b"")
    (folder / "cases.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / "cases.csv"


def complaint(path: Path, labels: tuple[str, ...] = ("Mass", "Nodule"), boxes: Path | None = None) -> str:
    with pytest.raises(MedvitError) as caught:
        read_table(path, labels, boxes)
    return str(caught.value)


def test_a_refusal_survives_the_way_out_of_a_worker() -> None:
    for kind in (Unanswered, Skipped, Rejected):
        back = pickle.loads(pickle.dumps(kind("truncated", "It is cut.")))  # noqa: S301
        assert type(back) is kind
        assert (back.reason, str(back), back.status) == ("truncated", "It is cut.", kind.status)


def test_a_pseudonym_is_stable_and_does_not_contain_the_id() -> None:
    assert pseudonym("MRN-12345678") == pseudonym("MRN-12345678")
    assert pseudonym("MRN-12345678") != pseudonym("MRN-12345679")
    assert re.fullmatch("p-[0-9a-f]{12}", pseudonym("MRN-12345678"))
    assert not any(part in pseudonym("MRN-12345678") for part in ("MRN", "12345678"))


def test_a_table_becomes_splits_of_labelled_cases(tmp_path) -> None:
    path = table(
        tmp_path,
        "a.png,P1,train,1,0,M",
        "b.png,P1,train,,0.0,M",
        "c.png,P2,val,0,1.0,F",
        "d.png,,test,1,,F",
        header="path,patient_id,split,Mass,Nodule,sex",
    )
    splits = read_table(path, ("Nodule", "Mass"))
    assert {split: [case.files[0].name for case in cases] for split, cases in splits.items()} == {
        "train": ["a.png", "b.png"],
        "val": ["c.png"],
        "test": ["d.png"],
    }
    first, second = splits["train"]
    assert first.labels == {"Mass": 1.0, "Nodule": 0.0}
    assert second.labels == {"Nodule": 0.0}  # an empty cell is unknown, not absent
    assert first.patient == second.patient == pseudonym("P1")
    assert splits["test"][0].patient == ""
    assert first.header == {"sex": "M"}
    assert "P1" not in repr(first).replace(str(tmp_path), "")


def test_a_table_may_begin_with_a_byte_order_mark_and_be_compressed(tmp_path) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0")
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert read_table(path, ("Mass",))["train"][0].labels == {"Mass": 1.0}
    packed = tmp_path / "cases.csv.gz"
    packed.write_bytes(gzip.compress(content))
    assert read_table(packed, ("Mass",)) == read_table(path, ("Mass",))


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path) -> None:
    said = complaint(table(tmp_path, "a.png,P1,train,1,0"), ("Masss", "Hernia"))
    assert "'Masss' (did you mean 'Mass'?)" in said
    assert "'Hernia'" in said
    assert "path, patient_id, split, Mass, Nodule" in said


def test_a_column_given_twice_is_refused(tmp_path) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", header="path,patient_id,split,Mass,Mass")
    assert "'Mass' more than once" in complaint(path, ("Mass",))


@pytest.mark.parametrize("cell", ["2", "yes", "-1", "nan", "0.5", "1,"])
def test_a_bad_label_is_named_with_its_line(tmp_path, cell) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", f'b.png,P2,val,0,"{cell}"')
    said = complaint(path)
    assert f"{path}:3: Nodule is {cell!r}" in said


def test_a_bad_split_is_named_with_its_line(tmp_path) -> None:
    path = table(tmp_path, "a.png,P1,training,1,0")
    assert f"{path}:2: split is 'training'" in complaint(path)


@pytest.mark.parametrize("again", ["a.png,P1,train,1,0", "./a.png,P1,train,0,1", "a.png,P2,test,1,0"])
def test_a_file_in_two_rows_is_refused_with_both_lines(tmp_path, again) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", "b.png,P3,val,0,1", again)
    assert f"{path}:4: {again.partition(',')[0]} stands in line 2 already" in complaint(path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_with_other_separators_is_told_what_to_do(tmp_path, separator) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0")
    path.write_text(path.read_text().replace(",", separator))
    assert "Cells must be separated by commas" in complaint(path)


def test_a_patient_in_two_splits_is_refused_by_pseudonym(tmp_path) -> None:
    path = table(tmp_path, "a.png,SMITH-77,train,1,0", "b.png,SMITH-77,val,1,0", "c.png,JONES-1,test,1,0")
    said = complaint(path)
    assert f"{pseudonym('SMITH-77')} (train and val)" in said
    assert "SMITH" not in said
    assert "JONES" not in said


def test_cases_without_a_patient_are_patients_of_their_own(tmp_path) -> None:
    splits = read_table(table(tmp_path, "a.png,,train,1,0", "b.png,,val,1,0"))
    assert [len(splits[split]) for split in ("train", "val")] == [1, 1]


def test_missing_images_are_counted_and_the_first_is_named(tmp_path) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", "b.png,P2,val,1,0", "c.png,P3,val,1,0")
    for name in ("b.png", "c.png"):
        (tmp_path / name).unlink()
    said = complaint(path)
    assert str(tmp_path / "b.png") in said
    assert "2 of 3 files are missing" in said


@pytest.mark.parametrize("row", ["b.png,P2,val,1", "b.png,P2,val,1,0,7"])
def test_a_ragged_row_is_named_with_its_line(tmp_path, row) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", row)
    assert f"{path}:3: another number of cells than the header's 5" in complaint(path)


def test_tables_without_content_are_refused(tmp_path) -> None:
    assert "has no rows" in complaint(table(tmp_path))
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    assert "has no column" in complaint(empty)
    assert "is not there" in complaint(tmp_path / "nothing.csv")


@pytest.mark.parametrize("content", [b"path,patient_id\xff,split\n", b'path,patient_id,split\n"a.png,P1,train\n'])
def test_a_table_that_is_no_utf8_csv_is_refused(tmp_path, content) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    assert "cannot be read as UTF-8 CSV" in complaint(path, ())


def test_a_damaged_compressed_table_is_refused(tmp_path) -> None:
    path = tmp_path / "cases.csv.gz"
    whole = gzip.compress(b"path,patient_id,split\n" + b"a.png,P1,train\n" * 99)
    for content in (whole[:-20], b"path,patient_id,split\n", whole[:20] + b"zz" + whole[22:]):
        path.write_bytes(content)
        assert "cannot be read as UTF-8 CSV" in complaint(path, ())


def test_boxes_come_with_their_cases(tmp_path) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0", "b.png,P2,val,1,0")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,label,x_min,y_min,x_max,y_max\na.png,Mass,1,2,3.5,4\na.png,Nodule,0,0,9,9\n")
    splits = read_table(path, ("Mass",), boxes)
    assert splits["train"][0].boxes == (Box("Mass", 1, 2, 3.5, 4), Box("Nodule", 0, 0, 9, 9))
    assert splits["val"][0].boxes == ()


@pytest.mark.parametrize(
    ("box", "words"), [("1,2,x,4", "must be numbers"), ("3,2,3,4", "no area"), ("1,2,nan,4", "area")]
)
def test_a_bad_box_is_named_with_its_line(tmp_path, box, words) -> None:
    path = table(tmp_path, "a.png,P1,train,1,0")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"path,label,x_min,y_min,x_max,y_max\na.png,Mass,0,0,1,1\na.png,Mass,{box}\n")
    said = complaint(path, ("Mass",), boxes)
    assert f"{boxes}:3: " in said
    assert words in said


def test_rows_come_as_they_are_written(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    wanted = [{"a": "x,y", "b": 'say "hi"'}, {"a": "two\nlines", "b": "ü"}]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("a", "b"))
        writer.writeheader()
        writer.writerows(wanted)
    assert read_csv(path, ("a", "b")) == wanted

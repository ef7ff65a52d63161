"""The CSV files of a run, read back by the csv module as a spreadsheet would."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from medvit.case import Case
from medvit.codes import labels_of
from medvit.result import Finding, Result
from medvit.writers.table import INPUT_COLUMNS, RESULT_COLUMNS, findings_of, write_tables, written_csv


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with written_csv(path, columns) as add:
        for row in rows:
            add(row)


def record(source: str, findings: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    header = {"study_uid": "1.1", "series_uid": "1.2", "sop_uid": "1.3", "modality": "DX", "body_part": "CHEST"}
    return {
        "source": source, "case": "0123456789abcdef", "status": "ok", "reason": "", "message": "", "seconds": 0.5,
        "header": header, "findings": findings, **more,
    }  # fmt: skip


def findings() -> list[dict[str, Any]]:
    mass, nodule = labels_of(["Mass", "Nodule"])
    return findings_of(
        Result(Case("u", "DX", ()), (Finding(mass, 0.91234567), Finding(nodule._replace(threshold=0.3), 0.3)))
    )


def test_findings_are_plain_data_and_positive_from_their_threshold_on() -> None:
    assert findings() == [
        {"label": "Mass", "code": "SCT:4147007", "probability": 0.912346, "threshold": 0.5, "positive": True},
        {"label": "Nodule", "code": "SCT:27925004", "probability": 0.3, "threshold": 0.3, "positive": True},
    ]


def test_the_tables_hold_a_row_an_input_and_a_row_a_finding_in_the_order_of_the_records(tmp_path) -> None:
    records = [
        record("a.dcm", [], status="rejected", reason="truncated", message="It is cut."),
        record("b.dcm", findings(), distance={"value": 2.5, "limit": 1.75, "far": True}),
        record("c.dcm", findings()),
    ]
    write_tables(records, tmp_path, "ThoraxMAE 0.1.0", "Research use only.")
    inputs, results = read(tmp_path / "inputs.csv"), read(tmp_path / "results.csv")
    assert tuple(inputs[0]) == INPUT_COLUMNS
    assert tuple(results[0]) == RESULT_COLUMNS
    assert [(row["source"], row["status"], row["reason"]) for row in inputs] == [
        ("a.dcm", "rejected", "truncated"),
        ("b.dcm", "ok", ""),
        ("c.dcm", "ok", ""),
    ]
    assert [row["label"] for row in results] == ["Mass", "Nodule"] * 2
    assert {results[2][name] for name in ("distance", "distance_limit", "out_of_distribution")} == {""}
    assert results[0] == {
        "case": "0123456789abcdef", "study_uid": "1.1", "series_uid": "1.2", "sop_uid": "1.3", "modality": "DX",
        "source": "b.dcm", "label": "Mass", "code": "SCT:4147007", "probability": "0.912346", "threshold": "0.5",
        "positive": "1", "distance": "2.5", "distance_limit": "1.75", "out_of_distribution": "1",
        "system": "ThoraxMAE 0.1.0", "notice": "Research use only.",
    }  # fmt: skip


def test_a_run_without_any_input_leaves_tables_with_headers(tmp_path) -> None:
    write_tables([], tmp_path, "S", "N")
    assert (tmp_path / "inputs.csv").read_text() == ",".join(INPUT_COLUMNS) + "\n"
    assert (tmp_path / "results.csv").read_text() == ",".join(RESULT_COLUMNS) + "\n"


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "=1\n=2"])
def test_a_cell_that_a_spreadsheet_would_run_is_defused(tmp_path, text) -> None:
    write_csv(tmp_path / "t.csv", ("source", "n"), [{"source": text, "n": 1}])
    assert read(tmp_path / "t.csv") == [{"source": "'" + text, "n": "1"}]


def test_numbers_and_ordinary_text_are_left_alone(tmp_path) -> None:
    write_csv(tmp_path / "t.csv", ("a", "b", "c", "d"), [{"a": -0.5, "b": "x=1", "c": 'say "hi", now'}])
    assert read(tmp_path / "t.csv") == [{"a": "-0.5", "b": "x=1", "c": 'say "hi", now', "d": ""}]


def test_names_with_newlines_and_bytes_that_are_no_utf8_survive(tmp_path) -> None:
    names = ["new\nline.dcm", os.fsdecode(b"bad\xff\xfe.dcm"), 'quo"te,.dcm', "Ünïcødé.dcm", "\u202egpj.dcm"]
    write_csv(tmp_path / "t.csv", ("source", "n"), [{"source": name, "n": n} for n, name in enumerate(names)])
    rows = read(tmp_path / "t.csv")
    assert [row["n"] for row in rows] == ["0", "1", "2", "3", "4"]
    wanted = [names[0], r"bad\udcff\udcfe.dcm", *names[2:]]
    assert [row["source"] for row in rows] == wanted


@pytest.mark.parametrize("name", ["carriage\rreturn.dcm", "\r=1+1", "both\r\nends.dcm"])
def test_a_carriage_return_does_not_end_a_row(tmp_path, name) -> None:
    write_csv(tmp_path / "t.csv", ("source", "n"), [{"source": name, "n": 1}, {"source": "next", "n": 2}])
    rows = read(tmp_path / "t.csv")
    assert [row["n"] for row in rows] == ["1", "2"]
    assert rows[0]["source"] == name.replace("\r", "\\r")

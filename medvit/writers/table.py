"""The tables of a run: derived from its records, never appended to."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvit.atomic import write_text
from medvit.result import Result

INPUT_COLUMNS = ("source", "case", "status", "reason", "message", "seconds")
RESULT_COLUMNS = (
    "case", "study_uid", "series_uid", "sop_uid", "modality", "source",
    "label", "code", "probability", "threshold", "positive", "system", "notice",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet would run a cell that begins so


def findings_of(result: Result) -> list[dict[str, Any]]:
    """The findings of a result as plain data for its record."""
    return [
        {
            "label": label.name,
            "code": str(label.code),
            "probability": round(probability, 6),
            "threshold": round(label.threshold, 6),
            "positive": probability >= label.threshold,
        }
        for label, probability in result.findings
    ]


def write_tables(records: Sequence[Mapping[str, Any]], out: Path, system: str, notice: str) -> None:
    """Write ``inputs.csv``, a row an input, and ``results.csv``, a row a case and label, sorted by source."""
    ordered = sorted(records, key=lambda record: str(record["source"]))
    write_csv(out / "inputs.csv", INPUT_COLUMNS, ordered)
    rows = (
        {
            **record,
            **record["header"],
            **finding,
            "positive": int(finding["positive"]),
            "system": system,
            "notice": notice,
        }
        for record in ordered
        for finding in record["findings"]
    )
    write_csv(out / "results.csv", RESULT_COLUMNS, rows)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file whole; text that a spreadsheet would run is quoted with an apostrophe."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(row.get(column, "")) for column in columns])
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # the csv module leaves a lone one unquoted, and readers end the row there
    return f"'{text}" if text.startswith(FORMULA) else text

"""The tables of a run: derived from its records, never appended to."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from medvit.atomic import whole_text
from medvit.result import Result

INPUT_COLUMNS = ("source", "case", "status", "reason", "message", "seconds")
RESULT_COLUMNS = (
    "case", "study_uid", "series_uid", "sop_uid", "modality", "source",
    "label", "code", "probability", "threshold", "positive",
    "distance", "distance_limit", "out_of_distribution", "system", "notice",
)  # fmt: skip
MASK_COLUMNS = (
    "case", "study_uid", "series_uid", "sop_uid", "modality", "source", "label", "code", "score", "pixels", "area_mm2",
    "volume_ml", "prompt", "slices", "stopped", "cleaned", "system", "notice",
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


def masks_of(result: Result) -> list[dict[str, Any]]:
    """The masks of a result as plain data for its record: what they measure and how they came about, not their pixels."""
    return [
        {
            "label": region.label.name,
            "code": str(region.label.code),
            "score": round(region.score, 6),
            **region.measures(),
            **region.told,
        }
        for region in result.regions
    ]


def distance_of(result: Result) -> dict[str, Any] | None:
    """How far a result's case lies from the training cases, as plain data for its record."""
    if result.distance is None:
        return None
    value, limit = result.distance
    return {"value": round(value, 6), "limit": round(limit, 6), "far": result.distance.far}


def distance_cells(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """The cells of a row that say so; empty where the checkpoint does not know its training cases."""
    if not told:
        return {"distance": "", "distance_limit": "", "out_of_distribution": ""}
    return {"distance": told["value"], "distance_limit": told["limit"], "out_of_distribution": int(told["far"])}


def write_tables(records: Iterable[Mapping[str, Any]], out: Path, system: str, notice: str) -> None:
    """Write ``inputs.csv``, a row an input, ``results.csv``, a row a case and label, and, where there are any, ``masks.csv``.

    Rows stand in the order of the records.

    Args:
        records: Read once, one at a time, so that a run of any size fits into memory.
        out: The run's folder.
        system: Who answered.
        notice: What every row says of its use.
    """
    with ExitStack() as stack:
        add_input = stack.enter_context(written_csv(out / "inputs.csv", INPUT_COLUMNS))
        add = stack.enter_context(written_csv(out / "results.csv", RESULT_COLUMNS))
        add_mask = None
        for record in records:
            add_input(record)
            for finding in record["findings"]:
                positive = {"positive": int(finding["positive"])}
                far = distance_cells(record.get("distance"))
                add({**record, **record["header"], **finding, **positive, **far, "system": system, "notice": notice})
            for mask in record.get("masks", ()):
                add_mask = add_mask or stack.enter_context(written_csv(out / "masks.csv", MASK_COLUMNS))
                add_mask({**record, **record["header"], **mask, "system": system, "notice": notice})


@contextmanager
def written_csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what adds a row to a CSV file that appears whole; text that a spreadsheet would run gets an apostrophe."""
    with whole_text(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        yield lambda row: table.writerow([_cell(row.get(column, "")) for column in columns])


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # the csv module leaves a lone one unquoted, and readers end the row there
    return f"'{text}" if text.startswith(FORMULA) else text

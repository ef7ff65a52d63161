"""Decisions for others: tables, and reports signed by the reader who decided."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.review.desk import Desk
from apps.review.readings import Board
from apps.review.runs import Run
from apps.review.store import Store
from medvit import NOTICE
from medvit.atomic import write_text
from medvit.errors import MedvitError
from medvit.writers.table import FORMULA

COLUMNS = (
    "run", "case", "finding", "reviewer", "verdict", "reading", "blind", "note", "corrected", "probability", "threshold",
    "ai_positive", "system", "model", "decided", "seconds", "row", "hash", "notice",
)  # fmt: skip


def standing(run: Run, board: Board) -> Iterator[dict[str, Any]]:
    """Every decision that stands, a row each, ordered by case, finding and reviewer."""
    for case, reviewer, finding, made in sorted(board.everything(), key=lambda one: (one[0], one[2], one[1])):
        seen, remark = made.entry.said.get("seen", {}), board.remark(case, reviewer, finding)
        yield {
            "run": run.name, "case": case, "finding": finding, "reviewer": reviewer, "verdict": made.verdict,
            "reading": made.reading, "blind": int(made.blind), "note": remark.note, "corrected": remark.corrected,
            "probability": seen.get("probability", ""), "threshold": seen.get("threshold", ""),
            "ai_positive": int(bool(seen.get("positive"))), "system": seen.get("system", ""), "model": seen.get("model", ""),
            "decided": made.entry.at, "seconds": made.seconds, "row": made.entry.seq, "hash": made.entry.hash,
            "notice": NOTICE,
        }  # fmt: skip


def as_csv(run: Run, board: Board) -> str:
    """The decisions that stand as CSV; text that a spreadsheet would run gets an apostrophe."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in standing(run, board):
        table.writerow([_cell(row[name]) for name in COLUMNS])
    return file.getvalue()


def as_json(run: Run, board: Board, store: Store) -> str:
    """The decisions that stand and every row of the log, with its head to be noted elsewhere."""
    count, digest = store.head()
    log = [{**entry._asdict(), "body": entry.said} for entry in store.since()]
    told = {
        "notice": NOTICE, "run": run.name, "system": run.about.system, "weights_sha256": run.about.weights,
        "head": f"{count}:{digest}", "decisions": list(standing(run, board)), "log": log,
    }  # fmt: skip
    return json.dumps(told, indent=1) + "\n"


def export(run: Run, board: Board, store: Store, folder: Path, reviewer: str) -> str:
    """Write ``decisions_<run>.csv`` and ``.json`` into a folder and note that it was done; the head of the log."""
    count, digest = store.head()
    write_text(folder / f"decisions_{run.name}.csv", as_csv(run, board))
    write_text(folder / f"decisions_{run.name}.json", as_json(run, board, store))
    store.append(reviewer, "export", body={"head": f"{count}:{digest}", "as": "csv, json"})
    return f"{count}:{digest}"


def sign(desk: Desk, run: Run, case: str, reviewer: str) -> Path | None:
    """Write the report of a case that a reviewer has decided about, VERIFIED by them, beside the decisions.

    Returns:
        Its file in ``OUT/review/reports``; None where nothing is decided, or the AI left no report to follow.

    Raises:
        Unanswered: When the film or the AI's report cannot be read.
    """
    board = desk.boards[run.key].refresh()
    made = board.of(case, reviewer)
    before = run.folder / "cases" / case / "report_sr.dcm"
    if not made or not before.is_file():
        return None
    row = run.rows[case]
    readings = []
    for finding, one in sorted(made.items()):
        said, remark = row.finding(finding), board.remark(case, reviewer, finding)
        if said and said.code:
            readings.append([finding, said.code, one.reading, one.verdict, remark.note, remark.corrected])
    if not readings:
        return None
    last = max(made.values(), key=lambda one: one.entry.seq).entry
    path = run.folder / "review" / "reports" / f"{case}_{_plain(reviewer)}.dcm"
    told = {
        "system": run.about.system,
        "version": run.about.version,
        "digest": run.about.weights,
        "at": last.at,
        "hash": last.hash,
    }
    desk.pool.submit(
        "sign", str(desk.path(run, row)), case, str(before), str(path), reviewer, readings, told, urgent=True
    ).result()
    desk.stores[run.key].append(
        reviewer, "export", case, body={"as": "verified report", "file": path.name, "row": last.seq}
    )
    return path


def hand_out(desk: Desk, run: Run, folder: Path, by: str, reviewer: str = "") -> tuple[int, Counter[str]]:
    """Write readers' own masks into ``<case>_<reviewer>/`` of a folder, as NIfTI (or PNG) and DICOM SEG; the log notes it.

    A mask that was asked for by a box and rejected is left out, and so is one that was drawn and rubbed out again; one that was
    painted over the AI's is the reader's answer in any case.

    Args:
        desk: Of the app.
        run: Of which run.
        folder: Where to.
        by: Who asks for it.
        reviewer: Whose masks; "" for everybody's.

    Returns:
        Cases that were written, and how often which sentence says why something was not.
    """
    board, store = desk.boards[run.key].refresh(), desk.stores[run.key]
    rows = {entry.seq: entry for entry in store.since() if entry.kind == "mask"}
    written, faults = 0, Counter[str]()
    for (case, who), own in sorted(board.all_masks().items()):
        if (reviewer and who != reviewer) or case not in run.rows:
            continue
        row, made = run.rows[case], board.of(case, who)
        kept = {
            finding: mask for finding, mask in own.items()
            if (mask.painted or finding not in made or made[finding].verdict != "reject")
            and not (mask.drawn and not mask.voxels)
        }  # fmt: skip
        if not kept:
            continue
        masks = []
        for finding, mask in kept.items():
            said = row.finding(finding)
            file = desk.masks_folder(run.key) / Path(mask.file).name
            masks.append([finding, said.code if said else "", str(file), mask.digest, "by hand" if mask.drawn else ""])
        last = rows[max(mask.seq for mask in kept.values())]
        told = {"system": run.about.system, "version": run.about.version, "digest": run.about.weights, "at": last.at,
                "hash": last.hash}  # fmt: skip
        target = folder / f"{case}_{_plain(who)}"
        try:
            arguments = (str(desk.path(run, row)), case, row.slices, row.modality, masks, str(target), who, told)
            reply = desk.pool.submit("hand out", *arguments, urgent=True).result().plain
        except MedvitError as error:
            faults[str(error)] += 1
            continue
        written += 1
        if reply["left out"]:
            faults[f"No SEG: {reply['left out']}"] += 1
        store.append(by, "export", case, body={"as": "masks", "of": who, "files": reply["files"], "row": last.seq})
    return written, faults


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _cell(value: Any) -> Any:
    text = value.replace("\r", " ") if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text

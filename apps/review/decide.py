"""Deciding: what a key or a click writes, and what it says where nothing was written."""

import math
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from apps.review.readings import Decision, reading_of, verdict_of
from apps.review.runs import BOX, Row, Run
from apps.review.store import Conflict
from apps.review.volumes import keep
from medvit.errors import MedvitError

if TYPE_CHECKING:
    from apps.review.shell import Visit


def seen(run: Run, row: Row, finding: str) -> dict[str, Any]:
    """What the AI had said of a finding when it was decided about, and who said it."""
    said = row.finding(finding)
    told: dict[str, Any] = {"model": run.about.weights[:16], "system": run.about.system, "version": run.about.version}
    if said:
        told |= {"probability": said.probability, "threshold": said.threshold, "positive": said.positive}
    return told


def decide(visit: "Visit", run: Run, row: Row, finding: str, what: str, standing: Decision | None, after: int) -> None:
    """Write one decision at once.

    Args:
        visit: Whose it is.
        run: The run.
        row: The case.
        finding: About what.
        what: A verdict (accept, reject, uncertain), or a reading (present, absent) of somebody who has not seen the AI's.
        standing: What stood on the screen.
        after: The number of the row that stood on the screen, 0 for none.
    """
    said = row.finding(finding)
    positive = bool(said and said.positive)
    is_reading = what in ("present", "absent")
    verdict = verdict_of(what, positive) if is_reading else what
    reading = what if is_reading else reading_of(what, positive)
    blind = visit.settings.blind and not visit.desk.boards[run.key].was_shown(row.case, visit.person.name)
    if standing and (standing.verdict, standing.reading, standing.blind) == (verdict, reading, blind):
        tell(
            f"{shown(finding)} was {verdict}ed already."
            if verdict != "uncertain"
            else f"{shown(finding)} is uncertain already."
        )
        return
    body = {
        "verdict": verdict, "reading": reading, "blind": blind, "before": standing.verdict if standing else "",
        "seconds": elapsed(run, row), "visit": st.session_state.get("visit", ""), "seen": seen(run, row, finding),
    }  # fmt: skip
    own = visit.desk.boards[run.key].refresh().masks(row.case, visit.person.name).get(finding)
    if own:
        body["mask"] = own.digest  # the reader's own mask that stood there
    write(visit, run, "decision", row.case, finding, body, after)
    st.session_state["advance"] = True


def undo(visit: "Visit", run: Run, row: Row, standing: Decision | None, finding: str, after: int) -> None:
    """Take the last decision about a finding back: a new row, nothing is deleted."""
    if standing is None:
        tell(f"Nothing to undo about {shown(finding)}.")
        return
    write(visit, run, "undo", row.case, finding, {"undone": standing.entry.seq}, after)


def remark(visit: "Visit", run: Run, row: Row, finding: str, note: str, corrected: str) -> None:
    """Keep what was written about a finding; nothing where that stands already, as when a field only goes away."""
    if visit.desk.boards[run.key].refresh().remark(row.case, visit.person.name, finding) == (note[:2000], corrected):
        return
    write(visit, run, "note", row.case, finding, {"note": note[:2000], "corrected": corrected}, None)


def outline(visit: "Visit", run: Run, row: Row, box: Mapping[str, Any], before: int) -> str:
    """Have what is in a box outlined, and keep the outline as a row; its name, "" where nothing was found.

    Args:
        visit: Whose it is.
        run: The run.
        row: The case.
        box: ``slice``, ``x_min``, ``y_min``, ``x_max``, ``y_max`` in source pixels.
        before: How many outlines the reader has asked for in this case.
    """
    corners = [round(float(box[name]), 2) for name in ("x_min", "y_min", "x_max", "y_max")]
    try:
        reply = visit.desk.segment(run.key, row.case, int(box["slice"]), corners).result()
    except MedvitError as error:
        tell(f"Nothing was outlined: {error}", warn=True)
        return ""
    shape = tuple(int(side) for side in reply.plain["shape"])
    found = np.unpackbits(reply.arrays[0], count=math.prod(shape)).reshape(shape).astype(bool)
    if not found.any():
        tell("Nothing was found in that box.")
        return ""
    name = f"{BOX}{before + 1}"
    file = f"{row.case}_{uuid.uuid4().hex[:12]}.npz"
    digest = keep(found, visit.desk.masks_folder(run.key) / file)
    body = {"file": file, "slice": int(box["slice"]), "box": corners, "score": reply.plain["score"], "sha256": digest,
            "voxels": int(found.sum()), "by": visit.settings.segment_digest}  # fmt: skip
    write(visit, run, "mask", row.case, name, body, None)
    return name


def write(
    visit: "Visit", run: Run, kind: str, case: str, finding: str, body: dict[str, Any], after: int | None
) -> None:
    """Append a row for the person of this session; what goes wrong is said on the page."""
    try:
        visit.desk.stores[run.key].append(visit.person.name, kind, case, finding, body, after)
    except Conflict as conflict:
        entry = conflict.entry
        said = f" It now says: {entry.said.get('verdict', 'undone')}." if entry else ""
        tell(f"Nothing was written: {conflict}{said}", warn=True)
    except MedvitError as error:
        tell(f"NOT kept: {error}", warn=True)
    visit.desk.boards[run.key].refresh()


def tell(text: str, warn: bool = False) -> None:
    """Say something on the next page."""
    st.session_state["told"] = (text, warn)


def elapsed(run: Run, row: Row) -> float:
    """Seconds since this session opened the case."""
    opened: dict[str, float] = st.session_state.get("opened", {})
    return round(time.monotonic() - opened.get(f"{run.key} {row.case}", time.monotonic()), 1)


def shown(finding: str) -> str:
    """A finding's name for people."""
    return finding.replace("_", " ")

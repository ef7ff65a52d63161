"""What is said of a case in words: what it is, which side, which series, what can be measured; and what a finding means."""

from collections.abc import Mapping
from typing import Any

from apps.review.runs import Row, Run
from apps.review.tables import plain
from apps.review.worklist import unlike
from medvit.codes import code_of

DETECTOR = "spacing at the detector (ImagerPixelSpacing)"  # the patient is magnified there


def case_line(run: Run, row: Row, facts: Mapping[str, Any], hidden: bool) -> str:
    """Which case it is, as HTML; what the AI says of it is left out where it is hidden."""
    words = (side(row, facts).partition(",")[0], series(row, facts), spacing(row))
    about = "".join(f" · {plain(said)}" for said in words)
    return f"<b>case {plain(row.case)}</b> · {plain(_what(run, row, facts))}{_far(row, hidden)}{about}"


def _far(row: Row, hidden: bool) -> str:
    """A warning where the case is unlike those that the system learned from."""
    if hidden or row.distance is None or not row.distance.far:
        return ""
    return f' · <b style="color:#e69f00">! {plain(unlike(row))}</b>'


def _what(run: Run, row: Row, facts: Mapping[str, Any]) -> str:
    kind = run.kind(row)
    return " ".join(
        part
        for part in (row.modality or kind, str(facts.get("ViewPosition", "")), str(facts.get("BodyPartExamined", "")))
        if part
    )


def side(row: Row, facts: Mapping[str, Any]) -> str:
    """The side that the header names, in words; that it names none, or that there is no header, is said too."""
    if not row.header.get("series_uid"):
        return "no laterality: not DICOM"
    if facts.get("unread"):
        return "laterality unknown: the file cannot be opened"
    found = str(facts.get("ImageLaterality") or facts.get("Laterality") or "")
    words = {"R": "right", "L": "left", "B": "both sides", "U": "unpaired"}
    told = f"laterality: {words.get(found, found)}" if found else "no laterality in the header"
    towards = str(facts.get("PatientOrientation", ""))[:1]
    return f"{told}, right edge is the patient's {words[towards]}" if towards in ("L", "R") else told


def series(row: Row, facts: Mapping[str, Any]) -> str:
    """Which series and image it is, by number and the end of its UID."""
    uid = row.header.get("series_uid", "")
    if not uid:
        return "no series: not DICOM"
    numbers = " ".join(
        f"{said} {facts[name]}"
        for said, name in (("no.", "SeriesNumber"), ("image", "InstanceNumber"))
        if name in facts
    )
    return f"series …{uid[-8:]} {numbers}".strip()


def spacing(row: Row) -> str:
    """Where the size of a pixel comes from, or that nothing can be measured."""
    if row.origin.get("mpp"):
        return f"{row.origin['mpp']} µm a pixel"
    found = row.origin.get("spacing", "")
    if not found or found.startswith("none"):
        return "no spacing"
    return DETECTOR if found == "ImagerPixelSpacing" else f"spacing from {found}"


def meaning(finding: str) -> str:
    """What a finding says, where its name does not say what 1 and 0 are."""
    meaning = code_of(finding).meaning
    one = meaning.partition(" (0:")[0]
    return meaning if one != meaning and one.lower() != finding.replace("_", " ").lower() else ""

"""What the rows of the log mean: who says what now, and how far a case has been read."""

from collections.abc import Iterable
from threading import Lock
from typing import NamedTuple

from apps.review.store import Entry, Store

READINGS = ("present", "absent", "uncertain")
WORDS = {"accept": "accepted", "reject": "rejected", "uncertain": "uncertain", "present": "present", "absent": "absent"}
OPEN, PARTLY, READ = "open", "begun", "read"


class Decision(NamedTuple):
    """What one reviewer says of one finding now."""

    entry: Entry
    verdict: str
    reading: str
    blind: bool
    seconds: float
    visit: str


class Remark(NamedTuple):
    """What a reviewer wrote about a finding: free text, and the finding that it should have been."""

    note: str = ""
    corrected: str = ""


class Mask(NamedTuple):
    """A mask of a reader's own: asked for by a box, or painted over what was there.

    Args:
        seq: Number of its row.
        file: Its name in ``OUT/review/masks``.
        digest: SHA-256 of that file.
        painted: Whether the reader painted on it.
        voxels: How many it holds; None where its row does not say.
        drawn: Whether the reader began from nothing, so that no network had a hand in it.
    """

    seq: int
    file: str
    digest: str
    painted: bool
    voxels: int | None = None
    drawn: bool = False


def mask(entry: Entry) -> Mask:
    """The mask that a row vouches for."""
    said = entry.said
    voxels = said.get("voxels")
    file, digest = str(said.get("file", "")), str(said.get("sha256", ""))
    count = voxels if isinstance(voxels, int) else None
    return Mask(entry.seq, file, digest, bool(said.get("painted")), count, bool(said.get("drawn")))


def decision(entry: Entry) -> Decision:
    """The decision that a row holds."""
    said = entry.said
    return Decision(
        entry,
        str(said.get("verdict", "")),
        str(said.get("reading", "")),
        bool(said.get("blind", False)),
        float(said.get("seconds", 0.0)),
        str(said.get("visit", "")),
    )


def reading_of(verdict: str, positive: bool) -> str:
    """What accepting or rejecting the AI's answer says of the finding: present, absent or uncertain."""
    if verdict not in ("accept", "reject"):
        return "uncertain"
    return "present" if positive == (verdict == "accept") else "absent"


def verdict_of(reading: str, positive: bool) -> str:
    """Whether a reading that was given without seeing the AI's answer agrees with it."""
    if reading not in ("present", "absent"):
        return "uncertain"
    return "accept" if (reading == "present") == positive else "reject"


class Board:
    """The decisions that stand, kept up to date from a store; one is shared by all sessions and holds nothing of theirs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = Lock()
        self._seen = 0
        self._rows: dict[str, dict[str, dict[str, list[Entry]]]] = {}  # case, reviewer, finding
        self._shown: set[tuple[str, str]] = set()
        self._remarks: dict[tuple[str, str, str], Remark] = {}
        self._masks: dict[tuple[str, str], dict[str, Mask]] = {}
        self._visits: dict[tuple[str, str], dict[str, float]] = {}

    def refresh(self) -> "Board":
        """Read what was written since; returns itself."""
        with self._lock:
            for entry in self.store.since(self._seen):
                self._take(entry)
                self._seen = entry.seq
        return self

    def _take(self, entry: Entry) -> None:
        if entry.kind == "shown":
            self._shown.add((entry.case, entry.reviewer))
        elif entry.kind == "mask":
            self._masks.setdefault((entry.case, entry.reviewer), {})[entry.finding] = mask(entry)
        elif entry.kind == "note":
            said = entry.said
            remark = Remark(str(said.get("note", "")), str(said.get("corrected", "")))
            self._remarks[entry.case, entry.reviewer, entry.finding] = remark
        if entry.kind not in ("decision", "undo"):
            return
        if entry.kind == "decision":
            made = decision(entry)
            visits = self._visits.setdefault((entry.case, entry.reviewer), {})
            visits[made.visit] = max(visits.get(made.visit, 0.0), made.seconds)
        rows = self._rows.setdefault(entry.case, {}).setdefault(entry.reviewer, {}).setdefault(entry.finding, [])
        if entry.kind == "decision":
            rows.append(entry)
        elif rows:
            rows.pop()

    def of(self, case: str, reviewer: str) -> dict[str, Decision]:
        """A reviewer's standing decisions about a case, by finding."""
        with self._lock:
            findings = self._rows.get(case, {}).get(reviewer, {})
            return {finding: decision(rows[-1]) for finding, rows in findings.items() if rows}

    def by_reviewer(self, case: str) -> dict[str, dict[str, Decision]]:
        """Everybody's standing decisions about a case, by reviewer and finding."""
        with self._lock:
            everybody = sorted(self._rows.get(case, {}))
        return {who: said for who in everybody if (said := self.of(case, who))}

    def was_shown(self, case: str, reviewer: str) -> bool:
        """Whether the reviewer has asked for the AI's answer about the case."""
        return (case, reviewer) in self._shown

    def masks(self, case: str, reviewer: str) -> dict[str, Mask]:
        """The masks of a reader's own as they stand now, by finding, in the order in which each was first made."""
        return dict(self._masks.get((case, reviewer), {}))

    def all_masks(self) -> dict[tuple[str, str], dict[str, Mask]]:
        """Those of all cases and reviewers."""
        with self._lock:
            return {who: dict(own) for who, own in self._masks.items() if own}

    def remark(self, case: str, reviewer: str, finding: str) -> Remark:
        """What the reviewer wrote last about a finding."""
        return self._remarks.get((case, reviewer, finding), Remark())

    def seconds(self, case: str, reviewer: str) -> float:
        """How long the reviewer looked at the case until the last decision, all visits together."""
        return sum(self._visits.get((case, reviewer), {}).values())

    def everything(self) -> list[tuple[str, str, str, Decision]]:
        """Every standing decision: case, reviewer, finding, decision."""
        with self._lock:
            return [
                (case, who, finding, decision(rows[-1]))
                for case, people in self._rows.items()
                for who, findings in people.items()
                for finding, rows in findings.items()
                if rows
            ]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many findings each reviewer has decided, by case."""
        with self._lock:
            return {
                case: {who: sum(map(bool, findings.values())) for who, findings in people.items()}
                for case, people in self._rows.items()
            }


def state(decided: int, wanted: int) -> str:
    """How far somebody is with a case: open, begun or read."""
    return OPEN if not decided else READ if decided >= wanted else PARTLY


def readers(counts: dict[str, int], wanted: int) -> Iterable[str]:
    """Who has decided about all findings that there are to decide about."""
    return (who for who, decided in counts.items() if decided >= wanted)

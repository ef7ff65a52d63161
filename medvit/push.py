"""Results into an archive, each object fetched back and compared; what a run could not send waits for the next.

"Success" of an archive counts for nothing: an object is ``verified`` once it was fetched back and equals what lies here.
``OUT/push.jsonl`` tells how every object stands.

Source: DICOM PS3.18 section 10.5 (store), PS3.4 GG.3.3 (failure reasons), PS3.10 section 7.1 (file meta information).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import Dataset, Sequence
from pydicom.datadict import keyword_for_tag

from medvit import budgets
from medvit.archive import PLACE_TAGS, Archive, Away, Place, place_of
from medvit.atomic import locked
from medvit.case import DAMAGE, UID, digest
from medvit.errors import MedvitError, Unanswered
from medvit.journal import Journal
from medvit.readers.dicom import open_dicom
from medvit.readers.survey import survey

log = logging.getLogger(__name__)
BATCH_OBJECTS, BATCH_BYTES = 32, 64 * budgets.MIB  # of one STOW request
FAILURES = {
    0x0110: "processing failure",
    0x0122: "it does not take this kind of object",
    0x0124: "not authorised",
    0x0131: "the coercion of an element failed",
    0xA700: "out of resources",
    0xA900: "the data set does not match its kind of object",
    0xC000: "it does not understand the data set",
}


class Sendable(NamedTuple):
    """An object to be archived: its file, where it belongs, and the SHA-256 of its data set."""

    path: Path
    place: Place
    sha256: str
    bytes: int


class Outcome(NamedTuple):
    """How an object stands: ``waiting``, ``sent``, ``verified``, ``conflict`` or ``refused``, and why."""

    status: str
    reason: str = ""
    message: str = ""


def push(archive: Archive, out: Path) -> dict[str, int]:
    """Send the DICOM objects of a folder of answers to an archive and fetch each one back to compare.

    An object that the archive already holds is compared and not sent; one that was verified before is left alone.

    Args:
        archive: Where to.
        out: What ``medvit predict`` wrote.

    Returns:
        Numbers of objects ``verified``, ``conflict``, ``refused`` and ``waiting``.

    Raises:
        MedvitError: When there is nothing to send, or a run works in the folder.
        Halted: When the archive is away before anything was verified, or the disk refuses.
    """
    if not (out / "cases").is_dir():
        raise MedvitError(f"{out} holds no answers of `medvit predict`. Give the folder named by its -o.")
    with locked(out), Journal(out / "push.jsonl") as journal:
        objects = sendables(out)
        if not objects:
            raise MedvitError(f"{out} holds no DICOM objects. Run `medvit predict` with --write sr,sc on DICOM films.")
        keys = {thing: digest(f"{archive.url} {thing.place.sop}") for thing in objects}
        spool = _Spool(archive, out, journal, keys)
        try:
            spool.run()
        except Away as away:
            if not spool.counts()["verified"]:
                raise
            log.error("%s", away)
        return spool.counts()


def sendables(out: Path) -> list[Sendable]:
    """The DICOM objects below ``OUT/cases``."""
    found = []
    for path in sorted(out.glob("cases/*/*.dcm")):
        try:
            place = place_of(survey(path, PLACE_TAGS).values)
        except Unanswered as refusal:
            raise MedvitError(f"{path} was not written by `medvit predict`: {refusal} Take it away.") from refusal
        if not all(UID.fullmatch(uid) for uid in place):
            raise MedvitError(f"{path} has no valid UIDs, so it was not written by `medvit predict`. Take it away.")
        found.append(Sendable(path, place, data_digest(path), path.stat().st_size))
    return found


class _Spool:
    """The objects on their way to an archive, and a line of the journal at every step."""

    def __init__(self, archive: Archive, out: Path, journal: Journal, keys: dict[Sendable, str]) -> None:
        self.archive, self.out, self.journal, self.keys = archive, out, journal, keys
        self.scratch = out / ".push.part"
        self.status = {thing: "waiting" for thing in keys}

    def counts(self) -> dict[str, int]:
        """How many objects ended how."""
        counted = Counter(self.status.values())
        waiting = counted["waiting"] + counted["sent"]
        return {**{name: counted[name] for name in ("verified", "conflict", "refused")}, "waiting": waiting}

    def run(self) -> None:
        """Bring every object to its end."""
        left = [thing for thing in self.keys if not self._is_verified(thing)]
        self._note({thing: Outcome("waiting") for thing in left if self.journal.status(self.keys[thing]) is None})
        try:
            for batch in batches(left):
                held = {thing: self._compared(thing) for thing in batch}
                self._note({thing: outcome for thing, outcome in held.items() if outcome})
                self._send([thing for thing in batch if held[thing] is None])
        finally:
            self.scratch.unlink(missing_ok=True)

    def _is_verified(self, thing: Sendable) -> bool:
        known = next(self.journal.read([self.keys[thing]]), {})
        if known.get("status") != "verified" or known.get("sha256") != thing.sha256:
            return False
        self.status[thing] = "verified"
        return True

    def _note(self, outcomes: dict[Sendable, Outcome]) -> None:
        for thing, outcome in outcomes.items():
            self.status[thing] = outcome.status
            if outcome.message:
                log.warning("%s: %s: %s", thing.path.relative_to(self.out), outcome.status, outcome.message)
        self.journal.add(self._record(thing, outcome) for thing, outcome in outcomes.items())

    def _record(self, thing: Sendable, outcome: Outcome) -> dict[str, Any]:
        where = {"archive": self.archive.url, "file": str(thing.path.relative_to(self.out)), **thing.place._asdict()}
        return {"key": self.keys[thing], **outcome._asdict(), **where, "sha256": thing.sha256}

    def _send(self, batch: list[Sendable]) -> None:
        if not batch:
            return
        try:
            failures = self.archive.store([open_dicom(thing.path) for thing in batch])
        except Unanswered as refusal:
            if len(batch) > 1:  # one of them may be the cause
                for thing in batch:
                    self._send([thing])
                return
            self._note({batch[0]: Outcome("refused", refusal.reason, str(refusal))})
            return
        self._note({thing: Outcome("sent") for thing in batch})
        self._note({thing: self._settled(thing, failures.get(thing.place.sop)) for thing in batch})

    def _settled(self, thing: Sendable, failure: int | None) -> Outcome:
        """What came of an object that was sent: what the archive holds decides, not what it said."""
        held = self._compared(thing)
        if held:
            return held
        if failure is not None:
            why = (
                FAILURES.get(failure)
                or FAILURES.get(failure & 0xFF00)
                or FAILURES.get(failure & 0xF000, "no known reason")
            )
            return Outcome("refused", f"failure_{failure:04X}", f"The archive did not store it ({failure:04X}: {why}).")
        return Outcome(
            "refused",
            "not_found",
            "The archive took it and does not give it back. It may be slow: push again. Or it holds this UID elsewhere, for "
            "example under another patient: search for the UID there.",
        )

    def _compared(self, thing: Sendable) -> Outcome | None:
        """How what the archive holds compares; None when it holds nothing there."""
        try:
            self.archive.fetch(thing.place, self.scratch)
            if data_digest(self.scratch) == thing.sha256:
                return Outcome("verified")
            differing = differences(open_dicom(thing.path), open_dicom(self.scratch))
        except Unanswered as refusal:
            if refusal.reason in ("http_404", "http_410"):
                return None
            return Outcome("refused", refusal.reason, str(refusal))
        if not differing:
            return Outcome("verified")
        return Outcome(
            "conflict",
            "other_content",
            f"The archive holds another object of this UID (differs in {', '.join(differing[:8])}"
            f"{', …' if len(differing) > 8 else ''}) and keeps it. Delete it there, then push again.",
        )


def batches(things: Iterable[Sendable]) -> Iterator[list[Sendable]]:
    """Objects in groups of one request, limited in number and bytes."""
    batch: list[Sendable] = []
    for thing in things:
        if batch and (len(batch) == BATCH_OBJECTS or sum(one.bytes for one in batch) + thing.bytes > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(thing)
    if batch:
        yield batch


def data_digest(path: Path) -> str:
    """SHA-256 of a DICOM file behind its file meta information: what an archive may not change."""
    with path.open("rb") as file:
        head = file.read(144)
        if head[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00":
            file.seek(144 + int.from_bytes(head[140:144], "little"))
        else:
            file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(sent: Dataset, held: Dataset) -> list[str]:
    """Keywords of the elements in which two data sets differ, however they are encoded; padding and group lengths aside."""
    differing = []
    for tag in sorted({*sent.keys(), *held.keys()}):
        if tag.element and tag != 0xFFFCFFFC and not _is_equal(sent, held, tag):
            differing.append(keyword_for_tag(tag) or f"({tag.group:04x},{tag.element:04x})")
    return differing


def _is_equal(sent: Dataset, held: Dataset, tag: int) -> bool:
    try:
        if tag not in sent or tag not in held:
            return False
        ours, theirs = sent[tag].value, held[tag].value  # not their types: implicit encodings do not tell OB from OW
        if isinstance(ours, Sequence) and isinstance(theirs, Sequence):
            return len(ours) == len(theirs) and not any(map(differences, ours, theirs))
        return bool(ours == theirs)
    except DAMAGE:
        return False

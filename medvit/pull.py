"""Films from an archive into a folder, each object checked; what a run could not fetch waits for the next.

``FOLDER/pull.jsonl`` tells what was fetched: UIDs, file, SHA-256, bytes.

Source: DICOM PS3.18 sections 10.4 (retrieve) and 10.6 (search).
"""

import hashlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from medvit import budgets
from medvit.archive import PLACE_TAGS, SERIES, SOP, STUDY, Archive, Away, Item, Place, place_of, value
from medvit.atomic import locked, whole
from medvit.case import UID, digest
from medvit.errors import Halted, MedvitError, Rejected, Unanswered
from medvit.journal import Journal
from medvit.readers.survey import survey

log = logging.getLogger(__name__)
PATIENT, MODALITY, STUDY_DATE = "00100020", "00080060", "00080020"
PATIENT_TAG = int(PATIENT, 16)
DATES = re.compile(r"(\d{8})?(?:(-)(\d{8})?)?")
INBOX_LOCK = ".medvit.inbox.lock"  # another than that of results, since these are inputs
SPARE_BYTES = budgets.GIB  # of the disk, left free


class Query(NamedTuple):
    """Which objects are wanted; "" and () stand for any.

    Args:
        study: Study Instance UID.
        series: Series Instance UID, of that study.
        patient: Patient ID, without wildcards.
        modality: Modalities of series.
        date: Study dates, ``YYYYMMDD`` or ``YYYYMMDD-YYYYMMDD``, either end open.
    """

    study: str = ""
    series: str = ""
    patient: str = ""
    modality: tuple[str, ...] = ()
    date: str = ""


def pull(archive: Archive, folder: Path, query: Query, limit: int | None = None) -> dict[str, int]:
    """Fetch the objects that match a query into a folder, one file each, named by no tag.

    An object that the journal knows and whose file is as it was is kept and not fetched again.

    Args:
        archive: Where from.
        folder: Where to; made when it is not there.
        query: Which objects.
        limit: Fetch at most so many.

    Returns:
        Numbers of objects ``fetched``, ``kept`` and ``refused``; ``broken_off`` is 1 when the archive went away meanwhile.

    Raises:
        MedvitError: When the query asks for nothing, or another run works in the folder.
        Halted: When the archive is away before anything was fetched, or the disk refuses.
    """
    check(query, limit)
    counts = Counter(fetched=0, kept=0, refused=0, broken_off=0)
    with locked(folder, INBOX_LOCK), Journal(folder / "pull.jsonl") as journal:
        for torn in folder.glob(".*.dcm.part"):
            torn.unlink()
        try:
            for place in find(archive, query):
                counts[_pulled(archive, folder, place, query.patient, journal)] += 1
                if counts["fetched"] == limit:
                    break
        except Away as away:
            if not counts["fetched"]:
                raise
            counts["broken_off"] = 1
            log.error("%s", away)
    return dict(counts)


def check(query: Query, limit: int | None) -> None:
    """Refuse a query that nobody can mean.

    Raises:
        MedvitError: What is wrong with it.
    """
    if not any(query) and limit is None:
        raise MedvitError("Say which objects: --study, --patient-id, --modality, --date or at least --limit.")
    for name in ("study", "series"):
        if (uid := getattr(query, name)) and not UID.fullmatch(uid):
            raise MedvitError(f"--{name} {uid} is no UID.")
    if query.series and not query.study:
        raise MedvitError("--series needs --study, the study that it belongs to.")
    if any(sign in query.patient for sign in "*?\\"):
        raise MedvitError("--patient-id must be one identifier, without * and ?.")
    if query.date and not (DATES.fullmatch(query.date) and len(query.date) > 1):
        raise MedvitError(f"--date {query.date} is no date. Give 20260131, 20260101-20260131, 20260101- or -20260131.")
    if limit is not None and limit < 1:
        raise MedvitError("--limit must be at least 1.")


def find(archive: Archive, query: Query) -> Iterator[Place]:
    """Where the wanted objects lie; what an archive answers beyond the question is left out."""
    asked = {"StudyInstanceUID": query.study, "PatientID": query.patient, "StudyDate": query.date}
    filters = {keyword: text for keyword, text in asked.items() if text}
    seen = set()
    for modality in query.modality or ("",):
        for study in archive.studies({**filters, **({"ModalitiesInStudy": modality} if modality else {})}):
            uid = value(study, STUDY)
            if uid in seen or not _is_asked(study, query):
                continue
            seen.add(uid)
            for series in archive.series(uid):
                named = value(series, SERIES)
                if (query.series in ("", named)) and (not query.modality or value(series, MODALITY) in query.modality):
                    yield from (Place(uid, named, value(item, SOP)) for item in archive.instances(uid, named))


def _is_asked(study: Item, query: Query) -> bool:
    """Whether a study is one that was asked for: archives may pass over filters that they do not know."""
    first, to, last = DATES.fullmatch(query.date).groups()  # type: ignore[union-attr]
    date = value(study, STUDY_DATE)
    return (
        query.study in ("", value(study, STUDY))
        and query.patient in ("", value(study, PATIENT))
        and (not query.date or (first or "0") <= date <= ((last or "9") if to else first))
    )


def _pulled(archive: Archive, folder: Path, place: Place, patient: str, journal: Journal) -> str:
    """Fetch one object and say how it ended."""
    key = digest(place.sop)
    path = folder / f"{key}.dcm"
    for record in journal.read([key]):
        if (record["study"], record["series"]) != (place.study, place.series):
            log.warning("%s: uid_conflict: The archive holds this UID in two series; the first one stays.", path.name)
            return "refused"
        if path.is_file() and path.stat().st_size == record["bytes"] and _sha256(path) == record["sha256"]:
            return "kept"
    if shutil.disk_usage(folder).free < SPARE_BYTES:
        raise Halted(f"The disk of {folder} is full. Make room, then run the same command again.")
    try:
        with whole(path) as part:
            archive.fetch(place, part)
            _check_object(part, place, patient)
            record = {"bytes": part.stat().st_size, "sha256": _sha256(part)}
    except Unanswered as refusal:
        log.warning("%s: %s: %s", path.name, refusal.reason, refusal)
        return "refused"
    journal.add(
        [{"key": key, "status": "fetched", "archive": archive.url, **place._asdict(), "file": path.name, **record}]
    )
    return "fetched"


def _check_object(path: Path, place: Place, patient: str) -> None:
    """Refuse what is no sound DICOM file or not the object that was asked for."""
    values = survey(path, (*PLACE_TAGS, PATIENT_TAG)).values
    if place_of(values) != place:
        raise Rejected("other_object", "The archive sent another object than the one asked for.")
    if patient.isascii() and patient and values.get(PATIENT_TAG, b"").strip(b"\0 ") != patient.encode():
        raise Rejected("other_patient", "The archive sent an object of another patient than the one asked for.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

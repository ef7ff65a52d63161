"""Other films of the same patient in a run: other views of the study, and studies before and after it.

Workers read patient, date and view from the headers; what comes back of the patient is a code that holds for this process
alone and is kept nowhere, and of the dates the page says how many days lie between them. Two films are of one patient where
number, issuer, date of birth and sex are all the same, so that numbers which two hospitals gave out are not mixed up; those of
one study are anyway.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from threading import Lock, Thread
from typing import NamedTuple

from pydicom.datadict import tag_for_keyword

from apps.review.runs import Row, Run
from medvit.case import digest
from medvit.errors import MedvitError, Unanswered
from medvit.guard import Pool, Reply
from medvit.readers.survey import survey

PERSON = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
TAGS = {tag_for_keyword(name) or 0: name for name in (*PERSON, "StudyDate", "ViewPosition", "SOPInstanceUID")}
CHUNK = 16  # films that one call reads; more would let others wait
MOST = {"view": 3, "earlier": 3, "later": 2}  # that are offered beside a film
PATIENCE_S = 0.15  # that the first look waits: of a small run all is known by then


class Film(NamedTuple):
    """What a header says of a film: a code for its patient, the day of its study (0 where unknown), its view."""

    patient: str
    day: int
    view: str


class Beside(NamedTuple):
    """A film to be seen beside another: its case, which kind of companion it is, and what it is in words."""

    case: str
    kind: str  # view, earlier or later
    said: str


class Kin:
    """The films of a run by patient, read in the background from when somebody looks at the first of them.

    Args:
        run: The run.
        place: The file of a case; None where it is not there, or lies in a zip.
        pool: Workers with the duty ``kin``.
    """

    def __init__(self, run: Run, place: Callable[[Row], Path | None], pool: Pool) -> None:
        self.run, self._place, self._pool = run, place, pool
        self._key = secrets.token_bytes(16)
        self._films: dict[str, Film] = {}
        self._patients: dict[str, list[str]] = {}  # code of a patient to cases
        self._studies: tuple[Mapping[str, Row], dict[str, list[str]]] = ({}, {})  # of which rows; study to cases
        self._lock = Lock()
        self._reader: Thread | None = None

    def of(self, row: Row) -> tuple[list[Beside], bool]:
        """What can be seen beside a film, and whether all headers have been read.

        Returns:
            Other views of the study or the day, earlier studies, later ones; each kind with the nearest in time first.
        """
        done = self._read()
        films, nobody = self._films, Film("", 0, "")
        mine = films.get(row.case, nobody)
        told = {}
        for case in self._study(row.header.get("study_uid", "")):
            view = films.get(case, nobody).view
            told[case] = (0, Beside(case, "view", f"same study, {view}" if view else "same study"))
        for case in self._patients.get(mine.patient, ()) if mine.day else ():
            film = films[case]
            if film.day:
                told.setdefault(case, _dated(case, film, film.day - mine.day))
        told.pop(row.case, None)
        found = [one for _, one in sorted(told.values())]
        offered = [[one for one in found if one.kind == kind][:most] for kind, most in MOST.items()]
        return [one for kind in offered for one in kind], done

    def _study(self, uid: str) -> list[str]:
        """The cases of a study."""
        rows, studies = self._studies
        if rows is not self.run.rows:
            rows, studies = self.run.rows, {}
            for row in rows.values():
                studies.setdefault(row.header.get("study_uid", ""), []).append(row.case)
            self._studies = (rows, studies)
        return studies.get(uid, []) if uid else []

    def _read(self) -> bool:
        """Have headers read that were not yet; whether there is nothing left to read."""
        with self._lock:
            if self._reader and self._reader.is_alive():
                return False
            todo = [row for case, row in self.run.rows.items() if case not in self._films]
            if not todo:
                return True
            reader = self._reader = Thread(target=self._take, args=(todo,), daemon=True)
            reader.start()
        reader.join(PATIENCE_S)
        return not reader.is_alive()

    def _take(self, todo: Sequence[Row]) -> None:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            files = [(str(path), row.case) for row in chunk if (path := self._place(row))]
            try:
                known = self._pool.submit("kin", files, self._key.hex(), urgent=False).result().plain if files else []
            except MedvitError:  # one of them killed the worker: these have no companions
                known = []
            told = {case: Film(who, day, view) for case, who, day, view in known}
            for row in chunk:
                film = self._films[row.case] = told.get(row.case, Film("", 0, ""))
                if film.patient:
                    self._patients.setdefault(film.patient, []).append(row.case)


def _dated(case: str, film: Film, days: int) -> tuple[int, Beside]:
    """How far away a film is, and what is said of it."""
    view = f"{film.view}, " if film.view else ""
    if days == 0:
        return 0, Beside(case, "view", f"{view}same day")
    apart = f"{abs(days)} day{'s' if abs(days) > 1 else ''}"
    if days < 0:
        return -days, Beside(case, "earlier", f"{view}{apart} earlier")
    return days, Beside(case, "later", f"{view}{apart} later")


def kin(files: Sequence[tuple[str, str]], key: str) -> Reply:
    """Case, code of the patient, day and view of films; those that cannot be read, or are another case, are left out."""
    told = []
    for path, case in files:
        try:
            values = survey(Path(path), TAGS, max(TAGS) + 1).values
        except (Unanswered, OSError):
            continue
        raw = {name: values.get(tag, b"").strip(b"\0 ") for tag, name in TAGS.items()}
        if digest(raw["SOPInstanceUID"].decode("ascii", "replace")) != case:
            continue
        who = ""
        if raw["PatientID"]:
            joined = b"\\".join(raw[name] for name in PERSON)
            who = hmac.new(bytes.fromhex(key), joined, hashlib.sha256).hexdigest()[:16]
        told.append([case, who, _day(raw["StudyDate"]), _view(raw["ViewPosition"])])
    return Reply(told)


def _day(text: bytes) -> int:
    """A date of a header as a number of days; 0 where it is none."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal() if len(text) == 8 else 0
    except ValueError:
        return 0


def _view(text: bytes) -> str:
    """A view's code; "" where it is none."""
    said = text.decode("ascii", "replace")
    return said if len(said) <= 16 and said.replace("_", "").replace(" ", "").isalnum() else ""

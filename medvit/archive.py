"""A DICOMweb archive at the other end of the wire: asked and answered within limits, tried again, never trusted.

The wire belongs to dicomweb-client for queries (QIDO-RS) and storing (STOW-RS); objects are fetched (WADO-RS) straight into
files, since that library parses what it receives in memory.

Source: DICOM PS3.18 sections 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

import ipaddress
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset
from urllib3.exceptions import HTTPError, NewConnectionError

from medvit import budgets
from medvit.case import UID
from medvit.errors import Halted, MedvitError, Unanswered
from medvit.wire import CHUNK, TIMEOUT_S, session, write_part

T = TypeVar("T")
Item = Mapping[str, Any]  # one match of a query, DICOM JSON (PS3.18 annex F)
STUDY, SERIES, SOP = "0020000D", "0020000E", "00080018"
PLACE_TAGS = tuple(int(tag, 16) for tag in (STUDY, SERIES, SOP))
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # compressed objects come as they are
PAGE = 200  # matches asked for at once
TRIES = 5
FIRST_PAUSE_S = 1.0  # doubled after every try, times a random factor in [0.5, 1.5)
BREAKER = 3  # objects in a row that failed after all tries: the archive counts as away
TRY_AGAIN = (408, 429)  # beside 5xx
QUIET = ("dicomweb_client.web", "dicomweb_client.session_utils", "urllib3.connectionpool", "urllib3.connection")
# What dicomweb-client and pydicom raise on answers that are none.
NONSENSE = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)


class Away(Halted):
    """The archive does not answer, or not to this user: nothing more can be done in this run."""


class Place(NamedTuple):
    """Where an object lies: UIDs of study, series and object."""

    study: str
    series: str
    sop: str


def place_of(values: Mapping[int, bytes]) -> Place:
    """The place that the elements of an object itself name (`PLACE_TAGS`), "" for what they do not."""
    return Place(*(values.get(tag, b"").strip(b"\0 ").decode("ascii", "replace") for tag in PLACE_TAGS))


class Archive:
    """A DICOMweb service.

    Args:
        url: Its root, such as ``https://pacs/dicom-web``.
        insecure: Allow ``http://`` to another machine.
        ca: Certificates (PEM) to trust instead of the usual ones.
        pause: Waits so many seconds between tries.
        chance: Draws in [0, 1), to spread the tries of many clients.

    Raises:
        MedvitError: For a URL or certificates that cannot be used, and for half of a user's credentials.
    """

    def __init__(
        self,
        url: str,
        insecure: bool = False,
        ca: Path | None = None,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.url = checked_url(url, insecure)
        for name in QUIET:
            logging.getLogger(name).disabled = True  # they quote URLs, with whatever was asked for, and answers
        self._pause, self._chance = pause, chance
        self._failures = 0
        self._objects = session(budgets.FILE_BYTES + budgets.MIB, ca)
        try:
            self._client = DICOMwebClient(self.url, session(budgets.ANSWER_BYTES, ca), timeout=TIMEOUT_S)
        except ValueError as error:
            raise MedvitError(
                f"{self.url} is not a URL that can be used. Give one like https://pacs/dicom-web."
            ) from error
        self._client.set_http_retry_params(retry=False)  # one way of trying again is enough

    def studies(self, filters: Mapping[str, str]) -> Iterator[Item]:
        """The studies that match; filters are DICOM keywords and values."""
        return self._all(STUDY, self._client.search_for_studies, search_filters=filters)

    def series(self, study: str) -> Iterator[Item]:
        """The series of a study."""
        return self._all(SERIES, self._client.search_for_series, study_instance_uid=study)

    def instances(self, study: str, series: str) -> Iterator[Item]:
        """The objects of a series."""
        return self._all(SOP, self._client.search_for_instances, study_instance_uid=study, series_instance_uid=series)

    def _all(self, tag: str, search: Callable[..., list[dict[str, Any]]], **asked: Any) -> Iterator[Item]:
        """Every match once, page by page until a page brings nothing new: limits of archives differ."""
        seen: set[str] = set()
        while True:
            page = self._query(search, limit=PAGE, offset=len(seen), **asked)
            fresh = {uid: item for item in page if UID.fullmatch(uid := value(item, tag)) and uid not in seen}
            if not fresh:
                return
            seen.update(fresh)
            if len(seen) > budgets.MATCHES:
                raise Away(f"{self.url} answers with more than {budgets.MATCHES} matches. Ask for less at once.")
            yield from fresh.values()

    def _query(self, search: Callable[..., list[dict[str, Any]]], **asked: Any) -> list[Item]:
        try:
            return self._tried(lambda: [item for item in search(**asked) if isinstance(item, dict)])
        except Unanswered as error:
            raise Away(f"{self.url} does not answer a query as DICOMweb says; is this its root? {error}") from error

    def fetch(self, place: Place, path: Path) -> None:
        """Write the object of that place to a file, as the archive sends it; its content is not looked at.

        Raises:
            Unanswered: ``http_404`` when it is not there; other reasons when it does not come whole or is too large.
            Away: When the archive is.
        """
        url = f"{self.url}/studies/{place.study}/series/{place.series}/instances/{place.sop}"

        def once() -> None:
            with self._objects.get(url, headers={"Accept": AS_STORED}, stream=True, timeout=TIMEOUT_S) as answer:
                answer.raise_for_status()
                with path.open("wb") as file:
                    write_part(answer.headers.get("Content-Type", ""), answer.iter_content(CHUNK), file)

        self._tried(once)

    def store(self, datasets: Sequence[Dataset]) -> dict[str, int]:
        """Store objects.

        Returns:
            SOP Instance UID to failure reason (PS3.4 annex GG.3.3) of those that the archive says it did not store.

        Raises:
            Unanswered: ``http_…`` when it refuses the whole request.
            Away: When the archive is.
        """
        try:
            return self._tried(lambda: _failures(self._client.store_instances(datasets)))
        except Unanswered as error:
            if error.reason != "bad_answer":
                raise
            return {}  # stored or not: each object is fetched again, and that decides

    def _tried(self, call: Callable[[], T]) -> T:
        """Call until it answers: again after a failure that may pass, after a growing pause that chance spreads."""
        for attempt in range(TRIES):
            if attempt:
                self._pause(FIRST_PAUSE_S * 2 ** (attempt - 1) * (0.5 + self._chance()))
            try:
                answer = call()
            except requests.exceptions.SSLError as error:
                raise Away(
                    f"No safe connection to {self.url}: its certificate is not trusted. Give the archive's with --ca FILE."
                ) from error
            except requests.TooManyRedirects as error:
                raise Away(
                    f"{self.url} sends on to another place. Give the URL of that place, if you trust it."
                ) from error
            except requests.HTTPError as error:
                failure = self._refusal(error.response.status_code if error.response is not None else 500)
                refused = False
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = Unanswered("broken_off", "The archive broke off or took too long, again and again.")
                cause = getattr(error.args[0], "reason", None) if error.args else None
                refused = isinstance(error, requests.ConnectTimeout) or isinstance(cause, NewConnectionError)
            except (requests.RequestException, HTTPError, *NONSENSE) as error:
                raise Unanswered("bad_answer", "The archive's answer cannot be understood.") from error
            else:
                self._failures = 0
                return answer
        self._failures += 1
        if refused or self._failures == BREAKER:
            raise Away(f"{self.url} does not answer. What is left waits: run the same command again to go on.")
        raise failure

    def _refusal(self, status: int) -> Unanswered:
        """What an HTTP status means; raised at once when trying again cannot help."""
        if status in (401, 403):
            raise Away(
                f"{self.url} refuses the user ({status}). Set MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or "
                "MEDVIT_DICOMWEB_TOKEN, to what it knows."
            )
        failure = Unanswered(f"http_{status}", f"The archive answers with HTTP status {status}.")
        if status < 500 and status not in TRY_AGAIN:
            self._failures = 0  # it answers
            raise failure
        return failure


def value(item: Item, tag: str) -> str:
    """The first value of an element in DICOM JSON as text; "" when it has none or is no text."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0].strip() if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _failures(answer: Dataset) -> dict[str, int]:
    failed = answer.get("FailedSOPSequence") or ()  # its length counts: some archives send an empty one
    return {str(item.get("ReferencedSOPInstanceUID")): int(item.get("FailureReason") or 0) for item in failed}


def checked_url(url: str, insecure: bool) -> str:
    """The URL of an archive without a slash at its end.

    Raises:
        MedvitError: When it is none, carries a password, or would send films in clear text to another machine.
    """
    try:
        parts = urlsplit(url)
        host, named = parts.hostname or "", parts.username is not None or parts.password is not None
        _ = parts.port
    except ValueError:
        host, named = "", False
    if named or "@" in url:
        raise MedvitError(
            "The URL carries a user or password, which other users of this machine can see. Set MEDVIT_DICOMWEB_USER and "
            "MEDVIT_DICOMWEB_PASSWORD instead."
        )
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or re.search(r"\s", url):
        raise MedvitError(f"{url} is not the root of a DICOMweb service. Give one like https://pacs/dicom-web.")
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise MedvitError(
            f"{url} would send patients' data in clear text. Give its https URL, or --insecure if the line itself is safe."
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""The wire to an archive: sessions whose answers are limited in bytes and time, and the one part of a multipart answer.

Nothing is taken from ``.netrc`` or proxy variables and no redirect is followed, so that neither passwords nor films leave for
another place.
"""

import io
import os
import time
from collections.abc import Iterable
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from medvit import budgets
from medvit.errors import MedvitError, Rejected

TIMEOUT_S = (budgets.CONNECT_S, budgets.SILENCE_S)
CHUNK = 2**16


def write_part(content_type: str, chunks: Iterable[bytes], file: BinaryIO) -> None:
    """Write the only part of a multipart answer; an answer that is the object itself is taken too.

    Raises:
        Rejected: When the answer is of another kind or has more parts than one.
        requests.ConnectionError: When it ends before its closing boundary, so that it is asked for again.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() == "application/dicom":
        file.writelines(chunks)
        return
    if header.get_content_type() != "multipart/related" or not boundary:
        raise Rejected("bad_answer", "The archive answered with something else than a DICOM object.")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    held, inside = bytearray(b"\r\n"), False  # a first boundary may lack its line end
    for chunk in chunks:
        held += chunk
        if not inside:
            start = held.find(b"\r\n\r\n", max(held.find(delimiter), 0))
            if held.find(delimiter) < 0 or start < 0:
                if len(held) > CHUNK + len(chunk):
                    raise Rejected("bad_answer", "The archive's multipart answer has no beginning.")
                continue
            del held[: start + 4]
            inside = True
        end = held.find(delimiter)
        if end >= 0 and len(held) >= end + len(delimiter) + 2:
            if held[end + len(delimiter) :][:2] != b"--":
                raise Rejected("bad_answer", "The archive answered with more objects than the one asked for.")
            file.write(held[:end])
            return
        if end < 0:
            kept = max(len(held) - len(delimiter), 0)
            file.write(held[:kept])
            del held[:kept]
    raise requests.ConnectionError("torn")


class _Metered(io.RawIOBase):
    """A socket's bytes: no more than a limit, none too slowly, headers and chunk sizes included."""

    def __init__(self, raw: io.RawIOBase, limit: int) -> None:
        self._raw, self._limit, self._count, self._begun = raw, limit, 0, time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() - self._begun > budgets.ANSWER_S + self._count / budgets.SLOWEST_BYTES_S:
            raise TimeoutError("too slow")
        count = self._raw.readinto(buffer)
        self._count += count or 0
        if self._count > self._limit:
            raise Rejected("answer_budget", f"The archive sends more than {self._limit} bytes.")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """An HTTP answer that is read through `_Metered`."""

    limit = 0

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Metered(sock.makefile("rb", buffering=0), self.limit))

    def begin(self) -> None:
        super().begin()
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Rejected("bad_answer", "The archive compresses its answer although it was asked not to.")


class _Adapter(HTTPAdapter):
    """Connections whose answers are metered, for requests and whatever uses its sessions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        answer = type("Answer", (_Answer,), {"limit": self._limit})
        pools = {}
        for scheme, pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": answer})
            pools[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})
        self.poolmanager.pool_classes_by_scheme = pools


def session(limit: int, ca: Path | None) -> requests.Session:
    """A session whose answers have a limit (bytes), with the user's credentials from the environment."""
    opened = requests.Session()
    opened.trust_env, opened.max_redirects = False, 0
    opened.headers.update({"Accept": "application/dicom+json", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        opened.mount(scheme, _Adapter(limit))
    if ca is not None:
        if not ca.is_file():
            raise MedvitError(f"--ca {ca} is not there. Give the file with the archive's certificates (PEM).")
        opened.verify = str(ca)
    user, password = (os.environ.get(f"MEDVIT_DICOMWEB_{name}") for name in ("USER", "PASSWORD"))
    if (user is None) != (password is None):
        raise MedvitError("Set both MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or neither.")
    if token := os.environ.get("MEDVIT_DICOMWEB_TOKEN"):
        opened.headers["Authorization"] = f"Bearer {token}"
    elif user is not None and password is not None:
        opened.auth = HTTPBasicAuth(user.encode(), password.encode())
    return opened

"""A real archive for the tests: Debian's Orthanc in a network of its own.

Orthanc 1.10.1 listens on every interface whatever it is told, so it runs in a network namespace that holds nothing but a
loopback; the tests enter it for as long as they talk with it.
"""

import ctypes
import json
import os
import shutil
import subprocess
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PORT, USER, PASSWORD = 18042, "medvit", "test-only"
ROOT = f"http://127.0.0.1:{PORT}"
URL = f"{ROOT}/dicom-web"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
OWN_NETWORK = "/proc/thread-self/ns/net"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h


def require(*programs: str) -> None:
    """Skip where a test cannot run and say why; in CI it must run."""
    missing = [name for name in programs if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    reason = (
        f"not installed: {', '.join(missing)}" if missing else "" if os.geteuid() == 0 else "needs root for a network"
    )
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


class Network:
    """A network of nothing but a loopback; gone with its last user."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        home = os.open(OWN_NETWORK, os.O_RDONLY)
        self._check(self._libc.unshare(NEW_NETWORK))
        try:
            self._file = os.open(OWN_NETWORK, os.O_RDONLY)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        finally:
            self._check(self._libc.setns(home, NEW_NETWORK))
            os.close(home)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and processes that it starts, live in the network."""
        home = os.open(OWN_NETWORK, os.O_RDONLY)
        self._check(self._libc.setns(self._file, NEW_NETWORK))
        try:
            yield
        finally:
            self._check(self._libc.setns(home, NEW_NETWORK))
            os.close(home)

    def close(self) -> None:
        os.close(self._file)

    def _check(self, code: int) -> None:
        if code:
            raise OSError(ctypes.get_errno(), "a network of our own was refused")


class Orthanc:
    """An archive on the loopback of its own network. It keeps the first object of a UID and never overwrites it."""

    def __init__(self, folder: Path) -> None:
        require("Orthanc", "ip")
        if not PLUGIN.exists():
            pytest.fail("orthanc-dicomweb is not installed")
        self.network = Network()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "orthanc.json").write_text(json.dumps(_configuration(folder)))
        self.start()

    def start(self) -> None:
        with self.network.inside(), (self.folder / "orthanc.log").open("ab") as log:
            command = ["Orthanc", str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
            )
        until = time.monotonic() + 60
        while True:
            try:
                self.ask("/system")
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < until, "Orthanc does not start"
                time.sleep(0.05)

    def kill(self) -> None:
        """As if its power went."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
        self.network.close()

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> Any:
        """The JSON that its own interface answers."""
        login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(ROOT + path, body, {"Authorization": f"Basic {login}"}, method=method)
        with (
            self.network.inside(),
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer,
        ):
            return json.loads(answer.read() or b"null")

    def count(self) -> int:
        """How many objects it holds."""
        return int(self.ask("/statistics")["CountInstances"])

    def keep(self, path: Path) -> None:
        """Put a file into it, past what is tested."""
        self.ask("/instances", "POST", path.read_bytes())


def _configuration(folder: Path) -> dict[str, object]:
    return {
        "StorageDirectory": str(folder / "objects"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": PORT,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "OverwriteInstances": False,
        "SyncStorageArea": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }

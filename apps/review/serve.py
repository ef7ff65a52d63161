"""Starts the app: on this machine alone, silent to the outside, and only with a key or a login."""

import getpass
import hashlib
import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from apps.review.desk import Settings, desk
from apps.review.door import HEADER, ROLE_HEADER, Door, Keys, Person
from apps.review.login import Login, read_login
from apps.review.routes import routes
from medvit import NOTICE
from medvit.errors import MedvitError
from medvit.guard import preload

SCRIPT = Path(__file__).parent / "app.py"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
THEME = {
    "base": "dark", "primaryColor": "#56b4e9", "backgroundColor": "#0e1114", "secondaryBackgroundColor": "#171b1f",
    "textColor": "#d4dade", "borderColor": "#2a3036", "baseRadius": "4px", "baseFontSize": 14, "linkColor": "#56b4e9",
    "showWidgetBorder": True,
}  # fmt: skip


def configuration(address: str, port: int) -> dict[str, Any]:
    """What Streamlit is told: nothing leaves, nothing is uploaded, no details of errors, no watching of files."""
    return {
        "server.address": address,
        "server.port": port,
        "server.headless": True,
        "server.maxUploadSize": 1,
        "server.enableXsrfProtection": True,
        "server.enableCORS": True,
        "server.enableStaticServing": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableAgentApi": False,
        "server.showEmailPrompt": False,
        "server.disconnectedSessionTTL": 60,
        "server.trustedUserHeaders": {HEADER.decode(): "reviewer", ROLE_HEADER.decode(): "role"},
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "viewer",
        "client.disableDataExport": True,
        "logger.level": "warning",
        "logger.hideWelcomeMessage": True,
        "runner.magicEnabled": False,
        "runner.postScriptGC": False,  # it would look through all cases after every click
        **{f"theme.{name}": value for name, value in THEME.items()},
    }


def people(reviewers: Sequence[str]) -> tuple[Person, ...]:
    """Who gets a link: whoever starts the app, who may see and export everything, and the reviewers named.

    Raises:
        MedvitError: For a name that is none or comes twice.
    """
    wrong = [name for name in reviewers if not NAME.fullmatch(name)]
    if wrong:
        raise MedvitError(f"--reviewers: {wrong[0]!r} is no name. Use letters, digits, dots and dashes.")
    if len(set(reviewers)) < len(reviewers):
        raise MedvitError("--reviewers names somebody twice.")
    first = starter()
    return (Person(first, "admin"), *(Person(name) for name in reviewers if name != first))


def starter() -> str:
    """Whoever starts the app or a command, as the machine knows them."""
    return "".join(c if NAME.fullmatch(f"a{c}") else "-" for c in getpass.getuser()) or "reviewer"


def digest_of(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint, as decisions name it.

    Raises:
        MedvitError: When it is not there.
    """
    try:
        with checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MedvitError(f"--segment {checkpoint} cannot be read: {error.strerror}.") from error


def is_public(address: str) -> bool:
    """Whether others than this machine could reach the address.

    Raises:
        MedvitError: When it is no address.
    """
    try:
        return address != "localhost" and not ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise MedvitError(f"--address {address} is no IP address; give for example 127.0.0.1.") from None


def application(settings: Settings, keys: Keys | None, login: Login | None = None) -> st.App:
    """The app as an ASGI application: Streamlit's pages, our pictures, and the door before both."""
    shared = desk(settings)
    secrets: dict[str, Any] = {"review": settings.plain()}
    if login:
        secrets["auth"] = login.auth
    door = Middleware(Door, keys=keys, login=login)
    return st.App(SCRIPT, secrets=secrets, routes=routes(shared), middleware=[door], lifespan=_prompt)


@asynccontextmanager
async def _prompt(_: st.App) -> AsyncIterator[dict[str, Any]]:
    """Have answers sent at once: Streamlit's socket would hold back every body until the head is acknowledged, 40 ms."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    yield {}


def start(
    settings: Settings,
    reviewers: Sequence[str],
    address: str = "127.0.0.1",
    port: int = 8501,
    login: Path | None = None,
) -> None:
    """Serve the app until it is stopped.

    Args:
        settings: What is shown, and how.
        reviewers: Who gets a link beside whoever starts it.
        address: Where to listen; another than this machine's own only with a login.
        port: Where to listen.
        login: A TOML file that says how people log in, see `apps.review.login`.

    Raises:
        MedvitError: When a folder holds no run, or the address is public and there is no login.
    """
    entry = read_login(login) if login else None
    if is_public(address) and entry is None:
        raise MedvitError(
            f"--address {address} can be reached by others, and there is no login. Give --login FILE (OIDC), "
            "or stay on 127.0.0.1 and let people come through a proxy that knows them."
        )
    preload(["apps.review.pictures"])
    shared = desk(settings)
    for store in shared.stores.values():
        fault = store.sound()
        if fault:
            raise MedvitError(f"{store.path} is damaged: {fault}. Take the last copy from {store.folder / 'backups'}.")
        store.back_up()
    keys = None if entry else Keys(people(reviewers), port)
    out = sys.stdout
    for run in shared.runs.values():
        out.write(f"{run.folder}: {len(run.rows)} cases of {run.about.system}\n")
    for name, link in (keys.links if keys else {}).items():
        out.write(f"{name}: http://{address}:{port}{link}\n")
    if entry:
        out.write(f"Log in at http://{address}:{port}\n")
    out.write(f"{NOTICE} Stop with Ctrl-C.\n")
    out.flush()
    logging.getLogger("uvicorn.access").disabled = True  # its lines would hold addresses of cases
    application(settings, keys, entry).run(config=configuration(address, port))

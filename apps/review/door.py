"""Who may come in: a check before every request, of pages, pictures, tiles and the live connection alike.

Without a login everybody gets a link of their own, whose key becomes a cookie; with a login (OIDC) the cookie that Streamlit
signs is read. Nobody else gets anything but the way in. Who a reviewer is comes from here and never from a text box.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENTER = "/review/enter"
OURS = "/review/"  # pictures and tiles
HEADER, ROLE_HEADER = b"x-medvit-reviewer", b"x-medvit-role"
ROLES = ("reviewer", "admin")
LOCKED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>medvit review</title>
<body style="margin:20vh auto;max-width:34em;background:#0e1114;color:#d4dade;font:16px/1.6 system-ui,sans-serif">
<p>Open the link that <code>medvit review</code> printed for you; it is the key to this page.</p>
<p style="color:#96a1a9">Research use only. Not a medical device; not for diagnosis.</p></body></html>"""
# Everything comes from here, whatever a page asks for.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob: data:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "x-robots-tag": "noindex",
}  # fmt: skip


class Person(NamedTuple):
    """Who is in front of the screen."""

    name: str
    role: str = "reviewer"

    @property
    def is_admin(self) -> bool:
        """Whether they may see what everybody decided before they decided themselves, and export it."""
        return self.role == "admin"


class Keys:
    """The personal links of one start of the app.

    Args:
        people: Who may come in.
        port: Part of the cookie's name, since cookies do not know ports.
    """

    def __init__(self, people: tuple[Person, ...], port: int) -> None:
        self.cookie = f"medvit_review_{port}"
        drawn = {secrets.token_urlsafe(24): person for person in people}
        self.links = {person.name: f"{ENTER}?key={key}" for key, person in drawn.items()}
        self._people = {_digest(key): person for key, person in drawn.items()}

    def person(self, key: str) -> Person | None:
        """Whose key this is."""
        given = _digest(key)
        return next((person for digest, person in self._people.items() if hmac.compare_digest(digest, given)), None)


class Door:
    """Lets those in who have a key and tells Streamlit who they are; nobody can say so themselves.

    Args:
        app: What lies behind it.
        keys: The personal links; None where people log in.
        login: Reads who somebody is from the cookies of a login, see `apps.review.login`.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None = None, login: Any = None) -> None:
        self.app, self.keys, self.login = app, keys, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        cookies = _cookies(scope)
        if scope["path"] == ENTER and scope["type"] == "http" and self.keys:
            await self._entered(scope)(scope, receive, send)
            return
        person = self._person(cookies)
        inside = person is not None or (self.login is not None and not scope["path"].startswith(OURS))
        if not inside:
            await _refuse(scope, receive, send)
            return
        scope = {**scope, "headers": _headers(scope, person), "medvit.person": person}
        await self.app(scope, receive, _sealing(send) if scope["type"] == "http" else send)

    def _person(self, cookies: Mapping[str, str]) -> Person | None:
        if self.login is not None:
            found: Person | None = self.login.person(cookies)
            return found
        return self.keys.person(cookies.get(self.keys.cookie, "")) if self.keys else None

    def _entered(self, scope: Scope) -> Response:
        """The answer to a personal link: a cookie, and the way to the worklist without the key in the address."""
        key = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        if not self.keys or self.keys.person(key) is None:
            return HTMLResponse(LOCKED, 403, HEADERS)
        answer = RedirectResponse("/", 303, HEADERS)
        secure = scope.get("scheme") == "https"
        answer.set_cookie(self.keys.cookie, key, httponly=True, samesite="lax", secure=secure, path="/")
        return answer


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _cookies(scope: Scope) -> dict[str, str]:
    """The cookies of a request, as Starlette gives them to Streamlit."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                found |= {key: part.value for key, part in SimpleCookie(value.decode("latin-1")).items()}
            except CookieError:
                continue
    return found


def _headers(scope: Scope, person: Person | None) -> list[tuple[bytes, bytes]]:
    """The headers of a request with who sent it; what it says of that itself is thrown away."""
    kept = [(name, value) for name, value in scope["headers"] if name not in (HEADER, ROLE_HEADER)]
    if person:
        kept += [(HEADER, person.name.encode()), (ROLE_HEADER, person.role.encode())]
    return kept


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await HTMLResponse(LOCKED, 401, HEADERS)(scope, receive, send)


def _sealing(send: Send) -> Send:
    """Adds the headers that keep the page to this machine."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sealed

"""Logging in by OpenID Connect: who somebody is, and what they may do, from the claims of their identity.

The file is Streamlit's own form of ``secrets.toml`` with a table for roles beside it::

    [auth]
    redirect_uri = "https://reading.example.org/oauth2callback"
    cookie_secret = "…"
    client_id = "…"
    client_secret = "…"
    server_metadata_url = "https://login.example.org/.well-known/openid-configuration"

    [roles]
    claim = "groups"
    admin = ["reading-room-leads"]
    reviewer = ["radiologists"]

Whoever logs in and has none of those values may see nothing.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apps.review.door import Person
from medvit.errors import MedvitError

NEEDED = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
COOKIE = "_streamlit_user"  # what Streamlit signs when somebody has logged in
SHORTEST_SECRET = 32


class Login(NamedTuple):
    """How people log in, and which values of which claim make them reviewers or admins."""

    auth: dict[str, Any]
    claim: str
    roles: Mapping[str, tuple[str, ...]]

    def role(self, claims: Mapping[str, Any]) -> str:
        """What somebody with these claims may do; "" for nothing."""
        held = claims.get(self.claim, ())
        values = {held} if isinstance(held, str) else {str(value) for value in held or ()}
        return next((role for role in ("admin", "reviewer") if values.intersection(self.roles.get(role, ()))), "")

    def known(self, claims: Mapping[str, Any]) -> Person | None:
        """Who somebody with these claims is; None where they may see nothing."""
        name = str(claims.get("email") or claims.get("preferred_username") or claims.get("sub") or "")[:128]
        role = self.role(claims)
        return Person(name, role) if name and role and claims.get("is_logged_in", True) else None

    def person(self, cookies: Mapping[str, str]) -> Person | None:
        """Who sent a request, by the cookie that Streamlit signed at the login; None for everybody else."""
        from streamlit.auth_util import get_cookie_with_chunks
        from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value

        def one(name: str) -> bytes | None:
            value = cookies.get(name)
            return decode_signed_value(self.auth["cookie_secret"], name, value.encode("latin-1")) if value else None

        try:
            told = get_cookie_with_chunks(one, COOKIE)
            claims = json.loads(told) if told else {}
        except (ValueError, UnicodeError):
            return None
        return self.known(claims) if claims.get("is_logged_in") else None


def read_login(path: Path) -> Login:
    """The login that a file describes.

    Raises:
        MedvitError: When it is not there, no TOML, or something that it needs is missing.
    """
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise MedvitError(f"--login {path} cannot be read as TOML: {error}.") from error
    auth, roles = told.get("auth", {}), dict(told.get("roles", {}))
    missing = [name for name in NEEDED if not auth.get(name)]
    if missing:
        raise MedvitError(f"--login {path}: [auth] needs {', '.join(missing)}.")
    if len(str(auth["cookie_secret"])) < SHORTEST_SECRET:
        raise MedvitError(f"--login {path}: cookie_secret must have at least {SHORTEST_SECRET} random characters.")
    claim = str(roles.pop("claim", "groups"))
    named = {role: tuple(str(value) for value in values) for role, values in roles.items()}
    if not named or set(named) - {"admin", "reviewer"} or not any(named.values()):
        raise MedvitError(f"--login {path}: [roles] must say which values of a claim are admin and which reviewer.")
    return Login(auth, claim, named)

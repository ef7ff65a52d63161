"""A login service (OpenID Connect) that lets everybody in as whoever it was told: for tests of ``--login``."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.jose import JsonWebKey, jwt


class Service:
    """Runs on a free port of the loopback.

    Args:
        claims: What the identity of whoever logs in next says beside the usual.
    """

    def __init__(self, claims: dict[str, Any]) -> None:
        self.claims = claims
        self._key = JsonWebKey.generate_key("RSA", 2048, {"kid": "one"}, is_private=True)
        self._nonces: dict[str, str] = {}
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if parts.path == "/.well-known/openid-configuration":
                    self._say(service.metadata)
                elif parts.path == "/keys":
                    self._say({"keys": [service._key.as_dict(is_private=False)]})
                else:  # authorize: no questions asked
                    service._nonces["code"] = asked.get("nonce", "")
                    self.send_response(302)
                    self.send_header(
                        "Location", f"{asked['redirect_uri']}?{urlencode({'code': 'code', 'state': asked['state']})}"
                    )
                    self.end_headers()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                now = int(time.time())
                told = {
                    "iss": service.root,
                    "aud": "medvit",
                    "iat": now,
                    "exp": now + 600,
                    "nonce": service._nonces["code"],
                }
                token = jwt.encode({"alg": "RS256", "kid": "one"}, told | service.claims, service._key).decode()
                self._say({"access_token": "x", "token_type": "Bearer", "id_token": token, "expires_in": 600})

            def _say(self, told: object) -> None:
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the service says of itself."""
        return {
            "issuer": self.root, "authorization_endpoint": f"{self.root}/authorize", "token_endpoint": f"{self.root}/token",
            "jwks_uri": f"{self.root}/keys", "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }  # fmt: skip

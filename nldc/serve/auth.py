"""Who may ask: requests show one of the server's keys, where it has any."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nldc.serve.errors import ApiError

OPEN = ("/health", "/ready")
"""What anybody may ask: a load balancer has no key."""


class Auth:
    """Lets through what shows one of the `keys`, what asks for one of the `open_paths`, and
    browsers that ask what they may ask (OPTIONS).
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str]) -> None:
        self._app = app
        # a key of the environment may be any bytes
        self._keys = tuple(_digest(key.encode("utf-8", "surrogateescape")) for key in keys)
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or not self._keys or self._is_open(scope) or self._shows(scope):
            await self._app(scope, receive, send)
            return
        problem = ApiError(
            401,
            "the request shows no key of this server: send `Authorization: Bearer KEY`",
            None,
            "invalid_api_key",
        )
        headers = {"WWW-Authenticate": "Bearer"}
        await JSONResponse(problem.body(), 401, headers)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open or scope["method"] == "OPTIONS"

    def _shows(self, scope: Scope) -> bool:
        """Whether a key is shown; takes as long whichever it is, however much of it is right."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        kind, _, key = given[0].partition(b" ")
        shown = _digest(key.strip())
        found = [hmac.compare_digest(shown, each) for each in self._keys]
        return kind.lower() == b"bearer" and any(found)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

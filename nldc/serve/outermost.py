"""What every request passes first and last: its id, its line in the log, and errors as answers."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nldc.serve.bodies import ClientGoneError
from nldc.serve.errors import ApiError

LOG = logging.getLogger("nldc.serve")
NOTES = "nldc.notes"
"""The key of a scope under which a route leaves what is worth logging."""
QUIET = ("/health", "/ready", "/metrics")
"""What machines ask every few seconds: logged only where it fails."""
CLIENT_GONE = 499
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)


class Outermost:
    """Gives each request an id (that of its header `x-request-id`, if it is one), answers what is
    raised, and logs how it ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = _request_id(scope)
        notes = scope.setdefault(NOTES, {})
        since, status = time.perf_counter(), 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            await self._app(scope, receive, answered)
        except ClientGoneError:
            status = status or CLIENT_GONE
        except Exception:
            LOG.exception("a request failed", extra={"fields": {"request_id": number}})
            if status:  # part of the answer is out: its end stays missing, which clients notice
                raise
            problem = ApiError(500, "the server failed; its log says why", None, "internal_error")
            await JSONResponse(problem.body(), 500)(scope, receive, answered)
        finally:
            path = str(scope["path"])
            if status >= 400 or path not in QUIET:
                fields = {
                    "request_id": number,
                    "method": scope["method"],
                    "path": path[:200],
                    "status": status,
                    "seconds": round(time.perf_counter() - since, 6),
                    **notes,
                }
                LOG.info("request", extra={"fields": fields})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex


class JsonLines(logging.Formatter):
    """A line of JSON for each record, with its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        found: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            found["trace"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=True, default=str)

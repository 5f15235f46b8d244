"""What goes wrong with a request, in the form that clients of OpenAI's API read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nldc.runtime.errors import (
    NldcRuntimeError,
    OutOfMemoryError,
    PromptError,
    QueueFullError,
    TokenizerError,
)

RETRY_AFTER = 1
"""Seconds after which a client that was sent away may come again."""
TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_NAMES = {
    "max_new_tokens": "max_tokens",
    "template_variables": "chat_template_kwargs",
    "template variable": "chat_template_kwargs",
    "the chat template makes no use of": "chat_template_kwargs",
}
_FIELD = re.compile(
    r"\b(temperature|top_[kp]|min_p|seed|max_new_tokens|max_thinking_tokens|template_variables"
    r"|stop|strategy|template variable|the chat template makes no use of)\b"
)


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal or a failure: what an answer of `status` says, and which field it is about."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request that cannot be served as it is."""
    return ApiError(400, message, param, code)


def later(status: int, message: str, code: str) -> ApiError:
    """Return the error of a request that may be sent again in a moment."""
    return ApiError(status, message, None, code, {"Retry-After": str(RETRY_AFTER)})


def of_runtime(problem: BaseException) -> ApiError:
    """Return what the runtime raises, or a request ends with, as an answer.

    A template or a tokenizer that fails on what a client sent is the client's to change.
    """
    if isinstance(problem, QueueFullError):
        return later(429, problem.message, "queue_full")
    if isinstance(problem, OutOfMemoryError):
        return later(503, str(problem), "out_of_memory")
    if isinstance(problem, PromptError):
        found = _FIELD.search(problem.message)
        name = None if found is None else _NAMES.get(found[1], found[1])
        return refused(str(problem).replace("max_new_tokens", "max_tokens"), name)
    if isinstance(problem, TokenizerError):
        return refused(str(problem))
    if isinstance(problem, NldcRuntimeError):
        return ApiError(500, str(problem), None, "decoding_failed")
    return ApiError(500, "decoding failed; the server's log says why", None, "decoding_failed")

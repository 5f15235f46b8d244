"""Log-probabilities in the two forms that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nldc.runtime.step.logprobs import TokenLogprob
from nldc.runtime.text.tokenizer import Tokenizer

LEAST = -9999.0
"""What stands for the log of 0, which JSON has no number for."""


@dataclass(frozen=True)
class Placed:
    """A token whose text begins at character `offset` of its choice's.

    `found` is what the model thinks of it; None: nothing stands before it.
    """

    token: int
    offset: int
    found: TokenLogprob | None


def of_chat(tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
    """Return the `logprobs` of a chat's choice."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.bytes_of(token)
        return {"token": _shown(data, ""), "logprob": _finite(logprob), "bytes": list(data)}

    content = [
        {**one(found.token, found.logprob), "top_logprobs": [one(*each) for each in found.top]}
        for each in placed
        if (found := each.found) is not None
    ]
    return {"content": content, "refusal": None}


def of_completion(tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
    """Return the `logprobs` of a completion's choice.

    Beside the likeliest tokens its own is always there; of two that are spelled alike, the
    likelier.
    """

    def name(token: int) -> str:
        return _shown(tokenizer.bytes_of(token), "bytes:")

    top: list[dict[str, float] | None] = []
    for each in placed:
        if each.found is None:
            top.append(None)
            continue
        known: dict[str, float] = {}
        for token, logprob in (*each.found.top, (each.token, each.found.logprob)):
            known.setdefault(name(token), _finite(logprob))
        top.append(known)
    return {
        "tokens": [name(each.token) for each in placed],
        "token_logprobs": [
            None if each.found is None else _finite(each.found.logprob) for each in placed
        ],
        "top_logprobs": top,
        "text_offset": [each.offset for each in placed],
    }


def _shown(data: bytes, prefix: str) -> str:
    r"""Return the text of a token; part of a character as its bytes, `\xe2\x82`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)

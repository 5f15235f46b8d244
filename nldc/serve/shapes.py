"""The two kinds of answers that clients read: chats and completions, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from nldc.runtime.text.tokenizer import Tokenizer
from nldc.serve.choices import Choice, Piece, speculation, usage
from nldc.serve.logprobs import Placed, of_chat, of_completion
from nldc.serve.protocol import Sampled

DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """What differs between chats and completions."""

    prefix: str
    whole_object: str
    piece_object: str

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return a choice that is complete."""

    def opening(self) -> dict[str, Any] | None:
        """Return what the first piece of every choice holds; None: there is none."""

    def delta(self, content: str, reasoning: str) -> dict[str, Any]:
        """Return what a piece of a choice holds."""

    def logprobs(self, tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
        """Return the log-probabilities of some tokens of a choice."""


class ChatShape:
    """Messages, whose thoughts stand apart as `reasoning_content`."""

    prefix = "chatcmpl-"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return a choice that is complete."""
        message: dict[str, Any] = {"role": "assistant", "content": choice.content}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        return {"message": message}

    def opening(self) -> dict[str, Any] | None:
        """Return the role, with which every choice begins."""
        return {"delta": {"role": "assistant", "content": ""}}

    def delta(self, content: str, reasoning: str) -> dict[str, Any]:
        """Return what a piece of a message holds: nothing of what it adds nothing to."""
        found = {"reasoning_content": reasoning, "content": content}
        return {"delta": {name: text for name, text in found.items() if text}}

    def logprobs(self, tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
        """Return them as chats have them; a thought's tokens are among them."""
        return of_chat(tokenizer, placed)


class CompletionShape:
    """Plain text."""

    prefix = "cmpl-"
    whole_object = piece_object = "text_completion"

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return a choice that is complete."""
        return {"text": choice.echo + choice.content}

    def opening(self) -> dict[str, Any] | None:
        """Return nothing: a text begins with its first piece."""
        return None

    def delta(self, content: str, reasoning: str) -> dict[str, Any]:
        """Return what a piece of a text holds."""
        return {"text": reasoning + content}

    def logprobs(self, tokenizer: Tokenizer, placed: Sequence[Placed]) -> dict[str, Any]:
        """Return them as completions have them."""
        return of_completion(tokenizer, placed)


class Writer:
    """Writes one call's answer, whole or in pieces; all of them have the same id and time."""

    def __init__(
        self,
        shape: Shape,
        asked: Sampled,
        model: str,
        tokenizer: Tokenizer,
        choices: Sequence[Choice],
    ) -> None:
        self.id = f"{shape.prefix}{uuid.uuid4().hex}"
        self._shape = shape
        self._asked = asked
        self._model = model
        self._tokenizer = tokenizer
        self._choices = choices
        self._created = int(time.time())
        options = asked.stream_options
        self._usage = options is not None and options.include_usage
        self._continuous = options is not None and options.continuous_usage_stats

    def whole(self) -> dict[str, Any]:
        """Return the answer of choices that are complete."""
        found = self._answer(
            self._shape.whole_object,
            [
                {
                    "index": choice.index,
                    **self._shape.whole(choice),
                    "logprobs": self._logprobs(choice, choice.placed),
                    "finish_reason": choice.finish,
                }
                for choice in self._choices
            ],
        )
        found["usage"] = usage(self._choices, self._asked.n)
        if self._asked.nldc.metrics:
            found["metrics"] = speculation(self._choices)
        return found

    def opening(self) -> bytes:
        """Return the pieces with which the choices begin."""
        held = self._shape.opening()
        if held is None:
            return b""
        return b"".join(self._piece(choice, held, None) for choice in self._choices)

    def piece(self, choice: Choice, piece: Piece) -> bytes:
        """Return what an event adds to a choice; its prompt and its end are pieces of their own."""
        found = b""
        if piece.echo is not None:
            text, placed = piece.echo
            found = self._piece(choice, self._shape.delta(text, ""), None, placed=placed)
        tells_steps = self._asked.nldc.steps and piece.steps
        if piece.content or piece.reasoning or piece.placed or tells_steps:
            delta = self._shape.delta(piece.content, piece.reasoning)
            found += self._piece(choice, delta, None, piece, piece.placed)
        if piece.finish is not None:
            found += self._piece(choice, self._shape.delta("", ""), piece.finish)
        return found

    def closing(self) -> bytes:
        """Return what comes behind the last piece of text, when all choices are complete."""
        asked = self._asked
        found = b""
        if self._usage or asked.nldc.metrics:
            last = self._answer(self._shape.piece_object, [])
            if self._usage:
                last["usage"] = usage(self._choices, asked.n)
            if asked.nldc.metrics:
                last["metrics"] = speculation(self._choices)
            found = event(last)
        return found + DONE

    def _piece(
        self,
        choice: Choice,
        held: dict[str, Any],
        finish: str | None,
        of: Piece | None = None,
        placed: Sequence[Placed] = (),
    ) -> bytes:
        logprobs = self._logprobs(choice, placed) if placed else None
        one = {"index": choice.index, **held, "logprobs": logprobs, "finish_reason": finish}
        if of is not None and self._asked.nldc.steps:
            one["nldc"] = _told(choice, of)
        found = self._answer(self._shape.piece_object, [one])
        if self._continuous:
            found["usage"] = usage(self._choices, self._asked.n)
        elif self._usage:
            found["usage"] = None
        return event(found)

    def _logprobs(self, choice: Choice, placed: Sequence[Placed]) -> dict[str, Any] | None:
        return self._shape.logprobs(self._tokenizer, placed) if choice.tells_logprobs else None

    def _answer(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


def event(data: Any) -> bytes:
    """Return data as one event of a stream."""
    return (
        b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def _told(choice: Choice, piece: Piece) -> dict[str, Any]:
    """Return how a piece of a choice came to be, and what its drafts came to so far."""
    tally = choice.tally
    return {
        "steps": [
            {
                "number": took.number,
                "kind": took.kind,
                "strategy": took.strategy,
                "drafted": took.drafted,
                "accepted": took.accepted,
                "forwards": took.forwards,
            }
            for took in piece.steps
        ],
        "spans": [
            {"text": each.text, "origin": each.origin, "step": each.step, "channel": each.channel}
            for each in piece.colours
        ],
        "tokens": choice.tokens,
        "forwards": tally.forwards,
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "acceptance": tally.accepted / tally.drafted if tally.drafted else None,
    }

"""A prompt in front of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nldc.runtime.text.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class Echo:
    """The text of a prompt, and the character at which each of its tokens begins."""

    text: str
    starts: tuple[int, ...]


def echo_of(tokenizer: Tokenizer, given: str | Sequence[int], *, keep_special_tokens: bool) -> Echo:
    """Return a prompt as it was given; one of token ids as an answer of these would read."""
    if isinstance(given, str):
        return Echo(given, tuple(tokenizer.starts(given)))
    stream = TextStream(tokenizer, keep_special_tokens=keep_special_tokens)
    starts, text = [], ""
    for token in given:
        starts.append(len(text))
        text += stream.feed([token])
    return Echo(text + stream.flush(), tuple(starts))

"""An answer's text as its tokens come, with what of it is a thought.

The tokens that begin and end a thought are found by their ids, so that none is ever shown in part,
wherever a step was cut; whether they are special tokens makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nldc.runtime.text.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class Said:
    """Text that is never taken back, and whether it is part of a thought."""

    text: str
    is_thought: bool


class ThoughtSplit:
    """Splits one answer at the tokens `start` and `end`, None for what a checkpoint does not have.

    `prompt` are the token ids before the answer: it begins within a thought if a start stands in
    them behind the last end.
    """

    def __init__(
        self, tokenizer: Tokenizer, start: int | None, end: int | None, prompt: Sequence[int]
    ) -> None:
        self._start, self._end = start, end
        self._stream = TextStream(tokenizer)
        last = next((token for token in reversed(prompt) if token in (start, end)), None)
        self._thinks = start is not None and last == start

    def feed(self, tokens: Sequence[int]) -> Iterator[Said]:
        """Yield the text that these tokens complete; the marks themselves are left out."""
        for token in tokens:
            if token in (self._start, self._end):
                yield from self.flush()
                self._thinks = token == self._start
            else:
                yield from self._said(self._stream.feed([token]))

    def flush(self) -> Iterator[Said]:
        """Yield the text that was held back, now that nothing follows that could complete it."""
        yield from self._said(self._stream.flush())

    def _said(self, text: str) -> Iterator[Said]:
        if text:
            yield Said(text, self._thinks)

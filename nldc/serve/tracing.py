"""From which token each piece of an answer comes, and on which side of a thought it stands.

Text may come later than the tokens that it is made of: half a character, or what might be the
beginning of a stop string, is held back. So each token's place in the text is noted when it comes,
and a piece is cut at these places when it is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nldc.runtime.engine.text import Text
from nldc.runtime.text.tokenizer import TextStream, Tokenizer

Channel = Literal["content", "reasoning", "mark"]


@dataclass(frozen=True)
class Marks:
    """The tokens that begin and end a thought, None where the model has none; whether an answer
    begins `inside` one.
    """

    start: int | None
    end: int | None
    inside: bool


NO_MARKS = Marks(None, None, False)


@dataclass(frozen=True)
class Span:
    """Text that shows token `token` of an answer, counted from 0."""

    text: str
    token: int
    channel: Channel


class TracedText(Text):
    """The text of an answer; `take` tells of what came since, token by token.

    All spans together are the text. `starts` has the character at which each token's text begins,
    as it would be without stop strings; `thought` counts the tokens of thoughts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        marks: Marks = NO_MARKS,
        *,
        keep_special_tokens: bool = False,
    ) -> None:
        super().__init__(tokenizer, stops, keep_special_tokens=keep_special_tokens)
        # Where no stop string holds text back, a token's text is what it shows.
        whole = TextStream(tokenizer, keep_special_tokens=keep_special_tokens)
        self._whole = whole if stops else None
        self._marks = marks
        self._inside = marks.inside
        self._places: deque[tuple[int, int, Channel]] = deque()
        self._length = 0
        self._shown = 0
        self._spans: list[Span] = []
        self._last: tuple[int, Channel] = (0, "reasoning" if marks.inside else "content")
        self.starts: list[int] = []
        self.thought = 0

    def feed(self, tokens: Sequence[int]) -> tuple[str, int]:
        """Return what `Text.feed` does, and note whose text it is."""
        fresh = []
        for number, token in enumerate(tokens, 1):
            piece, _ = super().feed((token,))
            self._note(token, piece if self._whole is None else self._whole.feed((token,)))
            self._show(piece)
            fresh.append(piece)
            if self.stopped:
                return "".join(fresh), number
        return "".join(fresh), len(tokens)

    def rest(self) -> str:
        """Return what was held back, when no more tokens come."""
        text = super().rest()
        self._show(text)
        return text

    def take(self) -> tuple[Span, ...]:
        """Return the spans that were shown since this was last asked."""
        spans, self._spans = self._spans, []
        return tuple(spans)

    def _note(self, token: int, text: str) -> None:
        count = len(self.starts)
        self.starts.append(self._length)
        self._length += len(text)
        channel: Channel = "reasoning" if self._inside else "content"
        if token in (self._marks.start, self._marks.end):
            self._inside = token == self._marks.start
            channel = "mark"
        self.thought += channel == "reasoning"
        self._places.append((self._length, count, channel))

    def _show(self, text: str) -> None:
        while text:
            while self._places and self._places[0][0] <= self._shown:
                self._last = self._places.popleft()[1:]
            if self._places:
                end, number, channel = self._places[0]
                piece = text[: end - self._shown]
            else:  # the end of a text that was held back: half a character
                (number, channel), piece = self._last, text
            self._shown += len(piece)
            self._spans.append(Span(piece, number, channel))
            text = text[len(piece) :]

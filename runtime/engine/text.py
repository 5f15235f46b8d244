"""The text of one sequence as its tokens come, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from nldc.runtime.text.stopping import StopStrings
from nldc.runtime.text.tokenizer import TextStream, Tokenizer


class Text:
    """Turns tokens into text that is never taken back: no half characters, no part of a stop.

    A special token that is left out of the text is found by its id where a stop string names it.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...], *, keep_special_tokens: bool = False
    ) -> None:
        self._stream = TextStream(tokenizer, keep_special_tokens=keep_special_tokens)
        self._markers = {} if keep_special_tokens or not stops else tokenizer.markers
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: the text is over."""
        return self._stops.found

    def feed(self, tokens: Sequence[int]) -> tuple[str, int]:
        """Return the text that these tokens add, and how many of them belong to it.

        That is all of them, or those up to the one with which a stop string was complete.
        """
        fresh = []
        for number, token in enumerate(tokens, 1):
            fresh.append(self._fed(token))
            if self._stops.found:
                return "".join(fresh), number
        return "".join(fresh), len(tokens)

    def _fed(self, token: int) -> str:
        marker = self._markers.get(token)
        if marker is None:
            return self._stops.feed(self._stream.feed([token]))
        last = self._stops.finds(self._stream.held(), marker)
        if last is not None:
            self._stops.found = True
            return last
        return self._stops.feed(marker, marker=True)

    def rest(self) -> str:
        """Return what was held back, when no more tokens come."""
        if self._stops.found:
            return ""
        last = self._stops.feed(self._stream.flush())
        return last if self._stops.found else last + self._stops.flush()

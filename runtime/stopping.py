"""Stop strings: found across the borders of steps, and never shown in part.

Text that might be the beginning of a stop string is held back until it is known not to be one.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches a text that grows piece by piece for the first of `stops`; once found, it is over."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the text that may be shown now that `piece` has come."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for place in map(text.find, self.stops) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, now that no more text comes."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

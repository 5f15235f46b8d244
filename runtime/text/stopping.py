"""Stop strings: found across the borders of steps, and never shown in part.

Text that might be the beginning of a stop string is held back until it is known not to be one. A
marker is a special token whose text is not shown: a stop string may name it, alone or with text
around it, but never matches a part of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Span = tuple[int, int]


class StopStrings:
    """Watches a text that grows piece by piece for the first of `stops`; once found, it is over."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found = False
        self._held = ""
        self._markers: list[Span] = []

    def feed(self, piece: str, *, marker: bool = False) -> str:
        """Return the text that may be shown now that `piece` has come, which may be a marker."""
        if self.found:
            return ""
        text = self._held + piece
        if marker and piece:
            self._markers.append((len(self._held), len(text)))
        places = [place for stop in self.stops for place in self._first(text, stop)]
        if places:
            self.found, self._held = True, ""
            return self._shown(text[: min(places)])
        cut = min((self._overlap(text, stop) for stop in self.stops), default=len(text))
        shown = self._shown(text[:cut])
        self._held = text[cut:]
        self._markers = [(start - cut, end - cut) for start, end in self._markers if end > cut]
        return shown

    def flush(self) -> str:
        """Return what was held back, now that no more text comes."""
        text, self._held = self._shown(self._held), ""
        self._markers = []
        return text

    def finds(self, piece: str, marker: str) -> str | None:
        """Return what would be shown if `piece` and then a marker came and that ended the text.

        None: that would not end it, or the piece alone would. Nothing is fed.
        """
        trial = StopStrings(self.stops)
        trial._held, trial._markers = self._held, list(self._markers)
        shown = trial.feed(piece)
        if trial.found:
            return None
        shown += trial.feed(marker, marker=True)
        return shown if trial.found else None

    def _first(self, text: str, stop: str) -> Iterator[int]:
        """Yield the first place where `stop` stands and cuts no marker, if there is one."""
        place = text.find(stop)
        while place >= 0:
            if not self._cuts(place) and not self._cuts(place + len(stop)):
                yield place
                return
            place = text.find(stop, place + 1)

    def _overlap(self, text: str, stop: str) -> int:
        """Return the first place from which the rest of `text` begins `stop`, else its length."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]) and not self._cuts(len(text) - length):
                return len(text) - length
        return len(text)

    def _cuts(self, place: int) -> bool:
        return any(start < place < end for start, end in self._markers)

    def _shown(self, text: str) -> str:
        """Return the beginning `text` of what is held without its markers."""
        for start, end in reversed(self._markers):
            if end <= len(text):
                text = text[:start] + text[end:]
        return text

"""Which strategy each live request is decoded with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nldc.runtime.engine.request import Request


class Groups:
    """The live requests of each strategy, in the order in which they joined."""

    def __init__(self, strategies: Iterable[str]) -> None:
        self._live: dict[str, list[Request]] = {name: [] for name in strategies}

    def of(self, strategy: str) -> list[Request]:
        """Return the requests of a strategy, as they are now: a list that nobody changes."""
        return self._live[strategy]

    def everyone(self) -> Iterator[Request]:
        """Yield the requests of all strategies."""
        for live in self._live.values():
            yield from live

    def join(self, strategy: str, request: Request) -> None:
        """Add a request."""
        self._live[strategy] = [*self._live[strategy], request]

    def drop(self, strategy: str, request: Request) -> None:
        """Let one request leave."""
        self._live[strategy] = [one for one in self._live[strategy] if one is not request]

    def sweep(self) -> None:
        """Let those leave that are done."""
        for strategy, live in self._live.items():
            if any(request.done for request in live):
                self._live[strategy] = [one for one in live if not one.done]

    def clear(self) -> None:
        """Let everyone leave."""
        self._live = {strategy: [] for strategy in self._live}

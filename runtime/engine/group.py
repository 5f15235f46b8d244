"""The live sequences of one strategy."""

from __future__ import annotations

from dataclasses import dataclass, field

from nldc.runtime.engine.request import Request


@dataclass
class Group:
    """The `live` sequences of one strategy, in the order in which they joined."""

    live: list[Request] = field(default_factory=list)

    def join(self, request: Request) -> None:
        """Add a sequence."""
        self.live = [*self.live, request]

    def drop(self, request: Request) -> None:
        """Let one sequence leave."""
        self.live = [one for one in self.live if one is not request]

    def sweep(self) -> None:
        """Let those leave that are done."""
        self.live = [one for one in self.live if not one.done]

"""A step that the device has been given and that is not written down, and the one behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nldc.runtime.engine.handover import Always
from nldc.runtime.engine.request import Request
from nldc.runtime.graph.flight import Flight


@dataclass(eq=False)
class Begun:
    """A step of requests by the strategy `name`; `carried` [B, n] is what they carried before it.

    `flight` None: nothing will come of it, and what it did is to be undone before anything else.
    `behind` is the step that was begun before this one was read.
    """

    name: str
    live: Sequence[Request]
    flight: Flight | None
    carried: dict[str, Tensor]
    behind: Begun | None = None

    @property
    def is_nobodys(self) -> bool:
        """Whether all whose step it is have ended."""
        return all(request.done for request in self.live)


def surely_goes_on(request: Request, flight: Flight, *, only: bool) -> bool:
    """Whether a request will want another step of its strategy, if its text does not end by itself.

    `flight` is the step that it is in; one that says how many tokens count emits one at least.
    `only`: there is no other strategy.
    """
    form = flight.made.form
    least = 1 if form.counts else form.width
    if len(request.tokens) + least - request.skips >= request.max_new_tokens:
        return False
    if request.asked_logprobs.tokens is not None:
        return False  # what is emitted is scored first, which takes pages
    return only or isinstance(request.choose, Always)

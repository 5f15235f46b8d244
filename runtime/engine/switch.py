"""Which strategy a request goes on with, and how it is handed over between two steps."""

from __future__ import annotations

from collections.abc import Mapping

from nldc.runtime.engine.ends import Ends
from nldc.runtime.engine.group import Groups
from nldc.runtime.engine.handover import Progress, check_known
from nldc.runtime.engine.request import Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.engine.strategy import Strategy
from nldc.runtime.errors import PromptError


class Switch:
    """Asks requests for their strategies, and moves them from group to group."""

    def __init__(
        self, strategies: Mapping[str, Strategy], seats: Seats, groups: Groups, ends: Ends
    ) -> None:
        self._strategies = strategies
        self._seats = seats
        self._groups = groups
        self._ends = ends

    def chosen(self, request: Request) -> str:
        """Return the strategy that a request asks for now.

        Raises:
            PromptError: there is none of that name, or its chooser fails.
        """
        progress = Progress(
            sequence=request.place,
            prompt_tokens=len(request.prompt),
            tokens=tuple(request.tokens),
            cycles=len(request.accepted),
            strategy=request.strategy,
            live=len(self._seats.members),
        )
        chosen = check_known(request.choose(progress), tuple(self._strategies))
        request.asked = len(request.tokens)
        return chosen

    def regroup(self) -> None:
        """Let every request with new tokens go on with the strategy that is chosen for it.

        One whose text is too short for that goes on as it is, and is asked again.
        """
        moved = []
        for request in self._groups.everyone():
            if len(request.tokens) <= request.asked:
                continue
            try:
                chosen = self.chosen(request)
                if chosen != request.strategy and self._may_enter(request, chosen):
                    moved.append((request, chosen))
            except Exception as problem:
                self._ends.fail(request, problem)
        for request, chosen in moved:
            try:
                self._hand_over(request, chosen)
            except BaseException as problem:
                self._ends.fail(request, problem)
                if not isinstance(problem, Exception):
                    raise

    def _may_enter(self, request: Request, chosen: str) -> bool:
        """Whether the chosen strategy can be given the sequence, now or when it is longer.

        Raises:
            PromptError: it never can.
        """
        source, target = (self._strategies[n].handover for n in (request.strategy, chosen))
        if source is None or target is None or not source.may_go_to(target):
            raise PromptError(
                f"a sequence cannot go from `{request.strategy}` to `{chosen}` between steps",
                "certificate.json of the artifact lists the switches that it may make, and why not",
            )
        given = 0 if request.embeddings is None else len(request.prompt)
        return target.can_enter(request.history(), request.eos, given)

    def _hand_over(self, request: Request, chosen: str) -> None:
        """Make the cache trail the text as the chosen strategy wants it, and let it go on there."""
        strategy, cache, state = self._strategies[chosen], self._seats.cache, self._seats.state
        target = strategy.handover
        assert target is not None
        state.expect(strategy.reach, texts=strategy.looks_up, asked=strategy.asked)
        text = request.history()
        trails = len(text) - cache.length(request.slot)
        cache.forget(request.slot, (target.takes or 0) - trails)
        state.carry.put(request.slot, target.carry_of(text))
        request.skips = target.skips
        request.told = target.counts
        self._groups.drop(request.strategy, request)
        request.strategy = chosen
        self._groups.join(chosen, request)

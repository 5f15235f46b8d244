"""The places of live requests: a slot of the cache each, and what the device knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine.request import Request
from nldc.runtime.step.member import Member
from nldc.runtime.step.state import StepState


class Seats:
    """`members` are the live requests by their ids, as a batch knows them.

    `cache` and `state` go together: a line of the state tells of the same slot of the cache. Who
    asks for log-probabilities has one more slot, for the rows that they are read from: `scored`
    by the requests' ids, with a state of their own, `beside`. `carries_prompt`: steps may compute
    rows of prompts.
    """

    def __init__(self, cache: KVCache, *, carries_prompt: bool) -> None:
        self.cache = cache
        self._carries_prompt = carries_prompt
        self.state = StepState(cache.config, cache.device, cache.dtype)
        self.beside = StepState(cache.config, cache.device, cache.dtype)
        self.members: dict[int, Member] = {}
        self.scored: dict[int, Member] = {}

    def take(self, request: Request, rows: int) -> None:
        """Give a request a place with room for so many rows.

        Raises:
            OutOfMemoryError: the budget of the cache does not allow that.
        """
        slot = self.cache.acquire(rows)
        self.members[request.id] = _member(request, slot, self._carries_prompt)
        request.slot = slot
        if request.beside:
            slot = self.cache.acquire(request.beside)
            self.scored[request.id] = Member(
                slot, request.key, embeddings=request.embeddings, known=request.known
            )

    def scorer(self, request: Request) -> Member:
        """Return who has the rows that a request's log-probabilities are read from.

        A request that asks for no tokens has them itself.
        """
        return self.scored.get(request.id) or self.members[request.id]

    def give_back(self, request: Request) -> None:
        """Take the place of a request back, if it has one."""
        member = self.members.pop(request.id, None)
        request.slot = -1
        request.close()
        if member is not None:
            self.state.leave(member.slot)
            self.beside.leave(member.slot)
            self.cache.release(member.slot)
        self.end_scoring(request)

    def end_scoring(self, request: Request) -> None:
        """Take the place back that a request has for its log-probabilities, if it has one."""
        scored = self.scored.pop(request.id, None)
        if scored is not None:
            self.beside.leave(scored.slot)
            self.cache.release(scored.slot)

    def undo(self, requests: Sequence[Request], carried: Mapping[str, Tensor]) -> None:
        """Forget a step that came to nothing; `carried` [B, n] is what it began with, if it did."""
        for number, request in enumerate(requests):
            if request.slot >= 0:
                self.cache.keep(request.slot, 0)
                line = slice(number, number + 1)
                self.state.undo(request.slot, {name: each[line] for name, each in carried.items()})

    def reconcile(self) -> None:
        """Take back what an interrupt kept from being taken back, between two steps."""
        cache = self.cache
        held = {each.slot for each in (*self.members.values(), *self.scored.values())}
        if len(cache.committed) != len(held):
            for slot in set(cache.committed) - held:
                cache.release(slot)
        if any(cache.speculative.values()):
            for slot in cache.speculative:
                cache.keep(slot, 0)

    def renew(self) -> None:
        """Begin with an empty cache, whatever became of this one; nobody has a place then."""
        self.cache = self.cache.renewed()
        self.state = StepState(self.cache.config, self.cache.device, self.cache.dtype)
        self.beside = StepState(self.cache.config, self.cache.device, self.cache.dtype)
        self.members.clear()
        self.scored.clear()


def _member(request: Request, slot: int, carries_prompt: bool) -> Member:
    return Member(
        slot=slot,
        key=request.key,
        sampling=request.sampling,
        eos=request.eos,
        prompt_length=len(request.prompt),
        last_position=request.last_position,
        thinking=request.thinking,
        thought=request.thought,
        embeddings=request.embeddings,
        known=request.known,
        carries_prompt=carries_prompt,
        history=request.history,
        params=request.params,
    )

"""What an engine's steps meant for each request: how its tokens came to be, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from nldc.runtime.engine.observe import Kind, StepRecord
from nldc.serve.artifacts import Bonus, Way

Origin = Literal["prefill", "ar", "accepted", "bonus", "diffused"]
PREFILL: Origin = "prefill"
AR: Origin = "ar"
ACCEPTED: Origin = "accepted"
BONUS: Origin = "bonus"
DIFFUSED: Origin = "diffused"


@dataclass(frozen=True)
class Took:
    """One step of one request: `drafted` tokens were offered to the verifier, of which it took
    `accepted`; `tokens` came of it before any cut, in `forwards`.
    """

    number: int
    kind: Kind
    strategy: str
    drafted: int
    accepted: int
    tokens: int
    forwards: int
    origins: tuple[Origin, ...]


class Watch:
    """An observer of an engine: keeps each request's steps until its news are told.

    `ways` are the strategies by name, `skips` how many tokens each drops that a sequence handed to
    it has already. `told` hears of every step as well. Forwards are not counted by node: a server's
    steps are those of an engine that nobody watches.
    """

    by_node = False

    def __init__(
        self,
        ways: Mapping[str, Way],
        skips: Mapping[str, int],
        told: Callable[[StepRecord, tuple[Took, ...]], None],
    ) -> None:
        self._ways = ways
        self._skips = skips
        self._told = told
        self._fresh: dict[int, list[Took]] = {}
        self._last: dict[int, str] = {}

    def __call__(self, record: StepRecord) -> None:
        """Note one step of the engine; in the thread that steps."""
        found = []
        for each in record.sequences:
            before = self._last.get(each.id, record.strategy)
            self._last[each.id] = record.strategy
            known = self._skips[record.strategy] if before != record.strategy else 0
            took = self._took(record, each.drafted, each.accepted, each.nfe, known)
            self._fresh.setdefault(each.id, []).append(took)
            found.append(took)
        self._told(record, tuple(found))

    def take(self, request_id: int) -> tuple[Took, ...]:
        """Return a request's steps since its last news."""
        return tuple(self._fresh.pop(request_id, ()))

    def forget(self, request_id: int) -> None:
        """Keep nothing of a request that has ended."""
        self._fresh.pop(request_id, None)
        self._last.pop(request_id, None)

    def _took(self, record: StepRecord, width: int, tokens: int, forwards: int, known: int) -> Took:
        bonus = self._ways[record.strategy].bonus
        verifies = record.kind == "step" and width > 1 and bonus is not None
        own = bonus == "last" or not known
        accepted = max(0, tokens - own) if verifies else 0
        return Took(
            number=record.number,
            kind=record.kind,
            strategy=record.strategy,
            drafted=width - 1 if verifies else 0,
            accepted=accepted,
            tokens=tokens,
            forwards=forwards,
            origins=_origins(record.kind, width, bonus, tokens, accepted),
        )


def _origins(
    kind: Kind, width: int, bonus: Bonus | None, tokens: int, accepted: int
) -> tuple[Origin, ...]:
    if kind == "prefill":
        return tokens * (PREFILL,)
    if width == 1:
        return tokens * (AR,)
    if bonus is None:
        return tokens * (DIFFUSED,)
    drafts, chosen = accepted * (ACCEPTED,), (tokens - accepted) * (BONUS,)
    return drafts + chosen if bonus == "last" else chosen + drafts

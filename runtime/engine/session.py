"""The decode session: sequences join, step together, and leave when they are done.

A waiting prompt is prefilled alone and joins the live ones; every step runs over all live ones of
one strategy; a sequence that is done gives its place in the cache to the next prompt. Between two
steps a sequence may go on with another strategy. The device is waited for once a step, for the
tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.engine.handover import Chooser, Handover, Progress, check_known
from nldc.runtime.engine.stats import Stats
from nldc.runtime.errors import CheckpointError, NldcRuntimeError, PromptError
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.member import Member
from nldc.runtime.step.record import commit
from nldc.runtime.step.sampling import NOTHING_ALLOWED, Sampling
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.runtime.step.values import Emit

Prefill = Callable[[StepBatch, Tensor], Emit]
Step = Callable[[StepBatch, dict[str, Tensor]], Emit]
Finish = Literal["eos", "length", "stop"]
MakeBatch = Callable[[KVCache, Sequence["Request"]], Batch]
"""Makes a batch of requests that have their slots in the cache."""


@dataclass(eq=False)
class Request:
    """One prompt on its way: what it was, what it has emitted, what that cost.

    `embeddings` [P, hidden] stand in for those of the prompt's tokens. `adapters` are those that
    its strategy has. `thought` is where the thought at the prompt's end begins, see
    `ThinkingLimit.thought`. `skips` counts tokens that its strategy has yet to emit and that are in
    the text already; `asked`, how many tokens there were when its strategy was last chosen.
    """

    place: int
    prompt: Sequence[int]
    key: int
    max_new_tokens: int
    eos: tuple[int, ...]
    embeddings: Tensor | None = None
    adapters: tuple[str, ...] = ()
    thought: int | None = None
    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    nfe: int = 0
    finish: Finish | None = None
    slot: int = -1
    strategy: str = ""
    skips: int = 0
    asked: int = -1
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0
    _member: Member | None = None

    @property
    def history(self) -> list[int]:
        """Every token so far."""
        return [*self.prompt, *self.tokens]

    @property
    def last_position(self) -> int:
        """The position of the last token that may be emitted."""
        return len(self.prompt) + self.max_new_tokens - 1

    def member(self, sampling: Sampling, limit: ThinkingLimit | None) -> Member:
        """Return what the request brings to every batch, once it has its slot."""
        if self._member is None:
            self._member = Member(
                slot=self.slot,
                key=self.key,
                sampling=sampling,
                eos=self.eos,
                prompt_length=len(self.prompt),
                last_position=self.last_position,
                thinking=limit,
                thought=self.thought,
                embeddings=self.embeddings,
                history=lambda: self.history,
            )
        return self._member

    @property
    def done(self) -> bool:
        """Whether nothing more is to be emitted."""
        return self.finish is not None

    def add(self, tokens: Sequence[int]) -> list[int]:
        """Append the tokens up to an EOS or the last one allowed, and return those.

        Of tokens from one on that could not be chosen, none is appended.
        """
        room = self.max_new_tokens - len(self.tokens)
        fresh = list(tokens[:room])
        ends = [place for place, token in enumerate(fresh) if token in self.eos]
        if ends:
            fresh = fresh[: ends[0] + 1]
        broken = next((place for place, token in enumerate(fresh) if token < 0), None)
        self.tokens += fresh[:broken]
        if broken is not None:
            return fresh
        if ends:
            self.finish = "eos"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish = "length"
        return fresh

    def stats(self) -> Stats:
        """Return the costs so far."""
        return Stats(
            nfe=self.nfe,
            tokens=len(self.tokens),
            accepted=self.accepted,
            seconds=self.finished - self.started,
            time_to_first_token=self.first_token - self.started,
            adapters=self.adapters,
        )


@dataclass(frozen=True)
class Strategy:
    """One way to decode, and how it hands sequences over; None: it is the only one."""

    prefill: Prefill
    step: Step
    handover: Handover | None = None


@dataclass
class _Group:
    """The live sequences of one strategy, and what is carried from step to step, one row each."""

    live: list[Request] = field(default_factory=list)
    carry: dict[str, Tensor] = field(default_factory=dict)

    def join(self, sequence: Request, carry: Mapping[str, Tensor]) -> None:
        """Add a sequence with its carried values, [1, n] each."""
        self.carry = {
            name: torch.cat((self.carry[name], fresh)) if self.live else fresh
            for name, fresh in carry.items()
        }
        self.live.append(sequence)

    def drop(self, *gone: Request) -> None:
        """Let sequences leave."""
        if not gone:
            return
        left = [place for place, sequence in enumerate(self.live) if sequence not in gone]
        self.live = [self.live[place] for place in left]
        for name, value in self.carry.items():
            index = torch.tensor(left, dtype=torch.int64, device=value.device)
            self.carry[name] = value.index_select(0, index)


@dataclass
class Session:
    """Runs sequences to their end; `choose` names the strategy of each, between any two steps.

    At most `most` run at a time, and as many as the cache has room for: `rows_of` says how many
    rows of it a sequence may need.
    """

    strategies: Mapping[str, Strategy]
    choose: Chooser
    make_batch: MakeBatch
    cache: KVCache
    device: torch.device
    most: int
    rows_of: Callable[[Request], int]

    def run(self, sequences: Sequence[Request]) -> Iterator[Request]:
        """Yield each sequence whenever it has new tokens; set its `finish` to end it early.

        Raises:
            PromptError: a strategy was chosen that does not exist, or that cannot go on.
            CheckpointError: the model's logits for a token are no numbers.
        """
        start = time.perf_counter()
        waiting = deque(sequences)
        groups = {name: _Group() for name in self.strategies}
        for sequence in sequences:
            sequence.started = start
        while waiting or any(group.live for group in groups.values()):
            live = sum(len(group.live) for group in groups.values())
            while waiting and live < self.most:
                if live and not self.cache.has_room(self.rows_of(waiting[0])):
                    break
                sequence = waiting.popleft()
                live += 1
                carry = self._begin(sequence, live)
                yield sequence
                if sequence.done:
                    self._end(sequence)
                    live -= 1
                else:
                    groups[sequence.strategy].join(sequence, carry)
            if len(groups) > 1:
                self._regroup(groups)
            for name, group in groups.items():
                if group.live:
                    self._advance(self.strategies[name], group)
                    yield from group.live
                    ended = [sequence for sequence in group.live if sequence.done]
                    for sequence in ended:
                        self._end(sequence)
                    group.drop(*ended)

    def _begin(self, sequence: Request, live: int) -> dict[str, Tensor]:
        sequence.slot = self.cache.acquire(self.rows_of(sequence))
        sequence.strategy = self._chosen(sequence, live)
        prefill = self.strategies[sequence.strategy].prefill
        with torch.inference_mode():
            batch = self.make_batch(self.cache, (sequence,))
            emit = prefill(batch, batch.prompt(sequence.prompt))
            self._commit([sequence], batch, emit, cycle=False)
        return emit.carry

    def _advance(self, strategy: Strategy, group: _Group) -> None:
        with torch.inference_mode():
            batch = self.make_batch(self.cache, group.live)
            emit = strategy.step(batch, group.carry)
            self._commit(group.live, batch, emit, cycle=True)
        group.carry = emit.carry

    def _commit(self, live: list[Request], batch: Batch, emit: Emit, *, cycle: bool) -> None:
        for error in batch.failed.values():
            raise error
        outcomes = commit(batch, emit).outcomes()
        for sequence, member, outcome in zip(live, batch.members, outcomes, strict=True):
            sequence.nfe += outcome.forwards
            self.cache.keep(sequence.slot, outcome.keep)
            known = min(sequence.skips, len(outcome.tokens))
            sequence.skips -= known
            if cycle:
                sequence.accepted.append(len(outcome.tokens) - known)
            fresh = sequence.add(outcome.tokens[known:])
            if fresh and not sequence.first_token:
                sequence.first_token = time.perf_counter()
            unchosen = next((token for token in fresh if token < 0), None)
            if unchosen is not None:
                processed = bool(member.sampling.processors)
                raise _without_token(sequence, unchosen, processed=processed)

    def _end(self, sequence: Request) -> None:
        sequence.finished = time.perf_counter()
        self.cache.release(sequence.slot)

    # Switching

    def _regroup(self, groups: Mapping[str, _Group]) -> None:
        """Let every sequence with new tokens go on with the strategy that is chosen for it.

        One whose text is too short for that goes on as it is, and is asked again.
        """
        live = sum(len(group.live) for group in groups.values())
        moved = [
            (sequence, chosen)
            for group in groups.values()
            for sequence in group.live
            if len(sequence.tokens) > sequence.asked
            and (chosen := self._chosen(sequence, live)) != sequence.strategy
            and self._may_enter(sequence, chosen)
        ]
        for sequence, chosen in moved:
            carry = self._hand_over(sequence, chosen)
            groups[sequence.strategy].drop(sequence)
            groups[chosen].join(sequence, carry)
            sequence.strategy = chosen

    def _chosen(self, sequence: Request, live: int) -> str:
        sequence.asked = len(sequence.tokens)
        progress = Progress(
            sequence=sequence.place,
            prompt_tokens=len(sequence.prompt),
            tokens=tuple(sequence.tokens),
            cycles=len(sequence.accepted),
            strategy=sequence.strategy,
            live=live,
        )
        return check_known(self.choose(progress), tuple(self.strategies))

    def _may_enter(self, sequence: Request, chosen: str) -> bool:
        """Whether the chosen strategy can be given the sequence, now or when it is longer.

        Raises:
            PromptError: it never can.
        """
        source, target = (self.strategies[n].handover for n in (sequence.strategy, chosen))
        if source is None or target is None or not source.may_go_to(target):
            raise PromptError(
                f"a sequence cannot go from `{sequence.strategy}` to `{chosen}` between steps",
                "certificate.json of the artifact lists the switches that it may make, and why not",
            )
        given = 0 if sequence.embeddings is None else len(sequence.prompt)
        return target.can_enter(sequence.history, sequence.eos, given)

    def _hand_over(self, sequence: Request, chosen: str) -> dict[str, Tensor]:
        """Make the cache trail the text as the chosen strategy wants it; return its carry."""
        target = self.strategies[chosen].handover
        assert target is not None
        text = sequence.history
        takes = target.takes or 0
        self.cache.forget(sequence.slot, takes - (len(text) - self.cache.length(sequence.slot)))
        sequence.skips = target.skips
        return {
            name: torch.tensor([tokens], dtype=torch.int64, device=self.device)
            for name, tokens in target.carry_of(text).items()
        }


def _without_token(sequence: Request, code: int, *, processed: bool) -> NldcRuntimeError:
    """Return the error that ends a sequence whose next token could not be chosen."""
    number = len(sequence.tokens)
    if code == NOTHING_ALLOWED and processed:
        return PromptError(
            f"the processors allow no token at all for prompt {sequence.place}, token {number}",
            "leave at least one logit above -inf",
        )
    after = "" if number == 0 else f" after {number} tokens"
    return CheckpointError(
        f"the model's logits for prompt {sequence.place} are no numbers{after}",
        "the weights are damaged, or too large for this dtype: try bfloat16 or float32"
        + ("; or a processor made them so" if processed else ""),
    )

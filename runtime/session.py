"""The decode session: sequences join, step together, and leave when they are done.

A waiting prompt is prefilled alone and joins the live ones; every step runs over all live ones; a
sequence that is done gives its place in the cache to the next prompt. The device is waited for once
a step, for the tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nldc.runtime.batch import Batch, Emit
from nldc.runtime.kv_cache import KVCache
from nldc.runtime.stats import Stats

Prefill = Callable[[Batch, Tensor], Emit]
Step = Callable[[Batch, dict[str, Tensor]], Emit]
Finish = Literal["eos", "length", "stop"]
MakeBatch = Callable[[KVCache, Sequence["Request"]], Batch]
"""Makes a batch of requests that have their slots in the cache."""


@dataclass
class Request:
    """One prompt on its way: what it was, what it has emitted, what that cost.

    `embeddings` [P, hidden] stand in for those of the prompt's tokens.
    """

    prompt: Sequence[int]
    key: int
    max_new_tokens: int
    eos: tuple[int, ...]
    embeddings: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    nfe: int = 0
    finish: Finish | None = None
    slot: int = -1
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0

    @property
    def history(self) -> list[int]:
        """Every token so far."""
        return [*self.prompt, *self.tokens]

    @property
    def done(self) -> bool:
        """Whether nothing more is to be emitted."""
        return self.finish is not None

    def add(self, tokens: Sequence[int]) -> bool:
        """Append the tokens up to an EOS or the last one allowed; return whether there was one."""
        room = self.max_new_tokens - len(self.tokens)
        fresh = list(tokens[:room])
        ends = [place for place, token in enumerate(fresh) if token in self.eos]
        if ends:
            fresh = fresh[: ends[0] + 1]
        self.tokens += fresh
        if ends:
            self.finish = "eos"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish = "length"
        return bool(fresh)

    def stats(self) -> Stats:
        """Return the costs so far."""
        return Stats(
            nfe=self.nfe,
            tokens=len(self.tokens),
            accepted=self.accepted,
            seconds=self.finished - self.started,
            time_to_first_token=self.first_token - self.started,
        )


@dataclass
class Session:
    """Runs sequences to their end with the decoder's prefill and step."""

    prefill: Prefill
    step: Step
    make_batch: MakeBatch
    cache: KVCache
    device: torch.device

    def run(self, sequences: Sequence[Request]) -> Iterator[Request]:
        """Yield each sequence whenever it has new tokens; set its `finish` to end it early."""
        start = time.perf_counter()
        waiting = deque(sequences)
        live: list[Request] = []
        carry: dict[str, Tensor] = {}
        for sequence in sequences:
            sequence.started = start
        while waiting or live:
            while waiting and self.cache.has_room:
                sequence = waiting.popleft()
                fresh_carry = self._begin(sequence)
                yield sequence
                if sequence.done:
                    self._end(sequence)
                    continue
                carry = {
                    name: torch.cat((carry[name], fresh)) if live else fresh
                    for name, fresh in fresh_carry.items()
                }
                live.append(sequence)
            if not live:
                continue
            carry = self._advance(live, carry)
            yield from live
            left = [place for place, sequence in enumerate(live) if not sequence.done]
            if len(left) < len(live):
                for sequence in live:
                    if sequence.done:
                        self._end(sequence)
                live = [live[place] for place in left]
                index = torch.tensor(left, dtype=torch.int64, device=self.device)
                carry = {name: value.index_select(0, index) for name, value in carry.items()}

    def _begin(self, sequence: Request) -> dict[str, Tensor]:
        sequence.slot = self.cache.acquire()
        with torch.inference_mode():
            batch = self.make_batch(self.cache, (sequence,))
            emit = self.prefill(batch, batch.prompt(sequence.prompt, sequence.embeddings))
            self._commit([sequence], batch, emit, cycle=False)
        return emit.carry

    def _advance(self, live: list[Request], carry: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            batch = self.make_batch(self.cache, live)
            emit = self.step(batch, carry)
            self._commit(live, batch, emit, cycle=True)
        return emit.carry

    def _commit(self, live: list[Request], batch: Batch, emit: Emit, *, cycle: bool) -> None:
        width = emit.tokens.shape[1]
        columns = [emit.tokens, batch.forwards().unsqueeze(1)]
        columns += [extra.unsqueeze(1) for extra in (emit.count, emit.keep) if extra is not None]
        for sequence, line in zip(live, torch.cat(columns, 1).tolist(), strict=True):
            values = iter(line[width:])
            sequence.nfe += next(values)
            count = width if emit.count is None else next(values)
            self.cache.keep(sequence.slot, None if emit.keep is None else next(values))
            if cycle:
                sequence.accepted.append(count)
            if sequence.add(line[:count]) and not sequence.first_token:
                sequence.first_token = time.perf_counter()

    def _end(self, sequence: Request) -> None:
        sequence.finished = time.perf_counter()
        self.cache.release(sequence.slot)

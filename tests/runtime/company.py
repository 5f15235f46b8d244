"""Sequences that are decoded together, each with options of its own, without a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.decoder import Decoder
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.member import Member
from nldc.runtime.step.record import Outcome, commit
from nldc.runtime.step.state import StepState

CPU = torch.device("cpu")


@dataclass
class Decoded:
    """A prompt, what it brings to a batch, and what came of it."""

    prompt: list[int]
    member: Member
    tokens: list[int] = field(default_factory=list)
    nfe: int = 0
    told: Mapping[str, int] = field(default_factory=dict)
    error: NldcRuntimeError | None = None

    def text(self) -> list[int]:
        """Return every token so far."""
        return [*self.prompt, *self.tokens]


@dataclass
class Company:
    """A decoder, and the sequences that it decodes together: each step is one batch of all.

    `during` makes what surrounds each prefill and step, by its batch and name.
    """

    decoder: Decoder
    most: int = 12
    rows: int = 400
    during: Callable[[Batch, str], AbstractContextManager[object]] = lambda *_: nullcontext()
    caches: list[KVCache] = field(default_factory=list)

    def decode(self, prompts: Sequence[Sequence[int]], members: Sequence[Member]) -> list[Decoded]:
        """Decode until each has so many tokens, has ended, or has failed."""
        decoder, backbone = self.decoder, self.decoder.model.backbone
        cache = KVCache(decoder.config, backbone.dtype, backbone.device)
        self.caches.append(cache)
        state = StepState(decoder.config, backbone.device, backbone.dtype)
        state.expect(decoder.SCRATCH_ROWS, texts=decoder.LOOKS_UP, asked=decoder.ASKED)
        everyone = []
        for prompt, member in zip(prompts, members, strict=True):
            one = Decoded(list(prompt), member)
            one.member = replace(
                member,
                slot=cache.acquire(self.rows),
                prompt_length=len(prompt),
                last_position=len(prompt) + self.most - 1,
                history=one.text,
            )
            everyone.append(one)
            self._run(cache, state, [one], "prefill")
        live = everyone
        while True:
            left = [place for place, one in enumerate(live) if not self._done(one)]
            if not left:
                return everyone
            live = [live[place] for place in left]
            for step, some in self._parts(live).items():
                self._run(cache, state, some, "step", step)

    def _parts(self, live: Sequence[Decoded]) -> dict[str, list[Decoded]]:
        """Return who takes which step: all the same one, or each its own by what it carries."""
        decoder, parts = self.decoder, dict[str, list[Decoded]]()
        for one in live:
            told = [one.told[name] for name in decoder.ROUTED_BY]
            name = decoder.route(len(live), *told) if told else "step"
            parts.setdefault(name, []).append(one)
        return parts

    def _done(self, one: Decoded) -> bool:
        ended = not set(one.member.eos).isdisjoint(one.tokens)
        return ended or one.error is not None or len(one.tokens) >= self.most

    def _run(
        self,
        cache: KVCache,
        state: StepState,
        live: Sequence[Decoded],
        name: str,
        step: str = "step",
    ) -> None:
        with torch.inference_mode():
            batch = Batch(self.decoder.model, cache, [one.member for one in live], state)
            prompt = batch.prompt(live[0].prompt) if name == "prefill" else None
            with self.during(batch, name):
                if prompt is not None:
                    emit = self.decoder.prefill(batch, prompt)
                else:
                    emit = getattr(self.decoder, step)(batch, batch.carried())
                record = commit(batch, emit)
            outcomes = record.outcomes()
        for number, (one, outcome) in enumerate(zip(live, outcomes, strict=True)):
            cache.keep(one.member.slot, outcome.keep)
            one.error = batch.failed.get(number)
            if one.error is None:
                self._add(one, outcome)

    def _add(self, one: Decoded, outcome: Outcome) -> None:
        one.nfe += outcome.forwards
        one.told = outcome.told
        for token in outcome.tokens:
            if not self._done(one):
                one.tokens.append(token)


def rows_of(cache: KVCache, slot: int) -> Tensor:
    """Return the keys and values of a sequence, [2, layers, kv_heads, length, head_dim]."""
    held = cache.data[:, :, list(cache.pages(slot))]
    rows = held.transpose(2, 3).flatten(3, 4)
    return rows[:, :, :, : cache.length(slot)]

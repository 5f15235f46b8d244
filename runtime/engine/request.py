"""A request: a prompt with its options resolved, and what has come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nldc.runtime.cache.prefix import Known
from nldc.runtime.engine.handover import Chooser
from nldc.runtime.engine.stats import Stats
from nldc.runtime.engine.text import Text
from nldc.runtime.step.logprobs import TokenLogprob
from nldc.runtime.step.params import Given
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import ThinkingLimit

Finish = Literal["eos", "length", "stop", "error", "cancelled"]
SCORED_AT_ONCE = 32
"""The most rows of a sequence that are scored in one forward, once its prompt is."""


@dataclass(frozen=True)
class Asked:
    """Which log-probabilities a request asks for: how many of the likeliest tokens beside each.

    `tokens` of those that it emits, `prompt` of those of its prompt from number `first` on; None:
    not asked for.
    """

    tokens: int | None = None
    prompt: int | None = None
    first: int = 1


@dataclass(eq=False)
class Request:
    """One prompt on its way: what it asks for, what it has emitted, what that cost.

    What it asks for never changes. `place` is that among the prompts of its call, `key` keys its
    noise, `choose` names its strategy. `embeddings` [P, hidden] stand in for those of the prompt's
    tokens, and `known` says what they are if that is known; with pictures both come from `sight`,
    and are there only while it has a place. `adapters` are those that its strategy has. `thought`
    is where the thought at the prompt's end begins, see `ThinkingLimit.thought`. Without `text`
    there is none to be made. `asked_logprobs` may be for no tokens at all (`max_new_tokens` 0): the
    prompt alone is scored. `params` are the values that it brings of its strategies' params; of the
    others, the default holds.

    The engine alone changes the rest. `id` is -1 until it is submitted, `slot` while it has none.
    `skips` counts tokens that its strategy has yet to emit and that are in the text already; `told`
    are carried counts by which its next step is taken; `asked`, how many tokens there were when its
    strategy was last chosen. `scored` is known of tokens that are not written down yet, `logprobs`
    of those that are. `error` is what ended it where `finish` is error.
    """

    place: int
    prompt: tuple[int, ...]
    key: int
    max_new_tokens: int
    eos: tuple[int, ...]
    choose: Chooser
    sampling: Sampling = field(default_factory=Sampling)
    embeddings: Tensor | None = None
    known: Known | None = None
    sight: Callable[[], tuple[Tensor, Known]] | None = None
    adapters: tuple[str, ...] = ()
    thinking: ThinkingLimit | None = None
    thought: int | None = None
    text: Text | None = None
    priority: int = 0
    asked_logprobs: Asked = field(default_factory=Asked)
    params: Given = field(default_factory=dict)

    id: int = -1
    slot: int = -1
    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    nfe: int = 0
    scored: list[TokenLogprob] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    finish: Finish | None = None
    error: BaseException | None = None
    strategy: str = ""
    skips: int = 0
    told: Mapping[str, int] = field(default_factory=dict)
    asked: int = -1
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0

    def open(self) -> None:
        """See what is to be seen, before the prompt is computed.

        Raises:
            NldcRuntimeError: it cannot be.
        """
        if self.sight is not None and self.embeddings is None:
            self.embeddings, self.known = self.sight()

    def close(self) -> None:
        """Let go of what was seen: it takes memory, and nobody looks at it any more."""
        if self.sight is not None:
            self.embeddings = self.known = None

    def history(self) -> list[int]:
        """Return every token so far."""
        return [*self.prompt, *self.tokens]

    @property
    def length(self) -> int:
        """How many tokens there are so far, those of the prompt included."""
        return len(self.prompt) + len(self.tokens)

    @property
    def last_position(self) -> int:
        """The position of the last token that may be emitted."""
        return len(self.prompt) + self.max_new_tokens - 1

    @property
    def done(self) -> bool:
        """Whether nothing more is to be emitted."""
        return self.finish is not None

    @property
    def beside(self) -> int:
        """How many rows of the cache its log-probabilities need beside those of its strategy."""
        if not self.max_new_tokens:
            return 0
        if self.asked_logprobs.tokens is not None:
            return len(self.prompt) + self.max_new_tokens + SCORED_AT_ONCE
        return 0 if self.asked_logprobs.prompt is None else len(self.prompt)

    def fresh(self, tokens: Sequence[int]) -> tuple[list[int], bool]:
        """Return the tokens up to an EOS or the last one allowed, and whether there is an EOS."""
        fresh = list(tokens[: self.max_new_tokens - len(self.tokens)])
        ends = next((place for place, token in enumerate(fresh) if token in self.eos), None)
        return (fresh, False) if ends is None else (fresh[: ends + 1], True)

    def add(self, tokens: Sequence[int]) -> tuple[list[int], str, int | None]:
        """Append the tokens up to an EOS, the last one allowed, or one that completes a stop.

        Returns those tokens, the text that they add, and what stands in place of the first token
        that could not be chosen, if one of them is to be emitted: None otherwise.
        """
        fresh, ends = self.fresh(tokens)
        broken = next((place for place, token in enumerate(fresh) if token < 0), None)
        good = fresh[:broken]
        text = ""
        if self.text is not None:
            text, count = self.text.feed(good)
            if self.text.stopped:
                good = good[:count]
                self.finish = "stop"
        self.tokens += good
        self.logprobs += self.scored[: len(good)]
        self.scored = []
        if self.finish is not None:
            return good, text, None
        if broken is not None:
            return good, text, fresh[broken]
        if ends:
            self.finish = "eos"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish = "length"
        if self.finish is not None and self.text is not None:
            text += self.text.rest()
        return good, text, None

    def news(self, tokens: Sequence[int], text: str, finish: Finish | None = None) -> Event:
        """Return the event of these tokens, the last that were added, and of their text."""
        first = len(self.tokens) - len(tokens)
        return Event(
            self.id,
            tuple(tokens),
            text,
            finish,
            None if finish is None else self.stats(),
            self.error,
            tuple(self.logprobs[first:]),
            () if first else self.prompt_logprobs,
        )

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
class Event:
    """News of one request: what came of it in a step, and whether that was all.

    `tokens` and `text` are fresh, and never taken back. With `finish`, nothing more comes: `stats`
    is what it cost, and `error`, where that is what ended it, why. If they were asked for,
    `logprobs` has one for each of the tokens; the first event has all of the prompt's, None for
    each token that has none.
    """

    id: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    finish: Finish | None = None
    stats: Stats | None = None
    error: BaseException | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()

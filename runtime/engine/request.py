"""A request: a prompt with its options resolved, and what has come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nldc.runtime.engine.handover import Chooser
from nldc.runtime.engine.stats import Stats
from nldc.runtime.engine.text import Text
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import ThinkingLimit

Finish = Literal["eos", "length", "stop", "error", "cancelled"]


@dataclass(eq=False)
class Request:
    """One prompt on its way: what it asks for, what it has emitted, what that cost.

    What it asks for never changes. `place` is that among the prompts of its call, `key` keys its
    noise, `choose` names its strategy. `embeddings` [P, hidden] stand in for those of the prompt's
    tokens. `adapters` are those that its strategy has. `thought` is where the thought at the
    prompt's end begins, see `ThinkingLimit.thought`. Without `text` there is none to be made.

    The engine alone changes the rest. `id` is -1 until it is submitted, `slot` while it has none.
    `skips` counts tokens that its strategy has yet to emit and that are in the text already;
    `asked`, how many tokens there were when its strategy was last chosen. `error` is what ended it
    where `finish` is error.
    """

    place: int
    prompt: tuple[int, ...]
    key: int
    max_new_tokens: int
    eos: tuple[int, ...]
    choose: Chooser
    sampling: Sampling = field(default_factory=Sampling)
    embeddings: Tensor | None = None
    adapters: tuple[str, ...] = ()
    thinking: ThinkingLimit | None = None
    thought: int | None = None
    text: Text | None = None
    priority: int = 0

    id: int = -1
    slot: int = -1
    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    nfe: int = 0
    finish: Finish | None = None
    error: BaseException | None = None
    strategy: str = ""
    skips: int = 0
    asked: int = -1
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0

    def history(self) -> list[int]:
        """Return every token so far."""
        return [*self.prompt, *self.tokens]

    @property
    def last_position(self) -> int:
        """The position of the last token that may be emitted."""
        return len(self.prompt) + self.max_new_tokens - 1

    @property
    def done(self) -> bool:
        """Whether nothing more is to be emitted."""
        return self.finish is not None

    def add(self, tokens: Sequence[int]) -> tuple[list[int], str, int | None]:
        """Append the tokens up to an EOS, the last one allowed, or one that completes a stop.

        Returns those tokens, the text that they add, and what stands in place of the first token
        that could not be chosen, if one of them is to be emitted: None otherwise.
        """
        room = self.max_new_tokens - len(self.tokens)
        fresh = list(tokens[:room])
        ends = next((place for place, token in enumerate(fresh) if token in self.eos), None)
        if ends is not None:
            fresh = fresh[: ends + 1]
        broken = next((place for place, token in enumerate(fresh) if token < 0), None)
        good = fresh[:broken]
        text = ""
        if self.text is not None:
            text, count = self.text.feed(good)
            if self.text.stopped:
                good = good[:count]
                self.finish = "stop"
        self.tokens += good
        if self.finish is not None:
            return good, text, None
        if broken is not None:
            return good, text, fresh[broken]
        if ends is not None:
            self.finish = "eos"
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish = "length"
        if self.finish is not None and self.text is not None:
            text += self.text.rest()
        return good, text, None

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
    is what it cost, and `error`, where that is what ended it, why.
    """

    id: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    finish: Finish | None = None
    stats: Stats | None = None
    error: BaseException | None = None

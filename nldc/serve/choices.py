"""What has come of each sequence of a call, and what the call cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from nldc.runtime.engine.request import Event
from nldc.serve.logprobs import Placed
from nldc.serve.reading import Answer
from nldc.serve.running import REASONS, News
from nldc.serve.tracing import Channel
from nldc.serve.watching import Origin, Took


@dataclass(frozen=True)
class Colour:
    """A piece of text and how its token came to be, in which step of the engine."""

    text: str
    origin: Origin
    step: int
    channel: Channel


@dataclass(frozen=True)
class Piece:
    """What one event adds to a choice: text on each side of the marks, and where it comes from.

    `echo` is the prompt's text and tokens, where the prompt is told and this is the first event.
    """

    content: str
    reasoning: str
    finish: str | None
    colours: tuple[Colour, ...]
    steps: tuple[Took, ...]
    placed: tuple[Placed, ...] = ()
    echo: tuple[str, tuple[Placed, ...]] | None = None


class Tally:
    """What the steps of an answer came to."""

    def __init__(self) -> None:
        self.drafts = self.drafted = self.accepted = self.forwards = self.longest = 0
        self.histogram: Counter[int] = Counter()
        self.strategies: dict[str, None] = {}

    def add(self, took: Took) -> None:
        """Count one more step."""
        self.forwards += took.forwards
        self.strategies[took.strategy] = None
        if took.drafted:
            self.drafts += 1
            self.drafted += took.drafted
            self.accepted += took.accepted
            self.longest = max(self.longest, took.drafted)
            self.histogram[took.accepted] += 1

    def __add__(self, other: Tally) -> Tally:
        found = Tally()
        for each in (self, other):
            found.drafts += each.drafts
            found.drafted += each.drafted
            found.accepted += each.accepted
            found.forwards += each.forwards
            found.longest = max(found.longest, each.longest)
            found.histogram += each.histogram
            found.strategies |= each.strategies
        return found


class Choice:
    """One of a call's answers as it grows."""

    def __init__(self, index: int, answer: Answer) -> None:
        self.index = index
        self.finish: str | None = None
        self.tally = Tally()
        self._answer = answer
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._origins: list[tuple[Origin, int]] = []
        self._echoed = False
        self.placed: list[Placed] = []
        self.tokens = 0
        self.thought = 0

    @property
    def content(self) -> str:
        """The text of the answer, without thoughts."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """The text of thoughts."""
        return "".join(self._reasoning)

    @property
    def echo(self) -> str:
        """The prompt's text, where it is to be told."""
        return "" if self._answer.echo is None else self._answer.echo.text

    @property
    def tells_logprobs(self) -> bool:
        """Whether log-probabilities are to be told."""
        return self._answer.request.asked_logprobs.tokens is not None

    @property
    def prompt_tokens(self) -> int:
        """How many tokens its prompt has."""
        return len(self._answer.request.prompt)

    def add(self, news: News) -> Piece:
        """Take one event in; return what it adds."""
        self._note_origins(news)
        echo, placed = self._take_echo(news.event), self._place(news.event)
        self.placed += placed
        self.tokens += len(news.event.tokens)
        self.thought = self._answer.text.thought
        content = "".join(span.text for span in news.spans if span.channel == "content")
        reasoning = "".join(span.text for span in news.spans if span.channel == "reasoning")
        self._content.append(content)
        self._reasoning.append(reasoning)
        if news.event.finish is not None:
            self.finish = REASONS[news.event.finish]
        colours = tuple(
            Colour(span.text, *self._origins[span.token], span.channel)
            for span in news.spans
            if span.channel != "mark"
        )
        return Piece(content, reasoning, self.finish, colours, news.steps, placed, echo)

    def _take_echo(self, event: Event) -> tuple[str, tuple[Placed, ...]] | None:
        """Return the prompt, once."""
        echo = self._answer.echo
        if echo is None or self._echoed:
            return None
        self._echoed = True
        placed: tuple[Placed, ...] = ()
        if self.tells_logprobs:
            prompt = self._answer.request.prompt
            placed = tuple(map(Placed, prompt, echo.starts, event.prompt_logprobs))
            self.placed += placed
        return echo.text, placed

    def _place(self, event: Event) -> tuple[Placed, ...]:
        """Return the tokens of an event with their log-probabilities, where these are told."""
        begin, starts = len(self.echo), self._answer.text.starts[self.tokens :]
        return tuple(
            Placed(found.token, begin + start, found)
            for start, found in zip(starts, event.logprobs, strict=False)
        )

    def _note_origins(self, news: News) -> None:
        """Say of each new token where it comes from: of the last step, as others brought none."""
        for took in news.steps:
            self.tally.add(took)
        if not news.steps:
            return
        last = news.steps[-1]
        for origin in last.origins[: len(news.event.tokens)]:
            self._origins.append((origin, last.number))


def usage(choices: Sequence[Choice], n: int) -> dict[str, Any]:
    """Return how many tokens a call took so far; a prompt counts once, whatever `n` is."""
    prompt = sum(choice.prompt_tokens for choice in choices[::n])
    made = sum(choice.tokens for choice in choices)
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
    }
    thought = sum(choice.thought for choice in choices)
    if thought:
        found["completion_tokens_details"] = {"reasoning_tokens": thought}
    return found


def speculation(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return what drafts came to, as vLLM says it of a request, and what the forwards brought.

    `acceptance_histogram[k]` counts the steps in which the verifier took k drafted tokens.
    """
    found = reduce(add, (choice.tally for choice in choices), Tally())
    tokens = sum(choice.tokens for choice in choices)
    most = max(found.histogram, default=-1)
    return {
        "speculative_decoding": {
            "mean_acceptance_length": 1 + found.accepted / found.drafts if found.drafts else 1.0,
            "draft_acceptance_rate": found.accepted / found.drafted if found.drafted else 0.0,
            "acceptance_histogram": [found.histogram[taken] for taken in range(most + 1)],
            "num_spec_steps": found.drafts,
            "num_accepted_draft_tokens": found.accepted,
            "num_draft_tokens": found.drafted,
            "num_spec_tokens": found.longest,
        },
        "forwards": found.forwards,
        "forwards_per_token": found.forwards / tokens if tokens else 0.0,
        "strategies": list(found.strategies),
    }

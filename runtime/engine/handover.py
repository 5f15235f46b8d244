"""Switching strategies between two steps of a sequence: what is handed over, and who chooses.

Between steps the cache holds the causal rows of the text, all but its last tokens', whichever
strategy ran. The next strategy wants it to trail by a number of tokens of its own, so rows at the
end are forgotten, and gets those tokens as its carried values; see docs/switching.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from nldc.runtime.errors import NldcRuntimeError, PromptError

MOST_DIGITS = 18
"""Digits of a number of tokens in a schedule."""


@dataclass(frozen=True)
class Handover:
    """How one strategy leaves a sequence, and how it is given one.

    It leaves the cache `trails` tokens behind the text (None: it may not leave) and wants it
    `takes` behind (None: it cannot be given a sequence). `carry` says for each element of each
    carried value which token behind the cache it holds, from 0; None is a guess, for which any
    token will do. The first `skips` tokens that it then emits are in the text already. `counts` are
    what carried counts begin as: no other strategy knows of them.
    """

    trails: int | None
    takes: int | None
    skips: int
    carry: Mapping[str, Sequence[int | None]]
    counts: Mapping[str, int] = field(default_factory=dict)

    def may_go_to(self, other: Handover) -> bool:
        """Whether a sequence may go from this strategy to the other."""
        if self.trails is None or other.takes is None:
            return False
        return self.trails <= other.takes

    def can_enter(self, text: Sequence[int], ends: Collection[int], given: int = 0) -> bool:
        """Whether a text may be handed over now, or has to be longer.

        The rows of the last `takes` tokens are computed again, so they have to be there; and rows
        of the first `given` tokens, which stood for embeddings, cannot be. None of these tokens may
        be one that `ends` a text: a strategy of its own carries none, and may take what it carries
        for the end of a block. Only a prompt has such tokens.
        """
        if self.takes is None or len(text) - self.takes < given:
            return False
        return not any(token in ends for token in text[len(text) - self.takes :])

    def carry_of(self, text: Sequence[int]) -> dict[str, list[int]]:
        """Return the token ids of each carried value for a text, at least `takes` tokens long.

        A guess is the text's last token. A carried count is what it begins as.
        """
        behind = list(text)[len(text) - (self.takes or 0) :]
        tokens = {
            name: [text[-1] if place is None else behind[place] for place in places]
            for name, places in self.carry.items()
        }
        return {**tokens, **{name: [count] for name, count in self.counts.items()}}


@dataclass(frozen=True)
class Progress:
    """What a chooser may look at: one sequence between two steps.

    `sequence` is the prompt's place among the prompts; `tokens` what was generated so far;
    `cycles` the steps taken; `strategy` who took the last ("" before the prefill); `live` how many
    sequences are being decoded, this one included.
    """

    sequence: int
    prompt_tokens: int
    tokens: Sequence[int]
    cycles: int
    strategy: str
    live: int


Chooser = Callable[[Progress], str]
"""Names the strategy that goes on; asked before the prefill, and whenever there are new tokens."""


@dataclass(frozen=True)
class Always:
    """A chooser that goes by a prompt's place alone: its answer is known before it is asked."""

    names: Sequence[str]

    def __call__(self, progress: Progress) -> str:
        """Return the strategy of a prompt."""
        return self.names[progress.sequence]


Choice = str | Sequence[str] | Chooser | None
"""A strategy for all prompts, one for each, a chooser, or None for the artifact's first."""


def chooser(choice: Choice, prompts: int, known: Sequence[str]) -> Chooser:
    """Return the chooser that a choice stands for.

    Raises:
        PromptError: an unknown strategy, or a list that does not have one for each prompt.
    """
    if callable(choice):
        return _in_words(choice, known)
    if choice is None or isinstance(choice, str):
        names = [known[0] if choice is None else choice] * prompts
    elif isinstance(choice, Sequence):
        names = list(choice)
    else:
        raise PromptError(
            f"strategy {choice!r} is not allowed", "give a name, a list of names, or a function"
        )
    if len(names) != prompts:
        raise PromptError(
            f"{len(names)} strategies for {prompts} prompts", "give one, or one for each"
        )
    for name in names:
        check_known(name, known)
    return Always(names)


def _in_words(choose: Chooser, known: Sequence[str]) -> Chooser:
    """Return the chooser with what goes wrong in it as a PromptError that names it."""
    name = getattr(choose, "__qualname__", type(choose).__qualname__)

    def asked(progress: Progress) -> str:
        try:
            answer: object = choose(progress)
        except NldcRuntimeError:
            raise
        except Exception as problem:
            raise PromptError(
                f"the strategy chooser {name} raised {type(problem).__name__}: {problem}",
                "a chooser takes a Progress and returns the name of a strategy",
            ) from problem
        if not isinstance(answer, str):
            raise PromptError(
                f"the strategy chooser {name} returned a {type(answer).__name__}, no name",
                f"it may return {', '.join(f'`{each}`' for each in known)}",
            )
        return answer

    return asked


def in_turn(handovers: Mapping[str, Handover], names: Sequence[str]) -> Chooser:
    """Return a chooser that never stays if it may go, and in time takes every way there is."""

    def choose(progress: Progress) -> str:
        if progress.strategy not in names:
            return names[progress.sequence % len(names)]
        at = names.index(progress.strategy)
        others = [*names[at + 1 :], *names[:at]]
        first = (progress.cycles * 2_654_435_761 >> 7) % max(1, len(others))
        order = (*others[first:], *others[:first])
        here = handovers[progress.strategy]
        return next((n for n in order if here.may_go_to(handovers[n])), progress.strategy)

    return choose


def check_known(name: object, known: Sequence[str]) -> str:
    """Return the name of a strategy.

    Raises:
        PromptError: it is none of the known ones.
    """
    if not isinstance(name, str) or name not in known:
        are = ", ".join(f"`{each}`" for each in known)
        raise PromptError(f"the artifact has no strategy {name!r}", f"it has {are}")
    return name


def schedule(text: str, known: Sequence[str]) -> Chooser:
    """Return a chooser from `NAME:TOKENS,NAME:TOKENS,NAME`: each for so many tokens, then the last.

    Spaces around names and numbers say nothing.

    Raises:
        PromptError: the text is not of that form, or names an unknown strategy.
    """
    *timed, last = (part.strip() for part in text.split(","))
    ends: list[tuple[int, str]] = []
    for part in timed:
        name, many = _timed(part, known)
        ends.append(((ends[-1][0] if ends else 0) + many, name))
    if timed and not last:
        raise PromptError(
            f"nobody goes on at the end of the schedule {text.strip()!r}",
            "end with the name of who goes on, as in ar:32,tidar, or leave the last comma out",
        )
    name, _, count = (part.strip() for part in last.partition(":"))
    if count and last not in known:
        check_known(name, known)
        raise PromptError(
            f"{last!r} ends the schedule, and who comes last goes on as long as there are tokens",
            f"write {name} without a number, or who goes on behind it: {last},NAME",
        )
    check_known(last, known)

    def choose(progress: Progress) -> str:
        return next((name for end, name in ends if len(progress.tokens) < end), last)

    return choose


def _timed(part: str, known: Sequence[str]) -> tuple[str, int]:
    """Return the name and the number of a part of a schedule that is not the last."""
    name, _, count = (piece.strip() for piece in part.partition(":"))
    if not part:
        raise PromptError(
            "a part of the schedule is empty", "write NAME:TOKENS between commas, as in ar:32,tidar"
        )
    check_known(name, known)
    if not count:
        raise PromptError(
            f"{part!r} does not say for how many tokens", "write NAME:TOKENS, as in ar:32,tidar"
        )
    if not (count.isascii() and count.isdecimal()) or not count.strip("0"):
        raise PromptError(
            f"{name} cannot go on for {count!r} tokens", "give a whole number from 1, as in ar:32"
        )
    if len(count) > MOST_DIGITS:
        raise PromptError(
            f"{name} cannot go on for a number of tokens of {len(count)} digits",
            f"give a number of at most {MOST_DIGITS} digits, or end the schedule with {name}",
        )
    return name, int(count)

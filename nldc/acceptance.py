"""How many tokens a strategy's steps emitted: a profile, its file, and what it says of other sizes.

A profile is a JSON object: `format` 1, the `strategy` and the `params` that it was measured with,
and in `accepted`, for each number of tokens that a step emitted, how many steps emitted so many.
`rounds` may say how many rounds a loop took on average, by its node; `most`, how many tokens a step
could have emitted (by default: as many as any did).

What was measured at one block length predicts another through one number a position: the share of
the steps that came to emit i tokens and went on to i + 1. That it does not depend on the block's
length is an assumption: a drafter sees other masks in a block of another length. Where hardly any
step came, and beyond the longest block measured, that share is one number, pooled over the second
half of the positions: a geometric tail.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Any

from nldc.runtime.errors import ProfileError
from nldc.runtime.json_file import read_json

FORMAT = 1
KEYS = ("format", "strategy", "params", "accepted", "rounds", "most")
FEW = 20
"""Steps below which the share of those that went on is taken from the tail."""
TURNS = 1000
STILL = 1e-9
"""How often, and how closely, the chain of steps with drafts of several lengths is followed."""
LONGEST = 8192
"""The most tokens that a step may emit: a layout has no more rows."""
EXAMPLE = (
    '{"format": 1, "strategy": "linear_ss", "params": {"block_length": 16}, '
    '"accepted": {"1": 40, "2": 25}}'
)


@dataclass(frozen=True)
class Acceptance:
    """A profile: `accepted` maps the number of tokens that a step emitted to how many steps did.

    `rounds` are the mean rounds of loops, by node; `most` what a step could have emitted.
    """

    strategy: str
    params: Mapping[str, int | float]
    accepted: Mapping[int, int]
    rounds: Mapping[str, float] = field(default_factory=dict)
    most: int = 0

    @property
    def steps(self) -> int:
        """How many steps were counted."""
        return sum(self.accepted.values())

    @property
    def mean(self) -> float:
        """The mean number of tokens that a step emitted when this was measured."""
        return sum(length * steps for length, steps in self.accepted.items()) / self.steps

    @property
    def counts(self) -> tuple[int, ...]:
        """How many steps emitted 1, 2, … tokens, up to the most that they could."""
        most = max(self.most, *self.accepted)
        return tuple(self.accepted.get(length, 0) for length in range(1, most + 1))

    @cached_property
    def _reached(self) -> tuple[int, ...]:
        """How many steps emitted at least 1, 2, … tokens, up to the most that they could."""
        return tuple(accumulate(reversed(self.counts)))[::-1]

    @cached_property
    def _tail(self) -> float:
        """The share that went on, pooled over the second half of the positions measured."""
        reached = self._reached
        half = (len(reached) - 1) // 2
        came, went = sum(reached[half:-1]), sum(reached[half + 1 :])
        return went / came if came else 0.0

    def goes_on(self, length: int) -> float:
        """Return the share of the steps with at least `length` tokens that had one more."""
        reached = self._reached
        if length < len(reached) and reached[length - 1] >= FEW:
            return reached[length] / reached[length - 1]
        return self._tail

    def expected(self, most: int) -> float:
        """Return how many tokens a step is expected to emit that may emit up to `most`."""
        return sum(self.reaches(most))

    def reaches(self, most: int) -> list[float]:
        """Return how likely a step with a draft of `most` tokens emits at least 1, 2, … of them."""
        shares = (self.goes_on(length) for length in range(1, most))
        return list(accumulate(shares, lambda share, goes_on: share * goes_on, initial=1.0))

    def expected_of(self, drafts: Sequence[int]) -> float:
        """Return how many tokens a step emits in the long run whose draft is `drafts[n - 1]` tokens
        after a step that emitted n.

        The numbers emitted are a Markov chain; half of each turn stays where it was, so that a
        chain that goes round in a circle comes to rest too.
        """
        points = len(drafts)
        reached = self.reaches(points)
        moves = []
        for draft in drafts:
            seen = [*reached[: min(draft, points)], *[0.0] * (points - draft), 0.0]
            moves.append([at_least - more for at_least, more in pairwise(seen)])
        chances = [1.0, *[0.0] * (points - 1)]
        for _ in range(TURNS):
            columns = zip(*moves, strict=True)
            moved = [_dot(chances, column) for column in columns]
            after = [(old + new) / 2 for old, new in zip(chances, moved, strict=True)]
            is_still = max(abs(a - b) for a, b in zip(chances, after, strict=True)) < STILL
            chances = after
            if is_still:
                break
        return _dot(chances, range(1, points + 1))

    def data(self) -> dict[str, Any]:
        """Return the profile as a file holds it."""
        found: dict[str, Any] = {
            "format": FORMAT,
            "strategy": self.strategy,
            "params": dict(self.params),
            "accepted": {str(length): self.accepted[length] for length in sorted(self.accepted)},
        }
        if self.rounds:
            found["rounds"] = dict(self.rounds)
        if self.most:
            found["most"] = self.most
        return found


def read_acceptance(path: str | Path) -> Acceptance:
    """Return the profile in a file.

    Raises:
        ProfileError: there is no such file, or it holds no profile.
    """
    try:
        data = read_json(Path(path))
    except FileNotFoundError:
        hint = "`nldc bench STRATEGY --profile FILE` measures a profile"
        raise ProfileError(f"there is no file {path}", hint) from None
    except ValueError as problem:
        raise ProfileError(f"{path} cannot be read as JSON: {problem}", EXAMPLE) from None
    return parse_acceptance(data, str(path))


def write_acceptance(acceptance: Acceptance, path: str | Path) -> None:
    """Write a profile into a file."""
    text = json.dumps(acceptance.data(), indent=2)
    Path(path).write_text(text + "\n", encoding="utf-8")


def parse_acceptance(data: Any, origin: str) -> Acceptance:
    """Return the profile that `data`, the content of a file, stands for; `origin` names it.

    Raises:
        ProfileError: it is none.
    """
    if not isinstance(data, dict):
        raise ProfileError(f"{origin} holds no JSON object", f"write {EXAMPLE}")
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        keys = ", ".join(KEYS)
        raise ProfileError(f"{origin} has the key {unknown[0]!r}", f"its keys are {keys}")
    if data.get("format") != FORMAT or isinstance(data["format"], bool):
        found = data.get("format", "none")
        raise ProfileError(f"{origin}: format is {found!r}", f"this nldc reads format {FORMAT}")
    strategy, params = data.get("strategy"), data.get("params", {})
    if not isinstance(strategy, str):
        raise ProfileError(f"{origin}: strategy is {strategy!r}", "give the strategy's name")
    if not isinstance(params, dict) or not all(map(_is_number, params.values())):
        raise ProfileError(f"{origin}: params is {params!r}", "give a number for each param")
    rounds = data.get("rounds", {})
    if not isinstance(rounds, dict) or not all(_is_number(n) and n >= 0 for n in rounds.values()):
        raise ProfileError(f"{origin}: rounds is {rounds!r}", "give a mean number for each loop")
    most = data.get("most", 0)
    if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= LONGEST:
        raise ProfileError(f"{origin}: most is {most!r}", f"give a whole number up to {LONGEST}")
    return Acceptance(strategy, params, _accepted(data.get("accepted"), origin), rounds, most)


def _accepted(data: Any, origin: str) -> dict[int, int]:
    hint = 'count steps by the tokens that they emitted, 1 or more: {"1": 40, "2": 25}'
    if not isinstance(data, dict):
        raise ProfileError(f"{origin}: accepted is {data!r}", hint)
    found: dict[int, int] = {}
    for key, steps in data.items():
        is_length = key.isascii() and key.isdigit() and len(key) < 6 and 1 <= int(key) <= LONGEST
        is_count = isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps < 2**53
        if not is_length or not is_count:
            raise ProfileError(f"{origin}: accepted has {key!r}: {steps!r}", hint)
        found[int(key)] = found.get(int(key), 0) + steps
    if not any(found.values()):
        raise ProfileError(f"{origin}: accepted counts no step", hint)
    return found


def _dot(one: Iterable[float], other: Iterable[float]) -> float:
    return sum(map(mul, one, other), 0.0)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 2**31

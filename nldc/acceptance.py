"""How many tokens a strategy's steps emitted: a profile, its file, and what it says of other sizes.

A profile is a JSON object: `format` 1, the `strategy` and the `params` that it was measured with,
and in `accepted`, for each number of tokens that a step emitted, how many steps emitted so many.
`rounds` may say how many rounds a loop took on average, by its node; `most`, how many tokens a step
could have emitted (by default: as many as any did). `after` may count steps by the step before too:
`after[i][j]` emitted j + 1 tokens after a step that emitted i + 1, the last list stands for all
further counts, and the last number of a list counts whole drafts. Masks are dealt by it.

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
from pathlib import Path
from typing import Any

import numpy as np

from nldc.ir.graph import Graph
from nldc.ir.taper import MOST_POINTS, Profile, bad_profile, survival, tokens_a_step
from nldc.ir.types import Accepted
from nldc.runtime.errors import ProfileError
from nldc.runtime.files import write_whole
from nldc.runtime.json_file import parse_json

FORMAT = 1
KEYS = ("format", "strategy", "params", "accepted", "rounds", "most", "after")
MAX_BYTES = 1 << 20
"""The largest file that is read."""
FEW = 20
"""Steps below which the share of those that went on is taken from the tail."""
NEARLY = 1 - 1e-9
"""The most that a share counts for in a chain of steps, so that every step may be followed by one
of a single token, and the chain has one mean."""
LONGEST = 8192
"""The most tokens that a step may emit: a layout has no more rows."""
EXAMPLE = (
    '{"format": 1, "strategy": "linear_ss", "params": {"block_length": 16}, '
    '"accepted": {"1": 40, "2": 25}}'
)


@dataclass(frozen=True)
class Acceptance:
    """A profile: `accepted` maps the number of tokens that a step emitted to how many steps did.

    `rounds` are the mean rounds of loops, by node; `most` what a step could have emitted; `after`
    the steps by what the one before emitted, empty where that was not counted.
    """

    strategy: str
    params: Mapping[str, int | float]
    accepted: Mapping[int, int]
    rounds: Mapping[str, float] = field(default_factory=dict)
    most: int = 0
    after: Profile = ()

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

    @property
    def profile(self) -> Profile:
        """The steps by the step before: `after`, or one list where that was not counted."""
        return self.after or (self.counts,)

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

        The numbers emitted are a Markov chain, whose moves `after` gives, smoothed as
        `nldc.ir.taper.survival` says; without it they do not depend on the step before.
        """
        points = len(drafts)
        if self.after:
            return tokens_a_step(drafts, survival(self.after, points))
        shares = [1.0, *(min(self.goes_on(length), NEARLY) for length in range(1, points))]
        return tokens_a_step(drafts, np.tile(np.cumprod(shares), (points, 1)))

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
        if self.after:
            found["after"] = [list(row) for row in self.after]
        return found


def profile_of(texts: Iterable[Sequence[int]], most: int) -> Profile:
    """Return how many steps emitted 1 to `most` tokens after a step that emitted 1 to `most`.

    Each text is the tokens that its steps emitted; no step comes before its first one. Empty if no
    step comes after another, or if there are more counts than a profile holds.
    """
    if not 0 < most <= MOST_POINTS:
        return ()
    steps = [[0] * most for _ in range(most)]
    for emitted in texts:
        for before, now in pairwise(emitted):
            steps[before - 1][now - 1] += 1
    return tuple(map(tuple, steps)) if any(map(any, steps)) else ()


def verifies(graph: Graph) -> bool:
    """Say whether a strategy verifies drafts."""
    nodes = (node for step in graph.steps for node in step.region.nodes)
    return any(isinstance(node.type, Accepted) for node in nodes)


def has_drafts(graph: Graph) -> bool:
    """Say whether a strategy verifies drafts that a profile can be measured with.

    Raises:
        ProfileError: it does, but they are cut short, and tell nothing of whole ones.
    """
    drafts = verifies(graph)
    if drafts and graph.profiles:
        message = f"`{graph.name}` has no acceptance profile: its drafts are cut short by one"
        raise ProfileError(message, "measure `quadratic_ss` or `quadratic_ss_lora`")
    return drafts


def read_acceptance(path: str | Path) -> Acceptance:
    """Return the profile in a file.

    Raises:
        ProfileError: there is no such file, or it holds no profile.
    """
    hint = "`nldc bench STRATEGY --write-acceptance FILE` measures a profile"
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError(f"there is no file {path}", hint) from None
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise ProfileError(f"{path} cannot be read: {reason}", hint) from None
    if len(text) > MAX_BYTES:
        raise ProfileError(f"{path} is too large for an acceptance profile", hint)
    try:
        data = parse_json(text)
    except ValueError as problem:
        raise ProfileError(f"{path} cannot be read as JSON: {problem}", EXAMPLE) from None
    return parse_acceptance(data, str(path))


def write_acceptance(acceptance: Acceptance, path: str | Path) -> None:
    """Write a profile into a file, whole or not at all.

    Raises:
        ProfileError: it cannot be written.
    """
    text = _text(acceptance.data())
    try:
        write_whole(Path(path), lambda fresh: fresh.write_text(text, encoding="utf-8"))
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise ProfileError(f"{path} cannot be written: {reason}", None) from None


def _text(data: Mapping[str, Any]) -> str:
    """Return a key a line, and of `after` a list a line."""
    values = {key: json.dumps(value) for key, value in data.items()}
    if "after" in data:
        rows = ",\n    ".join(map(json.dumps, data["after"]))
        values["after"] = f"[\n    {rows}\n  ]"
    lines = ",\n  ".join(f"{json.dumps(key)}: {value}" for key, value in values.items())
    return f"{{\n  {lines}\n}}\n"


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
    if not isinstance(strategy, str) or not strategy.isprintable():
        raise ProfileError(f"{origin}: strategy is {strategy!r}", "give the strategy's name")
    if not isinstance(params, dict) or not all(map(_is_number, params.values())):
        raise ProfileError(f"{origin}: params is {params!r}", "give a number for each param")
    rounds = data.get("rounds", {})
    if not isinstance(rounds, dict) or not all(_is_number(n) and n >= 0 for n in rounds.values()):
        raise ProfileError(f"{origin}: rounds is {rounds!r}", "give a mean number for each loop")
    most = data.get("most", 0)
    if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= LONGEST:
        raise ProfileError(f"{origin}: most is {most!r}", f"give a whole number up to {LONGEST}")
    accepted, after = _accepted(data.get("accepted"), origin), _after(data, origin)
    if 0 < most < max(length for length, steps in accepted.items() if steps):
        message = f"{origin}: accepted counts steps of more tokens than most, which is {most}"
        raise ProfileError(message, "leave most out, or give what a step could have emitted")
    return Acceptance(strategy, params, accepted, rounds, most, after)


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


def _after(data: Mapping[str, Any], origin: str) -> Profile:
    if "after" not in data:
        return ()
    rows, hint = data["after"], "count steps by the step before: [[40, 25, 9], [20, 31, 16]]"
    is_table = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not is_table or not all(type(number) is int for row in rows for number in row):
        raise ProfileError(f"{origin}: after is no lists of whole numbers", hint)
    problem = bad_profile(rows)
    if problem is not None:
        raise ProfileError(f"{origin}: after {problem}", hint)
    return tuple(map(tuple, rows))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 2**31

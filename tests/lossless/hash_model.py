"""A backbone whose logits are a hash of everything that a row saw, for the reference interpreter.

Whatever AR's row does not depend on shows: another token, position, adapter, or one row more or
less, through any number of layers. Rows that are not AR's own guess AR's tokens well, but not
always, so that drafts are often accepted and nothing is right by accident for long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nldc.interpret import At, Choose, Entry, greedy, run
from nldc.ir.graph import Graph, Step
from tests.lossless.params_at_random import drawn

LAYERS = 3
FAR = 4096
_MASK = (1 << 61) - 1


def noisy(seed: int, scale: float = 1.0) -> Choose:
    """Return a choice with noise keyed by position and token, as sampling has it."""

    def choose(logits: Sequence[float], position: int) -> int:
        keys = [(seed, position, token, 7) for token in range(len(logits))]
        noise = [scale * (hash(key) & 1023) / 512 for key in keys]
        return greedy([a + b for a, b in zip(logits, noise, strict=True)], position)

    return choose


@dataclass
class HashModel:
    """The mask token is an id like others; `skill` is how often a row that is not AR's agrees.

    A row's state mixes its own with the sum of those that it sees, layer by layer, so that AR's
    grow by one row at a time.
    """

    prompt: tuple[int, ...]
    seed: int = 0
    vocabulary: int = 6
    mask_token_id: int = 3
    skill: float = 0.75
    eos: tuple[int, ...] = ()
    choose: Choose = greedy
    at: At | None = None
    _layers: list[tuple[int, ...]] = field(default_factory=list)
    _known: list[list[float]] = field(default_factory=list)
    _ar: list[tuple[int, ...]] = field(default_factory=list)
    _sums: list[int] = field(default_factory=lambda: [0] * LAYERS)
    _tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tokens = list(self.prompt)

    # AR, computed directly

    def token(self, position: int) -> int:
        """Return AR's token at an absolute position."""
        while len(self._tokens) <= position:
            last = len(self._tokens) - 1
            logits = self._spread(self._pure(last)[-1])
            self._tokens.append(self.choose(logits, last + 1))
        return self._tokens[position]

    def expected(self, count: int) -> tuple[int, ...]:
        """Return AR's first new tokens, up to an end."""
        found: list[int] = []
        for place in range(len(self.prompt), len(self.prompt) + count):
            found.append(self.token(place))
            if found[-1] in self.eos:
                break
        return tuple(found)

    def _pure(self, position: int) -> tuple[int, ...]:
        while len(self._ar) <= position:
            here = len(self._ar)
            state = (self._first(self._tokens[here], here, None),)
            for layer in range(LAYERS):
                self._sums[layer] += state[layer]
                state = (*state, self._mix(state[layer], self._sums[layer], None))
            self._ar.append(state)
        return self._ar[position]

    # The interpreter's protocol

    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry; those of earlier calls are remembered."""
        fresh = entries[len(self._layers) :]
        states = [(self._first(e.token, e.position, e.adapter),) for e in fresh]
        for layer in range(LAYERS):
            values = [row[layer] for row in self._layers] + [row[layer] for row in states]
            states = [
                (*state, self._mix(state[layer], sum([values[k] for k in e.sees]), e.adapter))
                for state, e in zip(states, fresh, strict=True)
            ]
        self._layers.extend(states)
        self._known.extend(
            self._row(entry, state[-1]) for entry, state in zip(fresh, states, strict=True)
        )
        return self._known

    def _row(self, entry: Entry, state: int) -> list[float]:
        logits = self._spread(state)
        if not 0 <= entry.position < len(self._tokens) + FAR:
            return logits
        self.token(entry.position)
        if state == self._pure(entry.position)[-1]:
            return logits
        if hash((state, 11)) % 1000 < self.skill * 1000:
            ahead = entry.token != self.mask_token_id
            logits[self.token(entry.position + ahead)] += 20.0 if hash((state, 5)) % 3 else 2.0
        return logits

    def _first(self, token: int, position: int, adapter: str | None) -> int:
        return hash((self.seed, token, position, adapter is not None)) & _MASK

    def _mix(self, own: int, seen: int, adapter: str | None) -> int:
        return hash((own, seen, adapter is not None)) & _MASK

    def _spread(self, state: int) -> list[float]:
        return [(hash((state, token)) & 0xFFFF) / 8192 for token in range(self.vocabulary)]


@dataclass(frozen=True)
class Difference:
    """An input on which a strategy is not AR."""

    prompt: tuple[int, ...]
    seed: int
    sampled: bool
    expected: tuple[int, ...]
    got: tuple[int, ...] | str


def without(tokens: Sequence[int], choose: Choose) -> Choose:
    """Return a choice that never takes some tokens, as a processor would have it."""

    def chosen(logits: Sequence[float], position: int) -> int:
        allowed = [-math.inf if t in tokens else value for t, value in enumerate(logits)]
        return choose(allowed, position)

    return chosen


@dataclass(frozen=True)
class Input:
    """A prompt, and how a model of it behaves; `forbidden` are tokens that may not be chosen."""

    prompt: tuple[int, ...]
    seed: int
    sampled: bool
    skill: float
    eos: tuple[int, ...] = ()
    forbidden: tuple[int, ...] = ()
    params: Mapping[str, int | float] = field(default_factory=dict)

    def model(self) -> HashModel:
        """Return a fresh model."""
        return HashModel(
            self.prompt,
            seed=self.seed,
            skill=self.skill,
            eos=self.eos,
            choose=self._bound(noisy(self.seed) if self.sampled else greedy),
            at=self.at,
        )

    def at(self, temperature: float) -> Choose:
        """Return the choice at a temperature of a sample's own."""
        return self._bound(greedy if temperature < 1e-6 else noisy(self.seed, temperature))

    def _bound(self, choose: Choose) -> Choose:
        return without(self.forbidden, choose) if self.forbidden else choose


def inputs(tries: int, lengths: Sequence[int] = (1, 2, 3, 4, 5, 6)) -> list[Input]:
    """Return inputs of all kinds; every fourth knows ends, which its prompt may hold."""
    found = []
    for number in range(tries):
        length = lengths[number % len(lengths)]
        prompt = tuple(hash((number, place, 5)) % 6 for place in range(length))
        eos = ((), (), (), (5,), (), (), (), (5, 1))[number % 8]
        skill = (0.75, 0.95, 0.5)[number % 3]
        found.append(Input(prompt, number, number % 2 == 1, skill, eos))
    return found


def with_only(graph: Graph, step: Step) -> Graph:
    """Return the graph with one of its steps alone."""
    return replace(graph, steps=(replace(step, when=None),))


def first_difference(
    graph: Graph,
    tries: int = 8,
    tokens: int = 20,
    lengths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    live: Sequence[int] = (),
) -> Difference | None:
    """Run a strategy and AR on several models and prompts; return where they part.

    Of several steps one is taken for a whole run, or with `live` the one that `route` takes.
    """
    for each in inputs(tries, lengths):
        found = difference(graph, each, tokens, live)
        if found is not None:
            return found
    return None


def difference(
    graph: Graph, given: Input, tokens: int, live: Sequence[int] = ()
) -> Difference | None:
    """Run a strategy and AR on one input; return where they part.

    Params that requests bring may be anything.
    """
    given = replace(given, params=drawn(graph, given.seed))
    routed = graph if live else with_only(graph, graph.steps[given.seed % len(graph.steps)])
    model = given.model()
    expected = model.expected(tokens)
    result = run(
        routed, model, given.prompt, tokens, model.choose, most_steps=3 * tokens, live=live or (1,),
        params=given.params, at=given.at,
    )  # fmt: skip
    if result.tokens != expected:
        return Difference(given.prompt, given.seed, given.sampled, expected, result.tokens)
    return None

"""A backbone whose logits are a hash of everything that a row saw, for the reference interpreter.

Whatever AR's row does not depend on shows: another token, position, adapter, or one row more or
less, through any number of layers. Rows that are not AR's own guess AR's tokens well, but not
always, so that drafts are often accepted and nothing is right by accident for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nldc.interpret import Choose, Entry, greedy, run
from nldc.ir.graph import Graph

LAYERS = 3
_MASK = (1 << 61) - 1


def noisy(seed: int) -> Choose:
    """Return a choice with noise keyed by position and token, as sampling has it."""

    def choose(logits: Sequence[float], position: int) -> int:
        noise = [(hash((seed, position, token, 7)) & 1023) / 512 for token in range(len(logits))]
        return greedy([a + b for a, b in zip(logits, noise, strict=True)], position)

    return choose


@dataclass
class HashModel:
    """The mask token is an id like others; `skill` is how often a row that is not AR's agrees."""

    prompt: tuple[int, ...]
    seed: int = 0
    vocabulary: int = 5
    mask_token_id: int = 3
    skill: float = 0.75
    eos: frozenset[int] = frozenset()
    choose: Choose = greedy
    _layers: list[tuple[int, ...]] = field(default_factory=list)
    _known: list[list[float]] = field(default_factory=list)
    _ar: list[tuple[int, ...]] = field(default_factory=list)
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

    def _pure(self, position: int) -> tuple[int, ...]:
        while len(self._ar) <= position:
            here = len(self._ar)
            state = (self._first(self._tokens[here], here, None),)
            for layer in range(LAYERS):
                seen = sorted([*(row[layer] for row in self._ar), state[layer]])
                state = (*state, self._mix(state[layer], seen, None))
            self._ar.append(state)
        return self._ar[position]

    # The interpreter's protocol

    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry; those of earlier calls are remembered."""
        start = len(self._layers)
        fresh = entries[start:]
        states = [(self._first(e.token, e.position, e.adapter),) for e in fresh]
        for layer in range(LAYERS):
            values = [row[layer] for row in self._layers] + [row[layer] for row in states]
            states = [
                (*state, self._mix(state[layer], sorted(values[k] for k in e.sees), e.adapter))
                for state, e in zip(states, fresh, strict=True)
            ]
        self._layers.extend(states)
        self._known.extend(
            self._row(entry, state[-1]) for entry, state in zip(fresh, states, strict=True)
        )
        return self._known

    def _row(self, entry: Entry, state: int) -> list[float]:
        self.token(entry.position)
        if state == self._pure(entry.position)[-1]:
            return self._spread(state)
        logits = self._spread(state)
        if hash((state, 11)) % 1000 < self.skill * 1000:
            ahead = entry.token != self.mask_token_id
            logits[self.token(entry.position + ahead)] += 20.0
        return logits

    def _first(self, token: int, position: int, adapter: str | None) -> int:
        return hash((self.seed, token, position, adapter is not None)) & _MASK

    def _mix(self, own: int, seen: Sequence[int], adapter: str | None) -> int:
        return hash((own, tuple(seen), adapter is not None)) & _MASK

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


def inputs(
    tries: int, lengths: Sequence[int] = (1, 2, 3, 4, 5, 6)
) -> list[tuple[tuple[int, ...], int, bool, float]]:
    """Return prompts, model seeds, whether to sample, and the skill of guesses."""
    found = []
    for number in range(tries):
        length = lengths[number % len(lengths)]
        prompt = tuple(hash((number, place, 5)) % 5 for place in range(length))
        found.append((prompt, number, number % 2 == 1, (0.75, 0.95, 0.5)[number % 3]))
    return found


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
    for prompt, seed, sampled, skill in inputs(tries, lengths):
        variant = graph.variants[seed % len(graph.variants)]
        routed = graph if live else replace(variant, alternatives=())
        choose = noisy(seed) if sampled else greedy
        model = HashModel(prompt, seed=seed, skill=skill, choose=choose)
        expected = tuple(model.token(len(prompt) + i) for i in range(tokens))
        result = run(
            routed, model, prompt, tokens, choose, most_steps=3 * tokens, live=live or (1,)
        )
        if result.tokens != expected:
            return Difference(prompt, seed, sampled, expected, result.tokens)
    return None

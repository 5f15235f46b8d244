"""AR by a hash, in whole numbers: what the text, its states and the cache's entries must be.

A row's state mixes its token and position; layer by layer it mixes in the sum of the states that
it sees. So a state depends on exactly what a row transitively saw, and AR's grows row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from nldc.runtime.step.sampling import Sampling, gumbel, row_keys

LAYERS = 3
VOCABULARY = 11
MASK_ID = 4
END_THINK_ID = 6
EOS_ID = VOCABULARY - 1
FAR = 4096
"""AR is not followed to positions this far behind the text: nothing of it is emitted."""

WORD = (1 << 64) - 1
FIRST, SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
TOKEN, PLACE, PLACE_AT, ADAPTED, KEY, DEEPER, LOGIT = (
    0x9E37, 7919, 13, 0x51ED27, 77, 0x2545F49, 0x1000193
)  # fmt: skip


class DifferenceError(Exception):
    """The artifact is not AR, or breaks a promise that every artifact makes."""


def scramble(x: int) -> int:
    """Mix 64 bits (splitmix64), unsigned."""
    x &= WORD
    x = ((x ^ (x >> 30)) * FIRST) & WORD
    x = ((x ^ (x >> 27)) * SECOND) & WORD
    return x ^ (x >> 31)


def signed(x: int) -> int:
    """Return 64 bits as torch holds them."""
    x &= WORD
    return x - (1 << 64) if x >> 63 else x


@dataclass(frozen=True)
class Rules:
    """How tokens are chosen: `sampling`, a `thinking` budget, and whether some are `forbidden`.

    Forbidden are the mask token everywhere, and one more that depends on the position if `placed`.
    What is `endless` has no ends.
    """

    sampling: Sampling
    thinking: int | None = None
    forbidden: bool = False
    placed: bool = False
    endless: bool = False

    def forbids(self, position: int) -> tuple[int, ...]:
        """Return the tokens that may not stand at a position."""
        ends = (EOS_ID,) if self.endless else ()
        if not self.forbidden:
            return ends
        return (*ends, MASK_ID, 2 + position % 2 if self.placed else 2)


@dataclass
class Text:
    """One prompt: AR by the hash, the cache's entries, and what was emitted.

    `content` is what a prompt's rows hold: token ids, or ids of embeddings from VOCABULARY on;
    `params` what it brings of the strategy's params.
    `truth` holds AR's states, LAYERS + 1 a position; `cache` states and positions of all entries,
    of which `committed` are committed; `agrees` is the position up to which drafts are right.
    """

    key: int
    prompt: list[int]
    rules: Rules
    content: list[int] = field(default_factory=list)
    params: Mapping[str, int | float] = field(default_factory=dict)
    text: list[int] = field(default_factory=list)
    truth: list[tuple[int, ...]] = field(default_factory=list)
    finals: dict[int, int] = field(default_factory=dict)
    cache: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)
    committed: int = 0
    agrees: int = 0
    skips: int = 0
    ended: bool = False
    _sums: list[list[int]] = field(default_factory=lambda: [[0] * LAYERS])
    _noise: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.content = self.content or list(self.prompt)
        self.text = list(self.prompt)

    def token(self, position: int) -> int:
        """Return AR's token at a position."""
        while len(self.text) <= position:
            self.text.append(self._next(len(self.text)))
        return self.text[position]

    def _next(self, place: int) -> int:
        written = self.text[len(self.prompt) :]
        if len(written) == self.rules.thinking and END_THINK_ID not in written:
            return END_THINK_ID
        values = spread(self.state(place - 1)[-1])
        for token in self.rules.forbids(place):
            values[token] = -math.inf
        temperature = self.rules.sampling.temperature
        if temperature:
            noise = self._noise_at(place)
            values = [a / temperature + b for a, b in zip(values, noise, strict=True)]
        return values.index(max(values))

    def _noise_at(self, place: int) -> list[float]:
        while len(self._noise) <= place:
            start = len(self._noise)
            places = torch.arange(start, start + 64).unsqueeze(0)
            keys = row_keys(self.rules.sampling.seed, torch.tensor([[self.key]]), places)
            self._noise += gumbel(keys, VOCABULARY)[0].tolist()
        return self._noise[place]

    def give(self, token: int, position: int) -> None:
        """Let the text have a token at a position, and AR go on from there."""
        if self.token(position) != token:
            self.text[position:] = [token]
            for state in self.truth[position:]:
                self.finals.pop(state[-1], None)
            del self.truth[position:], self._sums[position + 1 :]

    def state(self, position: int) -> tuple[int, ...]:
        """Return the states of AR's row at a position, LAYERS + 1 of them."""
        while len(self.truth) <= position:
            here = len(self.truth)
            token = self.content[here] if here < len(self.content) else self.token(here)
            x = scramble(scramble(token + TOKEN) + scramble(here * PLACE + PLACE_AT) + self.key)
            states, sums = [x], []
            for before in self._sums[here]:
                total = before + scramble(x + KEY)
                x = scramble(scramble(x) * 3 + scramble(total))
                sums.append(total & WORD)
                states.append(x)
            self._sums.append(sums)
            self.truth.append(tuple(map(signed, states)))
            self.finals[self.truth[-1][-1]] = here
        return self.truth[position]

    def is_ar(self, final: int, place: int) -> bool:
        """Whether a row's last state is that of AR's row that predicts `place`, or another."""
        if not 0 <= place < len(self.prompt) + len(self.emitted) + FAR:
            return False
        self.state(place)
        return final in self.finals

    def known(self, place: int) -> int:
        """Return AR's token at a position that is not far ahead, else any."""
        if not 0 <= place < len(self.prompt) + len(self.emitted) + FAR:
            return place % VOCABULARY
        return self.token(place)

    def guess(self, place: int) -> int:
        """Return what a drafter says of a position: AR's token as far as the plan goes."""
        token = self.known(place)
        if not 0 <= place < len(self.prompt) + len(self.emitted) + FAR:
            return token
        return token if place < self.agrees else (token + 1) % VOCABULARY

    def forget(self, end: int) -> None:
        """Keep the first `end` entries of the cache, all committed."""
        if not 0 <= end <= len(self.cache):
            raise DifferenceError(
                f"{end} cache entries are to stay, and {len(self.cache)} are there"
            )
        del self.cache[end:]
        self.committed = end

    def history(self) -> list[int]:
        """Return a text that ends like this one, and in which its end is followed by AR's tokens.

        What is looked up is only ever a guess, and so may be as right as the plan says.
        """
        text = [*self.prompt, *self.emitted]
        ahead = [self.token(place) for place in range(len(text), max(len(text), self.agrees))]
        wrong = (self.token(max(len(text), self.agrees)) + 1) % VOCABULARY
        return [*text[-16:], *ahead, wrong, *text[-16:]]


def spread(state: int) -> list[float]:
    """Return logits between 0 and 8 from a last state."""
    return [(scramble(state + token * LOGIT) & 0xFFFFF) / 0x20000 for token in range(VOCABULARY)]


def prompt_of(length: int, key: int, without: Sequence[int]) -> list[int]:
    """Return a prompt in which every token comes up: ends, masks, the end of thinking."""
    tokens = [token for token in range(VOCABULARY) if token not in without]
    return [tokens[(key * 7 + place * 5 + place // 3) % len(tokens)] for place in range(length)]

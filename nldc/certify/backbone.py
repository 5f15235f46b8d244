"""A backbone that is a hash: a row's state depends on exactly what the row transitively saw.

Tokens, positions, who was seen, adapters: whatever AR's row does not depend on shows at once. Rows
that are not AR's own play the drafter, and agree with AR for as many places as a plan says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldc.runtime.attention import Pattern, Plan, visible
from nldc.runtime.batch import Batch, Hidden, Logits
from nldc.runtime.kv_cache import Places
from nldc.runtime.layout import Layout
from nldc.runtime.sampling import Sampling, choose
from nldc.runtime.thinking import ThinkingBudget

LAYERS = 3
VOCABULARY = 11
MASK_ID = 4
END_THINK_ID = 6


class DifferenceError(Exception):
    """The artifact is not AR."""


def _scramble(x: Tensor) -> Tensor:
    """Mix int64 bits (splitmix64): shifts are logical, products wrap around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _first(tokens: Tensor, positions: Tensor, adapted: Tensor, key: int) -> Tensor:
    mixed = _scramble(tokens + 0x9E37) + _scramble(positions * 7919 + 13)
    return _scramble(mixed + adapted * 0x51ED27 + key)


def _deeper(own: Tensor, seen: Tensor, keys: Tensor, adapted: Tensor) -> Tensor:
    """Return the next layer's states [R] from those of all keys [N], seen [R, N]."""
    total = (seen.to(torch.int64) * _scramble(keys + 77)).sum(1)
    return _scramble(_scramble(own) * 3 + _scramble(total) + adapted * 0x2545F49)


def _spread(states: Tensor) -> Tensor:
    """Return logits [..., V] between 0 and 8 from final states."""
    ids = torch.arange(VOCABULARY, dtype=torch.int64) * 0x1000193
    return (_scramble(states.unsqueeze(-1) + ids) & 0xFFFFF).double() / 0x20000


@dataclass
class Text:
    """One prompt: AR by the hash, the cache's entries, and what was emitted.

    `truth` holds AR's states [position, LAYERS + 1]; `cache` states and positions of all entries,
    of which `committed` are committed; `agrees` is the position up to which drafts are right.
    """

    key: int
    prompt: list[int]
    sampling: Sampling
    thinking: int | None = None
    text: list[int] = field(default_factory=list)
    truth: Tensor = field(default_factory=lambda: torch.empty((0, LAYERS + 1), dtype=torch.int64))
    cache: Tensor = field(default_factory=lambda: torch.empty((0, LAYERS + 1), dtype=torch.int64))
    places: list[int] = field(default_factory=list)
    latest: tuple[Tensor, list[int]] = field(default_factory=lambda: (torch.empty(0), []))
    emitted: list[int] = field(default_factory=list)
    committed: int = 0
    agrees: int = 0
    skips: int = 0

    def token(self, position: int) -> int:
        """Return AR's token at a position."""
        if not self.text:
            self.text = list(self.prompt)
        while len(self.text) <= position:
            last = len(self.text) - 1
            written = self.text[len(self.prompt) :]
            if len(written) == self.thinking and END_THINK_ID not in written:
                self.text.append(END_THINK_ID)
                continue
            values = _spread(self.state(last)[-1:]).view(1, 1, -1)
            places, keys = torch.tensor([[last + 1]]), torch.tensor([self.key])
            self.text.append(int(choose(values, places, keys, self.sampling)))
        return self.text[position]

    def give(self, token: int, position: int) -> None:
        """Let the text have a token at a position, and AR go on from there."""
        if self.token(position) != token:
            self.text[position:] = [token]
            self.truth = self.truth[:position]

    def state(self, position: int) -> Tensor:
        """Return the states of AR's row at a position, [LAYERS + 1]."""
        while len(self.truth) <= position:
            here = len(self.truth)
            token, none = torch.tensor([self.token(here)]), torch.zeros(1, dtype=torch.int64)
            states = [_first(token, torch.tensor([here]), none, self.key)]
            for layer in range(LAYERS):
                keys = torch.cat((self.truth[:, layer], states[-1]))
                seen = torch.ones((1, here + 1), dtype=torch.bool)
                states.append(_deeper(states[-1], seen, keys, none))
            self.truth = torch.cat((self.truth, torch.stack(states, 1)))
        return self.truth[position]

    def forget(self, end: int) -> None:
        """Keep the first `end` entries of the cache, all committed."""
        if not 0 <= end <= len(self.places):
            raise DifferenceError(
                f"{end} cache entries are to stay, and {len(self.places)} are there"
            )
        self.cache, self.places = self.cache[:end], self.places[:end]
        self.committed = end

    def history(self) -> list[int]:
        """Return a text that ends like this one, and in which its end is followed by AR's tokens.

        What is looked up is only ever a guess, and so may be as right as the plan says.
        """
        text = [*self.prompt, *self.emitted]
        ahead = [self.token(place) for place in range(len(text), max(len(text), self.agrees))]
        wrong = (self.token(max(len(text), self.agrees)) + 1) % VOCABULARY
        return [*text[-16:], *ahead, wrong, *text[-16:]]

    def compute(self, tokens: Tensor, layout: Layout, pattern: Pattern, adapted: Tensor) -> Tensor:
        """Return the states of rows over the cache, [R, LAYERS + 1]."""
        length = len(self.places)
        cached, own = visible(layout, pattern, length)
        seen = torch.cat((cached, own), 1)
        states = [_first(tokens, layout.offset + length, adapted, self.key)]
        for layer in range(LAYERS):
            keys = torch.cat((self.cache[:, layer], states[-1]))
            states.append(_deeper(states[-1], seen, keys, adapted))
        return torch.stack(states, 1)


class HashBatch(Batch):
    """A batch for generated code whose backbone is the hash."""

    def __init__(
        self,
        live: Sequence[Text],
        sampling: Sampling,
        thinking: ThinkingBudget | None = None,
        first_slot: int = 0,
    ) -> None:
        self.live = live
        self.thinking = thinking
        self.slots = tuple(range(first_slot, first_slot + len(live)))
        self.sampling = sampling
        self.size = len(live)
        self.device = torch.device("cpu")
        self.mask_token_id = MASK_ID
        self.eos = torch.tensor([VOCABULARY - 1])
        self.sequences = torch.tensor([sequence.key for sequence in live])
        self._histories = lambda: [sequence.history() for sequence in self.live]
        self._forwards = 0
        self._active_forwards = None

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        pattern: Pattern,
        *,
        adapter: str | None = None,
        adapter_rows: Sequence[bool] | Tensor | None = None,
        counted: bool = True,
        active: Tensor | None = None,
        hold: bool = False,
        embeddings: Tensor | None = None,
    ) -> Hidden:
        """Compute the rows' states; they stand for hidden states of width 1."""
        del counted, embeddings
        adapted = torch.full((layout.size,), int(adapter is not None))
        if adapter is not None and adapter_rows is not None:
            adapted = torch.as_tensor(adapter_rows).to(torch.int64)
        due = self._due(tokens, layout, pattern, active if hold else None)
        finals, positions = [], []
        for number, sequence in enumerate(self.live):
            states = sequence.compute(tokens[number], layout, pattern, adapted)
            length = len(sequence.places)
            if active is None or not hold or bool(active[number]):
                sequence.latest = (states, (layout.offset + length).tolist())
            finals.append(states[:, -1:])
            positions.append(layout.offset + length + layout.predicts_next.to(torch.int64))
        if layout.append:
            self.append(layout.append)
        return Hidden(torch.stack(finals), torch.stack(positions), due)

    def _due(
        self, tokens: Tensor, layout: Layout, pattern: Pattern, active: Tensor | None
    ) -> Tensor | None:
        if self.thinking is None:
            return None
        held = 0 if active is None else torch.where(active, 0, layout.size)
        start = torch.tensor([len(sequence.places) for sequence in self.live]) + held
        places = Places(self.slots, tuple(start.tolist()), torch.tensor(self.slots), start)
        plan = Plan.of(layout, pattern, self.device, torch.float32)
        prompts = [len(sequence.prompt) for sequence in self.live]
        return self.thinking.due(tokens, plan, places, prompts)

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay."""
        for sequence in self.live:
            states, places = sequence.latest
            sequence.cache = torch.cat((sequence.cache, states[:rows]))
            sequence.places += places[:rows]

    def head(self, hidden: Hidden) -> Logits:
        """Return AR's logits for AR's rows, and guesses of AR's tokens for all others."""
        values = _spread(hidden.states.squeeze(-1))
        for number, sequence in enumerate(self.live):
            for row, place in enumerate(hidden.positions[number].tolist()):
                sequence.token(place)
                final = hidden.states[number, row, 0]
                if bool((sequence.truth[:, -1] == final).any()):
                    continue
                token = sequence.token(place)
                right = place < sequence.agrees
                sure = 40.0 if int(final) & 3 else 12.0
                values[number, row, token if right else (token + 1) % VOCABULARY] += sure
        return Logits(values, hidden.positions, hidden.due)

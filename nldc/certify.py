"""Check a compiled artifact against AR, without the compiler: its own code on a free backbone.

The backbone is a hash: a row's state depends on exactly what the row transitively saw (tokens,
positions, who was seen, adapters), so whatever AR's row does not depend on shows at once. Rows that
are not AR's own play the drafter, and agree with AR for just as many places as the plan of a step
says, so that every acceptance count occurs. Emitted tokens, kept cache entries and progress are
compared with AR of the same hash after every step. Nothing of nldc.ir, nldc.check or nldc.codegen
is used: only the artifact, and the small ops of the runtime that it calls.

Of an artifact with several strategies each is run so, and then they take turns: what a strategy
that promises nothing emits then counts as given, and the cache must hold AR's rows of that text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nldc.runtime.artifact import check_artifact
from nldc.runtime.attention import Pattern, Plan, visible
from nldc.runtime.batch import Batch, Emit, Hidden, Logits
from nldc.runtime.handover import Progress, in_turn
from nldc.runtime.kv_cache import Places
from nldc.runtime.layout import Layout
from nldc.runtime.sampling import Sampling, choose
from nldc.runtime.switching import SwitchingDecoder
from nldc.runtime.thinking import ThinkingBudget, ThinkingLimit

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

LAYERS = 3
VOCABULARY = 11
MASK_ID = 4
BATCHES = ((1, 0.0, None), (3, 0.0, None), (3, 0.9, None), (6, 0.9, None), (6, 0.0, 7), (3, 0.9, 2))
"""How many sequences run together, at which temperature, and with which thinking budget."""
END_THINK_ID = 6
CPU = torch.device("cpu")


@dataclass(frozen=True)
class CertifyReport:
    """What was run, and the first difference from AR if there is one.

    `accepted` counts steps by the number of tokens that they emitted.
    """

    strategy: str
    claimed: str
    sequences: int
    steps: int
    tokens: int
    entries: int
    accepted: tuple[tuple[int, int], ...]
    difference: str | None
    parts: tuple[CertifyReport, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the artifact keeps its promise on everything that was run.

        Switching promises that every strategy goes on from the text, whatever they promise.
        """
        kept = self.difference is None or (self.claimed == "none" and not self.parts)
        return kept and all(part.holds for part in self.parts)

    def text(self) -> str:
        """Return the report for a terminal."""
        return "".join(part.text() for part in self.parts) + self._own_text()

    def _own_text(self) -> str:
        counts = ", ".join(f"{n}: {times}" for n, times in self.accepted)
        ran = (
            f"{self.strategy}: {self.sequences} sequences, {self.steps} steps, {self.tokens} tokens"
            f" and {self.entries} cache entries compared with AR\n"
            f"tokens a step, and how often: {counts}\n"
        )
        if self.parts and self.difference is None:
            return f"{ran}every switch goes on from the text, and every cache entry is its row\n"
        if self.parts:
            return f"{ran}NOT to be switched: {self.difference}\n"
        if self.difference is None:
            return f"{ran}every token and every cache entry is AR's; guarantee: {self.claimed}\n"
        if self.claimed == "none":
            return f"{ran}differs from AR, as it may (guarantee: none): {self.difference}\n"
        return f"{ran}NOT {self.claimed}: {self.difference}\n"


def certify(artifact: str | Path, tokens: int = 48, seed: int = 0) -> CertifyReport:
    """Run the artifact in `artifact` until each sequence has so many tokens, and compare with AR.

    Raises:
        ArtifactError: there is no artifact, or it was edited.
    """
    from nldc.api import load  # imports the artifact's Python; nothing of the compiler's passes

    folder = Path(artifact)
    manifest: dict[str, Any] = check_artifact(folder)
    several: dict[str, Any] = manifest.get("strategies", {})
    run = _Run(tokens, None if several else _frontier(folder))
    difference: str | None = None
    try:
        decoder = load(folder)
        for number, (size, temperature, thinking) in enumerate(BATCHES):
            sampling = Sampling(temperature=temperature, seed=seed)
            key = 100 * number + seed
            if issubclass(decoder, SwitchingDecoder):
                exact = {n for n, part in several.items() if part["guarantee"]["claimed"] != "none"}
                for sequence in range(size):
                    run.turns(decoder, exact, sampling, thinking, key + sequence)
            else:
                run.batch(decoder, size, sampling, thinking, key)
    except _DifferenceError as found:
        difference = str(found)
    except (ValueError, IndexError, RuntimeError) as problem:
        difference = f"its code fails: {problem}"
    return CertifyReport(
        strategy=manifest["strategy"],
        claimed=manifest["guarantee"]["claimed"],
        sequences=run.sequences,
        steps=run.steps,
        tokens=run.tokens,
        entries=run.entries,
        accepted=tuple(sorted(run.accepted.items())),
        difference=difference,
        parts=tuple(certify(folder / part["folder"], tokens, seed) for part in several.values()),
    )


def _frontier(folder: Path) -> int | None:
    """Return how far the cache trails the text by the certificate, if there is one."""
    path = folder / "certificate.json"
    if not path.exists():
        return None
    between = json.loads(path.read_text(encoding="utf-8")).get("between_steps")
    return None if between is None else int(between["frontier"])


class _DifferenceError(Exception):
    """The artifact is not AR."""


# The hash


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
class _Sequence:
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
            raise _DifferenceError(
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
        live: Sequence[_Sequence],
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


@dataclass
class _Run:
    """Runs batches and counts what was compared."""

    most: int
    frontier: int | None
    sequences: int = 0
    steps: int = 0
    tokens: int = 0
    entries: int = 0
    accepted: Counter[int] = field(default_factory=Counter)

    def batch(
        self,
        kind: type[Decoder],
        size: int,
        sampling: Sampling,
        thinking: int | None,
        key: int,
    ) -> None:
        """Run so many sequences together; raise at the first difference."""
        decoder: Decoder = object.__new__(kind)
        live = [
            _Sequence(key + n, [(key * 7 + n * 3 + i * 5) % VOCABULARY for i in range(1 + 2 * n)],
                      sampling, thinking)
            for n in range(size)
        ]  # fmt: skip
        self.sequences += size
        budget = None
        if thinking is not None:
            rows = len(live[-1].prompt) + (self.most + 3) * kind.SCRATCH_ROWS
            limit = ThinkingLimit(thinking, END_THINK_ID)
            budget = ThinkingBudget(limit, size, rows, torch.device("cpu"))
        carries = []
        for slot, sequence in enumerate(live):
            sequence.agrees = len(sequence.prompt) + sequence.key % 3
            batch = HashBatch([sequence], sampling, budget, slot)
            emit = decoder.prefill(batch, torch.tensor([sequence.prompt]))
            self._commit([sequence], emit)
            carries.append(emit.carry)
        trailing = [len(s.prompt) + len(s.emitted) - s.committed for s in live]
        carry = {name: torch.cat([c[name] for c in carries]) for name in carries[0]}
        depth = kind.SCRATCH_ROWS + 2
        number = 0
        while min(len(s.emitted) for s in live) < self.most:
            for place, sequence in enumerate(live):
                ahead = (number + 3 * place) % depth
                sequence.agrees = len(sequence.prompt) + len(sequence.emitted) + ahead
            emit = decoder.step(HashBatch(live, sampling, budget), carry)
            carry = emit.carry
            counts = self._commit(live, emit)
            self.accepted.update(counts)
            number += 1
            self.steps += size
            if min(counts) < 1:
                raise _DifferenceError("a step emitted nothing")
            self._trailing(live, trailing)

    def turns(
        self,
        kind: type[SwitchingDecoder],
        exact: set[str],
        sampling: Sampling,
        thinking: int | None,
        key: int,
    ) -> None:
        """Decode one sequence with another strategy at every step; raise at the first difference.

        The tokens of those that are not `exact` are given, and those after them AR's.
        """
        parts = {name: object.__new__(part) for name, part in kind.PARTS.items()}
        prompt = [(key * 7 + i * 5) % VOCABULARY for i in range(1 + key % 6)]
        sequence = _Sequence(key, prompt, sampling, thinking)
        choose = in_turn(kind.HANDOVERS, tuple(parts))
        name = list(parts)[key % len(parts)]
        budget = None
        if thinking is not None:
            rows = len(prompt) + (self.most + 3) * kind.SCRATCH_ROWS
            budget = ThinkingBudget(ThinkingLimit(thinking, END_THINK_ID), 1, rows, CPU)
        self.sequences += 1
        emit = parts[name].prefill(HashBatch([sequence], sampling, budget), torch.tensor([prompt]))
        self._commit([sequence], emit, given=name not in exact)
        carry = emit.carry
        asked = -1
        while len(sequence.emitted) < self.most:
            text = [*prompt, *sequence.emitted]
            chosen = choose(Progress(0, len(prompt), sequence.emitted, self.steps, name, 1))
            if len(sequence.emitted) > asked and chosen != name:
                asked = len(sequence.emitted)
                handover = kind.HANDOVERS[name := chosen]
                sequence.forget(len(text) - (handover.takes or 0))
                sequence.skips = handover.skips
                fresh = handover.carry_of(text)
                carry = {value: torch.tensor([tokens]) for value, tokens in fresh.items()}
            sequence.agrees = len(text) + (self.steps * 3 + key) % (kind.SCRATCH_ROWS + 2)
            emit = parts[name].step(HashBatch([sequence], sampling, budget), carry)
            carry = emit.carry
            self.accepted.update(self._commit([sequence], emit, given=name not in exact))
            self.steps += 1

    def _trailing(self, live: Sequence[_Sequence], before: list[int]) -> None:
        for sequence, expected in zip(live, before, strict=True):
            found = len(sequence.prompt) + len(sequence.emitted) - sequence.committed
            if found != expected or self.frontier not in (None, found):
                claim = expected if self.frontier is None else self.frontier
                raise _DifferenceError(f"the cache trails the text by {found} tokens, not {claim}")

    def _commit(self, live: Sequence[_Sequence], emit: Emit, *, given: bool = False) -> list[int]:
        """Emit and keep as the session does, and compare both with AR.

        `given` tokens need not be AR's: AR goes on from them.
        """
        width = emit.tokens.shape[1]
        counts = [width] * len(live) if emit.count is None else emit.count.tolist()
        for number, sequence in enumerate(live):
            for token in emit.tokens[number, : counts[number]].tolist():
                place = len(sequence.prompt) + len(sequence.emitted) - sequence.skips
                if given and not sequence.skips:
                    sequence.give(token, place)
                if token != sequence.token(place):
                    right = sequence.token(place)
                    raise _DifferenceError(
                        f"token {token} at position {place}, where AR has {right}"
                    )
                self.tokens += 1
                if sequence.skips:
                    sequence.skips -= 1
                else:
                    sequence.emitted.append(token)
            end = len(sequence.places)
            if emit.keep is not None:
                end = sequence.committed + int(emit.keep[number])
            for place in range(sequence.committed, end):
                self._entry(sequence, place)
            sequence.forget(end)
        return counts

    def _entry(self, sequence: _Sequence, place: int) -> None:
        self.entries += 1
        if sequence.places[place] != place:
            raise _DifferenceError(f"cache entry {place} was computed at {sequence.places[place]}")
        if not torch.equal(sequence.cache[place], sequence.state(place)):
            raise _DifferenceError(f"cache entry {place} is not what AR computes there")

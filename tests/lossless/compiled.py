"""Generated code in memory, on the same model as the reference interpreter, sequence by sequence.

Everything between the model and the choice of a token is the runtime's and the generated code's;
choices and scores are the interpreter's own functions, so that no rounding parts the two.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nldc.interpret import Entry, HeldRows, confidence, score
from nldc.runtime.decoder import Decoder
from nldc.runtime.rows.pattern import visible
from nldc.runtime.rows.plan import flags_of
from nldc.runtime.step.choose import Temperature, without_mask
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.params import Asked, Role, values_of
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Emit, Hidden, Logits, Rows
from tests.lossless.hash_model import HashModel, Input

NUMBERS = count()


def load(files: Mapping[str, str]) -> type[Decoder]:
    """Run an artifact's Python without writing it.

    Raises:
        AssertionError: a module binds a name twice.
    """
    for name, text in files.items():
        if name.endswith(".py"):
            _bound_once(name, text)
    package = f"nldc_in_memory_{next(NUMBERS)}"
    made: dict[str, ModuleType] = {package: ModuleType(package)}
    made[package].__path__ = []
    try:
        for stem in ("patterns", "decode"):
            module = ModuleType(f"{package}.{stem}")
            module.__package__ = package
            made[module.__name__] = module
            sys.modules.update(made)
            exec(compile(files[f"{stem}.py"], f"{stem}.py", "exec"), module.__dict__)
        kind: type[Decoder] = made[f"{package}.decode"].Decoder
        return kind
    finally:
        for name in made:
            sys.modules.pop(name, None)


def _bound_once(name: str, text: str) -> None:
    """Assert that nothing that a module names is overwritten by something else that it names."""
    tree = ast.parse(text)
    for body in (tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))):
        bound: Counter[str] = Counter()
        for node in body:
            if isinstance(node, ast.Assign):
                bound.update(target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound[node.name] += 1
            elif isinstance(node, ast.Import | ast.ImportFrom):
                bound.update(alias.asname or alias.name for alias in node.names)
        twice = [each for each, times in bound.items() if times > 1]
        assert not twice, f"{name} binds {', '.join(twice)} twice"


@dataclass
class Decoded:
    """One sequence: its model, every row that was computed, and which of them the cache holds."""

    given: Input
    model: HashModel
    entries: list[Entry] = field(default_factory=list)
    cache: list[int] = field(default_factory=list)
    latest: range = range(0)
    committed: int = 0
    emitted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    nfe: int = 0

    def history(self) -> list[int]:
        """Return the prompt and what has been emitted."""
        return [*self.given.prompt, *self.emitted]


class ModelBatch(Sequences):
    """A batch for generated code on models of the interpreter's kind."""

    def __init__(self, live: Sequence[Decoded], adapters: Sequence[str]) -> None:
        model = live[0].model
        members = [
            Member(
                slot,
                slot,
                eos=model.eos,
                history=sequence.history,
                params=sequence.given.params,
            )
            for slot, sequence in enumerate(live)
        ]
        super().__init__(Lineup.of(members, model.mask_token_id, torch.device("cpu")))
        self.live = live
        self.loaded = adapters

    def forward(
        self,
        tokens: Tensor,
        layout: Any,
        pattern: Any,
        *,
        adapter: str | None = None,
        adapter_rows: Any = None,
        counted: bool = True,
        active: Tensor | None = None,
        hold: bool = False,
        embeddings: Tensor | None = None,
        states: slice | None = None,
        node: str = "",
    ) -> Hidden:
        """Compute the rows; a row's state is the number of its entry."""
        del embeddings, node
        assert tuple(tokens.shape) == (self.size, layout.size), (tokens.shape, layout.size)
        offsets = layout.offset.tolist()
        flags = flags_of(adapter_rows, layout.size)
        used = adapter if adapter in self.loaded else None
        numbers, positions = [], []
        for number, (sequence, row_tokens) in enumerate(
            zip(self.live, tokens.tolist(), strict=True)
        ):
            length, first = len(sequence.cache), len(sequence.entries)
            cached, own = visible(layout, pattern, length, prompt=len(sequence.given.prompt))
            for row, (old, new) in enumerate(zip(cached.tolist(), own.tolist(), strict=True)):
                sees = [entry for entry, seen in zip(sequence.cache, old, strict=True) if seen]
                sees += [first + key for key, seen in enumerate(new) if seen]
                sequence.entries.append(
                    Entry(
                        row_tokens[row],
                        length + offsets[row],
                        tuple(sees),
                        used if flags[row] else None,
                    )
                )
            if not hold or active is None or bool(active[number]):
                sequence.latest = range(first, first + layout.size)
            numbers.append(torch.arange(first, first + layout.size).unsqueeze(1))
            positions.append(layout.offset + length + layout.predicts_next.to(torch.int64))
        if layout.append:
            self.append(layout.append)
        if counted:
            self.count(active)
        hidden = Hidden(torch.stack(numbers), torch.stack(positions))
        return hidden if states is None else hidden.take(states)

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay."""
        for sequence in self.live:
            sequence.cache += sequence.latest[:rows]

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits that the models give."""
        values = []
        for sequence, rows in zip(self.live, hidden.states.squeeze(-1).tolist(), strict=True):
            known = sequence.model.logits(sequence.entries)
            values.append([known[row] for row in rows])
        return Logits(torch.tensor(values, dtype=torch.float64), hidden.positions)

    def param(self, asked: Asked, role: Role = "score") -> Tensor:
        """Return what sequences bring, in the interpreter's precision."""
        given = [member.params for member in self.members]
        return values_of(asked, role, given, torch.float64, self.device)

    def head_choose(
        self, hidden: Hidden, mask_token: str = "allowed", temperature: Temperature = None
    ) -> Tensor:
        """Choose of the logits of `head`."""
        return self.sample(self.head(hidden), mask_token, temperature)

    def head_choose_scored(self, hidden: Hidden, *names: Any, **how: Any) -> tuple[Tensor, ...]:
        """Choose of the logits of `head`, and score them."""
        return self.sample_scored(self.head(hidden), *names, **how)

    def sample(
        self, logits: Logits, mask_token: str = "allowed", temperature: Temperature = None
    ) -> Tensor:
        """Choose as the interpreter does."""
        chooses = [sequence.model.choose for sequence in self.live]
        if isinstance(temperature, Tensor):
            at = temperature.flatten().tolist()
            chooses = [s.given.at(each) for s, each in zip(self.live, at, strict=True)]
        elif temperature is not None:
            chooses = [sequence.given.at(temperature) for sequence in self.live]
        values = logits.values
        if mask_token == "forbidden":
            values = without_mask(self.lineup.rules, values)
        return torch.tensor(
            [
                [choose(row, at) for row, at in zip(rows, places, strict=True)]
                for choose, rows, places in zip(
                    chooses, values.tolist(), logits.positions.tolist(), strict=True
                )
            ],
            dtype=torch.int64,
        )

    def probability(
        self, logits: Logits, tokens: Tensor, of: str = "raw", mask_token: str = "counted"
    ) -> Tensor:
        """Score as the interpreter does."""
        del of
        return self._score(logits, "probability", mask_token, tokens.tolist())

    def entropy(self, logits: Logits, of: str = "raw", mask_token: str = "counted") -> Tensor:
        """Score as the interpreter does."""
        del of
        return self._score(logits, "entropy", mask_token)

    def margin(self, logits: Logits, of: str = "raw", mask_token: str = "counted") -> Tensor:
        """Score as the interpreter does."""
        del of
        return self._score(logits, "margin", mask_token)

    def safety(self, logits: Logits, rows: Rows, sampler: str) -> Tensor:
        """Score as the interpreter does, which has no sampler."""
        del rows, sampler
        found = [confidence(sequence, HeldRows((), ())) for sequence in logits.values.tolist()]
        return torch.tensor(found, dtype=torch.float64)

    def _score(
        self, logits: Logits, by: str, mask_token: str, tokens: list[list[int]] | None = None
    ) -> Tensor:
        values = logits.values
        if mask_token == "ignored":
            values = without_mask(self.lineup.rules, values)
        found = [
            [
                score(row, by, None if tokens is None else tokens[number][place])
                for place, row in enumerate(rows)
            ]
            for number, rows in enumerate(values.tolist())
        ]
        return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True)
class Ran:
    """What one sequence emitted: tokens up to an end, forwards, and tokens of each step."""

    tokens: tuple[int, ...]
    nfe: int
    accepted: tuple[int, ...]


def run(
    kind: type[Decoder], inputs: Sequence[Input], most: int, step: str = "step",
    adapters: Sequence[str] | None = None,
) -> list[Ran]:  # fmt: skip
    """Decode the prompts together as the session does: who is done leaves the batch.

    They take the step that is named, or those that a route tells them. All know the same ends, as
    all prompts of a call do.

    Raises:
        AssertionError: a step emits nothing, or keeps rows that are not there.
    """
    decoder: Decoder = object.__new__(kind)
    loaded = kind.ADAPTERS if adapters is None else adapters
    assert len({given.eos for given in inputs}) == 1
    everyone = [Decoded(given, given.model()) for given in inputs]
    carries = []
    for sequence in everyone:
        batch = ModelBatch([sequence], loaded)
        emit = decoder.prefill(batch, torch.tensor([sequence.given.prompt]))
        _commit([sequence], batch, emit, 0, cycle=False)
        carries.append(emit.carry)
    carry = {name: torch.cat([c[name] for c in carries]) for name in carries[0]}
    live = everyone
    while True:
        left = [number for number, sequence in enumerate(live) if not _done(sequence, most)]
        if not left:
            break
        live = [live[number] for number in left]
        carry = {name: value[left] for name, value in carry.items()}
        made, order = [], []
        for name, places in _parts(decoder, step, carry, len(live)):
            some = [live[number] for number in places]
            batch = ModelBatch(some, loaded)
            emit = getattr(decoder, name)(batch, {n: value[places] for n, value in carry.items()})
            _commit(some, batch, emit, 1, cycle=True)
            made.append(emit.carry)
            order += places
        back = sorted(range(len(order)), key=order.__getitem__)
        carry = {name: torch.cat([each[name] for each in made])[back] for name in carry}
    return [_cut(sequence, most) for sequence in everyone]


def _parts(
    decoder: Decoder, step: str, carry: Mapping[str, Tensor], size: int
) -> list[tuple[str, list[int]]]:
    """Return which step each sequence takes: the one that is named, or by what it carries."""
    if step != "step" or not decoder.ROUTED_BY:
        return [(step, list(range(size)))]
    parts: dict[str, list[int]] = {}
    for number in range(size):
        told = [int(carry[name][number, 0]) for name in decoder.ROUTED_BY]
        parts.setdefault(decoder.route(size, *told), []).append(number)
    return list(parts.items())


def _done(sequence: Decoded, most: int) -> bool:
    ends = set(sequence.model.eos)
    return len(sequence.emitted) >= most or not ends.isdisjoint(sequence.emitted)


def _cut(sequence: Decoded, most: int) -> Ran:
    kept: list[int] = []
    for token in sequence.emitted[:most]:
        kept.append(token)
        if token in sequence.model.eos:
            break
    return Ran(tuple(kept), sequence.nfe, tuple(sequence.accepted))


def _commit(
    live: Sequence[Decoded], batch: ModelBatch, emit: Emit, least: int, *, cycle: bool
) -> None:
    width = emit.tokens.shape[1]
    counts = [width] * len(live) if emit.count is None else emit.count.tolist()
    assert emit.tokens.shape[0] == len(live) == len(counts)
    keeps = [None] * len(live) if emit.keep is None else emit.keep.tolist()
    paths = None if emit.path is None else emit.path.tolist()
    forwards = batch.forwards().tolist()
    for number, sequence in enumerate(live):
        assert least <= counts[number] <= width, "a step emits nothing"
        sequence.emitted += emit.tokens[number, : counts[number]].tolist()
        if keeps[number] is not None:
            end = sequence.committed + keeps[number]
            if paths is not None:
                path = paths[number][: keeps[number]]
                rows = [sequence.cache[sequence.committed + row] for row in path]
                sequence.cache[sequence.committed : end] = rows
            assert end <= len(sequence.cache), "rows are kept that are not there"
            del sequence.cache[end:]
        sequence.committed = len(sequence.cache)
        sequence.nfe += forwards[number]
        if cycle:
            sequence.accepted.append(counts[number])

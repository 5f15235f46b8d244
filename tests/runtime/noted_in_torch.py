"""What was noted, done by torch, instruction by instruction: what the kernel's programs mean.

Nothing is read on the host, so that a recorder of torch's calls can record it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step.history import History
from nldc.runtime.step.noise import uniform
from nldc.runtime.step.trees import begun, longest_branch, recalled

Place = tuple[Any, ...]
APPLIED: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "mod": operator.mod,
    "div": operator.floordiv, "and": operator.and_, "or": operator.or_, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip


def do(program: Sequence[Any], memory: Sequence[Tensor], slots: Tensor) -> None:
    """See `Between`."""
    run = _Run(memory, slots)
    for op, width, size, *operands in program:
        assert size >= width > size // 2
        run.do(op, width, operands)


class _Run:
    def __init__(self, memory: Sequence[Tensor], slots: Tensor) -> None:
        self.slots = slots
        self.tables = memory
        self.memory = [_flat(each) for each in memory]

    def begin(self, place: Place) -> Tensor:
        number, rows, stride, is_number, blocks, offset, _ = place
        assert self.memory[number].storage_offset() * self.memory[number].itemsize % 16 == 0
        size = len(self.slots)
        lines = [torch.arange(size), self.slots, torch.zeros(size, dtype=torch.int64)][rows]
        apart = self.memory[0][stride] if is_number else stride
        return (blocks * size + offset + lines * apart).unsqueeze(1)

    def read(self, place: Place, width: int) -> Tensor:
        return self.at(place, torch.arange(width) * place[6])

    def at(self, place: Place, rows: Tensor) -> Tensor:
        found = self.memory[place[0]][self.begin(place) + rows]
        return found.to(torch.int64) if found.dtype == torch.bool else found

    def put(self, place: Place, values: Tensor, rows: Tensor | None = None) -> None:
        if rows is None:
            rows = torch.arange(values.shape[-1])
        into = self.memory[place[0]]
        where = self.begin(place) + rows
        into.index_put_((where,), values.to(into.dtype).expand(where.shape))

    def ends(self, eos: Place, count: Place, tokens: Tensor) -> Tensor:
        number = self.at(count, torch.zeros(1, dtype=torch.int64))
        every = torch.arange(4)  # as many as any test has
        ids = self.at(eos, torch.minimum(every, number[:1] - 1))
        return (tokens.unsqueeze(2) == ids.unsqueeze(1)).any(2)

    def do(self, op: str, width: int, given: list[Any]) -> None:
        row = torch.arange(width)
        match op, given:
            case "copy", (to, source):
                self.put(to, self.read(source, width))
            case "where", (to, flags, then, otherwise):
                pair = self.read(then, width), self.read(otherwise, width)
                self.put(to, torch.where(self.read(flags, width) != 0, *pair))
            case "gather", (to, source, places):
                self.put(to, self.at(source, self.read(places, width)))
            case "spread", (to, source, there, here):
                values = self.at(source, self.read(here, width))
                self.put(to, values, self.read(there, width))
            case "chosen", (to, table, count, low, lines):
                line = self.read(count, 1) - low
                self.put(to, self.at(table, line * lines + row))
            case "scatter", (to, source, place):
                self.put(to, self.read(source, width), self.read(place, 1) + row)
            case "accept", (matches, bonus, draft, target):
                equal = self.read(draft, width) == self.read(target, width)
                found = equal.long().cumprod(1).sum(1, keepdim=True)
                self.put(matches, found)
                self.put(bonus, self.at(target, found))
            case "total", (to, flags):
                self.put(to, self.read(flags, width).sum(1, keepdim=True))
            case "any", (to, flags):
                self.put(to, self.read(flags, width).any(1, keepdim=True))
            case "unfinished", (to, tokens, masked, eos, count):
                masks = self.read(masked, width) != 0
                ends = self.ends(eos, count, self.read(tokens, width)) & (masks.cumsum(1) == 0)
                self.put(to, masks.any(1, keepdim=True) & ~ends.any(1, keepdim=True))
            case "after_end", (to, to_masked, tokens, masked, eos, count):
                values, masks = self.read(tokens, width), self.read(masked, width) != 0
                ends = self.ends(eos, count, values) & ~masks
                after = (ends.cumsum(1) > 0) & masks
                first = values.gather(1, ends.int().argmax(1, keepdim=True))
                self.put(to, torch.where(after, first, values))
                self.put(to_masked, masks & ~after)
            case "rank", (to, among, score, less):
                held = self.read(score, width).masked_fill(
                    self.read(among, width) == 0, torch.inf if less else -torch.inf
                )
                order = held.sort(dim=1, descending=not less, stable=True).indices
                self.put(to, order.argsort(1))
            case "sum_before", (to, among, score, rank, room):
                held = self.read(score, width).masked_fill(self.read(among, width) == 0, 0)
                rank = self.read(rank, width)
                in_order = held.gather(1, rank.argsort(1))
                self.put(room, in_order)
                self.put(to, (in_order.cumsum(1) - in_order).gather(1, rank))
            case "lookup", (to, text, count, ngram):
                lines = self.tables[text[0]][self.slots]
                texts = History(lines, self.read(count, 1).squeeze(1))
                self.put(to, texts.continued(width, ngram))
            case "recall", (to, pool, after, room, entry, count):
                tokens, first = self.read(pool, width * entry), self.read(after, 1)
                self.put(room, begun(tokens.view(len(tokens), width, entry), first))
                self.put(to, recalled(tokens, entry, first, count))
            case "branch", (branch, matches, draft, target, table, lines, _):
                rows = self.at(table, torch.arange(lines * width))
                own = Table(torch.arange(lines * width).view(lines, width))
                found = longest_branch(self.at(draft, rows), self.at(target, rows), own)
                self.put(branch, found.branch.unsqueeze(1))
                self.put(matches, found.matches.unsqueeze(1))
            case "noise", (to, positions, key, seed, stream, iteration):
                key, seed, stream, iteration = (
                    self.read(each, 1) for each in (key, seed, stream, iteration)
                )
                rows = self.read(positions, width)
                self.put(to, uniform(seed, key, rows, stream, iteration))
            case _, (to, one, other, as_scores):
                pair = self.read(one, width), self.read(other, width)
                if as_scores:
                    pair = pair[0].float(), pair[1].float()
                self.put(to, APPLIED[op](*pair))


def _flat(memory: Tensor) -> Tensor:
    """Return memory from a tensor's first value on, as one line."""
    room = memory.untyped_storage().nbytes() // memory.itemsize - memory.storage_offset()
    return memory.as_strided((room,), (1,))

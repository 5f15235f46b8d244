"""Values that are noted and not computed yet: what a step does between two calls of the model.

Where the backend has a kernel for it, the small ops of a step launch nothing. Each notes what is to
be done, and returns a `Noted` in place of a tensor. Whoever needs a tensor asks for it by `real`:
all that was noted so far is then done by one launch, in order, a program for each sequence. So a
step's code stays what it is, and between two calls of the model there is one launch.

A `Noted` may stand wherever a tensor may: what is not noted is asked of the tensor. Only int64,
bool and float32 are noted, in lines of [B, n] or [B]; nothing here mixes sequences.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from nldc.runtime.model.backend import Between, Program
from nldc.runtime.rows.table import Table

OWN, SLOT, SHARED = 0, 1, 2
"""Whose line: the sequence's in the batch, its slot's, or the one that all share."""
IDS, FLAGS, SCORES = torch.int64, torch.bool, torch.float32
MAKES = {"accept": 2, "after_end": 2, "branch": 2}
"""Of ops that make more than one line, how many; they are the first operands."""
ALIGNED = 16
"""At a multiple of so many bytes all memory of a launch begins."""


@dataclass(eq=False)
class Block:
    """Memory that notes write: `words` values a sequence, there from the launch on."""

    dtype: torch.dtype
    words: int = 0
    memory: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Line:
    """Where a sequence's values lie: behind `blocks` values a sequence and `offset` more.

    A line is `stride` values behind the one before it; None: as far as the memory's lines are,
    which may be another number in another launch of the same program.
    """

    memory: Block | Tensor
    rows: int
    stride: int | None
    blocks: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Number:
    """A number that the host fixes when it launches."""

    value: int | float


@dataclass(eq=False)
class Notes:
    """What is to be done for the sequences of `slots`, int64 [B].

    `counts` is how long their texts were before the step, where anybody asks for it.
    """

    slots: Tensor
    launch: Between
    counts: Tensor | None = None
    _todo: list[tuple[Any, ...]] = field(default_factory=list)
    _blocks: dict[torch.dtype, Block] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of sequences, B."""
        return len(self.slots)

    @property
    def device(self) -> torch.device:
        """Where all values lie."""
        return self.slots.device

    # Values

    def new(self, dtype: torch.dtype, width: int, *, flat: bool = False) -> Noted:
        """Return [B, width] values, or [B], which have yet to be written."""
        block = self._blocks.setdefault(dtype, Block(dtype))
        line = Line(block, OWN, width, blocks=block.words)
        block.words += width
        return Noted(self, line, dtype, width, flat)

    def known(self, tensor: Tensor) -> Tensor:
        """Return a tensor [B, n] or [B] as one that was noted."""
        found = self.of(tensor)
        return tensor if found is None else as_tensor(found)

    def of(self, value: Tensor | Noted, *, shared: bool = False) -> Noted | None:
        """Return a value as one that was noted; None: it is none that can be.

        `shared`: a tensor [n] is the line of all sequences.
        """
        if isinstance(value, Noted):
            return value
        if value.dtype not in (IDS, FLAGS, SCORES) or not 0 < value.dim() < 3:
            return None
        width = value.shape[-1]
        if value.dim() == 1:
            if shared:
                return Noted(self, Line(value.contiguous(), SHARED, 0), value.dtype, width, False)
            if width != self.size:
                return None
            return Noted(self, Line(value.contiguous(), OWN, 1), value.dtype, 1, True)
        if len(value) != self.size:
            return None
        return Noted(self, Line(value.contiguous(), OWN, width), value.dtype, width, False)

    def line(self, table: Tensor, width: int | None = None) -> Noted:
        """Return the slots' lines of a table, of [slots] or so many columns of [slots, n]."""
        line = Line(table, SLOT, 1 if width is None else None)
        return Noted(self, line, table.dtype, width or 1, width is None)

    def table(self, table: Table) -> Noted:
        """Return the numbers of a table, [n], which all sequences share."""
        numbers = table.on(self.device)
        return Noted(self, Line(numbers, SHARED, 0), IDS, numbers.shape[-1], False)

    # What is to be done

    def do(self, op: str, width: int, *operands: Noted | Number | bool | int) -> None:
        """Note an instruction over so many values; see `kernels/between.py` for what each does."""
        if width:
            self._todo.append((op, width, *operands))

    def copy(self, to: Noted, value: Noted | Number) -> None:
        """Write a line, or a number in all of it."""
        self.do("copy", to.width, to, value)

    def where(self, to: Noted, flags: Noted, then: Noted, otherwise: Noted) -> None:
        """Write `then` where flags hold, and `otherwise` elsewhere."""
        self.do("where", to.width, to, flags, then, otherwise)

    def awaits(self, line: Line) -> bool:
        """Whether what is noted has yet to make a line's values, or to change them."""
        block = line.memory
        if not isinstance(block, Block) or block.memory is None:
            return True
        return any(
            isinstance(each, Noted)
            and each.line.memory is block
            and each.line.blocks == line.blocks
            for op, _, *operands in self._todo
            for each in operands[: MAKES.get(op, 1)]
        )

    def flush(self) -> None:
        """Do all that was noted, by one launch."""
        if not self._todo and not self._blocks:
            return
        todo, self._todo = self._todo, []
        blocks, self._blocks = self._blocks, {}
        for block in blocks.values():
            room = block.words * self.size
            block.memory = torch.empty(room, dtype=block.dtype, device=self.device)
        if todo:
            program, memory = _Encoding(self.device).program(todo)
            self.launch(program, memory, self.slots)


class Noted:
    """Values [B, n], or [B] if `flat`, that may have yet to be computed."""

    def __init__(self, notes: Notes, line: Line, dtype: torch.dtype, width: int, flat: bool):
        self.notes = notes
        self.line = line
        self.dtype = dtype
        self.width = width
        self.flat = flat

    @property
    def tensor(self) -> Tensor:
        """The values, after all that was noted is done, unless that has nothing to do with them.

        It is the memory itself, and no copy. What somebody else computed is there: nothing that is
        noted writes it.
        """
        notes, line = self.notes, self.line
        memory = line.memory
        if line.rows == SLOT or (isinstance(memory, Block) and notes.awaits(line)):
            notes.flush()
        if isinstance(memory, Block):
            assert memory.memory is not None
            assert line.stride is not None
            first = notes.size * line.blocks
            memory = memory.memory[first : first + notes.size * line.stride]
            memory = memory.view(notes.size, line.stride)
        elif line.rows == SLOT:
            memory = memory.index_select(0, notes.slots)
        if memory.dim() == 1:
            return memory if self.flat or line.rows == SHARED else memory.unsqueeze(1)
        if self.flat:
            return memory[:, line.offset]
        return memory[..., line.offset : line.offset + self.width]

    @property
    def shape(self) -> torch.Size:
        """As a tensor's."""
        if self.line.rows == SHARED:
            return torch.Size([self.width])
        return torch.Size([self.notes.size] if self.flat else [self.notes.size, self.width])

    @property
    def device(self) -> torch.device:
        """As a tensor's."""
        return self.notes.device

    def __len__(self) -> int:
        return self.shape[0]

    # Views of the same memory

    def dim(self) -> int:
        """As a tensor's."""
        return len(self.shape)

    def unsqueeze(self, dim: int) -> Any:
        """Return the values of [B] as [B, 1]."""
        if self.flat and dim in (1, -1):
            return Noted(self.notes, self.line, self.dtype, 1, False)
        return self.tensor.unsqueeze(dim)

    def squeeze(self, dim: int) -> Any:
        """Return the values of [B, 1] as [B]."""
        if not self.flat and self.width == 1 and self.line.rows != SHARED and dim in (1, -1):
            return Noted(self.notes, self.line, self.dtype, 1, True)
        return self.tensor.squeeze(dim)

    def __getitem__(self, index: Any) -> Any:
        """Return a run of columns; all else is asked of the tensor."""
        match index:
            case (slice(start=None, stop=None, step=None), slice(step=None) as columns) if (
                not self.flat and self.line.rows != SHARED
            ):
                chosen = range(self.width)[columns]
                line = replace(self.line, offset=self.line.offset + chosen.start)
                return Noted(self.notes, line, self.dtype, len(chosen), False)
        return self.tensor[real(index)]

    def clone(self) -> Noted:
        """Return the values in memory of their own."""
        found = self.notes.new(self.dtype, self.width, flat=self.flat)
        self.notes.copy(found, self)
        return found

    # Operators

    def _applied(self, op: str, other: Any, *, reflected: bool = False) -> Any:
        pair = self._pair(op, other)
        if pair is None:
            one, two = self.tensor, real(other)
            call = getattr(operator, OPERATORS[op])
            return call(two, one) if reflected else call(one, two)
        value, result, as_scores = pair
        width = self.width if isinstance(value, Number) else max(self.width, value.width)
        found = self.notes.new(result, width, flat=self.flat)
        operands = (value, self) if reflected else (self, value)
        self.notes.do(op, width, found, *operands, as_scores)
        return found

    def _pair(self, op: str, other: Any) -> tuple[Noted | Number, torch.dtype, bool] | None:
        """Return the other operand, the dtype of the result, and whether both become scores.

        None: what torch makes of these is not noted.
        """
        value: Noted | Number | None
        if isinstance(other, bool):
            return None
        if isinstance(other, int | float):
            value, kinds = Number(other), {self.dtype, IDS if isinstance(other, int) else SCORES}
        elif isinstance(other, Tensor | Noted):
            value = self.notes.of(other, shared=not self.flat)
            if value is None or value.flat != self.flat:
                return None
            if self.width != value.width and 1 not in (self.width, value.width):
                return None
            kinds = {self.dtype, value.dtype}
        else:
            return None
        as_scores = SCORES in kinds
        if op in COMPARED:
            return value, FLAGS, as_scores
        if op in ("and", "or"):
            return None if as_scores else (value, IDS if IDS in kinds else FLAGS, False)
        if kinds == {FLAGS} or (as_scores and op in ("mod", "div")):
            return None
        return value, SCORES if as_scores else IDS, as_scores

    def __add__(self, other: Any) -> Any:
        return self._applied("add", other)

    def __radd__(self, other: Any) -> Any:
        return self._applied("add", other, reflected=True)

    def __sub__(self, other: Any) -> Any:
        return self._applied("sub", other)

    def __rsub__(self, other: Any) -> Any:
        return self._applied("sub", other, reflected=True)

    def __mul__(self, other: Any) -> Any:
        return self._applied("mul", other)

    def __rmul__(self, other: Any) -> Any:
        return self._applied("mul", other, reflected=True)

    def __mod__(self, other: Any) -> Any:
        return self._applied("mod", other)

    def __floordiv__(self, other: Any) -> Any:
        return self._applied("div", other)

    def __truediv__(self, other: Any) -> Any:
        return self.tensor / real(other)

    def __rtruediv__(self, other: Any) -> Any:
        return real(other) / self.tensor

    def __neg__(self) -> Any:
        return -self.tensor if self.dtype == FLAGS else self._applied("sub", 0, reflected=True)

    def __and__(self, other: Any) -> Any:
        return self._applied("and", other)

    def __rand__(self, other: Any) -> Any:
        return self._applied("and", other, reflected=True)

    def __or__(self, other: Any) -> Any:
        return self._applied("or", other)

    def __ror__(self, other: Any) -> Any:
        return self._applied("or", other, reflected=True)

    def __iand__(self, other: Any) -> Noted:
        """Keep the flags that hold in `other` too, where they lie."""
        value = self.notes.of(other)
        assert value is not None
        assert isinstance(self.line.memory, Block)
        self.notes.do("and", self.width, self, self, value, False)
        return self

    def __invert__(self) -> Any:
        return self._applied("eq", 0) if self.dtype == FLAGS else ~self.tensor

    def __lt__(self, other: Any) -> Any:
        return self._applied("lt", other)

    def __le__(self, other: Any) -> Any:
        return self._applied("le", other)

    def __gt__(self, other: Any) -> Any:
        return self._applied("gt", other)

    def __ge__(self, other: Any) -> Any:
        return self._applied("ge", other)

    def __eq__(self, other: object) -> Any:
        return self._applied("eq", other)

    def __ne__(self, other: object) -> Any:
        return self._applied("ne", other)

    def __hash__(self) -> int:
        return id(self)

    # All else is asked of the tensor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor, name)

    @classmethod
    def __torch_function__(
        cls, call: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let torch have tensors."""
        return call(*real(args), **real(kwargs or {}))


OPERATORS = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "mod": "mod",
    "div": "floordiv",
    "and": "and_",
    "or": "or_",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "eq": "eq",
    "ne": "ne",
}
"""The functions of Python's operators, by their names in a program."""
COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")


def real(value: Any) -> Any:
    """Return tensors for values that were noted, in lists, tuples and mappings too."""
    if isinstance(value, Noted):
        return value.tensor
    if type(value) in (list, tuple):
        return type(value)(real(each) for each in value)
    if type(value) is dict:
        return {name: real(each) for name, each in value.items()}
    return value


def as_tensor(value: Any) -> Tensor:
    """Say that a value that was noted stands where a tensor may."""
    return cast(Tensor, value)


def known(notes: Notes | None, values: Tensor) -> Tensor:
    """Return what the model or torch came to as ops take it, which are noted or are not."""
    return values if notes is None else notes.known(values)


def notes_of(*values: Any) -> Notes | None:
    """Return where such values are noted, if any of them is."""
    for value in values:
        if isinstance(value, Noted):
            return value.notes
    return None


@cache
def _numbers(values: tuple[int | float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on a device; they stay, since what was captured reads them where they lie."""
    return torch.tensor(values, dtype=dtype, device=device)


class _Encoding:
    """Turns what is to be done into a program and the memory that it is about.

    Whatever may differ between two launches of one program lies in memory: numbers of the host are
    the first, and floats among them one of their own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[int, int] = {}
        self._tensors: list[Tensor | None] = [None]
        self._numbers: dict[torch.dtype, list[int | float]] = {IDS: [], SCORES: []}
        self._floats: int | None = None

    def program(self, todo: Sequence[tuple[Any, ...]]) -> tuple[Program, list[Tensor]]:
        """Return the program and its memory, in order."""
        program = tuple(
            (op, width, 1 << (width - 1).bit_length(), *map(self._operand, operands))
            for op, width, *operands in todo
        )
        self._tensors[0] = self._there(IDS)
        if self._floats is not None:
            self._tensors[self._floats] = self._there(SCORES)
        return program, [each for each in self._tensors if each is not None]

    def _there(self, dtype: torch.dtype) -> Tensor:
        return _numbers(tuple(self._numbers[dtype]) or (0,), dtype, self._device)

    def _operand(self, operand: Noted | Number | bool | int) -> Any:
        if isinstance(operand, Number):
            return self._number(operand.value)
        if not isinstance(operand, Noted):
            return operand
        line = operand.line
        memory = self._memory_of(line)
        stride, is_number = line.stride, False
        if stride is None:
            assert isinstance(line.memory, Tensor)
            stride, is_number = self._noted(IDS, line.memory.stride(0)), True
        step = 1 if operand.width > 1 else 0  # one value may go with many
        return (memory, line.rows, stride, is_number, line.blocks, line.offset, step)

    def _number(self, value: int | float) -> tuple[Any, ...]:
        if isinstance(value, int):
            return (0, SHARED, 0, False, 0, self._noted(IDS, value), 0)
        if self._floats is None:
            self._floats = len(self._tensors)
            self._tensors.append(None)
        return (self._floats, SHARED, 0, False, 0, self._noted(SCORES, value), 0)

    def _noted(self, dtype: torch.dtype, value: int | float) -> int:
        self._numbers[dtype].append(value)
        return len(self._numbers[dtype]) - 1

    def _memory_of(self, line: Line) -> int:
        """Return the number of a line's memory; what all share has one for each time it is used, as
        whether two constants of a strategy are one tensor is no matter of a program.
        """
        memory = line.memory
        if line.rows == SHARED or id(memory) not in self._memory:
            tensor = memory.memory if isinstance(memory, Block) else memory
            assert tensor is not None
            if tensor.data_ptr() % ALIGNED:
                tensor = tensor.clone()
            self._memory[id(memory)] = len(self._tensors)
            self._tensors.append(tensor)
        return self._memory[id(memory)]

"""The tables of a program: numbers of rows, one constant for each that differs by value."""

from __future__ import annotations

from collections.abc import Sequence

from nldc.codegen.names import Scope
from nldc.codegen.program import Numbers, Run, Table
from nldc.ir.size import Size


class Tables:
    """Tables, which grow as values ask for them."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._known: dict[object, Table] = {}

    def of(self, wanted: str, lines: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> str:
        """Return the name of the table of these numbers, or of these lines of them."""
        if lines not in self._known:
            name = self._scope.allot(wanted.replace(".", "_").upper())
            self._known[lines] = Table(name, lines)
        return self._known[lines].name

    def rows(self, wanted: str, numbers: Sequence[int]) -> Run | Numbers:
        """Return these rows: a run where they follow one another, else those of a table."""
        start, stop = (numbers[0], numbers[-1] + 1) if numbers else (0, 0)
        if list(numbers) == list(range(start, stop)):
            return Run(Size(start), Size(stop))
        return Numbers(self.of(wanted, tuple(numbers)))

    @property
    def all(self) -> tuple[Table, ...]:
        """The tables, in order of first use."""
        return tuple(self._known.values())

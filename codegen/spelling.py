"""How values are written in the generated loop: names, fields, and choices of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nldc.codegen.compact import fit, show_affine, show_list
from nldc.codegen.plan import LayoutPlan, Plan
from nldc.diagnostics import InternalError
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import Accept, Mix, Node, Value
from nldc.ir.picks import picked
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Count, Logits, RowMask, Rows, Tokens, Type, accepted_fields


@dataclass
class Spelling:
    """How the values of one graph are written; grows tables that the module has to define.

    `names` are the Python names of nodes, `heads` logits that were computed once for several uses,
    `tables` constants with their text, in order.
    """

    plan: Plan
    graph: Graph
    names: dict[str, str] = field(default_factory=dict)
    heads: dict[Value, str] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)

    def value(self, value: Value) -> str:
        """Return a use of a value; logits are written by `logits`."""
        text = "prompt" if value.node == PROMPT else self.names[value.node]
        if value.field is not None:
            text += f".{value.field}"
        if not value.picks:
            return text
        base = self._type(value)
        if isinstance(base, Rows) and value.field is None:
            text += ".tokens"
        layout = base.layout if isinstance(base, Rows) else plain(_size(base))
        if layout.dynamic:
            start, stop = self._prompt_run(value, layout, lambda rows, _prompt: rows)
            return f"{text}[:, {start}:{stop}]"
        return self._rows_of(text, value, self._table(value, layout, None))

    def tokens(self, value: Value) -> str:
        """Return the token ids of a use of tokens or rows."""
        is_rows = isinstance(self._type(value), Rows) and not value.picks
        return f"{self.value(value)}.tokens" if is_rows else self.value(value)

    def _rows_of(self, text: str, value: Value, table: dict[int, tuple[int, ...]]) -> str:
        if value.count is None:
            return f"{text}[:, {index_of(table[0], bare=True)}]"
        return f"ops.gather_rows({text}, {self._gather(value, table)})"

    def hidden(self, value: Value) -> str:
        """Return the states of some rows of a forward, before the head."""
        layout = self.plan.layouts[value.node]
        text = self.names[value.node]
        if layout.dynamic:
            return f"{text}.take({self._prompt_rows(value, layout)})"
        table = self._table(value, layout.forward.layout, layout)
        if value.count is None:
            places = table[0]
            if places == tuple(range(layout.size.fixed)):
                return text
            return f"{text}.take({index_of(places)})"
        return f"{text}.gather({self._gather(value, table)})"

    def _prompt_rows(self, value: Value, layout: LayoutPlan) -> str:
        start, stop = self._prompt_run(value, layout.forward.layout, layout.places)
        return f"slice({start}, {stop})"

    def _prompt_run(
        self,
        value: Value,
        layout: Layout,
        computed: Callable[[tuple[int, ...], int], tuple[int, ...]],
    ) -> tuple[str, str]:
        """Return the bounds, as Python, of a choice among rows that depend on the prompt."""

        def places(prompt: int) -> tuple[int, ...]:
            kinds = self.plan.graph.kinds
            return computed(picked(layout.rows(prompt), value.picks, kinds, {}), prompt)

        if value.count is not None:
            raise InternalError("a count cannot choose rows of the prefill")
        first, size = fit(lambda p: places(p)[0]), fit(lambda p: len(places(p)))
        for prompt in (1, 2, 7):
            start = first.at(prompt)
            if places(prompt) != tuple(range(start, start + size.at(prompt))):
                raise InternalError("rows of the prefill that do not follow one another")
        start_text = in_length(show_affine(first))
        return start_text, in_length(show_affine(first + size))

    def _table(
        self, value: Value, layout: Layout, computed: LayoutPlan | None
    ) -> dict[int, tuple[int, ...]]:
        """Return the chosen rows for each count; without a count, the key is 0."""
        rows = layout.rows()
        kinds = self.plan.graph.kinds
        counts: list[int] = [0]
        if value.count is not None:
            count = self._type(value.count)
            if not isinstance(count, Count):
                raise InternalError("rows chosen by what is no count")
            counts = list(range(count.low, count.high + 1))
        table: dict[int, tuple[int, ...]] = {}
        for count_value in counts:
            others = {} if value.count_name is None else {value.count_name: count_value}
            chosen = picked(rows, value.picks, kinds, others)
            table[count_value] = computed.places(chosen) if computed else chosen
        return table

    def _gather(self, value: Value, table: Mapping[int, tuple[int, ...]]) -> str:
        assert value.count is not None
        low = min(table)
        rows = [list(table[count]) for count in sorted(table)]
        text = _affine_table(rows)
        name = f"{value.node.replace('.', '_')}_by_count".upper()
        known = {table for table, _ in self.tables}
        name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 99))) if n not in known)
        self.tables.append((name, f"tensor({text})"))
        return f"ops.choose_rows({name}, {self.value(value.count)}, low={low})"

    def logits(self, value: Value) -> str:
        """Return the logits of some rows of a forward or a mix."""
        if value in self.heads:
            return self.heads[value]
        if isinstance(self.graph.node(value.node).op, Mix):
            text = self.names[value.node]
            if not value.picks:
                return text
            layout = self._logits_layout(value)
            table = self._table(value, layout, None)
            if value.count is None:
                return f"{text}.take({index_of(table[0])})"
            return f"{text}.gather({self._gather(value, table)})"
        return f"batch.head({self.hidden(value)})"

    def _logits_layout(self, value: Value) -> Layout:
        type_ = self._type(value)
        if not isinstance(type_, Logits):
            raise InternalError(f"{value.node} is no logits")
        return type_.layout

    def _type(self, value: Value) -> Type:
        if value.node == PROMPT:
            return Tokens(Size(0, 1))
        if value.node.startswith("carry."):
            carried = {c.name: c.type for c in self.graph.carry}
            type_: Type = carried[value.node.removeprefix("carry.")]
        else:
            type_ = self.graph.node(value.node.split(":")[0]).type
        if value.field is not None:
            return _field(type_, value.field)
        return type_

    def ragged_count(self, value: Value) -> str | None:
        """Return how many of the tokens count in each sequence, or None if all do."""
        if value.field not in ("tokens", "drafted"):
            return None
        accept = self.graph.node(value.node).op if "." in value.node else None
        if not isinstance(accept, Accept):
            return None
        name = self.names[value.node]
        whole = value.field == "tokens" or accept.offset == 1
        return f"{name}.rows" if whole else f"{name}.matches"


def _field(type_: Type, name: str) -> Type:
    if isinstance(type_, Accepted):
        return accepted_fields(type_)[name]
    if isinstance(type_, Rows):
        return Tokens(type_.size) if name == "tokens" else RowMask(type_.size)
    raise InternalError(f"{type_} has no field {name}")


def _size(type_: Type) -> Size:
    size = getattr(type_, "size", None)
    if not isinstance(size, Size):
        raise InternalError(f"{type_} has no rows")
    return size


def index_of(places: tuple[int, ...], bare: bool = False) -> str:
    """Print the numbers of rows: a slice where they follow one another (`bare`: for brackets)."""
    start, stop = places[0], places[-1] + 1
    if places == tuple(range(start, stop)):
        return f"{start}:{stop}" if bare else f"slice({start}, {stop})"
    return show_list(places)


def in_length(text: str) -> str:
    """Return text about the prompt's length as `prefill` names it."""
    return text.replace("prompt", "length")


def _affine_table(rows: list[list[int]]) -> str:
    """Print rows that rise evenly with the count as a comprehension, others as they are."""
    if len(rows) > 1:
        step = rows[1][0] - rows[0][0]
        first = rows[0]
        if all(
            row == [x + step * n for x in first] for n, row in enumerate(rows)
        ) and first == list(range(first[0], first[0] + len(first))):
            begin = f"{first[0]} + {step} * n" if step else str(first[0])
            return f"[[*range({begin}, {begin} + {len(first)})] for n in range({len(rows)})]"
    return f"[{', '.join(show_list(row) for row in rows)}]"


def flags(text: str) -> str:
    """Print a list of 0 and 1 as one of False and True."""
    text = text.replace("[0]", "[False]").replace("[1]", "[True]")
    if re.fullmatch(r"\[(True|False)\] \* [^\[]*(\+ \[(True|False)\] \* [^\[]*)?", text):
        return text
    return f"[flag == 1 for flag in {text.replace('[False]', '[0]').replace('[True]', '[1]')}]"


def place_of(node: Node) -> str:
    """Return where a node stands in the file, for a comment."""
    return f"line {node.span.start_line}"

"""How values are written in the generated loop: names, fields, and choices of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from nldc.codegen.compact import show_affine, show_list
from nldc.codegen.plan import Plan
from nldc.codegen.values import chosen, layout_of, type_of
from nldc.ir.graph import Graph
from nldc.ir.ops import Accept, Mix, Node, Value
from nldc.ir.picks import prompt_runs
from nldc.ir.scope import PROMPT
from nldc.ir.types import Rows


@dataclass
class Spelling:
    """How the values of one graph are written; grows tables that the module has to define.

    `names` are the Python names of nodes in the method that is printed, `rows` those of the layouts
    that it holds in a variable; `heads` logits that were computed once for several uses; `tables`
    constants with their text, in order.
    """

    plan: Plan
    graph: Graph
    names: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    heads: dict[Value, str] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)

    def value(self, value: Value) -> str:
        """Return a use of a value; logits are written by `logits`."""
        text = "prompt" if value.node == PROMPT else self.names[value.node]
        if value.field is not None:
            text += f".{value.field}"
        if not value.picks:
            return text
        if isinstance(type_of(self.graph, value), Rows):
            text += ".tokens"
        if layout_of(self.graph, value).dynamic:
            bounds = self._prompt_rows(value)
            return f"{text}[:, {bounds[0] if len(bounds) == 1 else _listed(bounds)}]"
        table = chosen(self.graph, value)
        if value.count is None:
            return f"{text}[:, {index_of(table[0], bare=True)}]"
        return f"ops.gather_rows({text}, {self._gather(value, table)})"

    def tokens(self, value: Value) -> str:
        """Return the token ids of a use of tokens or rows."""
        is_rows = isinstance(type_of(self.graph, value), Rows) and not value.picks
        return f"{self.value(value)}.tokens" if is_rows else self.value(value)

    def hidden(self, value: Value) -> str:
        """Return the states of some rows of a forward, before the head."""
        layout = self.plan.layouts[value.node]
        text = self.names[value.node]
        if layout.dynamic:
            if not value.picks and layout.in_file_order:
                return text
            bounds = self._prompt_rows(value)
            if not layout.in_file_order:
                return f"{text}.take({self.rows[value.node]}.places({_listed(bounds)}))"
            return f"{text}.take({_sliced(bounds)})"
        table = {n: layout.places(rows) for n, rows in chosen(self.graph, value).items()}
        if value.count is None:
            places = table[0]
            if places == tuple(range(layout.size.fixed)):
                return text
            return f"{text}.take({index_of(places)})"
        return f"{text}.gather({self._gather(value, table)})"

    def logits(self, value: Value) -> str:
        """Return the logits of some rows of a forward or a mix."""
        if value in self.heads:
            return self.heads[value]
        if not isinstance(self.graph.node(value.node).op, Mix):
            return f"batch.head({self.hidden(value)})"
        text = self.names[value.node]
        if not value.picks:
            return text
        if layout_of(self.graph, value).dynamic:
            return f"{text}.take({_sliced(self._prompt_rows(value))})"
        table = chosen(self.graph, value)
        if value.count is None:
            return f"{text}.take({index_of(table[0])})"
        return f"{text}.gather({self._gather(value, table)})"

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

    def _prompt_rows(self, value: Value) -> list[str]:
        """Return the bounds, `start:stop`, of the runs that are chosen of a prompt's rows."""
        runs = prompt_runs(layout_of(self.graph, value), value.picks, self.plan.graph.kinds)
        return [
            f"{show_affine(start, 'length')}:{show_affine(start + count, 'length')}"
            for start, count in runs
        ]

    def _gather(self, value: Value, table: Mapping[int, tuple[int, ...]]) -> str:
        assert value.count is not None
        text = _affine_table([list(table[count]) for count in sorted(table)])
        name = self.plan.scope.allot(f"{value.node.replace('.', '_')}_by_count".upper())
        self.tables.append((name, f"Table.of({text})"))
        return f"ops.choose_rows({name}, {self.value(value.count)}, low={min(table)})"


def _sliced(bounds: list[str]) -> str:
    """Print runs of rows as an argument."""
    return f"slice({bounds[0].replace(':', ', ')})" if len(bounds) == 1 else _listed(bounds)


def _listed(bounds: list[str]) -> str:
    """Print runs of rows as a list of their numbers."""
    return f"[{', '.join('*range({})'.format(b.replace(':', ', ')) for b in bounds)}]"


def index_of(places: tuple[int, ...], bare: bool = False) -> str:
    """Print the numbers of rows: a slice where they follow one another (`bare`: for brackets)."""
    start, stop = (places[0], places[-1] + 1) if places else (0, 0)
    if places == tuple(range(start, stop)):
        return f"{start}:{stop}" if bare else f"slice({start}, {stop})"
    return show_list(places)


def _affine_table(rows: list[list[int]]) -> str:
    """Print rows that rise evenly with the count as a comprehension, others as they are."""
    if len(rows) > 1 and rows[0]:
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

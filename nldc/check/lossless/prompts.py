"""The prompt lengths at which the prefill is traced, which decide it for all lengths.

That the rows of its forwards are alike at every length is decided in `alike.py`. What is left are
choices of rows, by number: counted from the start, from the end, or by remainders.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from nldc.expr import Binary, Expr, Number, Selector, children
from nldc.ir.graph import Graph, uses, walk
from nldc.ir.ops import At, Between, Select, Where
from nldc.ir.picks import PROBES
from nldc.ir.types import RowMask

MOST = 64
"""The longest prompt that is traced."""


def prompt_lengths(graph: Graph) -> tuple[int, ...] | None:
    """Return the lengths at which the prefill has to be traced; None if they would be too long.

    A row that is counted from the start and one that is counted from the end lie apart, and both
    apart from a row that nothing names, in a prompt of more tokens than the numbers in all choices
    and twice their period. In a longer one there are only more rows that nothing names.
    """
    constants, period = 0, 1
    for expr in _expressions(graph):
        constants += sum(abs(number) for number in _numbers(expr))
        period = lcm(period, *_divisors(expr))
    most = 2 * (constants + period) + PROBES[-1]
    if most > MOST:
        return None
    return tuple(range(1, most + 1))


def _expressions(graph: Graph) -> Iterator[Expr]:
    """Yield what chooses among rows whose number depends on the prompt."""
    dynamic = {n.name for n in walk(graph.prefill.nodes) if getattr(n.type, "size", None)}
    dynamic = {
        node.name
        for node in walk(graph.prefill.nodes)
        if node.name in dynamic and getattr(node.type, "size").prompts  # noqa: B009
    }
    for node in walk(graph.prefill.nodes):
        op = node.op
        if isinstance(op, Select) and isinstance(node.type, RowMask) and node.name in dynamic:
            yield from (rule for rule in (op.where,) if rule is not None)
        for value in uses(op):
            if value.node.startswith("prefill.") and value.node.split(":")[0] not in dynamic:
                continue
            for pick in value.picks:
                match pick:
                    case Where(expr) | At(expr):
                        yield expr
                    case Between(start, stop):
                        yield from (bound for bound in (start, stop) if bound is not None)


def _divisors(expr: Expr | Selector) -> Iterator[int]:
    if isinstance(expr, Binary) and expr.op in ("//", "%") and isinstance(expr.right, Number):
        yield abs(int(expr.right.value)) or 1
    for part in children(expr):
        yield from _divisors(part)


def _numbers(expr: Expr | Selector) -> Iterator[int]:
    if isinstance(expr, Number):
        yield int(expr.value)
    for part in children(expr):
        yield from _numbers(part)

"""Numbers that a kernel could not hold: refused, because it would go on with others, silently.

The interpreter refuses a value beyond 32 bits when it meets it, torch computes in 64 bits, Triton
in 32. So that all of them say the same, no value may get so large in any context that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from nldc.check.lossless.places import node_span
from nldc.diagnostics import Diagnostic, Label, Span
from nldc.expr import Binary, Compare, Expr, Number, Ref, children, references
from nldc.ir.facts import LONGEST_CONTEXT
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward, Node, Repeat, Select
from nldc.ir.ranges import Range, TooLargeError, UndecidedError, evaluate_range
from nldc.source import Source

CODE = "NLD037"
MOST_DIVISOR = 2**30
"""A remainder is printed as `(a % b + b) % b`, so twice the divisor has to fit."""

Bounds = Mapping[str, Range]


def bounds(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Refuse what is asked when a step runs and may come to more than 32 bits hold."""
    rounds = {
        inner.name: node.op.at_most
        for node in graph.nodes
        if isinstance(node.op, Repeat)
        for inner in node.op.body.nodes
    }
    brought = {name: each.range for name, each in graph.runtime.items()}
    for node in graph.nodes:
        for key, expr, known in _asked(node, rounds.get(node.name, 0)):
            if _may_be_large(expr, {**known, **brought}):
                yield _diagnostic(node_span(node.name, source, key))
    counts = {name: Range(type_.low, type_.high) for name, type_ in graph.counts.items()}
    known = {"live": Range(0, LONGEST_CONTEXT), **counts}
    for step in graph.steps:
        if step.when is not None and _may_be_large(step.when, known):
            yield _diagnostic(source.span(("route", step.name)))


def _asked(node: Node, rounds: int) -> Iterator[tuple[str, Expr, Bounds]]:
    """Yield what a node asks when it runs: the key, the expression, and the bounds of its names."""
    op = node.op
    if isinstance(op, Forward):
        rows = LONGEST_CONTEXT if op.layout.dynamic else op.layout.size.at(0)
        numbers = dict.fromkeys(("row", "index", "group", "kind"), Range(-1, rows))
        known = {f"{side}.{name}": found for side in "qk" for name, found in numbers.items()}
        known["q.position"] = Range(0, 2 * rows)
        known["k.position"] = Range(-LONGEST_CONTEXT, 2 * rows)
        known |= dict.fromkeys(("k.prefix", "k.prompt"), Range(0, 1))
        yield "attention", op.attention.predicate, known
    elif isinstance(op, Select):
        size = getattr(node.type, "size", None)
        rows = size.at(LONGEST_CONTEXT) if size is not None else LONGEST_CONTEXT
        known = dict.fromkeys(("row", "rank", "left"), Range(0, rows))
        known["iteration"] = Range(0, rounds)
        for key, rule in (("best", op.best), ("always", op.always_best), ("where", op.where)):
            if rule is not None:
                yield key, rule, known


def _may_be_large(expr: Expr, known: Bounds) -> bool:
    """Whether a number in the expression may be; what is compared with scores is left aside."""
    if isinstance(expr, Compare) and any(ref.root == "score" for ref in references(expr)):
        return False
    parts = [part for part in children(expr) if isinstance(part, Expr)]
    if not isinstance(expr, Binary):
        return any(_may_be_large(part, known) for part in parts)
    by = expr.right
    if expr.op in ("//", "%") and isinstance(by, Number) and abs(by.value) > MOST_DIVISOR:
        return True
    try:
        evaluate_range(expr, _lookup(known))
    except TooLargeError:
        return True
    except UndecidedError:
        return any(_may_be_large(part, known) for part in parts)
    return False


def _lookup(known: Bounds) -> Callable[[Ref], Range | None]:
    def lookup(ref: Ref) -> Range | None:
        found = known.get(ref.dotted or "")
        if found is None and ref.dotted == ref.root:
            return Range(-1, LONGEST_CONTEXT)  # a label
        return found

    return lookup


def _diagnostic(span: Span) -> Diagnostic:
    label = Label(span, "a number in this may be too large")
    help_text = "keep what is computed below 2**31 for rows and positions up to 2**24"
    return Diagnostic(CODE, "error", "a kernel computes in 32 bits", (label,), (help_text,))

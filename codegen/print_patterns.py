"""Print patterns.py: each attention predicate in torch, and the patterns that name them."""

from __future__ import annotations

from nldc.codegen.predicate import print_predicate
from nldc.codegen.program import Pattern, Program
from nldc.codegen.writer import Writer, commented, quoted


def print_patterns(program: Program) -> str:
    """Return the source of patterns.py."""
    out = Writer()
    out.line('"""Which key rows a query row sees: the predicates of the strategy, in torch."""')
    out.line()
    out.line("from __future__ import annotations")
    out.line()
    out.line("from typing import Any")
    out.line()
    out.line("from torch import Tensor")
    out.line()
    out.line("from nldc.runtime import Pattern, RowFacts")
    for pattern in program.patterns:
        _pattern(out, pattern)
    return out.text()


def _pattern(out: Writer, pattern: Pattern) -> None:
    origin = pattern.origin
    out.line()
    out.line()
    out.line(f"def {pattern.function}(q: RowFacts, k: RowFacts) -> Tensor:")
    with out.indent():
        out.docstring(f"{origin.node}, line {origin.line}: {commented(pattern.text)}")
        print_predicate(out, pattern.predicate, ".")
    out.line()
    out.line()
    out.line(f"def {pattern.loader}() -> Any:")
    with out.indent():
        out.line('"""Load the same predicate for Triton, when a kernel first needs it."""')
        out.line(f"from .{pattern.kernel} import sees")
        out.line()
        out.line("return sees")
    out.line()
    out.line()
    arguments = [
        f"name={quoted(pattern.name.lower())}",
        f"mask={pattern.function}",
        f"kernel={pattern.loader}",
        f"sees_prefix={pattern.sees_prefix}",
    ]
    if pattern.looks_back:
        arguments.append("looks_back=True")
    out.assign(pattern.name, "Pattern", arguments)

"""Print patterns.py: each attention predicate in torch, and the patterns that name them."""

from __future__ import annotations

from nldc.codegen.predicate import print_predicate
from nldc.codegen.program import Pattern, Program
from nldc.codegen.writer import Line, Writer, commented, quoted, text_of


def print_patterns(program: Program) -> str:
    """Return the source of patterns.py."""
    return text_of(pattern_lines(program))


def pattern_lines(program: Program) -> list[Line]:
    """Return the lines of patterns.py, each with the node that it was printed for."""
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
        with out.of([pattern.origin.node]):
            _pattern(out, pattern)
    return out.lines


def _pattern(out: Writer, pattern: Pattern) -> None:
    origin = pattern.origin
    out.line()
    out.line()
    out.line(f"def {pattern.function}(q: RowFacts, k: RowFacts) -> Tensor:")
    with out.indent():
        out.docstring(f"{commented(origin.shown)}: {commented(pattern.text)}")
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
    arguments += [
        f"{name}=True" for name in ("looks_back", "asks_prompt") if getattr(pattern, name)
    ]
    out.assign(pattern.name, "Pattern", arguments)

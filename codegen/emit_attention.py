"""Print patterns.py and kernels.py: each attention predicate, once for torch and once for Triton.

Both texts are printed from the one tree that the file's predicate was parsed to, with params and
labels already folded in.
"""

from __future__ import annotations

from collections.abc import Callable

from nldc.codegen.plan import PatternPlan, Plan
from nldc.codegen.writer import Writer, commented, quoted
from nldc.diagnostics import InternalError
from nldc.expr import And, Boolean, Compare, Not, Or, Ref, show, to_python
from nldc.runtime.abi import PREDICATE_ARGUMENTS


def patterns_of(plan: Plan) -> tuple[PatternPlan, ...]:
    """Return the different patterns of a plan, in order of first use."""
    return tuple(dict.fromkeys(plan.patterns.values()))


def emit_patterns(plan: Plan) -> str:
    """Return the source of patterns.py: masks in torch, and the patterns that name them."""
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
    for pattern in patterns_of(plan):
        out.line()
        out.line()
        out.line(f"def {pattern.function}(q: RowFacts, k: RowFacts) -> Tensor:")
        with out.indent():
            out.docstring(_origin(pattern))
            _returns(out, pattern, ".")
        out.line()
        out.line()
        out.line(f"def {pattern.loader}() -> Any:")
        with out.indent():
            out.line('"""Load the same predicate for Triton, when a kernel first needs it."""')
            out.line(f"from .kernels import {pattern.function}")
            out.line()
            out.line(f"return {pattern.function}")
        out.line()
        out.line()
        out.assign(
            pattern.name,
            "Pattern",
            [
                f"name={quoted(pattern.name.lower())}",
                f"mask={pattern.function}",
                f"kernel={pattern.loader}",
                f"sees_prefix={pattern.sees_prefix}",
            ],
        )
    return out.text()


def emit_kernels(plan: Plan) -> str:
    """Return the source of kernels.py: the same predicates, inlined into Triton's attention."""
    out = Writer()
    out.line('"""The predicates of the strategy, inlined by Triton into the attention kernel."""')
    out.line()
    out.line("import triton")
    # Triton's interpreter looks for its language in the module of each function.
    out.line("import triton.language as tl  # noqa: F401")
    for pattern in patterns_of(plan):
        out.line()
        out.line()
        out.line("@triton.jit")
        out.line(f"def {pattern.function}(")
        with out.indent():
            for argument in PREDICATE_ARGUMENTS:
                out.line(f"{argument},")
        out.line("):")
        with out.indent():
            out.docstring(_origin(pattern))
            _returns(out, pattern, "_")
    return out.text()


def _origin(pattern: PatternPlan) -> str:
    text = commented(show(pattern.predicate))
    return f"{pattern.origin.name}, line {pattern.origin.span.start_line}: {text}"


def _returns(out: Writer, pattern: PatternPlan, dot: str) -> None:
    predicate = pattern.predicate
    if isinstance(predicate, Boolean):
        # Tensors on both sides, because a bare True has no shape to broadcast.
        equal = "==" if predicate.value else "!="
        out.line(f"return (q{dot}row {equal} q{dot}row) & (k{dot}row {equal} k{dot}row)")
        return
    text = to_python(predicate, _renamed(pattern, dot))
    if len(text) <= 85 or not isinstance(predicate, (Or, And)):
        out.line(f"return {text}")
        return
    sign = "|" if isinstance(predicate, Or) else "&"
    out.line("return (")
    with out.indent():
        for number, term in enumerate(predicate.terms):
            part = to_python(term, _renamed(pattern, dot))
            part = f"({part})" if isinstance(term, (Or, And, Compare, Not)) else part
            out.line(f"{sign} {part}" if number else part)
    out.line(")")


def _renamed(pattern: PatternPlan, dot: str) -> Callable[[Ref], str]:
    def rename(ref: Ref) -> str:
        match ref.parts:
            case ("q" | "k" as side, fact):
                return f"{side}{dot}{fact}"
            case (label,) if label in pattern.kinds:
                return str(pattern.kinds.index(label))
        raise InternalError(f"`{ref.root}` in the predicate of {pattern.name}")

    return rename

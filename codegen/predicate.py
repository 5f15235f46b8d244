"""Print an attention predicate, for torch and for Triton alike, from the one tree of it."""

from __future__ import annotations

from collections.abc import Callable

from nldc.codegen.writer import Writer
from nldc.diagnostics import InternalError
from nldc.expr import And, Boolean, Compare, Expr, Not, Or, Ref, to_python


def print_predicate(out: Writer, predicate: Expr, dot: str) -> None:
    """Print the body of a predicate's function; `dot` stands between a row and its fact."""
    if isinstance(predicate, Boolean):
        # Tensors on both sides, because a bare True has no shape to broadcast.
        equal = "==" if predicate.value else "!="
        out.line(f"return (q{dot}row {equal} q{dot}row) & (k{dot}row {equal} k{dot}row)")
        return
    rename = _renamed(dot)
    text = to_python(predicate, rename)
    if len(text) <= 85 or not isinstance(predicate, (Or, And)):
        out.line(f"return {text}")
        return
    sign = "|" if isinstance(predicate, Or) else "&"
    out.line("return (")
    with out.indent():
        for number, term in enumerate(predicate.terms):
            part = to_python(term, rename)
            part = f"({part})" if isinstance(term, (Or, And, Compare, Not)) else part
            out.line(f"{sign} {part}" if number else part)
    out.line(")")


def _renamed(dot: str) -> Callable[[Ref], str]:
    def rename(ref: Ref) -> str:
        match ref.parts:
            case ("q" | "k" as side, fact):
                return f"{side}{dot}{fact}"
        raise InternalError(f"`{ref.root}` in a predicate")

    return rename

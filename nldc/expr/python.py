"""Tree to the Python that torch and Triton run, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nldc.expr.folding import fold
from nldc.expr.printing import precedence, show
from nldc.expr.tree import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Not,
    Number,
    Or,
    Ref,
    Unary,
)


def to_python(expr: Expr, rename: Callable[[Ref], str] | Mapping[str, str]) -> str:
    """Print the expression as Python over torch tensors or Triton values, element by element.

    `rename` gives the Python name of each Ref, from a mapping by its text or by a function.
    `and`, `or`, `not` become `&`, `|` and `== 0`, which are right for tensors and for Python's own
    booleans alike (`~True` is -2). `//` and `%` round down, also where the language they run in
    rounds towards zero, as Triton does. Raises ExprError for a name that `rename` does not know
    and for a divisor that is not a constant, because a kernel cannot refuse a zero.
    """
    return _python(fold(expr, lambda _: None), rename)


def _python(expr: Expr, rename: Callable[[Ref], str] | Mapping[str, str]) -> str:
    def operand(part: Expr) -> str:
        text = _python(part, rename)
        return text if precedence(part) >= 7 else f"({text})"

    match expr:
        case Number(value) | Boolean(value):
            return repr(value)
        case Ref():
            name = rename.get(show(expr)) if isinstance(rename, Mapping) else rename(expr)
            if name is None:
                raise ExprError(f"`{show(expr)}` has no value here", expr.start, expr.end)
            return name
        case Unary(_, inner):
            return f"-{operand(inner)}"
        case Binary("//" | "%", left, right):
            if not isinstance(right, Number) or right.value == 0:
                raise ExprError(
                    f"the divisor `{show(right)}` is not a constant other than 0",
                    right.start,
                    right.end,
                )
            by = operand(right)
            remainder = f"({operand(left)} % {by} + {by}) % {by}"
            return remainder if expr.op == "%" else f"({operand(left)} - {remainder}) // {by}"
        case Binary(op, left, right):
            return f"{operand(left)} {op} {operand(right)}"
        case Compare(op, left, right):
            return f"{operand(left)} {op} {operand(right)}"
        case Not(inner):
            return f"{operand(inner)} == 0"
        case And(terms):
            return " & ".join(operand(term) for term in terms)
        case Or(terms):
            return " | ".join(operand(term) for term in terms)

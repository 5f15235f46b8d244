"""Tree to text, with as few parentheses as the grammar allows."""

from __future__ import annotations

from nldc.expr.tree import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    Field,
    Item,
    Not,
    Number,
    Or,
    Ref,
    Selector,
    Slice,
    Unary,
)

_PRECEDENCE = {"+": 5, "-": 5, "*": 6, "//": 6, "%": 6}


def precedence(expr: Expr) -> int:
    """Return how tightly a node binds: a part that binds less needs parentheses."""
    match expr:
        case Or():
            return 1
        case And():
            return 2
        case Not():
            return 3
        case Compare():
            return 4
        case Binary(op):
            return _PRECEDENCE[op]
        case Unary():
            return 7
        case Number(value):
            return 7 if value < 0 else 8
        case _:
            return 8


def show(expr: Expr | Selector) -> str:
    """Print an expression with the fewest parentheses; `parse(show(e)) == e`."""

    def within(part: Expr, least: int) -> str:
        text = show(part)
        return text if precedence(part) >= least else f"({text})"

    match expr:
        case Number(value):
            return repr(value)
        case Boolean(value):
            return "true" if value else "false"
        case Ref(root, selectors):
            return root + "".join(show(selector) for selector in selectors)
        case Field(name):
            return f".{name}"
        case Item(index):
            return f"[{show(index)}]"
        case Slice(lower, upper):
            return (
                f"[{'' if lower is None else show(lower)}:{'' if upper is None else show(upper)}]"
            )
        case Unary(_, Number(value)) if value >= 0:
            return f"-({value!r})"
        case Unary(_, operand):
            return f"-{within(operand, 7)}"
        case Binary(op, left, right):
            least = _PRECEDENCE[op]
            return f"{within(left, least)} {op} {within(right, least + 1)}"
        case Compare(op, left, right):
            return f"{within(left, 5)} {op} {within(right, 5)}"
        case Not(operand):
            return f"not {within(operand, 3)}"
        case And(terms):
            return " and ".join(within(term, 3) for term in terms)
        case Or(terms):
            return " or ".join(within(term, 2) for term in terms)

"""What an expression is worth: its kind, and its value where every name has one."""

from __future__ import annotations

import math
from collections.abc import Callable

from nldc.expr.printing import show
from nldc.expr.tree import (
    MAX_INTEGER,
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Kind,
    Lookup,
    Not,
    Number,
    Or,
    Ref,
    Unary,
    Value,
    children,
    references,
)

LABELS = "a kind of rows is only compared with another, by `==` or `!=`: `kind == draft`"
_WHAT = {
    "int": "an integer",
    "float": "a real number",
    "bool": "a condition",
    "label": "a kind of rows",
}


def lookup(env: Lookup, ref: Ref) -> Value | None:
    """Return the value of a name, or None if it has none."""
    return env(ref) if callable(env) else env.get(show(ref))


def kind_of(expr: Expr, kinds: Callable[[Ref], Kind]) -> Kind:
    """Return whether the expression is an int, a float, a bool or the label of a kind of rows.

    Labels are equal or not, and nothing else. Raises ExprError at the operand that does not fit its
    operator.
    """

    def need(part: Expr, *wanted: Kind, by: str) -> Kind:
        found = kind_of(part, kinds)
        if found not in wanted:
            expected = "a condition" if wanted == ("bool",) else "a number"
            if wanted == ("int",):
                expected = "an integer"
            if wanted == ("label",):
                expected = "a kind of rows"
            has_label = "label" in (found, *wanted)
            raise ExprError(
                f"`{by}` needs {expected}, and `{show(part)}` is {_WHAT[found]}",
                part.start,
                part.end,
                LABELS if has_label else None,
            )
        return found

    match expr:
        case Number(value):
            return "int" if isinstance(value, int) else "float"
        case Boolean():
            return "bool"
        case Ref():
            return kinds(expr)
        case Unary(op, operand):
            return need(operand, "int", "float", by=op)
        case Binary(op, left, right):
            wanted: tuple[Kind, ...] = ("int",) if op in ("//", "%") else ("int", "float")
            sides = [need(side, *wanted, by=op) for side in (left, right)]
            return "float" if "float" in sides else "int"
        case Compare("==" | "!=", left, right) if kind_of(left, kinds) == "bool":
            need(right, "bool", by=expr.op)
            return "bool"
        case Compare("==" | "!=", left, right) if "label" in (
            kind_of(left, kinds),
            kind_of(right, kinds),
        ):
            for side in (left, right):
                need(side, "label", by=expr.op)
            return "bool"
        case Compare(op, left, right):
            for side in (left, right):
                need(side, "int", "float", by=op)
            return "bool"
        case Not(operand):
            return need(operand, "bool", by="not")
        case And(terms) | Or(terms):
            for term in terms:
                need(term, "bool", by="and" if isinstance(expr, And) else "or")
            return "bool"


def real_part(expr: Expr, kinds: Callable[[Ref], Kind], beside: str | None = None) -> Expr | None:
    """Return the first number in the expression that is not whole, or None.

    Whole numbers have the same value wherever they are computed; real ones are rounded as the
    machine at hand rounds them, so that a condition on them may hold on one and not on another.
    In a comparison that names `beside` (a value that is a real number itself) they are let pass.
    """
    match expr:
        case Number() | Ref():
            return expr if kind_of(expr, kinds) == "float" else None
        case Compare() if beside is not None and any(r.root == beside for r in references(expr)):
            return None
        case _:
            parts = (part for part in children(expr) if isinstance(part, Expr))
            found = (real_part(part, kinds, beside) for part in parts)
            return next((part for part in found if part is not None), None)


def evaluate(expr: Expr, env: Lookup) -> Value:
    """Return the value of the expression.

    `env` gives the value of a name: a mapping from its text, or a function of the Ref. `and` and
    `or` stop at the first term that decides. Raises ExprError for a name without a value, an
    operand of the wrong kind, a division by zero, and a result beyond `MAX_INTEGER`.
    """
    match expr:
        case Number(value) | Boolean(value):
            return value
        case Ref():
            found = lookup(env, expr)
            if found is None:
                raise ExprError(f"`{show(expr)}` has no value here", expr.start, expr.end)
            return found
        case Unary(op, operand):
            return _bounded(-_number(operand, env, op), expr)
        case Binary(op, left, right):
            return _arithmetic(expr, _number(left, env, op), _number(right, env, op))
        case Compare(op, left, right):
            return _compared(expr, evaluate(left, env), evaluate(right, env))
        case Not(operand):
            return not _condition(operand, env, "not")
        case And(terms):
            return all(_condition(term, env, "and") for term in terms)
        case Or(terms):
            return any(_condition(term, env, "or") for term in terms)


def _number(expr: Expr, env: Lookup, op: str) -> int | float:
    value = evaluate(expr, env)
    if isinstance(value, bool):
        message = f"`{op}` needs a number, and `{show(expr)}` is a condition"
        raise ExprError(message, expr.start, expr.end)
    return value


def _condition(expr: Expr, env: Lookup, op: str) -> bool:
    value = evaluate(expr, env)
    if not isinstance(value, bool):
        message = f"`{op}` needs a condition, and `{show(expr)}` is a number"
        raise ExprError(message, expr.start, expr.end)
    return value


def _bounded(value: int | float, expr: Expr) -> int | float:
    is_large = abs(value) > MAX_INTEGER if isinstance(value, int) else not math.isfinite(value)
    if is_large:
        raise ExprError(f"the value of `{show(expr)}` is too large", expr.start, expr.end)
    return value


def _arithmetic(expr: Binary, left: int | float, right: int | float) -> int | float:
    match expr.op:
        case "+":
            return _bounded(left + right, expr)
        case "-":
            return _bounded(left - right, expr)
        case "*":
            return _bounded(left * right, expr)
        case "//" | "%":
            for value, side in ((left, expr.left), (right, expr.right)):
                if not isinstance(value, int):
                    message = f"`{expr.op}` needs an integer, and `{show(side)}` is {value!r}"
                    raise ExprError(message, side.start, side.end)
            if right == 0:
                raise ExprError(
                    f"`{show(expr.right)}` is 0: division by zero", expr.right.start, expr.right.end
                )
            return _bounded(left // right if expr.op == "//" else left % right, expr)


def _compared(expr: Compare, left: Value, right: Value) -> bool:
    is_order = expr.op not in ("==", "!=")
    for value, side, other in ((left, expr.left, right), (right, expr.right, left)):
        if isinstance(value, bool) and (is_order or not isinstance(other, bool)):
            message = f"`{expr.op}` needs a number, and `{show(side)}` is a condition"
            raise ExprError(message, side.start, side.end)
    match expr.op:
        case "==":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right

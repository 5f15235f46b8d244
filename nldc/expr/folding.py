"""Compute what is constant, once the values of some names are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from nldc.expr.meaning import evaluate, lookup
from nldc.expr.tree import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Field,
    Item,
    Lookup,
    Node,
    Not,
    Number,
    Or,
    Ref,
    Selector,
    Slice,
    Unary,
    Value,
    children,
)

_OPPOSITE: dict[str, Literal["==", "!=", "<", "<=", ">", ">="]] = {
    "==": "!=",
    "!=": "==",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
}


def fold(expr: Expr, env: Lookup) -> Expr:
    """Replace the names that `env` knows and compute what is constant.

    Wherever `evaluate(expr, e)` has a value, `evaluate(fold(expr, e'), e)` has the same, for any
    e' that is part of e. What would fail (a division by zero) is left to fail later.
    """
    match expr:
        case Number() | Boolean():
            return expr
        case Ref():
            return _fold_reference(expr, env)
        case Unary(_, operand):
            inner = fold(operand, env)
            if isinstance(inner, Unary):
                return inner.operand
            return _computed(replace(expr, operand=inner))
        case Binary(_, left, right):
            return _fold_arithmetic(replace(expr, left=fold(left, env), right=fold(right, env)))
        case Compare(_, left, right):
            return _fold_comparison(replace(expr, left=fold(left, env), right=fold(right, env)))
        case Not(operand):
            return negated(fold(operand, env), expr)
        case And(terms):
            return _fold_terms(expr, [fold(term, env) for term in terms], neutral=True)
        case Or(terms):
            return _fold_terms(expr, [fold(term, env) for term in terms], neutral=False)


def _constant(value: Value, at: Node) -> Number | Boolean:
    if isinstance(value, bool):
        return Boolean(value, start=at.start, end=at.end)
    return Number(value, start=at.start, end=at.end)


def _computed(expr: Unary | Binary | Compare) -> Expr:
    if not all(isinstance(part, Number | Boolean) for part in children(expr)):
        return expr
    try:
        return _constant(evaluate(expr, {}), expr)
    except ExprError:
        return expr


def _fold_reference(ref: Ref, env: Lookup) -> Expr:
    value = lookup(env, ref)
    if value is not None:
        return _constant(value, ref)

    def folded(selector: Selector) -> Selector:
        match selector:
            case Field():
                return selector
            case Item(index):
                return replace(selector, index=fold(index, env))
            case Slice(lower, upper):
                return replace(
                    selector,
                    lower=None if lower is None else fold(lower, env),
                    upper=None if upper is None else fold(upper, env),
                )

    return replace(ref, selectors=tuple(folded(selector) for selector in ref.selectors))


def _is(expr: Expr, value: int) -> bool:
    return isinstance(expr, Number) and isinstance(expr.value, int) and expr.value == value


def _fold_arithmetic(expr: Binary) -> Expr:
    left, right = expr.left, expr.right
    if expr.op in ("+", "-") and _is(right, 0):
        return left
    if expr.op == "+" and _is(left, 0):
        return right
    if expr.op in ("*", "//") and _is(right, 1):
        return left
    if expr.op == "*" and _is(left, 1):
        return right
    return _computed(expr)


def _fold_comparison(expr: Compare) -> Expr:
    for constant, other in ((expr.left, expr.right), (expr.right, expr.left)):
        if isinstance(constant, Boolean) and expr.op in ("==", "!="):
            is_kept = constant.value == (expr.op == "==")
            return other if is_kept else negated(other, expr)
    return _computed(expr)


def negated(expr: Expr, at: Node) -> Expr:
    """Return the opposite of a condition, without a `not` where there is a plainer form."""
    match expr:
        case Boolean(value):
            return Boolean(not value, start=at.start, end=at.end)
        case Not(operand):
            return operand
        case Compare(op, left, right):
            return Compare(_OPPOSITE[op], left, right, start=at.start, end=at.end)
        case _:
            return Not(expr, start=at.start, end=at.end)


def _fold_terms(expr: And | Or, terms: list[Expr], *, neutral: bool) -> Expr:
    kept: list[Expr] = []
    for term in terms:
        if isinstance(term, Boolean):
            if term.value is not neutral:
                return Boolean(not neutral, start=expr.start, end=expr.end)
            continue
        for part in term.terms if type(term) is type(expr) else (term,):
            if part not in kept:
                kept.append(part)
    if not kept:
        return Boolean(neutral, start=expr.start, end=expr.end)
    return kept[0] if len(kept) == 1 else replace(expr, terms=tuple(kept))

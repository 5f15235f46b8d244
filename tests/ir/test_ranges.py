"""Ranges of predicates hold every value that the language's own evaluation gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nldc.expr import Expr, ExprError, Ref, evaluate, parse
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

NAMES = ("a", "b")


@st.composite
def numbers(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([*NAMES, "0", "1", "2", "5"]))
    left, right = draw(numbers(depth - 1)), draw(numbers(depth - 1))
    op = draw(st.sampled_from(["+", "-", "*", "//", "%"]))
    return f"({left} {op} {right})"


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    if depth == 0 or draw(st.booleans()):
        op = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
        return f"({draw(numbers(2))} {op} {draw(numbers(2))})"
    if draw(st.booleans()):
        return f"(not {draw(conditions(depth - 1))})"
    op = draw(st.sampled_from(["and", "or"]))
    return f"({draw(conditions(depth - 1))} {op} {draw(conditions(depth - 1))})"


def value(expr: Expr, a: int, b: int) -> int | None:
    try:
        return int(evaluate(expr, {"a": a, "b": b}))
    except ExprError:
        return None


def ranged(expr: Expr, a: Range, b: Range) -> Range | None:
    def lookup(ref: Ref) -> Range | None:
        return {"a": a, "b": b}.get(ref.root)

    try:
        return evaluate_range(expr, lookup)
    except UndecidedError:
        return None


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(conditions(), numbers()), st.integers(-9, 9), st.integers(-9, 9))
def test_a_point_has_exactly_its_value(text: str, a: int, b: int) -> None:
    expr = parse(text)
    found = ranged(expr, Range.exactly(a), Range.exactly(b))
    expected = value(expr, a, b)
    if found is not None and expected is not None:
        assert int(found.low) == int(found.high) == expected


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.one_of(conditions(), numbers()),
    st.integers(-9, 9), st.integers(0, 6), st.integers(-9, 9), st.integers(0, 6),
)  # fmt: skip
def test_a_range_holds_the_value_of_every_point_in_it(
    text: str, a: int, wide: int, b: int, high: int
) -> None:
    expr = parse(text)
    found = ranged(expr, Range(a, a + wide), Range(b, b + high))
    if found is None:
        return
    for x in range(a, a + wide + 1):
        for y in range(b, b + high + 1):
            exact = value(expr, x, y)
            assert exact is None or int(found.low) <= exact <= int(found.high)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(conditions(), st.integers(-5, 5))
def test_arrays_are_evaluated_like_their_elements(text: str, b: int) -> None:
    expr = parse(text)
    points = np.arange(-6, 7)
    found = ranged(expr, Range.exactly(points), Range.exactly(b))
    if found is None:
        return
    low = np.broadcast_to(found.low, points.shape)
    for place, a in enumerate(points):
        exact = value(expr, int(a), b)
        assert exact is None or int(low[place]) == exact


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a < 0", True),
        ("a <= b", True),
        ("a > b - 1000", False),
        ("a != 0 - 7", False),
        ("a % 2 == 0 or a % 2 == 1", False),  # true, and not seen to be: the prover is cautious
        ("a % 4 < 4", True),
        ("a // 8 <= 0 - 1", True),
        ("not (a >= 0)", True),
    ],
)
def test_a_prefix_of_any_length_is_decided_at_once(text: str, whole: bool) -> None:
    found = ranged(parse(text), Range(-(2**30), -1), Range.exactly(3))
    assert found is not None
    assert bool(found.low) == whole


def test_a_divisor_that_may_be_zero_is_not_decided() -> None:
    assert ranged(parse("4 // a > 0"), Range(-2, 2), Range.exactly(0)) is None


def test_a_number_that_may_be_too_large_is_not_decided() -> None:
    assert ranged(parse("a * a * a > 0"), Range(-(2**30), -1), Range.exactly(0)) is None

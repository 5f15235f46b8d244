"""The expression language: text to tree and back, values, folding, and Python for tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nldc import expr as ex
from nldc.expr import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Field,
    Item,
    Kind,
    Not,
    Number,
    Or,
    Ref,
    Slice,
    Unary,
    evaluate,
    fold,
    kind_of,
    parse,
    references,
    show,
    to_python,
)

INTEGERS = ("a", "b", "q.kind")
CONDITIONS = ("p", "k.prefix")


def reference(text: str) -> Ref:
    found = parse(text)
    assert isinstance(found, Ref)
    return found


integers = st.recursive(
    st.one_of(st.integers(-40, 40).map(Number), st.sampled_from(INTEGERS).map(reference)),
    lambda inner: st.one_of(
        st.builds(Binary, st.sampled_from(["+", "-", "*"]), inner, inner),
        st.builds(Unary, st.just("-"), inner),
        st.builds(
            Binary,
            st.sampled_from(["//", "%"]),
            inner,
            st.integers(-7, 7).filter(bool).map(Number),
        ),
    ),
    max_leaves=6,
)
comparisons = st.builds(
    Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), integers, integers
)
conditions = st.recursive(
    st.one_of(comparisons, st.booleans().map(Boolean), st.sampled_from(CONDITIONS).map(reference)),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Compare, st.sampled_from(["==", "!="]), inner, inner),
    ),
    max_leaves=6,
)
selectors = st.lists(
    st.one_of(
        st.sampled_from(["rows", "tokens", "mask"]).map(Field),
        st.one_of(integers, conditions).map(Item),
        st.builds(Slice, st.none() | integers, st.none() | integers),
    ),
    max_size=3,
).map(tuple)
selections = st.builds(Ref, st.sampled_from(["kept", "$prompt"]), selectors)
expressions = st.one_of(integers, conditions, selections)
environments = st.fixed_dictionaries(
    {
        **dict.fromkeys(INTEGERS, st.integers(-9, 9)),
        **dict.fromkeys(CONDITIONS, st.booleans()),
    }
)


@given(expressions)
def test_what_is_shown_parses_to_the_same_tree(tree: Expr) -> None:
    text = show(tree)
    assume(len(text) <= ex.MAX_LENGTH)
    assert parse(text) == tree


@given(
    st.one_of(integers, conditions), environments, st.sets(st.sampled_from(INTEGERS + CONDITIONS))
)
def test_folding_what_is_known_keeps_the_value(
    tree: Expr, env: dict[str, int | bool], known: set[str]
) -> None:
    try:
        value = evaluate(tree, env)
    except ExprError:
        assume(False)
    folded = fold(tree, {name: env[name] for name in known})
    assert {show(ref) for ref in references(folded)}.isdisjoint(known)
    assert evaluate(folded, env) == value
    assert fold(folded, {}) == folded


@given(st.one_of(integers, conditions), environments)
def test_the_kind_of_an_expression_is_the_kind_of_its_value(
    tree: Expr, env: dict[str, int | bool]
) -> None:
    try:
        value = evaluate(tree, env)
    except ExprError:
        assume(False)
    assert kind_of(tree, kinds) == type(value).__name__


def kinds(ref: Ref) -> Kind:
    return "bool" if ref.dotted in CONDITIONS else "int"


def python_name(ref: Ref) -> str:
    return "_".join(ref.parts)


@given(st.one_of(integers, conditions), st.lists(environments, min_size=1, max_size=4))
def test_python_over_tensors_agrees_with_evaluate_in_every_element(
    tree: Expr, rows: list[dict[str, int | bool]]
) -> None:
    try:
        expected = [evaluate(tree, row) for row in rows]
    except ExprError:
        assume(False)
    columns: dict[str, Any] = {
        name.replace(".", "_"): torch.tensor([row[name] for row in rows]) for name in rows[0]
    }
    code = to_python(tree, python_name)
    assert "~" not in code
    found = torch.as_tensor(eval(code, {}, columns)).expand(len(rows)).tolist()
    assert found == expected


@given(conditions, environments)
def test_python_over_plain_booleans_agrees_with_evaluate(
    tree: Expr, env: dict[str, int | bool]
) -> None:
    try:
        expected = evaluate(tree, env)
    except ExprError:
        assume(False)
    names = {name.replace(".", "_"): value for name, value in env.items()}
    assert eval(to_python(tree, python_name), {}, names) is expected


def divide_towards_zero(text: str, env: dict[str, int]) -> int:
    """Evaluate Python text as a language would whose // and % round towards zero."""

    class Number(int):
        def __floordiv__(self, other: int) -> Number:
            return Number(int(self / other))

        def __mod__(self, other: int) -> Number:
            return Number(int(self) - int(self / other) * int(other))

        def __add__(self, other: int) -> Number:
            return Number(int(self) + int(other))

        def __sub__(self, other: int) -> Number:
            return Number(int(self) - int(other))

    return int(eval(text, {}, {name: Number(value) for name, value in env.items()}))


@pytest.mark.parametrize("op", ["//", "%"])
@pytest.mark.parametrize("divisor", [-7, -1, 1, 3])
@pytest.mark.parametrize("value", [-8, -7, -1, 0, 5, 21])
def test_division_rounds_down_also_where_the_kernel_language_rounds_towards_zero(
    op: str, divisor: int, value: int
) -> None:
    tree = parse(f"a {op} {divisor}")
    expected = evaluate(tree, {"a": value})
    assert divide_towards_zero(to_python(tree, {"a": "a"}), {"a": value}) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1+2*3", "1 + 2 * 3"),
        ("(1+2)*3", "(1 + 2) * 3"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a-b)-c", "a - b - c"),
        ("not (a == b) and c < d", "not a == b and c < d"),
        ("not(p and q) or r", "not (p and q) or r"),
        ("p and (q or r)", "p and (q or r)"),
        ("-a*b", "-a * b"),
        ("-(a*b)", "-(a * b)"),
        ("- 3", "-3"),
        ("-(3)", "-(3)"),
        ("both.mask[group==kept.rows-1]", "both.mask[group == kept.rows - 1]"),
        ("x[:]", "x[:]"),
        ("x[1:n-1].tokens", "x[1:n - 1].tokens"),
        ("$prompt[-1]", "$prompt[-1]"),
        ("1e-3", "0.001"),
        ("true or p", "true or p"),
    ],
)
def test_shown_text_has_the_fewest_parentheses(text: str, shown: str) -> None:
    assert show(parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "message", "start", "end"),
    [
        ("", "expected a name or a number, found the end", 0, 0),
        ("a +", "expected a name or a number, found the end", 3, 3),
        ("a b", "expected an operator or the end, found `b`", 2, 3),
        ("(a", "expected `)` to close the `(`, found the end", 2, 2),
        ("a[1", "expected `]` to close the `[`, found the end", 3, 3),
        ("a[]", "expected a name or a number, found `]`", 2, 3),
        ("a / b", "unexpected `/`", 2, 3),
        ("a = b", "unexpected `=`", 2, 3),
        ("a && b", "unexpected `&`", 2, 3),
        ("a == 'draft'", "unexpected `'`", 5, 6),
        ("len(a)", "`len` cannot be called: there are no functions here", 0, 4),
        ("a.b.c(1)", "`a` cannot be called: there are no functions here", 0, 6),
        ("_a", "unexpected `_`", 0, 1),
        ("a._b", "unexpected `_`", 2, 3),
        ("a.1", "expected a name after the point, found `1`", 2, 3),
        ("0 < a < 3", "comparisons do not chain", 6, 7),
        ("007", "an integer starts with a digit other than 0", 0, 3),
        ("2147483648", "the integer is larger than 2147483647", 0, 10),
        ("9" * 1500, "the integer is larger than 2147483647", 0, 1500),
        ("1e999", "the number is too large", 0, 5),
        ("a\x00", "unexpected '\\x00'", 1, 2),
        ("and", "expected a name or a number, found `and`", 0, 3),
        ("+1", "expected a name or a number, found `+`", 0, 1),
        ("٣", "unexpected `٣`", 0, 1),
    ],
)
def test_a_mistake_is_reported_at_its_characters(
    text: str, message: str, start: int, end: int
) -> None:
    with pytest.raises(ExprError) as caught:
        parse(text)
    assert (caught.value.message, caught.value.start, caught.value.end) == (message, start, end)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2001,
        "(" * 500 + "a" + ")" * 500,
        "-" * 1000 + "a",
        "not " * 400 + "a",
        "a[" * 300 + "b" + "]" * 300,
        "a+" * 900 + "a",
        "a.b" + ".c" * 900,
        "p and " * 300 + "p",
    ],
)
def test_no_text_is_too_long_deep_or_wide_to_refuse(text: str) -> None:
    with pytest.raises(ExprError):
        parse(text)


@given(st.text(alphabet="abq$._ ()[]:+-*/%<>=!019eornt\n", max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        tree = parse(text)
    except ExprError as error:
        places = (0, error.start, error.end, len(text))
    else:
        places = (0,)
        assert parse(show(tree)) == tree
    assert list(places) == sorted(places)


def test_nodes_know_their_characters() -> None:
    text = "k.prefix or (k.kind == draft and -a[1:] < 2)"
    tree = parse(text)
    assert isinstance(tree, Or)
    assert [text[term.start : term.end] for term in tree.terms] == [
        "k.prefix",
        "(k.kind == draft and -a[1:] < 2)",
    ]
    assert [text[ref.start : ref.end] for ref in references(tree)] == [
        "k.prefix",
        "k.kind",
        "draft",
        "a[1:]",
    ]


def test_references_include_those_inside_selectors() -> None:
    refs = references(parse("both.mask[group == kept.rows - 1][: n]"))
    assert [show(ref) for ref in refs] == [
        "both.mask[group == kept.rows - 1][:n]",
        "group",
        "kept.rows",
        "n",
    ]
    assert refs[0].parts == ("both", "mask")
    assert refs[0].dotted is None
    assert refs[2].dotted == "kept.rows"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a // b", "`b` is 0: division by zero"),
        ("a % 0", "`0` is 0: division by zero"),
        ("a * 2000000000", "the value of `a * 2000000000` is too large"),
        ("2000000000 + 2000000000", "the value of `2000000000 + 2000000000` is too large"),
        ("1e308 * 10.0", "the value of `1e+308 * 10.0` is too large"),
        ("missing + 1", "`missing` has no value here"),
        ("p + 1", "`+` needs a number, and `p` is a condition"),
        ("a and p", "`and` needs a condition, and `a` is a number"),
        ("p < p", "`<` needs a number, and `p` is a condition"),
        ("p == a", "`==` needs a number, and `p` is a condition"),
        ("1.5 // 2", "`//` needs an integer, and `1.5` is 1.5"),
        ("not a", "`not` needs a condition, and `a` is a number"),
    ],
)
def test_what_has_no_value_is_an_error_with_a_place(text: str, message: str) -> None:
    with pytest.raises(ExprError) as caught:
        evaluate(parse(text), {"a": 2, "b": 0, "p": True})
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a and p", "`and` needs a condition, and `a` is an integer"),
        ("1.5 // a", "`//` needs an integer, and `1.5` is a real number"),
        ("p + 1", "`+` needs a number, and `p` is a condition"),
        ("a == p", "`==` needs a number, and `p` is a condition"),
        ("p == a", "`==` needs a condition, and `a` is an integer"),
    ],
)
def test_an_operand_of_the_wrong_kind_is_found_without_values(text: str, message: str) -> None:
    def kind(ref: Ref) -> Kind:
        return "bool" if ref.root == "p" else "int"

    with pytest.raises(ExprError) as caught:
        kind_of(parse(text), kind)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("k.prefix or k.row <= q.row", "true"),
        ("not k.prefix", "false"),
        ("k.prefix == false", "false"),
        ("q.kind == k.kind", "q.kind == k.kind"),
        ("not (q.row < 3)", "q.row >= 3"),
        ("n - 1", "3"),
        ("x + 0", "x"),
        ("x[n - 1 : n]", "x[3:4]"),
        ("4 // (n - 4)", "4 // 0"),
        ("not (p and q.row < n)", "not (p and q.row < 4)"),
    ],
)
def test_folding_leaves_the_plainest_form(text: str, folded: str) -> None:
    assert show(fold(parse(text), {"k.prefix": True, "n": 4})) == folded


def test_a_divisor_that_is_no_constant_is_refused_in_code() -> None:
    with pytest.raises(ExprError, match="not a constant other than 0"):
        to_python(parse("a % b"), {"a": "a", "b": "b"})


def test_the_attention_predicate_of_the_quadratic_layout_prints_as_readable_python() -> None:
    tree = parse(
        "k.prefix or (k.kind == draft and k.group <= q.group)"
        " or (q.kind == mask and k.group == q.group)"
    )
    code = to_python(fold(tree, {"draft": 0, "mask": 1}), python_name)
    assert code == (
        "k_prefix | ((k_kind == 0) & (k_group <= q_group)) | ((q_kind == 1) & (k_group == q_group))"
    )

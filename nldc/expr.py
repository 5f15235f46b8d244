"""The expression language: sizes, positions, selections, and predicates over rows.

Text is parsed once to a frozen tree; from that tree come its value, its folded form and the
Python that torch and Triton run. There are no calls, loops or strings, and every bound (length,
depth, nodes, magnitude) is checked while parsing, so no text can cost more than a moment.

    or < and < not < == != < <= > >= < + - < * // % < unary - < name.field[selector]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

MAX_LENGTH = 2000
MAX_DEPTH = 32
MAX_NODES = 256
MAX_INTEGER = 2**31 - 1
"""The largest integer that may be written or computed: what a kernel's int32 can hold."""

Value: TypeAlias = int | float | bool
Kind: TypeAlias = Literal["int", "float", "bool"]

_KEYWORDS = ("and", "or", "not", "true", "false")


class ExprError(Exception):
    """A mistake in an expression, at the characters `start` to `end` of its text."""

    def __init__(
        self,
        message: str,
        start: int,
        end: int,
        help: str | None = None,  # noqa: A002 (as in Diagnostic)
    ) -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end
        self.help = help


@dataclass(frozen=True)
class Node:
    """A piece of an expression and where it stands in the text; equality ignores the place."""

    start: int = field(default=0, compare=False, kw_only=True)
    end: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True)
class Number(Node):
    """An integer or a float."""

    value: int | float


@dataclass(frozen=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True)
class Field(Node):
    """The selector `.name`."""

    name: str


@dataclass(frozen=True)
class Item(Node):
    """The selector `[index]`: a row's number, or a boolean predicate over rows."""

    index: Expr


@dataclass(frozen=True)
class Slice(Node):
    """The selector `[lower:upper]`; None is an open end."""

    lower: Expr | None
    upper: Expr | None


@dataclass(frozen=True)
class Ref(Node):
    """A name (`root` starts with `$` for a given one) and what is selected from it."""

    root: str
    selectors: tuple[Selector, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The root and the leading fields: `("q", "kind")` of `q.kind`."""
        names = [self.root]
        for selector in self.selectors:
            if not isinstance(selector, Field):
                break
            names.append(selector.name)
        return tuple(names)

    @property
    def dotted(self) -> str | None:
        """The name as written if it has no `[...]` selector, else None."""
        is_dotted = all(isinstance(selector, Field) for selector in self.selectors)
        return ".".join(self.parts) if is_dotted else None


@dataclass(frozen=True)
class Unary(Node):
    """`-operand`."""

    op: Literal["-"]
    operand: Expr


@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic: `+`, `-`, `*`, and `//` and `%` that round down."""

    op: Literal["+", "-", "*", "//", "%"]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Node):
    """One comparison; they do not chain."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Not(Node):
    """`not operand`."""

    operand: Expr


@dataclass(frozen=True)
class And(Node):
    """All of two or more terms."""

    terms: tuple[Expr, ...]


@dataclass(frozen=True)
class Or(Node):
    """Any of two or more terms."""

    terms: tuple[Expr, ...]


Expr: TypeAlias = Number | Boolean | Ref | Unary | Binary | Compare | Not | And | Or
Selector: TypeAlias = Field | Item | Slice
Lookup: TypeAlias = Callable[[Ref], Value | None] | Mapping[str, Value]


# Parsing


@dataclass(frozen=True)
class _Token:
    kind: Literal["int", "float", "name", "mark", "end"]
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)"
    r"|(?P<int>\d+)"
    r"|(?P<name>\$?[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<mark>//|==|!=|<=|>=|[-+*%<>().:\[\]])",
    re.ASCII,
)
_INSTEAD = {
    "/": "write `//` for a division that rounds down",
    "=": "write `==` to compare",
    "!": "write `not`",
    "&": "write `and`",
    "|": "write `or`",
    "~": "write `not`",
    "^": "write `!=` of two conditions",
    "'": "there are no strings: write a name without quotes",
    '"': "there are no strings: write a name without quotes",
    "_": "names start with a letter",
    ".": "write a digit before the point",
}


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            sign = text[position]
            raise ExprError(
                f"unexpected `{sign}`" if sign.isprintable() else f"unexpected {sign!r}",
                position,
                position + 1,
                _INSTEAD.get(sign),
            )
        start, position = match.span()
        if match["float"]:
            yield _Token("float", match[0], start, position)
        elif match["int"]:
            yield _Token("int", match[0], start, position)
        elif match["name"]:
            yield _Token("name", match[0], start, position)
        elif match["mark"]:
            yield _Token("mark", match[0], start, position)
    yield _Token("end", "", len(text), len(text))


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            message = f"the expression is longer than {MAX_LENGTH} characters"
            raise ExprError(message, MAX_LENGTH, len(text))
        self.tokens = list(_tokens(text))
        self.position = 0
        self.depth = 0
        self.nodes = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.position]

    def take(self) -> _Token:
        token = self.next
        self.position += token.kind != "end"
        return token

    def at(self, *texts: str) -> bool:
        return self.next.kind in ("mark", "name") and self.next.text in texts

    def expect(self, text: str, opened: _Token) -> _Token:
        if self.at(text):
            return self.take()
        raise ExprError(
            f"expected `{text}` to close the `{opened.text}`, found {_describe(self.next)}",
            self.next.start,
            self.next.end,
        )

    def count(self, token: _Token) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            message = f"the expression has more than {MAX_NODES} parts"
            raise ExprError(message, token.start, token.end)

    def nest(self, token: _Token) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            message = f"the expression is nested more than {MAX_DEPTH} deep"
            raise ExprError(message, token.start, token.end)

    def whole(self) -> Expr:
        expr = self.either()
        if self.next.kind != "end":
            raise ExprError(
                f"expected an operator or the end, found {_describe(self.next)}",
                self.next.start,
                self.next.end,
                "names and numbers are joined by an operator" if self.next.kind != "mark" else None,
            )
        return expr

    def either(self) -> Expr:
        terms = [self.both()]
        while self.at("or"):
            self.count(self.take())
            terms.append(self.both())
        if len(terms) == 1:
            return terms[0]
        return Or(tuple(terms), start=terms[0].start, end=terms[-1].end)

    def both(self) -> Expr:
        terms = [self.negation()]
        while self.at("and"):
            self.count(self.take())
            terms.append(self.negation())
        if len(terms) == 1:
            return terms[0]
        return And(tuple(terms), start=terms[0].start, end=terms[-1].end)

    def negation(self) -> Expr:
        if not self.at("not"):
            return self.comparison()
        token = self.take()
        self.count(token)
        self.nest(token)
        operand = self.negation()
        self.depth -= 1
        return Not(operand, start=token.start, end=operand.end)

    def comparison(self) -> Expr:
        left = self.sum()
        if not self.at("==", "!=", "<", "<=", ">", ">="):
            return left
        token = self.take()
        self.count(token)
        right = self.sum()
        if self.at("==", "!=", "<", "<=", ">", ">="):
            raise ExprError(
                "comparisons do not chain",
                self.next.start,
                self.next.end,
                "write `a <= b and b < c` for `a <= b < c`",
            )
        # The mark is one of the six by the test above.
        return Compare(token.text, left, right, start=left.start, end=right.end)  # type: ignore[arg-type]

    def sum(self) -> Expr:
        left = self.product()
        while self.at("+", "-"):
            token = self.take()
            self.count(token)
            right = self.product()
            op: Literal["+", "-"] = "+" if token.text == "+" else "-"
            left = Binary(op, left, right, start=left.start, end=right.end)
        return left

    def product(self) -> Expr:
        left = self.signed()
        while self.at("*", "//", "%"):
            token = self.take()
            self.count(token)
            right = self.signed()
            op: Literal["*", "//", "%"] = (
                "*" if token.text == "*" else "//" if token.text == "//" else "%"
            )
            left = Binary(op, left, right, start=left.start, end=right.end)
        return left

    def signed(self) -> Expr:
        if not self.at("-"):
            return self.atom()
        token = self.take()
        self.count(token)
        if self.next.kind in ("int", "float"):
            number = self.number(self.take())
            return Number(-number.value, start=token.start, end=number.end)
        self.nest(token)
        operand = self.signed()
        self.depth -= 1
        return Unary("-", operand, start=token.start, end=operand.end)

    def atom(self) -> Expr:
        token = self.take()
        self.count(token)
        if token.kind in ("int", "float"):
            return self.number(token)
        if token.kind == "name" and token.text in ("true", "false"):
            return Boolean(token.text == "true", start=token.start, end=token.end)
        if token.kind == "name" and token.text not in _KEYWORDS:
            return self.reference(token)
        if token.kind == "mark" and token.text == "(":
            self.nest(token)
            inner = self.either()
            self.depth -= 1
            closed = self.expect(")", token)
            # The parentheses belong to what they hold, so that carets cover them.
            return replace(inner, start=token.start, end=closed.end)
        raise ExprError(
            f"expected a name or a number, found {_describe(token)}",
            token.start,
            token.end,
            "write the number without `+`" if token.text == "+" else None,
        )

    def number(self, token: _Token) -> Number:
        if token.kind == "float":
            real = float(token.text)
            if not math.isfinite(real):
                raise ExprError("the number is too large", token.start, token.end)
            return Number(real, start=token.start, end=token.end)
        if len(token.text) > 1 and token.text.startswith("0"):
            raise ExprError("an integer starts with a digit other than 0", token.start, token.end)
        if len(token.text) > 10 or int(token.text) > MAX_INTEGER:
            raise ExprError(f"the integer is larger than {MAX_INTEGER}", token.start, token.end)
        return Number(int(token.text), start=token.start, end=token.end)

    def reference(self, root: _Token) -> Ref:
        selectors: list[Selector] = []
        end = root.end
        while True:
            if self.at("."):
                selectors.append(self.field())
            elif self.at("["):
                selectors.append(self.selection())
            elif self.at("("):
                raise ExprError(
                    f"`{root.text}` cannot be called: there are no functions here",
                    root.start,
                    self.next.end,
                )
            else:
                return Ref(root.text, tuple(selectors), start=root.start, end=end)
            end = selectors[-1].end

    def field(self) -> Field:
        point = self.take()
        self.count(point)
        name = self.take()
        if name.kind != "name" or name.text.startswith("$") or name.text in _KEYWORDS:
            raise ExprError(
                f"expected a name after the point, found {_describe(name)}", name.start, name.end
            )
        return Field(name.text, start=point.start, end=name.end)

    def selection(self) -> Item | Slice:
        opened = self.take()
        self.count(opened)
        self.nest(opened)
        lower = None if self.at(":") else self.either()
        if self.at(":"):
            self.take()
            upper = None if self.at("]") else self.either()
            self.depth -= 1
            closed = self.expect("]", opened)
            return Slice(lower, upper, start=opened.start, end=closed.end)
        self.depth -= 1
        closed = self.expect("]", opened)
        assert lower is not None
        return Item(lower, start=opened.start, end=closed.end)


def _describe(token: _Token) -> str:
    return "the end" if token.kind == "end" else f"`{token.text}`"


def parse(text: str) -> Expr:
    """Parse `text`, or raise ExprError at the first mistake."""
    return _Parser(text).whole()


# Walking


def children(node: Expr | Selector) -> tuple[Expr | Selector, ...]:
    """Return the parts of a node, in the order of the text."""
    match node:
        case Ref(_, selectors):
            return selectors
        case Item(index):
            return (index,)
        case Slice(lower, upper):
            return tuple(bound for bound in (lower, upper) if bound is not None)
        case Unary(_, operand) | Not(operand):
            return (operand,)
        case Binary(_, left, right) | Compare(_, left, right):
            return (left, right)
        case And(terms) | Or(terms):
            return terms
        case Number() | Boolean() | Field():
            return ()


def references(expr: Expr | Selector) -> tuple[Ref, ...]:
    """Return every name of the expression, those inside selectors too, in order."""
    found = (expr,) if isinstance(expr, Ref) else ()
    return found + tuple(ref for part in children(expr) for ref in references(part))


# Printing

_PRECEDENCE = {"+": 5, "-": 5, "*": 6, "//": 6, "%": 6}


def _precedence(expr: Expr) -> int:
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
        return text if _precedence(part) >= least else f"({text})"

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


# Meaning


def _lookup(env: Lookup, ref: Ref) -> Value | None:
    return env.get(show(ref)) if isinstance(env, Mapping) else env(ref)


def kind_of(expr: Expr, kinds: Callable[[Ref], Kind]) -> Kind:
    """Return whether the expression is an int, a float or a bool.

    Raises ExprError at the operand that does not fit its operator.
    """

    def need(part: Expr, *wanted: Kind, by: str) -> Kind:
        found = kind_of(part, kinds)
        if found not in wanted:
            expected = "a condition" if wanted == ("bool",) else "a number"
            if wanted == ("int",):
                expected = "an integer"
            what = {"int": "an integer", "float": "a real number", "bool": "a condition"}[found]
            raise ExprError(
                f"`{by}` needs {expected}, and `{show(part)}` is {what}", part.start, part.end
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
            found = _lookup(env, expr)
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


# Folding

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
    value = _lookup(env, ref)
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


# Code


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
        return text if _precedence(part) >= 7 else f"({text})"

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

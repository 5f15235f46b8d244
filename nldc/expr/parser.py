"""Text to tree; every bound is checked while parsing, so no text costs more than a moment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from nldc.expr.tree import (
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_LENGTH,
    MAX_NODES,
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
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

_KEYWORDS = ("and", "or", "not", "true", "false")


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

"""Names in sight at a place in the file, and what a reference to them is.

A reference is a name, fields of it, and choices of its rows; `resolve` turns one into a `Value`
with the type that is left after the choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nldc.diagnostics import Span, nearest
from nldc.expr import (
    Boolean,
    Expr,
    ExprError,
    Field,
    Item,
    Number,
    Ref,
    Slice,
    evaluate,
    fold,
    kind_of,
    references,
    show,
)
from nldc.expr import Value as Constant
from nldc.ir.facts import ROW_FACTS, BadPickError, UnknownNameError, check_whole, row_kinds
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import At, Between, OfKind, Padded, Pick, Value, Where
from nldc.ir.picks import picked_size, picked_sizes
from nldc.ir.size import Size
from nldc.ir.types import (
    Accepted,
    Count,
    Logits,
    RowMask,
    Rows,
    Scores,
    Tokens,
    Type,
    Unknown,
    accepted_fields,
)

PROMPT = "$prompt"
MOST_COUNTS = 8192
"""More values than this a count that chooses rows may not have: no layout has more rows."""


@dataclass(frozen=True)
class Binding:
    """What a name stands for: the full name of a node, its type, and where it was defined."""

    node: str
    type: Type
    span: Span | None = None


@dataclass
class Scope:
    """The names in sight; an inner scope sees the outer one's.

    `allotted` are names that nothing in the file means, given to nodes that it does not write.
    """

    names: dict[str, Binding] = field(default_factory=dict)
    outer: Scope | None = None
    allotted: set[str] = field(default_factory=set)

    def find(self, name: str) -> Binding | None:
        """Return what a name stands for, the innermost first."""
        if name in self.names:
            return self.names[name]
        return self.outer.find(name) if self.outer else None

    @property
    def in_loop(self) -> bool:
        """Whether this is the scope of a loop's body."""
        if any(":" in binding.node for binding in self.names.values()):
            return True
        return self.outer is not None and self.outer.in_loop

    def allot(self, name: str) -> str:
        """Return a name that no node of this scope has, `name` or one that begins with it."""
        while name in self.names or name in self.allotted:
            name += "_"
        self.allotted.add(name)
        return name

    def known(self) -> Iterator[str]:
        """Yield every name in sight."""
        yield from self.names
        if self.outer:
            yield from self.outer.known()


@dataclass(frozen=True)
class Resolver:
    """Resolves references in a scope, for concrete params and the labels of the whole file.

    A choice of rows is padded to `pad_to` of them, if that is a number. With `ragged`, a count may
    choose another number of tokens for each of its values.
    """

    scope: Scope
    params: Mapping[str, Constant]
    kinds: Sequence[str]
    pad_to: int | None = None
    ragged: bool = False

    def resolve(self, ref: Ref, span: Span) -> tuple[Value, Type]:
        """Return the Value and its type.

        Raises:
            UnknownNameError: there is no such name or field.
            BadPickError: the rows cannot be chosen so.
        """
        binding, rest = self._root(ref)
        value, kind = Value(binding.node, span), binding.type
        while rest and isinstance(rest[0], Field) and not isinstance(kind, Unknown):
            fields = self._fields(kind)
            name = rest[0].name
            if name not in fields:
                break
            value, kind, rest = replace(value, field=name), fields[name], rest[1:]
        if isinstance(kind, Unknown) or not rest:
            return value, kind
        return self._pick(value, kind, rest, ref)

    def _root(self, ref: Ref) -> tuple[Binding, tuple[Field | Item | Slice, ...]]:
        binding = self.scope.find(ref.root)
        if binding is not None:
            return binding, ref.selectors
        dotted = ".".join(ref.parts[:2])
        binding = self.scope.find(dotted)
        if binding is not None:
            return binding, ref.selectors[1:]
        meant = nearest(ref.dotted or ref.root, (*self.scope.known(), *self.params))
        what = "a param, not a value" if ref.root in self.params else "not defined here"
        raise UnknownNameError(
            f"`{ref.root}` is {what}",
            ref.start,
            ref.end,
            f"did you mean `{meant}`?" if meant and meant != ref.root else None,
        )

    def _fields(self, kind: Type) -> Mapping[str, Type]:
        match kind:
            case Accepted():
                return accepted_fields(kind)
            case Rows():
                masks = dict.fromkeys(("masked", "filled"), RowMask(kind.size))
                return {"tokens": Tokens(kind.size), **masks}
            case _:
                return {}

    def _pick(
        self, value: Value, kind: Type, rest: Sequence[Field | Item | Slice], ref: Ref
    ) -> tuple[Value, Type]:
        layout = self._layout(kind, rest[0])
        picks: list[Pick] = []
        count: tuple[str, Value, Count] | None = None
        for selector in rest:
            exprs = _exprs(selector)
            for inner in (r for e in exprs for r in references(e)):
                found = self._count_of(inner, value.span, count)
                if isinstance(found, Unknown):
                    return value, found
                count = found
            picks.append(self._selector(selector, kind, layout, count))
        if self.pad_to is not None:
            picks.append(Padded(self.pad_to))
        name = None if count is None else count[0]
        others: list[dict[str, Constant]] = [{}]
        if count is not None:
            others = [{count[0]: n} for n in self._values(count, ref)]
        if count is not None and self.ragged and isinstance(kind, Tokens | Rows):
            sizes = picked_sizes(layout, picks, self.kinds, others)
            if len(set(sizes)) > 1:
                part = replace(value, picks=tuple(picks), count=count[1], count_name=count[0])
                return part, Tokens(Size(max(sizes)), ragged=True, least=min(sizes))
        size = picked_size(layout, picks, self.kinds, others, span=lambda: (ref.start, ref.end))
        value = replace(
            value, picks=tuple(picks), count=None if count is None else count[1], count_name=name
        )
        match kind:
            case Logits():
                return value, Logits(size, kind.layout)
            case Tokens() | Rows():
                return value, Tokens(size)
            case _:
                return value, replace(kind, size=size)  # type: ignore[arg-type]

    def _values(self, count: tuple[str, Value, Count], ref: Ref) -> range:
        """Return all that a count may be.

        Raises:
            BadPickError: they are too many to choose rows for each.
        """
        name, _, type_ = count
        if type_.high - type_.low >= MOST_COUNTS:
            message = f"`{name}` is {type_}: too many values to choose rows for each"
            raise BadPickError(message, ref.start, ref.end, "carry it within closer bounds")
        return range(type_.low, type_.high + 1)

    def _layout(self, kind: Type, selector: Field | Item | Slice) -> Layout:
        match kind:
            case Tokens(ragged=True) | Logits(ragged=True):
                raise BadPickError(
                    "rows cannot be chosen from tokens whose number differs by sequence",
                    selector.start,
                    selector.end,
                    "take them whole",
                )
            case Logits() | Rows():
                return kind.layout
            case Tokens() | Scores() | RowMask():
                return plain(kind.size)
            case _:
                raise self._no_field(kind, selector)

    def _no_field(self, kind: Type, selector: Field | Item | Slice) -> ExprError:
        if isinstance(selector, Field):
            fields = self._fields(kind)
            meant = nearest(selector.name, fields)
            known = ", ".join(f"`{name}`" for name in fields)
            return UnknownNameError(
                f"{kind} has no field `{selector.name}`",
                selector.start,
                selector.end,
                f"did you mean `{meant}`?" if meant else (f"it has {known}" if known else None),
            )
        return BadPickError(f"{kind} has no rows to choose from", selector.start, selector.end)

    def _selector(
        self,
        selector: Field | Item | Slice,
        kind: Type,
        layout: Layout,
        count: tuple[str, Value, Count] | None,
    ) -> Pick:
        match selector:
            case Field(name) if name in layout.kinds:
                return OfKind(name)
            case Field("first"):
                return At(Number(0, start=selector.start, end=selector.end))
            case Field("last"):
                return At(Number(-1, start=selector.start, end=selector.end))
            case Field(name):
                known = (*self._fields(kind), *layout.kinds, "first", "last")
                meant = nearest(name, known)
                raise UnknownNameError(
                    f"{kind} has no field `{name}` and no rows of that kind",
                    selector.start,
                    selector.end,
                    f"did you mean `{meant}`?" if meant else f"known: {', '.join(known)}",
                )
            case Slice(lower, upper):
                return Between(self._fold(lower), self._fold(upper))
            case Item(index):
                numbers = {**self.params, **({} if count is None else {count[0]: 1})}
                kinds = row_kinds(ROW_FACTS, self.kinds, numbers)
                check_whole(index, kinds)
                worth = kind_of(index, kinds)
                if worth == "bool":
                    return Where(fold(index, self.params))
                if worth == "label":
                    label = show(index)
                    raise BadPickError(
                        f"`{label}` is a kind of rows, no row", index.start, index.end,
                        f"compare with it: `kind == {label}`" if label != "kind" else None,
                    )  # fmt: skip
                return At(fold(index, self.params))

    def _fold(self, expr: Expr | None) -> Expr | None:
        return None if expr is None else fold(expr, self.params)

    def _count_of(
        self, ref: Ref, span: Span, count: tuple[str, Value, Count] | None
    ) -> tuple[str, Value, Count] | Unknown | None:
        name = ref.dotted
        if name is None or name in ROW_FACTS or name in self.kinds or name in self.params:
            return count
        value, kind = self.resolve(ref, span)
        if isinstance(kind, Unknown):
            return kind
        if not isinstance(kind, Count):
            raise BadPickError(
                f"`{name}` is {kind}, and only a Count may choose rows", ref.start, ref.end
            )
        if count is not None and count[0] != name:
            raise BadPickError(
                f"`{name}` is a second count beside `{count[0]}`",
                ref.start,
                ref.end,
                "a choice of rows depends on one count",
            )
        return name, value, kind


def _exprs(selector: Field | Item | Slice) -> tuple[Expr, ...]:
    match selector:
        case Item(index):
            return (index,)
        case Slice(lower, upper):
            return tuple(e for e in (lower, upper) if e is not None)
        case _:
            return ()


def constant(expr: Expr, params: Mapping[str, Constant]) -> Constant:
    """Return the value of an expression over params alone.

    Raises:
        UnknownNameError: a name that is no param.
        ExprError: arithmetic that has no value.
    """
    for ref in references(expr):
        if ref.dotted not in params:
            meant = nearest(ref.dotted or ref.root, params)
            raise UnknownNameError(
                f"`{ref.dotted or ref.root}` is no param",
                ref.start,
                ref.end,
                f"did you mean `{meant}`?" if meant else "a size is made of numbers and params",
            )
    return evaluate(expr, params)


TRUE = Boolean(True)
FALSE = Boolean(False)

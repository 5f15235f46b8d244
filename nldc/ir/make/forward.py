"""Forwards: which rows see which, where they lie, what they leave in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nldc.diagnostics import nearest
from nldc.expr import Boolean, Expr, ExprError, Not, Ref, evaluate, parse
from nldc.ir import ops
from nldc.ir.course import course
from nldc.ir.cut import may_be_cut
from nldc.ir.facts import ROW_FACTS, check_divisors, facts_of, pair_kinds, row_kinds, row_lookup
from nldc.ir.layout import MAX_ROWS, Layout
from nldc.ir.ops import Attention
from nldc.ir.picks import in_segment
from nldc.ir.reader import BAD_SIZE, EXPRESSION, Made, Reader, layout_of
from nldc.ir.scope import FALSE, TRUE, Scope
from nldc.ir.types import Logits, Rows, Tokens
from nldc.schema import AppendWhere, ForwardOp, PredictsWhere
from nldc.source import Path

POSITION = "NLD053"
UNKNOWN_ADAPTER = "NLD090"
ATTENTION: Mapping[str, Expr] = {"causal": parse("k.row <= q.row"), "bidirectional": TRUE}


def make_forward(reader: Reader, path: Path, model: ForwardOp, scope: Scope) -> Made | None:
    """Logits of rows over the prefix."""
    found = reader.reference((*path, "tokens"), model.tokens, scope, Tokens, Rows, ragged=True)
    layout = None if found is None else layout_of(found[1])
    attention = read_attention(reader, (*path, "attention"), model.attention)
    position = _position(reader, path, model.position, layout)
    append = _append(reader, path, model.cache)
    predicts = _predicts(reader, path, model, attention)
    adapter = read_adapter(reader, path, model.adapter)
    if found is None or layout is None or attention is None or position is None:
        return None
    if append is None or predicts is None or adapter is None:
        return None
    if layout.size.at(1) == 0:
        reader.error(BAD_SIZE, "a forward of no rows", (*path, "tokens"), f"this is {found[1]}")
        return None
    asked = [((*path, "cache", "append"), append), ((*path, "predicts", "next"), predicts)]
    if isinstance(model.adapter, Mapping):
        asked.append(((*path, "adapter", str(adapter[0])), adapter[1]))
    have_values = [_has_values(reader, place, expr, layout) for place, expr in asked]
    if not all(have_values):
        return None
    op = ops.Forward(
        rows=found[0],
        layout=layout,
        attention=attention,
        position=position,
        predicts_next=predicts,
        append=append,
        adapter=adapter[0],
        adapter_rows=adapter[1],
        counted=model.counted,
    )
    if not isinstance(found[1], Tokens) or not found[1].ragged:
        return op, Logits(layout.size, layout)
    if found[1].least < 1:
        reader.error(
            BAD_SIZE, "a forward of no rows, for some count", (*path, "tokens"),
            f"this may be cut to nothing: {found[1]}",
        )  # fmt: skip
        return None
    if not may_be_cut(reader, path, found[1], op, scope):
        return None
    return op, Logits(layout.size, layout, ragged=True, least=found[1].least)


def read_attention(reader: Reader, path: Path, text: str) -> Attention | None:
    """Return the pattern of that name, or that predicate."""
    if text in ATTENTION:
        return Attention(ATTENTION[text], text)
    expr = reader.expression(path, text)
    if expr is None:
        return None
    if isinstance(expr, Ref) and expr.dotted == expr.root:
        meant = nearest(text, ATTENTION)
        reader.error(
            EXPRESSION, f"there is no attention pattern `{text}`", path,
            f"did you mean `{meant}`?" if meant else "no such pattern",
            help_text="`causal`, `bidirectional`, or a predicate over q and k",
        )  # fmt: skip
        return None
    kinds = pair_kinds(reader.kinds, reader.params, step=path[0] != "prefill")
    if not reader.is_condition(path, expr, kinds):
        return None
    printed = reader.printed(path, expr)
    return None if printed is None else Attention(printed)


def _position(reader: Reader, path: Path, text: Any, layout: Layout | None) -> Expr | None:
    if text is None:
        if layout is not None and layout.groups > 1:
            reader.error(
                POSITION, "rows in groups need a `position`", path, "`position` is required",
                key=True, help_text="position: group + index",
            )  # fmt: skip
            return None
        return Ref("row")
    place = (*path, "position")
    expr = reader.expression(place, text)
    facts = tuple(name for name in ROW_FACTS if name != "kind")
    if expr is None or not reader.is_number(place, expr, row_kinds(facts, (), reader.params)):
        return None
    expr = reader.fold(expr)
    if layout is None:
        return expr
    found = _far_off(expr, layout, reader.kinds) if layout.dynamic else None
    if found is None:
        try:
            found = _misplaced(expr, layout, reader.kinds)
        except ExprError as problem:
            reader.expression_error(place, problem)
            return None
    if found is not None:
        reader.error(POSITION, found[0], place, found[1])
        return None
    return expr


def _misplaced(
    expr: Expr, layout: Layout, kinds: Sequence[str], prompt_length: int = 1
) -> tuple[str, str] | None:
    """Return which row lies where none can, and the rule, for a prompt of that length."""
    for row in layout.rows(prompt_length):
        position = evaluate(expr, row_lookup(facts_of(row, kinds), kinds, {}))
        if position < 0:
            message = f"row {row.row} lies {-position} before the end of the prefix"
            return message, "a row follows the prefix: its position is 0 or more"
        most = MAX_ROWS + (row.row if layout.dynamic else 0)
        if position >= most:
            message = f"row {row.row} lies {position} behind the end of the prefix"
            return message, f"no rows lie {most} or further behind it: no step has so many"
    return None


def _far_off(expr: Expr, layout: Layout, kinds: Sequence[str]) -> tuple[str, str] | None:
    """Return what is wrong with the positions of rows further on in prompts of any length."""
    for segment in layout.segments:
        found = course(in_segment(expr, segment, kinds))
        if found is None:
            message = "no finite number of prompts decides where these rows lie"
            return message, "use sums of `row`, `index` and small numbers, `//` and `%`"
        if not 0 <= found.rise <= found.period:
            rows = "1 row" if found.period == 1 else f"{found.period} rows"
            message = f"positions rise by {found.rise} in {rows} of the prompt"
            return message, "they rise by no more than one a row, and never fall"
    longest = 1 + sum(abs(size.fixed) for s in layout.segments for size in s.sizes)
    reaches = [course(in_segment(expr, s, kinds)) for s in layout.segments]
    reach = max(each.reach for each in reaches if each is not None)
    return _misplaced(expr, layout, kinds, longest + reach)


def _has_values(reader: Reader, place: Path, expr: Expr, layout: Layout) -> bool:
    """Whether a condition has a value in every row, or add where it has none."""
    try:
        if layout.dynamic:
            check_divisors(expr)
        for row in layout.rows(1):
            evaluate(expr, row_lookup(facts_of(row, reader.kinds), reader.kinds, {}))
    except ExprError as problem:
        reader.expression_error(place, problem)
        return False
    return True


def _append(reader: Reader, path: Path, cache: str | AppendWhere) -> Expr | None:
    if isinstance(cache, AppendWhere):
        return reader.row_predicate((*path, "cache", "append"), cache.append)
    return Boolean(cache == "append")


def _predicts(
    reader: Reader, path: Path, model: ForwardOp, attention: Attention | None
) -> Expr | None:
    if isinstance(model.predicts, PredictsWhere):
        return reader.row_predicate((*path, "predicts", "next"), model.predicts.next)
    if model.predicts is not None:
        return Boolean(model.predicts == "next")
    if attention is not None and attention.name is not None:
        return Boolean(attention.name == "causal")
    return Not(Ref("masked"))


def read_adapter(
    reader: Reader, path: Path, adapter: str | dict[str, str] | None
) -> tuple[str | None, Expr] | None:
    """Return the name of the adapter that is on, and on which rows."""
    if adapter is None:
        return None, FALSE
    place = (*path, "adapter")
    name = adapter if isinstance(adapter, str) else next(iter(adapter))
    if not declares(reader, name, "lora", place):
        return None
    if isinstance(adapter, str):
        return name, TRUE
    rows = reader.row_predicate((*place, name), adapter[name])
    return None if rows is None else (name, rows)


def declares(reader: Reader, name: str, kind: Literal["lora", "sampler"], place: Path) -> bool:
    """Whether the file declares such an adapter, or add what it declares instead."""
    known = [declared.name for declared in reader.adapters if declared.kind == kind]
    if name in known:
        return True
    what = {"lora": "adapter", "sampler": "sampler"}[kind]
    other = next((each for each in reader.adapters if each.name == name), None)
    if other is not None:
        reader.error(
            UNKNOWN_ADAPTER, f"`{name}` is a {other.kind}, and this asks for a {kind}", place,
            f"declared as `kind: {other.kind}`",
        )  # fmt: skip
        return False
    meant = nearest(name, known)
    reader.error(
        UNKNOWN_ADAPTER, f"there is no {what} `{name}`", place,
        f"did you mean `{meant}`?" if meant else "not declared",
        help_text=f"declare it: adapters: {{{name}: {{kind: {kind}}}}}",
    )  # fmt: skip
    return False

"""Forwards: which rows see which, where they lie, what they leave in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nldc.diagnostics import nearest
from nldc.expr import Boolean, Expr, ExprError, Not, Ref, evaluate, parse
from nldc.ir import ops
from nldc.ir.facts import ROW_FACTS, facts_of, pair_kinds, row_kinds, row_lookup
from nldc.ir.layout import Layout
from nldc.ir.ops import Attention
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
    found = reader.reference((*path, "tokens"), model.tokens, scope, Tokens, Rows)
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
    return op, Logits(layout.size, layout)


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
    kinds = pair_kinds(reader.kinds, reader.params)
    return None if not reader.is_condition(path, expr, kinds) else Attention(reader.fold(expr))


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
    for row in () if layout is None else layout.rows(1):
        lookup = row_lookup(facts_of(row, reader.kinds), reader.kinds, {})
        try:
            position = evaluate(expr, lookup)
        except ExprError as problem:
            reader.expression_error(place, problem)
            return None
        if position < 0:
            reader.error(
                POSITION, f"row {row.row} lies {-position} before the end of the prefix", place,
                "a row follows the prefix: its position is 0 or more",
            )  # fmt: skip
            return None
    return expr


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
    known = [declared.name for declared in reader.adapters]
    if name not in known:
        meant = nearest(name, known)
        label = f"did you mean `{meant}`?" if meant else "not declared"
        reader.error(
            UNKNOWN_ADAPTER, f"there is no adapter `{name}`", place, label,
            help_text=f"declare it: adapters: {{{name}: {{kind: lora}}}}",
        )  # fmt: skip
        return None
    if isinstance(adapter, str):
        return name, TRUE
    rows = reader.row_predicate((*place, name), adapter[name])
    return None if rows is None else (name, rows)

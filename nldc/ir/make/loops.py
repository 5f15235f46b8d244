"""Loops: `denoise` written out, and what a loop does at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from nldc.expr import Number, evaluate, parse
from nldc.ir import ops
from nldc.ir.effects import last_fill
from nldc.ir.facts import facts_of, row_lookup
from nldc.ir.graph import walk
from nldc.ir.make.choices import read_rule, read_temperature
from nldc.ir.make.forward import make_forward, read_adapter, read_attention
from nldc.ir.ops import Node, Region, Value
from nldc.ir.reader import ATTRIBUTE, WRONG_TYPE, Made, Reader, size_of
from nldc.ir.scope import Binding, Scope
from nldc.ir.types import RowMask, Rows, Scores, Tokens, Type, Unknown
from nldc.schema import ConfidenceCommit, DenoiseOp, ForwardOp, Loop
from nldc.source import Path

KEPT_KEYS = "NLD077"


def make_denoise(
    reader: Reader, path: Path, full: str, model: DenoiseOp, scope: Scope
) -> Made | None:
    """Sugar: `repeat` with a forward, a sample, a score, a selection and a fill."""
    rows = reader.reference((*path, "rows"), model.rows, scope, Rows)
    masked = 0 if rows is None else _masks(rows[1])
    rules: dict[str, Any]
    if isinstance(model.commit, ConfidenceCommit):
        at_least = read_rule(reader, (*path, "commit", "confidence"), model.commit.confidence)
        rules = {} if at_least is None else {"at_least": at_least, "always": Number(1)}
        at_most: int | None = masked
    else:
        steps_path = (*path, "commit", "steps")
        at_most = reader.whole(steps_path, model.commit.steps, low=1, high=ops.MOST_ROUNDS)
        share = parse(f"({masked} - iteration + {at_most} - 1) // {at_most}")
        rules = {} if at_most is None else {"best": share}
    temperature = None
    if model.temperature is not None:
        temperature = read_temperature(reader, (*path, "temperature"), model.temperature)
        rules = {} if temperature is None else rules
    forward = ForwardOp(
        op="forward",
        tokens="rows",
        attention=model.attention,
        cache="read",
        position=model.position,
        adapter=model.adapter,
    )
    if rows is None or isinstance(rows[1], Unknown) or not rules:
        read_attention(reader, (*path, "attention"), model.attention)
        read_adapter(reader, path, model.adapter)
        return None
    if masked == 0:
        reader.error(WRONG_TYPE, "there is no masked row to denoise", (*path, "rows"), "no masks")
        return None
    span = reader.source.span(path, key=True)
    loop = Binding(f"{full}:rows", rows[1])
    made = make_forward(reader, path, forward, Scope({"rows": loop}))
    if made is None:
        return None
    size = size_of(rows[1])
    seen, pick, sure, take = (
        Value(f"{full}.{name}", span) for name in ("seen", "pick", "sure", "take")
    )
    current = Value(loop.node, span)
    select = ops.Select(
        among=Value(loop.node, span, field="masked"),
        score=sure,
        less_is_surer=False,
        at_least=rules.get("at_least"),
        at_most=None,
        best=rules.get("best"),
        within=None,
        where=None,
        always_best=rules.get("always"),
    )
    by: Literal["probability"] = "probability"
    mask_token = reader.attribute("sample.mask_token", model.mask_token)
    sample = ops.Sample(seen, mask_token, temperature)
    score = ops.Score(
        seen,
        pick,
        by,
        reader.attribute("score.of", model.commit.of),
        reader.attribute("score.mask_token", model.commit.mask_token),
    )
    body = Region(
        (
            Node(seen.node, made[0], made[1], span),
            Node(pick.node, sample, Tokens(size), span),
            Node(sure.node, score, Scores(size, by), span),
            Node(take.node, select, RowMask(size), span),
            Node(f"{full}.rows", ops.Fill(current, take, pick), rows[1], span),
        )
    )
    assert at_most is not None
    result = Value(f"{full}.rows", span)
    bare = ops.Repeat("rows", rows[0], body, result, at_most, model.at_least)
    op = finish_loop(reader, path, full, model, bare)
    return None if op is None else (op, rows[1])


def finish_loop(
    reader: Reader, path: Path, full: str, model: Loop, op: ops.Repeat
) -> ops.Repeat | None:
    """Return the loop with its attributes, or None after adding why it cannot have them."""
    if op.until == "unchanged":
        return _while_changing(reader, path, model, op)
    exhausted = reader.attribute("repeat.exhausted", model.exhausted)
    if exhausted == "fill" and last_fill(op) is None:
        if model.exhausted is not None:
            name = op.result.node.rsplit(".", 1)[1]
            reader.error(
                ATTRIBUTE, "nothing says which tokens the rows that are left would take",
                (*path, "exhausted"), f"`{name}` is no `fill`, nor masks the rows of one",
            )  # fmt: skip
            return None
        exhausted = "keep"
    keys = reader.attribute("repeat.keys", model.keys)
    if keys == "kept" and not _may_keep(reader, path, full, op):
        return None
    return replace(
        op,
        eos=reader.attribute("repeat.eos", model.eos),
        eos_ids=reader.attribute("repeat.eos_ids", model.eos_ids),
        exhausted=exhausted,
        keys=keys,
    )


def _while_changing(reader: Reader, path: Path, model: Loop, op: ops.Repeat) -> ops.Repeat | None:
    """Return a loop that ends when nothing changes: what a full block is plays no part in it."""
    for key in ("eos", "eos_ids", "exhausted", "keys"):
        if getattr(model, key) is not None:
            reader.error(
                ATTRIBUTE, f"`{key}` says nothing of a loop that ends when nothing changes",
                (*path, key), "leave it out, or write `until: full`", key=True,
            )  # fmt: skip
            return None
    return replace(op, eos="ignored")


def _may_keep(reader: Reader, path: Path, full: str, op: ops.Repeat) -> bool:
    place = (*path, "keys")
    forwards = [node for node in walk(op.body.nodes) if isinstance(node.op, ops.Forward)]
    own = [node for node in op.body.nodes if isinstance(node.op, ops.Forward)]
    if len(forwards) != 1 or len(own) != 1:
        reader.error(
            KEPT_KEYS, f"the loop has {len(forwards)} forwards, and one must leave the keys",
            place, "the keys of its only forward",
        )  # fmt: skip
        return False
    forward = own[0].op
    assert isinstance(forward, ops.Forward)
    if forward.rows.node != f"{full}:{op.variable}" or forward.rows.picks:
        reader.error(
            KEPT_KEYS, f"its forward is not over the whole of `{op.variable}`", place,
            "the keys of all its rows",
        )  # fmt: skip
        return False
    if any(
        evaluate(forward.position, row_lookup(facts_of(row, reader.kinds), reader.kinds, {}))
        != row.row
        for row in forward.layout.rows(1)
    ):
        reader.error(
            KEPT_KEYS, "its forward's rows do not follow one another", place,
            "what stays in the cache lies in the order of its rows",
        )  # fmt: skip
        return False
    if op.at_least < 1:
        reader.error(
            KEPT_KEYS, "a loop that may not run at all leaves no keys", place,
            "write `at_least: 1`",
        )  # fmt: skip
        return False
    return True


def _masks(type_: Type) -> int:
    return sum(row.masked for row in type_.layout.rows(1)) if isinstance(type_, Rows) else 0

"""Tokens and rows: looked up, filled in, joined, accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nldc.ir import ops
from nldc.ir.layout import MAX_ROWS
from nldc.ir.reader import WRONG_SIZE, Made, Reader, size_of
from nldc.ir.scope import Scope
from nldc.ir.size import Size
from nldc.ir.types import Accepted, RowMask, Rows, Tokens, Unknown
from nldc.schema import AcceptOp, FillOp, LookupOp
from nldc.source import Path


def make_lookup(reader: Reader, path: Path, model: LookupOp) -> Made | None:
    """Tokens from the text so far."""
    length = reader.whole((*path, "length"), model.length, low=1, high=MAX_ROWS)
    ngram = reader.whole((*path, "ngram"), model.ngram, low=1, high=64)
    if length is None or ngram is None:
        return None
    return ops.Lookup(length, ngram), Tokens(Size(length))


def make_fill(reader: Reader, path: Path, model: FillOp, scope: Scope) -> Made | None:
    """Rows with tokens written where selected."""
    rows = reader.reference((*path, "rows"), model.rows, scope, Rows)
    where = reader.reference((*path, "where"), model.where, scope, RowMask)
    tokens = reader.reference((*path, "tokens"), model.tokens, scope, Tokens)
    if rows is None or where is None or tokens is None:
        return None
    if not reader.same_size(path, ("rows", rows), ("where", where)):
        return None
    if not reader.same_size(path, ("rows", rows), ("tokens", tokens)):
        return None
    return ops.Fill(rows[0], where[0], tokens[0]), rows[1]


def make_join(reader: Reader, path: Path, parts: Sequence[Any], scope: Scope) -> Made | None:
    """Tokens one after another."""
    found = [
        reader.reference((*path, number), part, scope, Tokens) for number, part in enumerate(parts)
    ]
    if any(part is None or isinstance(part[1], Unknown) for part in found):
        return None
    pairs = [part for part in found if part is not None]
    size = sum((size_of(type_) for _, type_ in pairs), Size(0))
    return ops.Join(tuple(value for value, _ in pairs)), Tokens(size)


def make_accept(reader: Reader, path: Path, model: AcceptOp, scope: Scope) -> Made | None:
    """The longest agreeing prefix of a draft."""
    draft = reader.reference((*path, "draft"), model.draft, scope, Tokens, Rows)
    target = reader.reference((*path, "target"), model.target, scope, Tokens)
    if draft is None or target is None:
        return None
    if isinstance(draft[1], Unknown) or isinstance(target[1], Unknown):
        return None
    size, targets = size_of(draft[1]), size_of(target[1])
    if size.prompts or targets.prompts:
        reader.error(WRONG_SIZE, "a draft's length cannot depend on the prompt", path, "", True)
        return None
    most = size.fixed - model.offset + 1
    if most < 1 or targets.fixed < most:
        reader.error(
            WRONG_SIZE,
            f"{size} drafted tokens need {most} targets, and there are {targets.fixed}",
            (*path, "target"), f"this is {target[1]}",
            also=((*path, "draft"), f"this is {draft[1]}"),
            help_text="target i is held against draft i + offset, and one more is the bonus",
        )  # fmt: skip
        return None
    return ops.Accept(draft[0], target[0], model.offset), Accepted(size, most)

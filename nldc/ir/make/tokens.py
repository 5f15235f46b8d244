"""Tokens and rows: looked up, filled in, masked again, joined, accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nldc.ir import ops
from nldc.ir.layout import MAX_ROWS
from nldc.ir.make.branches import BRANCHES, branching
from nldc.ir.reader import WRONG_SIZE, Made, Reader, size_of
from nldc.ir.scope import Scope
from nldc.ir.size import Size
from nldc.ir.types import Accepted, RowMask, Rows, Tokens, Type, Unknown
from nldc.schema import AcceptOp, FillOp, LookupOp, MaskOp, RecallOp
from nldc.source import Path


def make_lookup(reader: Reader, path: Path, model: LookupOp) -> Made | None:
    """Tokens from the text so far."""
    length = reader.whole((*path, "length"), model.length, low=1, high=MAX_ROWS)
    ngram = reader.whole((*path, "ngram"), model.ngram, low=1, high=64)
    if length is None or ngram is None:
        return None
    return ops.Lookup(length, ngram), Tokens(Size(length))


def make_recall(reader: Reader, path: Path, model: RecallOp, scope: Scope) -> Made | None:
    """Tokens from the entries of a pool."""
    pool = reader.reference((*path, "pool"), model.pool, scope, Tokens)
    after = reader.reference((*path, "after"), model.after, scope, Tokens)
    entry = reader.whole((*path, "entry"), model.entry, low=2, high=MAX_ROWS)
    count = reader.whole((*path, "count"), model.count, low=1, high=MAX_ROWS)
    if pool is None or after is None or entry is None or count is None:
        return None
    if isinstance(pool[1], Unknown) or isinstance(after[1], Unknown):
        return None
    size = size_of(pool[1])
    if size.prompts or size.fixed % entry or size.fixed < count * entry:
        wanted = f"{count} entries of {entry} or more"
        reader.error(
            WRONG_SIZE, f"a pool of {size} tokens is not {wanted}", (*path, "pool"),
            f"this is {pool[1]}",
        )  # fmt: skip
        return None
    if size_of(after[1]) != Size(1):
        reader.error(
            WRONG_SIZE,
            "entries are looked up by one token",
            (*path, "after"),
            f"this is {after[1]}",
        )
        return None
    return ops.Recall(pool[0], entry, after[0], count), Tokens(Size(count * (entry - 1)))


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


def make_mask(reader: Reader, path: Path, model: MaskOp, scope: Scope) -> Made | None:
    """Rows masked again where selected."""
    rows = reader.reference((*path, "rows"), model.rows, scope, Rows)
    where = reader.reference((*path, "where"), model.where, scope, RowMask)
    if rows is None or where is None:
        return None
    if not reader.same_size(path, ("rows", rows), ("where", where)):
        return None
    return ops.Mask(rows[0], where[0]), rows[1]


def make_join(
    reader: Reader, path: Path, parts: Sequence[Any], scope: Scope, times: Any = 1
) -> Made | None:
    """Tokens one after another; `times` stands beside `parts`."""
    many = reader.whole((*path[:-1], "times"), times, low=1, high=MAX_ROWS)
    found = [
        reader.reference((*path, number), part, scope, Tokens) for number, part in enumerate(parts)
    ]
    if many is None or any(part is None or isinstance(part[1], Unknown) for part in found):
        return None
    pairs = [part for part in found if part is not None] * many
    size = sum((size_of(type_) for _, type_ in pairs), Size(0))
    return ops.Join(tuple(value for value, _ in pairs)), Tokens(size)


def make_accept(reader: Reader, path: Path, model: AcceptOp, scope: Scope) -> Made | None:
    """The longest agreeing prefix of a draft."""
    draft = reader.reference((*path, "draft"), model.draft, scope, Tokens, Rows, ragged=True)
    target = reader.reference((*path, "target"), model.target, scope, Tokens, ragged=True)
    if draft is None or target is None:
        return None
    if isinstance(draft[1], Unknown) or isinstance(target[1], Unknown):
        return None
    size, targets = size_of(draft[1]), size_of(target[1])
    if size.prompts or targets.prompts:
        reader.error(WRONG_SIZE, "a draft's length cannot depend on the prompt", path, "", True)
        return None
    fewest = _fewest(draft[1]), _fewest(target[1])
    is_cut = fewest != (size.fixed, targets.fixed)
    if model.rule == "longest_branch":
        if is_cut:
            key = "draft" if fewest[0] != size.fixed else "target"
            reader.error(
                BRANCHES, "branches have one length, and a Count cuts these rows", (*path, key),
                "write `rule: longest_prefix`, or take all rows",
            )  # fmt: skip
            return None
        return branching(reader, path, model, draft, target)
    if model.branches is not None or model.of is not None:
        key = "branches" if model.branches is not None else "of"
        reader.error(
            BRANCHES, f"`{key}` means nothing to `longest_prefix`", (*path, key),
            "write `rule: longest_branch`", key=True,
        )  # fmt: skip
        return None
    if is_cut:
        return _accept_parts(reader, path, model, draft, target)
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
    return ops.Accept(draft[0], target[0], model.offset), Accepted(size, most, model.offset)


def _accept_parts(
    reader: Reader,
    path: Path,
    model: AcceptOp,
    draft: tuple[ops.Value, Type],
    target: tuple[ops.Value, Type],
) -> Made | None:
    """The longest agreeing prefix where a count cuts draft or target: the shorter one ends it."""
    for key, (_, type_), need in (("draft", draft, model.offset), ("target", target, 1)):
        if _fewest(type_) < need:
            reader.error(
                WRONG_SIZE, f"some count leaves nothing of the {key}", (*path, key),
                f"this is {type_}, which may be none", help_text="let the Count be 1 or more",
            )  # fmt: skip
            return None
    size, targets = size_of(draft[1]), size_of(target[1])
    most = min(size.fixed - model.offset, targets.fixed - 1) + 1
    return ops.Accept(draft[0], target[0], model.offset), Accepted(size, most, model.offset)


def _fewest(type_: Type) -> int:
    """Return how many tokens a value has at least."""
    return type_.least if isinstance(type_, Tokens) and type_.ragged else size_of(type_).fixed

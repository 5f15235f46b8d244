"""Parts of a draft that a Count cuts off, each sequence's its own: where they may go.

A forward lays rows out for the longest part. What lies behind a sequence's own part is computed and
means nothing, so no row before it may see it, and it may not stand before other rows in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

from nldc.expr import Boolean, ExprError, evaluate
from nldc.ir.facts import facts_of, pair_lookup, row_lookup
from nldc.ir.graph import walk
from nldc.ir.layout import Row
from nldc.ir.ops import Attention, Forward, Node, Region
from nldc.ir.reader import Reader
from nldc.ir.scope import Scope
from nldc.ir.types import Logits, Tokens
from nldc.source import Path

CUT = "NLD085"
MOST_ROWS = 128
"""The most rows of a cut forward whose predicate is looked at pair by pair."""


def may_be_cut(reader: Reader, path: Path, tokens: Tokens, made: Forward, scope: Scope) -> bool:
    """Whether a forward may have rows that a Count cuts off, or add why not."""
    problem: tuple[Path, str, str] | None = None
    seen = _seen_behind(reader, tokens, made)
    if path[0] == "prefill":
        problem = (*path, "tokens"), "a Count cuts rows of the prefill", "the prompt has them all"
    elif scope.in_loop:
        problem = (
            (*path, "tokens"), "a Count cuts rows of a forward in a loop",
            "compute the whole block in a loop, and cut what is verified",
        )  # fmt: skip
    elif not isinstance(made.append, Boolean):
        problem = (
            (*path, "cache"), "some rows of a part that a Count cuts are appended",
            "`append` or `read` all of it",
        )  # fmt: skip
    elif seen is not None:
        problem = (*path, "attention"), *seen
    if problem is not None:
        place, message, label = problem
        help_text = "rows behind the Count are not there: no row before them may see them"
        reader.error(CUT, message, place, label, help_text=help_text)
    return problem is None


def _seen_behind(reader: Reader, tokens: Tokens, made: Forward) -> tuple[str, str] | None:
    """Return which row sees one that may be cut off before it, and a label, if any does."""
    if made.attention == Attention(made.attention.predicate, "causal"):
        return None
    rows = made.layout.rows()
    if len(rows) > MOST_ROWS:
        message = f"the attention of {len(rows)} rows that a Count cuts is not looked at"
        return message, f"`causal`, or at most {MOST_ROWS} rows"
    facts = [_facts(reader, made, row) for row in rows]
    for query, ask in enumerate(facts):
        for key in range(max(query + 1, tokens.least), len(rows)):
            found = pair_lookup(ask, facts[key], reader.kinds)
            try:
                if evaluate(made.attention.predicate, found):
                    return f"row {query} sees row {key}, which may be cut off", "here"
            except ExprError as problem:
                return problem.message, "this may have no value"
    return None


def _facts(reader: Reader, made: Forward, row: Row) -> dict[str, int | float | bool]:
    facts = facts_of(row, reader.kinds)
    offset = evaluate(made.position, row_lookup(facts, reader.kinds, {}))
    return facts_of(row, reader.kinds, int(offset))


def behind_cuts(region: Region) -> Iterator[tuple[Node, Node]]:
    """Yield each forward of a step that would find a part, appended before it, in the cache.

    With it, the forward that appended the part.
    """
    cut: Node | None = None
    for node in region.nodes:
        for inner in walk([node]):
            if cut is not None and isinstance(inner.op, Forward):
                yield node, cut
                break
        if is_cut(node) and isinstance(node.op, Forward) and node.op.append == Boolean(True):
            cut = node


def is_cut(node: Node) -> bool:
    """Whether a forward has rows that a Count cuts."""
    return isinstance(node.type, Logits) and node.type.ragged

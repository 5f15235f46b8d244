"""An accept of the longest branch: which rows its branches have, and what they must be."""

from __future__ import annotations

from collections.abc import Sequence

from nldc.expr import Expr, ExprError
from nldc.expr import Value as Constant
from nldc.ir import ops
from nldc.ir.branches import BRANCH, rows_of
from nldc.ir.facts import ROW_FACTS, row_kinds
from nldc.ir.layout import MAX_ROWS
from nldc.ir.ops import Value
from nldc.ir.reader import Made, Reader, layout_of
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Type
from nldc.schema import AcceptOp
from nldc.source import Path

BRANCHES = "NLD057"
BAD_NAME = "NLD018"
Operand = tuple[Value, Type]


MOST_ASKED = 65_536
"""More often than this is not asked which rows a branch has."""


def branching(
    reader: Reader, path: Path, model: AcceptOp, draft: Operand, target: Operand
) -> Made | None:
    """Return an accept of the longest branch, or None after adding what is wrong with it."""
    for key in ("branches", "of"):
        if getattr(model, key) is None:
            reader.error(
                BRANCHES, f"`longest_branch` needs `{key}`", (*path, "rule"),
                "it says how many branches there are" if key == "branches"
                else "a condition over rows and `branch` says which rows a branch has",
            )  # fmt: skip
            return None
    if model.offset != 1:
        reader.error(
            BRANCHES, "a branch begins with a row that is not compared", (*path, "offset"),
            "leave it out", help_text="the choice in a row is held against the branch's next row",
        )  # fmt: skip
        return None
    if not reader.same_size(path, ("draft", draft), ("target", target)):
        return None
    if BRANCH in reader.params or BRANCH in reader.kinds:
        what = "a param" if BRANCH in reader.params else "a kind of rows"
        reader.error(
            BAD_NAME, f"`{BRANCH}` is {what} of this file, and here the number of a branch",
            (*path, "of"), "rename the other",
        )  # fmt: skip
        return None
    count = reader.whole((*path, "branches"), model.branches, low=1, high=MAX_ROWS)
    of = _condition(reader, (*path, "of"), model.of or "")
    layout = layout_of(draft[1])
    if count is None or of is None or layout is None:
        return None
    if count * layout.size.at(0) > MOST_ASKED:
        reader.error(
            BRANCHES, f"{count} branches of {layout.size} rows are too many", (*path, "branches"),
            f"of each row each branch is asked, and that at most {MOST_ASKED} times",
        )  # fmt: skip
        return None
    try:
        rows = [rows_of(layout, of, number, reader.kinds) for number in range(count)]
    except ExprError as problem:
        reader.expression_error((*path, "of"), problem)
        return None
    wrong = _unequal(rows)
    if wrong is not None:
        reader.error(BRANCHES, wrong[0], (*path, "of"), wrong[1])
        return None
    length = len(rows[0])
    op = ops.Accept(draft[0], target[0], 1, tuple(rows))
    return op, Accepted(Size(length), length, 1, count)


def _condition(reader: Reader, path: Path, text: str) -> Expr | None:
    expr = reader.expression(path, text)
    numbers: dict[str, Constant] = {**reader.params, BRANCH: 0}
    if expr is None or not reader.is_condition(
        path, expr, row_kinds(ROW_FACTS, reader.kinds, numbers)
    ):
        return None
    return reader.fold(expr)


def _unequal(rows: Sequence[tuple[int, ...]]) -> tuple[str, str] | None:
    """Return what is wrong with branches that are not of one length, and its label."""
    for number, own in enumerate(rows):
        if not own:
            return f"branch {number} has no row", "this holds for no row then"
        if len(own) != len(rows[0]):
            return (
                f"branch {number} has {len(own)} rows and branch 0 has {len(rows[0])}",
                "all branches are of one length",
            )
    return None

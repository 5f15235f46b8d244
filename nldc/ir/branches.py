"""Chains of rows that share a forward: which rows each has, and where the cache has them.

A branch is rows in order, each the next of the one before. Branches may share rows, as a seed that
all begin with.
"""

from __future__ import annotations

from collections.abc import Sequence

from nldc.expr import Expr
from nldc.ir.effects import leaves_rows, leaving
from nldc.ir.facts import rows_where
from nldc.ir.graph import Step
from nldc.ir.layout import Layout
from nldc.ir.ops import Accept, Node, Value

BRANCH = "branch"
"""What a condition calls the number of the branch that it is asked of."""


def rows_of(layout: Layout, of: Expr, branch: int, kinds: Sequence[str]) -> tuple[int, ...]:
    """Return the rows of a branch, in order.

    Raises:
        ExprError: the condition has no value for a row.
    """
    return tuple(row.row for row in rows_where(layout.rows(), of, kinds, {BRANCH: branch}))


def storing(step_nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes of a step that leave rows in the cache."""
    return [node for node in step_nodes if leaves_rows(node.op)]


def places_of(step: Step, kinds: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return where each branch's rows lie among those that a step appends, branch by branch.

    The step keeps the path of an accept, whose draft one forward computes and appends.
    """
    (node,) = storing(step.region.nodes)
    places = appended_places(node, kinds)
    return tuple(tuple(places[row] for row in rows) for rows in branches_kept(step))


def branches_kept(step: Step) -> tuple[tuple[int, ...], ...]:
    """Return the rows of each branch of the accept whose path a step keeps."""
    keep = step.emit.keep
    nodes = {node.name: node for node in step.region.nodes}
    accept = None if keep is None else nodes[keep.node].op
    assert isinstance(accept, Accept)
    return accept.branches


def appended_places(node: Node, kinds: Sequence[str]) -> dict[int, int]:
    """Return where each row of a forward that is appended lies among those, by its number."""
    left = leaving(node.op)
    assert left is not None
    rows = rows_where(left.layout.rows(), left.append, kinds)
    return {row.row: place for place, row in enumerate(rows)}


def keeps_path(keep: Value | None) -> bool:
    """Whether what stays of a step's rows is a branch of them."""
    return keep is not None and keep.field == "path"

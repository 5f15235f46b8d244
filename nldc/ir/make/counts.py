"""Counts from scores: how many rows, from the first on, are as sure as a bound."""

from __future__ import annotations

from nldc.ir import ops
from nldc.ir.carried import may_name_count
from nldc.ir.make.choices import SCORE_RULE
from nldc.ir.reader import BAD_SIZE, Made, Reader
from nldc.ir.scope import Scope
from nldc.ir.types import Count, Scores
from nldc.schema import LeadingOp
from nldc.source import Path


def make_leading(reader: Reader, path: Path, model: LeadingOp, scope: Scope) -> Made | None:
    """A Count of leading rows by score."""
    if not may_name_count(reader, path, str(path[-1])):
        return None
    scores = reader.reference((*path, "scores"), model.scores, scope, Scores)
    low = reader.whole((*path, "min"), model.min, low=0)
    rules = {
        key: reader.asked((*path, key), getattr(model, key))
        for key in ("at_least", "at_most")
        if getattr(model, key) is not None
    }
    if scores is None or low is None or None in rules.values():
        return None
    type_ = scores[1]
    if not isinstance(type_, Scores):
        return None
    right = "at_most" if type_.by == "entropy" else "at_least"
    if list(rules) != [right]:
        reader.error(
            SCORE_RULE, f"rows are as sure as a bound by `{right}` of a score by {type_.by}", path,
            f"`{right}` alone is needed here", key=True,
        )  # fmt: skip
        return None
    if type_.size.prompts or low > type_.size.fixed:
        reader.error(
            BAD_SIZE, f"{low} rows of {type_.size} cannot be counted", (*path, "min"),
            f"at most {type_.size}, and of no prompt",
        )  # fmt: skip
        return None
    op = ops.Leading(scores[0], rules.get("at_least"), rules.get("at_most"), low)
    return op, Count(low, type_.size.fixed)

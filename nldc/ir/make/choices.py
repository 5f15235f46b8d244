"""Choices: tokens from logits, scores, selections of rows, mixed logits."""

from __future__ import annotations

from typing import Any

from nldc.expr import Expr
from nldc.expr import Value as Constant
from nldc.ir import ops
from nldc.ir.facts import row_kinds
from nldc.ir.layout import MAX_ROWS, plain
from nldc.ir.reader import WRONG_SIZE, Made, Reader, size_of
from nldc.ir.scope import Scope
from nldc.ir.types import Logits, RowMask, Scores, Tokens, Unknown
from nldc.schema import MixOp, SampleOp, ScoreOp, SelectOp
from nldc.source import Path

SCORE_RULE = "NLD054"


def make_sample(reader: Reader, path: Path, model: SampleOp, scope: Scope) -> Made | None:
    """Tokens from logits, of so many rows as `pad_to` says."""
    pad_to = None
    if model.pad_to is not None:
        pad_to = reader.whole((*path, "pad_to"), model.pad_to, low=1, high=MAX_ROWS)
        if pad_to is None:
            return None
    found = reader.reference((*path, "logits"), model.logits, scope, Logits, pad_to=pad_to)
    if found is None or isinstance(found[1], Unknown):
        return None
    if pad_to is not None and not found[0].picks:
        reader.error(
            WRONG_SIZE, "all rows of a forward cannot be padded", (*path, "pad_to"),
            "choose rows of it", key=True,
        )  # fmt: skip
        return None
    mask_token = reader.attribute("sample.mask_token", model.mask_token)
    return ops.Sample(found[0], mask_token), Tokens(size_of(found[1]))


def make_score(reader: Reader, path: Path, model: ScoreOp, scope: Scope) -> Made | None:
    """Scores from logits, of tokens where `by` is a probability."""
    logits = reader.reference((*path, "logits"), model.logits, scope, Logits)
    tokens = None
    if model.tokens is not None:
        tokens = reader.reference((*path, "tokens"), model.tokens, scope, Tokens)
    if (model.tokens is None) == (model.by == "probability"):
        need = "needs `tokens`" if model.by == "probability" else "is not of any tokens"
        reader.error(SCORE_RULE, f"a score by {model.by} {need}", path, "", key=True)
        return None
    if logits is None or isinstance(logits[1], Unknown):
        return None
    if tokens is not None and not reader.same_size(path, ("logits", logits), ("tokens", tokens)):
        return None
    of = reader.attribute("score.of", model.of)
    mask_token = reader.attribute("score.mask_token", model.mask_token)
    op = ops.Score(logits[0], None if tokens is None else tokens[0], model.by, of, mask_token)
    return op, Scores(size_of(logits[1]), model.by)


def make_select(reader: Reader, path: Path, model: SelectOp, scope: Scope) -> Made | None:
    """RowMask by score."""
    among = reader.reference((*path, "among"), model.among, scope, RowMask)
    score = reader.reference((*path, "score"), model.score, scope, Scores)
    rules = {
        key: read_rule(reader, (*path, key), getattr(model, key), real=key != "best")
        for key in ("at_least", "at_most", "best", "within")
        if getattr(model, key) is not None
    }
    always = None
    if model.always is not None:
        words = model.always.split(None, 1)
        if len(words) != 2 or words[0] != "best":
            reader.error(SCORE_RULE, f"`{model.always}` is no rule", (*path, "always"), "`best N`")
            return None
        start = model.always.index(words[1])
        always = read_rule(reader, (*path, "always"), words[1], start, real=False)
        if always is None:
            return None
    if None in rules.values():
        return None
    where = None
    if model.where is not None:
        where = _where(reader, (*path, "where"), model.where)
        if where is None:
            return None
    if not rules and always is None and where is None:
        reader.error(
            SCORE_RULE, "no rule says which rows to select", path, "", key=True,
            help_text="the rules: `at_least`, `at_most`, `best`, `within`, `where`, `always`",
        )  # fmt: skip
        return None
    if among is None or score is None:
        return None
    if not reader.same_size(path, ("among", among), ("score", score)):
        return None
    if isinstance(score[1], Scores):
        wrong = "at_least" if score[1].by == "entropy" else "at_most"
        if wrong in rules:
            right = "at_most" if wrong == "at_least" else "at_least"
            reader.error(
                SCORE_RULE, f"`{wrong}` would take the least sure rows", (*path, wrong),
                f"write `{right}` of a score by {score[1].by}", key=True,
            )  # fmt: skip
            return None
    op = ops.Select(
        among=among[0],
        score=score[0],
        less_is_surer=isinstance(score[1], Scores) and score[1].by == "entropy",
        at_least=rules.get("at_least"),
        at_most=rules.get("at_most"),
        best=rules.get("best"),
        within=rules.get("within"),
        where=where,
        always_best=always,
    )
    return op, among[1]


def read_rule(
    reader: Reader, path: Path, text: Any, offset: int = 0, *, real: bool = True
) -> Expr | None:
    """Return a number over params, `iteration` and `left`: a score if `real`, else of rows."""
    expr = reader.expression(path, text, offset)
    if expr is None:
        return None
    numbers: dict[str, Constant] = {**reader.params, "iteration": 0, "left": 0}
    if not reader.is_number(path, expr, row_kinds((), (), numbers), offset, real=real):
        return None
    return reader.printed(path, expr, offset)


def _where(reader: Reader, path: Path, text: str) -> Expr | None:
    expr = reader.expression(path, text)
    numbers: dict[str, Constant] = {**reader.params, "iteration": 0, "left": 0, "score": 0.0}
    kinds = row_kinds(("row", "rank"), (), numbers)
    if expr is None or not reader.is_condition(path, expr, kinds, beside="score"):
        return None
    return reader.printed(path, expr)


def make_mix(reader: Reader, path: Path, model: MixOp, scope: Scope) -> Made | None:
    """Logits added up."""
    found = [
        reader.reference((*path, "logits", number), part, scope, Logits)
        for number, part in enumerate(model.logits)
    ]
    weights = [
        reader.real((*path, "weights", number), weight)
        for number, weight in enumerate(model.weights)
    ]
    if len(weights) != len(found):
        reader.error(
            WRONG_SIZE, f"{len(found)} logits and {len(weights)} weights", (*path, "weights"),
            "one weight for each",
        )  # fmt: skip
        return None
    values = [part for part in found if part is not None]
    numbers = [weight for weight in weights if weight is not None]
    if len(values) < len(found) or len(numbers) < len(weights):
        return None
    if any(isinstance(type_, Unknown) for _, type_ in values):
        return None
    for number, part in enumerate(values[1:], start=1):
        if size_of(part[1]) != size_of(values[0][1]):
            reader.error(
                WRONG_SIZE,
                f"{part[1]} cannot be added to {values[0][1]}", (*path, "logits", number),
                f"this is {part[1]}", also=((*path, "logits", 0), f"this is {values[0][1]}"),
            )  # fmt: skip
            return None
    first = values[0][1]
    assert isinstance(first, Logits)
    size = size_of(first)
    return ops.Mix(tuple(v for v, _ in values), tuple(numbers)), Logits(size, plain(size))

"""Choices: tokens from logits, scores, selections of rows, mixed logits."""

from __future__ import annotations

from typing import Any

from nldc.expr import Expr
from nldc.expr import Value as Constant
from nldc.ir import ops
from nldc.ir.by_request import range_of
from nldc.ir.facts import row_kinds
from nldc.ir.layout import MAX_ROWS, plain
from nldc.ir.ranges import UndecidedError
from nldc.ir.reader import WRONG_SIZE, Made, Reader, size_of
from nldc.ir.scope import Scope
from nldc.ir.size import Size
from nldc.ir.types import Logits, RowMask, Scores, Tokens, Unknown
from nldc.schema import CandidatesOp, MixOp, NoiseOp, SampleOp, ScoreOp, SelectOp
from nldc.source import Path

SCORE_RULE = "NLD054"
MOST_CANDIDATES = 64
"""More likeliest tokens of a row are not asked for."""


def make_sample(reader: Reader, path: Path, model: SampleOp, scope: Scope) -> Made | None:
    """Tokens from logits, of so many rows as `pad_to` says."""
    pad_to = None
    if model.pad_to is not None:
        pad_to = reader.whole((*path, "pad_to"), model.pad_to, low=1, high=MAX_ROWS)
        if pad_to is None:
            return None
    found = reader.reference(
        (*path, "logits"), model.logits, scope, Logits, pad_to=pad_to, ragged=pad_to is None
    )
    if found is None or isinstance(found[1], Unknown):
        return None
    if pad_to is not None and not found[0].picks:
        reader.error(
            WRONG_SIZE, "all rows of a forward cannot be padded", (*path, "pad_to"),
            "choose rows of it", key=True,
        )  # fmt: skip
        return None
    temperature = None
    if model.temperature is not None:
        temperature = read_temperature(reader, (*path, "temperature"), model.temperature)
        if temperature is None:
            return None
    mask_token = reader.attribute("sample.mask_token", model.mask_token)
    type_ = found[1]
    assert isinstance(type_, Logits)
    tokens = Tokens(size_of(type_), type_.ragged, type_.least)
    return ops.Sample(found[0], mask_token, temperature), tokens


def make_candidates(reader: Reader, path: Path, model: CandidatesOp, scope: Scope) -> Made | None:
    """The likeliest tokens of each row."""
    logits = reader.reference((*path, "logits"), model.logits, scope, Logits)
    count = reader.whole((*path, "count"), model.count, low=1, high=MOST_CANDIDATES)
    if logits is None or count is None or isinstance(logits[1], Unknown):
        return None
    size = size_of(logits[1])
    return ops.Candidates(logits[0], count), Tokens(sum([size] * count, Size(0)))


def read_temperature(reader: Reader, path: Path, text: Any) -> Expr | None:
    """Return the temperature of a drafter's choice: a number over params that is never negative."""
    printed = reader.asked(path, text)
    if printed is None:
        return None
    try:
        least = range_of(printed, reader.runtime).low
    except UndecidedError as problem:
        reader.error(SCORE_RULE, f"`{text}` may be no temperature", path, str(problem))
        return None
    if not least >= 0:
        reader.error(
            SCORE_RULE, f"`{text}` may be below 0, and no temperature is", path,
            "0 is greedy", help_text="bound the params in it by their `min`",
        )  # fmt: skip
        return None
    return printed


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


def make_noise(reader: Reader, path: Path, full: str, model: NoiseOp, scope: Scope) -> Made | None:
    """A random number a row; each node's are others."""
    found = reader.reference((*path, "logits"), model.logits, scope, Logits)
    if found is None or isinstance(found[1], Unknown):
        return None
    reader.noises.append(full)
    return ops.Noise(found[0], len(reader.noises)), Scores(size_of(found[1]), "noise")


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
    if isinstance(score[1], Scores) and score[1].by != "noise":
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
    return reader.asked(path, text, offset, others=("iteration", "left"), real=real)


def _where(reader: Reader, path: Path, text: str) -> Expr | None:
    expr = reader.expression(path, text, runtime=True)
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
        reader.weight((*path, "weights", number), weight)
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

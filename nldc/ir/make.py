"""One function an op: from its keys in the file to a typed op of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nldc.diagnostics import Diagnostic, InternalError, Label, nearest
from nldc.expr import (
    Boolean,
    Expr,
    ExprError,
    Not,
    Number,
    Ref,
    evaluate,
    fold,
    kind_of,
    parse,
    references,
)
from nldc.expr import Value as Constant
from nldc.ir import ops
from nldc.ir.attributes import choose
from nldc.ir.facts import (
    ROW_FACTS,
    BadPickError,
    UnknownNameError,
    facts_of,
    pair_kinds,
    row_kinds,
    row_lookup,
)
from nldc.ir.graph import Adapter, walk
from nldc.ir.layout import MAX_ROWS, Layout, Segment, plain
from nldc.ir.ops import Attention, Node, Op, Region, Value
from nldc.ir.scope import FALSE, TRUE, Binding, Resolver, Scope, constant
from nldc.ir.size import Size
from nldc.ir.types import (
    Accepted,
    Count,
    Logits,
    RowMask,
    Rows,
    Scores,
    Tokens,
    Type,
    Unknown,
)
from nldc.schema import (
    AcceptOp,
    AppendWhere,
    ConfidenceCommit,
    DenoiseOp,
    FillOp,
    ForwardOp,
    JoinOp,
    LookupOp,
    Loop,
    MixOp,
    OpModel,
    PredictsWhere,
    RowsOp,
    SampleOp,
    ScoreOp,
    SelectOp,
)
from nldc.schema import Segment as SegmentModel
from nldc.source import Path, Source

SEGMENT = "NLD017"
EXPRESSION = "NLD030"
UNKNOWN_NAME = "NLD031"
BAD_PICK = "NLD035"
WRONG_TYPE = "NLD050"
WRONG_SIZE = "NLD051"
BAD_SIZE = "NLD052"
POSITION = "NLD053"
SCORE_RULE = "NLD054"
ATTRIBUTE = "NLD055"
KEPT_KEYS = "NLD077"
UNKNOWN_ADAPTER = "NLD090"

ATTENTION: Mapping[str, Expr] = {"causal": parse("k.row <= q.row"), "bidirectional": TRUE}
"""The patterns that have a name; a cached row has row -1, so both see the whole prefix."""

Made = tuple[Op, Type]


@dataclass(frozen=True)
class Maker:
    """Makes ops for concrete params; mistakes are added to `found`.

    `compat` sets the attributes that the file leaves open, but for the seed of the blocks in
    `verified`: a draft that `accept` checks begins with it in every engine.
    """

    source: Source
    params: Mapping[str, Constant]
    kinds: Sequence[str]
    adapters: Sequence[Adapter]
    found: list[Diagnostic]
    compat: str | None = None
    verified: set[str] = field(default_factory=set)

    def make(self, path: Path, full: str, model: OpModel, scope: Scope) -> Made | None:
        """Return the op and its type, or None after adding what is wrong with it."""
        match model:
            case RowsOp():
                return self.lay_rows(path, full, model, scope)
            case ForwardOp():
                return self.forward(path, model, scope)
            case SampleOp():
                return self.sample(path, model, scope)
            case ScoreOp():
                return self.score(path, model, scope)
            case SelectOp():
                return self.select(path, model, scope)
            case MixOp():
                return self.mix(path, model, scope)
            case LookupOp():
                return self.lookup(path, model)
            case FillOp():
                return self.fill(path, model, scope)
            case JoinOp():
                return self.join((*path, "parts"), model.parts, scope)
            case AcceptOp():
                return self.accept(path, model, scope)
            case DenoiseOp():
                return self.denoise(path, full, model, scope)
            case _:
                raise InternalError(f"no maker for the op {model.op}")

    # Ops

    def lay_rows(self, path: Path, full: str, model: RowsOp, scope: Scope) -> Made | None:
        """Rows from segments, repeated for each group."""
        groups = 1
        if model.groups is not None:
            found = self.whole((*path, "groups"), model.groups, low=1, high=MAX_ROWS)
            if found is None:
                return None
            groups = found
        made = [
            self._segment((*path, "segments", number), segment, scope, groups)
            for number, segment in enumerate(model.segments)
        ]
        segments = tuple(one[0] for one in made if one is not None)
        parts = tuple(one[1] for one in made if one is not None)
        if len(segments) < len(made):
            return None
        if model.seed == "masked" and not _begins_with_seed(segments, groups):
            self.error(
                ATTRIBUTE, "these rows do not begin with a seed", (*path, "seed"),
                "there is none to mask",
                help_text="`seed` is of one group of rows: a segment with one token, then masks",
            )  # fmt: skip
            return None
        is_masked = self._seed(full, model) == "masked" and _begins_with_seed(segments, groups)
        if is_masked:
            first = replace(segments[0], tokens=False)
            segments, parts = (first, *segments[1:]), (None, *parts[1:])
        layout = Layout(segments, groups, by_segment=model.order == "segments")
        if not 0 < layout.size.at(1) <= MAX_ROWS:
            self.error(
                BAD_SIZE, f"the layout has {layout.size} rows", path,
                f"between 1 and {MAX_ROWS} rows",
            )  # fmt: skip
            return None
        return ops.LayRows(layout, parts, "masked" if is_masked else "given"), Rows(layout)

    def _seed(self, full: str, model: RowsOp) -> Any:
        is_free = full not in self.verified and not full.startswith("prefill.")
        return choose("rows.seed", model.seed, self.compat if is_free else None)

    def _segment(
        self, path: Path, segment: SegmentModel, scope: Scope, groups: int
    ) -> tuple[Segment, Value | None] | None:
        if (segment.tokens is None) == (segment.masks is None):
            self.error(SEGMENT, "a segment has `tokens` or `masks`", path, "one of the two")
            return None
        if segment.masks is not None:
            sizes = self._mask_sizes((*path, "masks"), segment.masks, groups)
            return None if sizes is None else (Segment(sizes, False, segment.kind), None)
        found = self.reference((*path, "tokens"), segment.tokens, scope, Tokens)
        if found is None or isinstance(found[1], Unknown):
            return None
        sizes = self._token_sizes((*path, "tokens"), found[1], groups)
        return None if sizes is None else (Segment(sizes, True, segment.kind), found[0])

    def _mask_sizes(self, path: Path, text: Any, groups: int) -> tuple[Size, ...] | None:
        sizes: list[Size] = []
        for group in range(groups):
            extra: dict[str, Constant] = {"group": group} if groups > 1 else {}
            size = self.whole(path, text, low=0, high=MAX_ROWS, extra=extra)
            if size is None:
                return None
            sizes.append(Size(size))
        return tuple(sizes)

    def _token_sizes(self, path: Path, type_: Type, groups: int) -> tuple[Size, ...] | None:
        assert isinstance(type_, Tokens)
        if groups == 1:
            return (type_.size,)
        if type_.size.prompts or type_.size.fixed % groups:
            self.error(
                WRONG_SIZE, f"{type_} cannot be shared evenly among {groups} groups", path,
                f"this is {type_}",
            )  # fmt: skip
            return None
        return (Size(type_.size.fixed // groups),) * groups

    def forward(self, path: Path, model: ForwardOp, scope: Scope) -> Made | None:
        """Logits of rows over the prefix."""
        found = self.reference((*path, "tokens"), model.tokens, scope, Tokens, Rows)
        layout = None if found is None else _layout(found[1])
        attention = self._attention((*path, "attention"), model.attention)
        position = self._position(path, model.position, layout)
        append = self._append(path, model.cache)
        predicts = self._predicts(path, model, attention)
        adapter = self._adapter(path, model.adapter)
        if found is None or layout is None or attention is None or position is None:
            return None
        if append is None or predicts is None or adapter is None:
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

    def _attention(self, path: Path, text: str) -> Attention | None:
        if text in ATTENTION:
            return Attention(ATTENTION[text], text)
        expr = self.expression(path, text)
        if expr is None:
            return None
        if isinstance(expr, Ref) and expr.dotted == expr.root:
            meant = nearest(text, ATTENTION)
            self.error(
                EXPRESSION, f"there is no attention pattern `{text}`", path,
                f"did you mean `{meant}`?" if meant else "no such pattern",
                help_text="`causal`, `bidirectional`, or a predicate over q and k",
            )  # fmt: skip
            return None
        kinds = pair_kinds(self.kinds, self.params)
        return None if not self.is_condition(path, expr, kinds) else Attention(self.fold(expr))

    def _position(self, path: Path, text: Any, layout: Layout | None) -> Expr | None:
        if text is None:
            if layout is not None and layout.groups > 1:
                self.error(
                    POSITION, "rows in groups need a `position`", path, "`position` is required",
                    key=True, help_text="position: group + index",
                )  # fmt: skip
                return None
            return Ref("row")
        place = (*path, "position")
        expr = self.expression(place, text)
        facts = tuple(name for name in ROW_FACTS if name != "kind")
        if expr is None or not self.is_number(place, expr, row_kinds(facts, (), self.params)):
            return None
        expr = self.fold(expr)
        for row in () if layout is None else layout.rows(1):
            lookup = row_lookup(facts_of(row, self.kinds), self.kinds, {})
            try:
                position = evaluate(expr, lookup)
            except ExprError as problem:
                self.expression_error(place, problem)
                return None
            if position < 0:
                self.error(
                    POSITION, f"row {row.row} lies {-position} before the end of the prefix", place,
                    "a row follows the prefix: its position is 0 or more",
                )  # fmt: skip
                return None
        return expr

    def _append(self, path: Path, cache: str | AppendWhere) -> Expr | None:
        if isinstance(cache, AppendWhere):
            return self._row_predicate((*path, "cache", "append"), cache.append)
        return Boolean(cache == "append")

    def _predicts(self, path: Path, model: ForwardOp, attention: Attention | None) -> Expr | None:
        if isinstance(model.predicts, PredictsWhere):
            return self._row_predicate((*path, "predicts", "next"), model.predicts.next)
        if model.predicts is not None:
            return Boolean(model.predicts == "next")
        if attention is not None and attention.name is not None:
            return Boolean(attention.name == "causal")
        return Not(Ref("masked"))

    def _adapter(
        self, path: Path, adapter: str | dict[str, str] | None
    ) -> tuple[str | None, Expr] | None:
        if adapter is None:
            return None, FALSE
        place = (*path, "adapter")
        name = adapter if isinstance(adapter, str) else next(iter(adapter))
        known = [declared.name for declared in self.adapters]
        if name not in known:
            meant = nearest(name, known)
            label = f"did you mean `{meant}`?" if meant else "not declared"
            self.error(
                UNKNOWN_ADAPTER, f"there is no adapter `{name}`", place, label,
                help_text=f"declare it: adapters: {{{name}: {{kind: lora}}}}",
            )  # fmt: skip
            return None
        if isinstance(adapter, str):
            return name, TRUE
        rows = self._row_predicate((*place, name), adapter[name])
        return None if rows is None else (name, rows)

    def sample(self, path: Path, model: SampleOp, scope: Scope) -> Made | None:
        """Tokens from logits."""
        found = self.reference((*path, "logits"), model.logits, scope, Logits)
        if found is None or isinstance(found[1], Unknown):
            return None
        mask_token = self.attribute("sample.mask_token", model.mask_token)
        return ops.Sample(found[0], mask_token), Tokens(_size(found[1]))

    def score(self, path: Path, model: ScoreOp, scope: Scope) -> Made | None:
        """Scores from logits, of tokens where `by` is a probability."""
        logits = self.reference((*path, "logits"), model.logits, scope, Logits)
        tokens = None
        if model.tokens is not None:
            tokens = self.reference((*path, "tokens"), model.tokens, scope, Tokens)
        if (model.tokens is None) == (model.by == "probability"):
            need = "needs `tokens`" if model.by == "probability" else "is not of any tokens"
            self.error(SCORE_RULE, f"a score by {model.by} {need}", path, "", key=True)
            return None
        if logits is None or isinstance(logits[1], Unknown):
            return None
        if tokens is not None and not self.same_size(path, ("logits", logits), ("tokens", tokens)):
            return None
        of = self.attribute("score.of", model.of)
        mask_token = self.attribute("score.mask_token", model.mask_token)
        op = ops.Score(logits[0], None if tokens is None else tokens[0], model.by, of, mask_token)
        return op, Scores(_size(logits[1]), model.by)

    def select(self, path: Path, model: SelectOp, scope: Scope) -> Made | None:
        """RowMask by score."""
        among = self.reference((*path, "among"), model.among, scope, RowMask)
        score = self.reference((*path, "score"), model.score, scope, Scores)
        rules = {
            key: self._rule((*path, key), getattr(model, key))
            for key in ("at_least", "at_most", "best", "within")
            if getattr(model, key) is not None
        }
        always = None
        if model.always is not None:
            words = model.always.split(None, 1)
            if len(words) != 2 or words[0] != "best":
                self.error(
                    SCORE_RULE, f"`{model.always}` is no rule", (*path, "always"), "`best N`"
                )
                return None
            always = self._rule((*path, "always"), words[1], model.always.index(words[1]))
            if always is None:
                return None
        if None in rules.values():
            return None
        where = None
        if model.where is not None:
            where = self._where((*path, "where"), model.where)
            if where is None:
                return None
        if not rules and always is None and where is None:
            self.error(
                SCORE_RULE, "no rule says which rows to select", path, "", key=True,
                help_text="the rules: `at_least`, `at_most`, `best`, `within`, `where`, `always`",
            )  # fmt: skip
            return None
        if among is None or score is None:
            return None
        if not self.same_size(path, ("among", among), ("score", score)):
            return None
        if isinstance(score[1], Scores):
            wrong = "at_least" if score[1].by == "entropy" else "at_most"
            if wrong in rules:
                right = "at_most" if wrong == "at_least" else "at_least"
                self.error(
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

    def _rule(self, path: Path, text: Any, offset: int = 0) -> Expr | None:
        expr = self.expression(path, text, offset)
        if expr is None:
            return None
        numbers: dict[str, Constant] = {**self.params, "iteration": 0, "left": 0}
        if not self.is_number(path, expr, row_kinds((), (), numbers), offset):
            return None
        return self.fold(expr)

    def _where(self, path: Path, text: str) -> Expr | None:
        expr = self.expression(path, text)
        numbers: dict[str, Constant] = {**self.params, "iteration": 0, "left": 0, "score": 0.0}
        kinds = row_kinds(("row", "rank"), (), numbers)
        if expr is None or not self.is_condition(path, expr, kinds):
            return None
        return self.fold(expr)

    def mix(self, path: Path, model: MixOp, scope: Scope) -> Made | None:
        """Logits added up."""
        found = [
            self.reference((*path, "logits", number), part, scope, Logits)
            for number, part in enumerate(model.logits)
        ]
        weights = [
            self.real((*path, "weights", number), weight)
            for number, weight in enumerate(model.weights)
        ]
        if len(weights) != len(found):
            self.error(
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
            if _size(part[1]) != _size(values[0][1]):
                self.error(
                    WRONG_SIZE,
                    f"{part[1]} cannot be added to {values[0][1]}", (*path, "logits", number),
                    f"this is {part[1]}", also=((*path, "logits", 0), f"this is {values[0][1]}"),
                )  # fmt: skip
                return None
        first = values[0][1]
        assert isinstance(first, Logits)
        size = _size(first)
        return ops.Mix(tuple(v for v, _ in values), tuple(numbers)), Logits(size, plain(size))

    def lookup(self, path: Path, model: LookupOp) -> Made | None:
        """Tokens from the text so far."""
        length = self.whole((*path, "length"), model.length, low=1, high=MAX_ROWS)
        ngram = self.whole((*path, "ngram"), model.ngram, low=1, high=64)
        if length is None or ngram is None:
            return None
        return ops.Lookup(length, ngram), Tokens(Size(length))

    def fill(self, path: Path, model: FillOp, scope: Scope) -> Made | None:
        """Rows with tokens written where selected."""
        rows = self.reference((*path, "rows"), model.rows, scope, Rows)
        where = self.reference((*path, "where"), model.where, scope, RowMask)
        tokens = self.reference((*path, "tokens"), model.tokens, scope, Tokens)
        if rows is None or where is None or tokens is None:
            return None
        if not self.same_size(path, ("rows", rows), ("where", where)):
            return None
        if not self.same_size(path, ("rows", rows), ("tokens", tokens)):
            return None
        return ops.Fill(rows[0], where[0], tokens[0]), rows[1]

    def join(self, path: Path, parts: Sequence[Any], scope: Scope) -> Made | None:
        """Tokens one after another."""
        found = [
            self.reference((*path, number), part, scope, Tokens)
            for number, part in enumerate(parts)
        ]
        if any(part is None or isinstance(part[1], Unknown) for part in found):
            return None
        pairs = [part for part in found if part is not None]
        for number, (_, type_) in enumerate(pairs):
            if isinstance(type_, Tokens) and type_.ragged:
                self.error(
                    WRONG_TYPE, "tokens whose number differs by sequence cannot be joined",
                    (*path, number), f"this is {type_}",
                )  # fmt: skip
                return None
        size = sum((_size(type_) for _, type_ in pairs), Size(0))
        return ops.Join(tuple(value for value, _ in pairs)), Tokens(size)

    def accept(self, path: Path, model: AcceptOp, scope: Scope) -> Made | None:
        """The longest agreeing prefix of a draft."""
        draft = self.reference((*path, "draft"), model.draft, scope, Tokens, Rows)
        target = self.reference((*path, "target"), model.target, scope, Tokens)
        if draft is None or target is None:
            return None
        if isinstance(draft[1], Unknown) or isinstance(target[1], Unknown):
            return None
        size, targets = _size(draft[1]), _size(target[1])
        if size.prompts or targets.prompts:
            self.error(WRONG_SIZE, "a draft's length cannot depend on the prompt", path, "", True)
            return None
        most = size.fixed - model.offset + 1
        if most < 1 or targets.fixed < most:
            self.error(
                WRONG_SIZE,
                f"{size} drafted tokens need {most} targets, and there are {targets.fixed}",
                (*path, "target"), f"this is {target[1]}",
                also=((*path, "draft"), f"this is {draft[1]}"),
                help_text="target i is held against draft i + offset, and one more is the bonus",
            )  # fmt: skip
            return None
        return ops.Accept(draft[0], target[0], model.offset), Accepted(size, most)

    def denoise(self, path: Path, full: str, model: DenoiseOp, scope: Scope) -> Made | None:
        """Sugar: `repeat` with a forward, a sample, a score, a selection and a fill."""
        rows = self.reference((*path, "rows"), model.rows, scope, Rows)
        masked = 0 if rows is None else _masks(rows[1])
        rules: dict[str, Any]
        if isinstance(model.commit, ConfidenceCommit):
            at_least = self._rule((*path, "commit", "confidence"), model.commit.confidence)
            rules = {} if at_least is None else {"at_least": at_least, "always": Number(1)}
            at_most: int | None = masked
        else:
            steps_path = (*path, "commit", "steps")
            at_most = self.whole(steps_path, model.commit.steps, low=1, high=MAX_ROWS)
            share = parse(f"({masked} - iteration + {at_most} - 1) // {at_most}")
            rules = {} if at_most is None else {"best": share}
        forward = ForwardOp(
            op="forward",
            tokens="rows",
            attention=model.attention,
            cache="read",
            position=model.position,
            adapter=model.adapter,
        )
        if rows is None or isinstance(rows[1], Unknown) or not rules:
            self._attention((*path, "attention"), model.attention)
            self._adapter(path, model.adapter)
            return None
        if masked == 0:
            self.error(WRONG_TYPE, "there is no masked row to denoise", (*path, "rows"), "no masks")
            return None
        span = self.source.span(path, key=True)
        loop = Binding(f"{full}:rows", rows[1])
        made = self.forward(path, forward, Scope({"rows": loop}))
        if made is None:
            return None
        size = _size(rows[1])
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
        sample = ops.Sample(seen, self.attribute("sample.mask_token", model.mask_token))
        score = ops.Score(
            seen,
            pick,
            by,
            self.attribute("score.of", model.commit.of),
            self.attribute("score.mask_token", model.commit.mask_token),
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
        op = self.finish_loop(path, full, model, bare)
        return None if op is None else (op, rows[1])

    def finish_loop(self, path: Path, full: str, model: Loop, op: ops.Repeat) -> ops.Repeat | None:
        """Return the loop with its attributes, or None after adding why it cannot have them."""
        exhausted = self.attribute("repeat.exhausted", model.exhausted)
        if exhausted == "fill" and not _offers(op):
            if model.exhausted is not None:
                name = op.result.node.rsplit(".", 1)[1]
                self.error(
                    ATTRIBUTE, "nothing says which tokens the rows that are left would take",
                    (*path, "exhausted"), f"`{name}` in the body is no `fill`",
                )  # fmt: skip
                return None
            exhausted = "keep"
        keys = self.attribute("repeat.keys", model.keys)
        if keys == "kept" and not self._may_keep(path, full, op):
            return None
        return replace(
            op,
            eos=self.attribute("repeat.eos", model.eos),
            eos_ids=self.attribute("repeat.eos_ids", model.eos_ids),
            exhausted=exhausted,
            keys=keys,
        )

    def _may_keep(self, path: Path, full: str, op: ops.Repeat) -> bool:
        place = (*path, "keys")
        forwards = [node for node in walk(op.body.nodes) if isinstance(node.op, ops.Forward)]
        own = [node for node in op.body.nodes if isinstance(node.op, ops.Forward)]
        if len(forwards) != 1 or len(own) != 1:
            self.error(
                KEPT_KEYS, f"the loop has {len(forwards)} forwards, and one must leave the keys",
                place, "the keys of its only forward",
            )  # fmt: skip
            return False
        forward = own[0].op
        assert isinstance(forward, ops.Forward)
        if forward.rows.node != f"{full}:{op.variable}" or forward.rows.picks:
            self.error(
                KEPT_KEYS, f"its forward is not over the whole of `{op.variable}`", place,
                "the keys of all its rows",
            )  # fmt: skip
            return False
        if any(
            evaluate(forward.position, row_lookup(facts_of(row, self.kinds), self.kinds, {}))
            != row.row
            for row in forward.layout.rows(1)
        ):
            self.error(
                KEPT_KEYS, "its forward's rows do not follow one another", place,
                "what stays in the cache lies in the order of its rows",
            )  # fmt: skip
            return False
        if op.at_least < 1:
            self.error(
                KEPT_KEYS, "a loop that may not run at all leaves no keys", place,
                "write `at_least: 1`",
            )  # fmt: skip
            return False
        return True

    # Parts of ops

    def attribute(self, name: str, written: str | None) -> Any:
        """Return the value of an attribute, by what is written or the file's preset."""
        return choose(name, written, self.compat)

    def appended(self, op: Op) -> int:
        """Return how many rows of a step's forward, or loop, stay in the cache."""
        if isinstance(op, ops.Repeat) and op.keys == "kept":
            (op,) = (node.op for node in op.body.nodes if isinstance(node.op, ops.Forward))
            return op.layout.size.at(1)
        if not isinstance(op, ops.Forward):
            return 0
        return sum(
            bool(evaluate(op.append, row_lookup(facts_of(row, self.kinds), self.kinds, {})))
            for row in op.layout.rows(1)
        )

    def rows_reference(self, path: Path, text: Any, scope: Scope) -> tuple[Value, Type] | None:
        """Return a reference to Rows."""
        return self.reference(path, text, scope, Rows)

    def reference(
        self, path: Path, text: Any, scope: Scope, *wanted: type, offset: int = 0
    ) -> tuple[Value, Type] | None:
        """Return a value of one of the wanted types, or None after adding what is wrong."""
        expr = self.expression(path, text, offset)
        if expr is None:
            return None
        if not isinstance(expr, Ref):
            self.error(WRONG_TYPE, f"`{text}` is not a value of the graph", path, "name a node")
            return None
        resolver = Resolver(scope, self.params, self.kinds)
        span = self.source.inside(path, expr.start + offset, expr.end + offset)
        try:
            value, type_ = resolver.resolve(expr, span)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return None
        if isinstance(type_, (Unknown, *wanted)):
            return value, type_
        names = " or ".join(w.__name__ for w in wanted)
        hint = None
        if isinstance(type_, Rows) and Tokens in wanted:
            return Value(value.node, span, "tokens"), Tokens(type_.size)
        if isinstance(type_, Accepted):
            hint = f"`{text}.tokens`, `.drafted`, `.rows`, `.matches` and `.bonus` are its fields"
        if isinstance(type_, Logits) and Tokens in wanted:
            hint = "choose tokens from logits with `sample`"
        self.error(
            WRONG_TYPE, f"`{text}` is {type_}, expected {names}", path, f"this is {type_}",
            help_text=hint,
        )  # fmt: skip
        return None

    def whole(
        self,
        path: Path,
        text: Any,
        low: int,
        high: int = 2**31 - 1,
        extra: Mapping[str, Constant] | None = None,
    ) -> int | None:
        """Return a whole number between bounds from an expression over params."""
        expr = self.expression(path, text)
        if expr is None:
            return None
        try:
            value = constant(expr, {**self.params, **(extra or {})})
        except ExprError as problem:
            self.expression_error(path, problem)
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.error(BAD_SIZE, f"`{text}` is {value}, not a whole number", path, "a size")
            return None
        if not low <= value <= high:
            named = {ref.dotted for ref in references(expr)}
            given = ", ".join(f"{name} = {n}" for name, n in self.params.items() if name in named)
            limit = f"at least {low}" if value < low else f"at most {high}"
            when = f" when {given}" if given else ""
            self.error(BAD_SIZE, f"`{text}` is {value}{when}", path, f"must be {limit}")
            return None
        return value

    def real(self, path: Path, text: Any) -> float | None:
        """Return a real number from an expression over params."""
        expr = self.expression(path, text)
        if expr is None:
            return None
        try:
            value = constant(expr, self.params)
        except ExprError as problem:
            self.expression_error(path, problem)
            return None
        if isinstance(value, bool):
            self.error(EXPRESSION, "expected a number", path, "this is a condition")
            return None
        return float(value)

    def _row_predicate(self, path: Path, text: str) -> Expr | None:
        expr = self.expression(path, text)
        kinds = row_kinds(ROW_FACTS, self.kinds, self.params)
        if expr is None or not self.is_condition(path, expr, kinds):
            return None
        return self.fold(expr)

    def fold(self, expr: Expr) -> Expr:
        """Replace params by their values."""
        return fold(expr, self.params)

    def expression(self, path: Path, text: Any, offset: int = 0) -> Expr | None:
        """Parse an expression; a bare number is one too."""
        try:
            return parse(str(text))
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return None

    def is_condition(self, path: Path, expr: Expr, kinds: Any) -> bool:
        """Whether the expression is a condition, or add that it is not."""
        return self._is(path, expr, kinds, ("bool",), "a condition", 0)

    def is_number(self, path: Path, expr: Expr, kinds: Any, offset: int = 0) -> bool:
        """Whether the expression is a number, or add that it is not."""
        return self._is(path, expr, kinds, ("int", "float"), "a number", offset)

    def _is(
        self, path: Path, expr: Expr, kinds: Any, wanted: tuple[str, ...], what: str, offset: int
    ) -> bool:
        try:
            found = kind_of(expr, kinds)
        except ExprError as problem:
            self.expression_error(path, problem, offset)
            return False
        if found in wanted:
            return True
        self.error(EXPRESSION, f"expected {what}", path, f"this is {found}")
        return False

    def same_size(
        self,
        path: Path,
        first: tuple[str, tuple[Value, Type]],
        second: tuple[str, tuple[Value, Type]],
    ) -> bool:
        """Whether two operands have as many rows, or add that they do not."""
        types = first[1][1], second[1][1]
        if any(isinstance(type_, Unknown) for type_ in types):
            return False
        if _size(types[0]) == _size(types[1]):
            return True
        self.error(
            WRONG_SIZE,
            f"`{second[0]}` has {_size(types[1])} rows and `{first[0]}` has {_size(types[0])}",
            (*path, second[0]), f"this is {types[1]}",
            also=((*path, first[0]), f"this is {types[0]}"),
        )  # fmt: skip
        return False

    def expression_error(self, path: Path, problem: ExprError, offset: int = 0) -> None:
        """Add a mistake inside an expression, at its characters."""
        span = self.source.inside(path, problem.start + offset, problem.end + offset)
        help_lines = () if problem.help is None else (problem.help,)
        label = Label(span, "here" if not problem.help else "")
        code = EXPRESSION
        if isinstance(problem, UnknownNameError):
            code = UNKNOWN_NAME
        elif isinstance(problem, BadPickError):
            code = BAD_PICK
        self.found.append(Diagnostic(code, "error", problem.message, (label,), help_lines))

    def error(
        self,
        code: str,
        message: str,
        path: Path,
        label: str,
        key: bool = False,
        help_text: str | None = None,
        also: tuple[Path, str] | None = None,
    ) -> None:
        """Add a mistake."""
        labels = [Label(self.source.span(path, key=key), label)]
        if also is not None:
            labels.append(Label(self.source.span(also[0]), also[1], primary=False))
        help_lines = () if help_text is None else (help_text,)
        self.found.append(Diagnostic(code, "error", message, tuple(labels), help_lines))


def _begins_with_seed(segments: Sequence[Segment], groups: int) -> bool:
    first, *others = segments
    is_one = first.tokens and first.sizes == (Size(1),)
    return groups == 1 and is_one and any(not segment.tokens for segment in others)


def _offers(loop: ops.Repeat) -> bool:
    """Whether the loop's last node says what token each row would take."""
    last = next((node.op for node in loop.body.nodes if node.name == loop.result.node), None)
    return isinstance(last, ops.Fill)


def _size(type_: Type) -> Size:
    assert not isinstance(type_, (Accepted, Count, Unknown))
    return type_.size


def _layout(type_: Type) -> Layout | None:
    match type_:
        case Rows(layout):
            return layout
        case Tokens(size):
            return plain(size)
        case _:
            return None


def _masks(type_: Type) -> int:
    return sum(row.masked for row in type_.layout.rows(1)) if isinstance(type_, Rows) else 0

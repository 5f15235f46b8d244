"""Who listens to instrumented code: an observer of the engine that tells of each step as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.engine.observe import StepRecord
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.batch import Batch
from nldc.runtime.trace import run as r
from nldc.runtime.trace.run import Columns, Run


@dataclass(frozen=True, eq=False)
class Ran:
    """One forward of one sequence, number `number` of the step's.

    Its rows are those of `layout`, behind `start` positions of the cached prefix.
    """

    number: int
    node: str
    layout: Layout
    pattern: Pattern
    adapter: str | None
    adapted: Sequence[bool]
    hold: bool
    tokens: list[int]
    start: int
    begun: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Chosen:
    """Tokens that were chosen in rows of forwards, `number` on by their numbers.

    Of each token: the `forwards` of this step and the `rows` of those in which it was chosen, its
    position, the `best` two tokens of the row with their logits, the row's `sums` (the logarithm of
    the sum of exponentials) and its own logit. `whole` has all logits of the rows [n, vocabulary],
    where somebody wants them; each row has `each` tokens.
    """

    register: str
    op: str
    number: int
    each: int
    forwards: list[int]
    rows: list[int]
    positions: list[int]
    tokens: list[int]
    best: list[tuple[int, int]]
    logits: list[tuple[float, float]]
    sums: list[float]
    own: list[float]
    whole: Tensor | None


@dataclass(frozen=True)
class Held:
    """Tokens, and the numbers of their choices."""

    tokens: list[int]
    numbers: list[int]


@dataclass(frozen=True)
class Compared:
    """A draft held against targets, one by one: of the first `most`, the first `matches` agreed.

    Target number `matches` is AR's own.
    """

    register: str
    draft: Held
    target: Held
    matches: int
    most: int
    branch: int | None


@dataclass(frozen=True)
class Round:
    """Rows of a loop after a round."""

    register: str
    rows: Held
    masked: list[bool]


@dataclass(frozen=True)
class Appended:
    """The first `rows` rows of the forward before stay in the cache."""

    rows: int


Happened = Ran | Chosen | Compared | Round | Appended


@dataclass(frozen=True, eq=False)
class Part:
    """One sequence's part in a step; `prompt` is its prompt in a prefill.

    The step emits `tokens`, before any end; the first `keep` of what its forwards appended stays
    (None: all), or of the rows `path`.
    """

    id: int
    events: tuple[Happened, ...]
    prompt: list[int] | None
    tokens: Held
    keep: int | None
    path: list[int] | None


@dataclass(frozen=True, eq=False)
class Traced:
    """A step as the engine told it, and what its code noted: `parts` of sequences in its order.

    `began` is when its code did, by the clock of its events.
    """

    record: StepRecord
    strategy: str
    method: str
    began: float
    parts: tuple[Part, ...]


@dataclass(eq=False)
class Tracer:
    """Tells `told` of every step of an engine that observes with it; see `instrument.py`.

    `whole` is asked of each step's number, whether all its logits are wanted. `following` is the
    number of the next step, as far as this has heard of steps.
    """

    told: Callable[[Traced], None]
    whole: Callable[[int], bool] = lambda _: False
    by_node = True
    following: int = 0
    _numbers: int = 0
    _run: Run | None = None
    _ids: dict[int, int] = field(default_factory=dict)
    _carried: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    # What a run calls, on behalf of instrumented code

    def begin(self, batch: Batch, strategy: str, method: str, given: Any) -> Run:
        """Return what a prefill of a prompt [1, P], or a step with its carried values, tells."""
        shadow: Any
        if method == "prefill":
            shadow = torch.full_like(given, r.PROMPT)
        else:
            shadow = {name: self._carry(batch, name, value) for name, value in given.items()}
        self._run = Run(self, batch, strategy, method, shadow, self.whole(self.following))
        if method == "prefill":
            self._run.whole_numbers.append(given)
            self._run._widths[0] = given.shape[1]
        return self._run

    def numbered(self, run: Run, event: int) -> int:
        """Return the number of the first token that an event chooses."""
        del run, event
        self._numbers += 1
        return self._numbers * r.ROOM

    def ended(self, run: Run, carry: dict[str, Tensor]) -> None:
        """Keep the shadows of what the sequences carry."""
        for number, slot in enumerate(run.batch.slots):
            self._carried[slot] = {name: value[number] for name, value in carry.items()}

    def _carry(self, batch: Batch, name: str, value: Tensor) -> Tensor:
        unknown = torch.full_like(value, r.UNKNOWN)
        own = [self._carried.get(slot, {}).get(name) for slot in batch.slots]
        lines = [
            unknown[number] if line is None or line.shape != value[number].shape else line
            for number, line in enumerate(own)
        ]
        return torch.stack(lines)

    # What the engine calls

    def __call__(self, record: StepRecord) -> None:
        """Tell of a step that the engine has read."""
        run, self._run = self._run, None
        self.following = record.number + 1
        if run is None or run.sent is None or run.ended is None:
            return
        if record.kind == "prefill" and record.sequences:
            self._ids[run.batch.slots[0]] = record.sequences[0].id
        # What the engine read came behind these on the device: they are there.
        lines = [copy.values.tolist() for copy in run.sent]
        there = {each.id for each in record.sequences}
        parts = tuple(
            _Line(run, number, lines[0][number], lines[1][number]).part(self._ids[slot])
            for number, slot in enumerate(run.batch.slots)
            if self._ids.get(slot) in there
        )
        began = run.begun if isinstance(run.begun, float) else 0.0
        self.told(Traced(record, run.strategy, run.method, began, parts))


@dataclass(frozen=True, eq=False)
class _Line:
    """One sequence's line of what a run sent."""

    run: Run
    number: int
    whole_numbers: list[int]
    others: list[float]

    def part(self, id_: int) -> Part:
        """Return the sequence's part."""
        run, end = self.run, self.run.ended
        assert end is not None
        tokens = self._of(end.tokens)
        count = len(tokens) if end.count is None else self._of(end.count)[0]
        held = Held(tokens[:count], self._of(end.numbers)[:count])
        prompt = None
        if run.method == "prefill":
            prompt = self.whole_numbers[: run.given.shape[1]]
        events: list[Happened] = []
        active, forwards = True, 0
        for each in run.events:
            if isinstance(each, r.Forward):
                forwards += 1
                active = each.active is None or bool(self._of(each.active)[0])
            elif isinstance(each, r.Round | r.Append):
                active = True
            found = self._happened(each, forwards - 1)
            if found is not None and active:
                events.append(found)
        return Part(
            id=id_,
            events=tuple(events),
            prompt=prompt,
            tokens=held,
            keep=None if end.keep is None else self._of(end.keep)[0],
            path=None if end.path is None else self._of(end.path),
        )

    def _happened(self, each: r.Event, forward: int) -> Happened | None:
        match each:
            case r.Forward():
                begun, seconds = self._time(each.clock)
                return Ran(
                    number=forward,
                    node=each.node,
                    layout=each.layout,
                    pattern=each.pattern,
                    adapter=each.adapter,
                    adapted=each.adapted,
                    hold=each.hold,
                    tokens=self._of(each.tokens),
                    start=self._of(each.start)[0] if each.start.width else 0,
                    begun=begun,
                    seconds=seconds,
                )
            case r.Append(rows):
                return Appended(rows)
            case r.Choice():
                return self._chosen(each)
            case r.Acceptance():
                return self._compared(each)
            case r.Round():
                masked = list(map(bool, self._of(each.masked)))
                if not self._of(each.active)[0]:
                    return None
                return Round(each.register, self._pair(each.tokens), masked)

    def _chosen(self, each: r.Choice) -> Chosen:
        times = max(1, each.each)
        rows = self._of(each.rows)
        best, logits = self._of(each.best), self._others(each.logits)
        score = self._others(each.score)
        lines = [score[first : first + 1 + times] for first in range(0, len(score), 1 + times)]
        pairs, values = (
            [tuple(found[first : first + 2]) for first in range(0, len(found), 2)]
            for found in (best, logits)
        )

        def repeated(values: Sequence[Any]) -> list[Any]:
            return [value for value in values for _ in range(times)]

        return Chosen(
            register=each.register,
            op=each.op,
            number=each.first,
            each=times,
            forwards=repeated(rows[::2]),
            rows=repeated(rows[1::2]),
            positions=repeated(self._of(each.positions)),
            tokens=self._of(each.tokens),
            best=repeated(pairs),
            logits=repeated(values),
            sums=repeated([line[0] for line in lines]),
            own=[value for line in lines for value in line[1:]],
            whole=None if each.whole is None else each.whole[self.number],
        )

    def _compared(self, each: r.Acceptance) -> Compared:
        draft, target = self._pair(each.draft), self._pair(each.target)
        branch = None if each.branch is None else self._of(each.branch)[0]
        if branch is not None:
            rows = each.branches[branch]
            draft, target = _rows(draft, rows), _rows(target, rows)
        draft = Held(draft.tokens[each.offset :], draft.numbers[each.offset :])
        most = max(0, min(len(target.tokens) - 1, len(draft.tokens)))
        if each.most is not None:
            most = min(most, self._of(each.most)[0])
        return Compared(each.register, draft, target, self._of(each.matches)[0], most, branch)

    def _of(self, columns: Columns) -> list[int]:
        return self.whole_numbers[columns.start : columns.start + columns.width]

    def _others(self, columns: Columns) -> list[float]:
        return self.others[columns.start : columns.start + columns.width]

    def _pair(self, columns: Columns) -> Held:
        values = self._of(columns)
        half = len(values) // 2
        return Held(values[:half], values[half:])

    def _time(self, clock: tuple[Any, Any]) -> tuple[float, float]:
        """Return when something began and how long it took, in seconds."""
        begin, end = clock
        if isinstance(begin, float):
            return begin, end - begin
        since: Any = self.run.begun
        return since.elapsed_time(begin) / 1e3, begin.elapsed_time(end) / 1e3


def _rows(held: Held, rows: Sequence[int]) -> Held:
    return Held([held.tokens[row] for row in rows], [held.numbers[row] for row in rows])

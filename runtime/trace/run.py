"""What instrumented code calls: one prefill or step, whose values are noted as it goes.

B is the batch. Everything stays on the device until the step ends and then goes to the host in two
copies, whole numbers and others, which are read when the engine has read the step's record: that
lies behind them in the device's work, so nobody waits for them.

A shadow has a number for each token: that of the choice which made it (0 and more), or one of
`UNKNOWN`, `PROMPT` and `FOUND`. The shadow of states has, in place of each row's states, the number
of its forward in this step and of its row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import flags_of
from nldc.runtime.step import ops
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.host import Copy
from nldc.runtime.step.values import Emit, Hidden, Logits, Rows

if TYPE_CHECKING:
    from nldc.runtime.trace.tracer import Tracer

UNKNOWN = -1
"""A mask, or a token of which nobody knows where it comes from."""
PROMPT = -2
FOUND = -3
"""A token that was looked up in the text, or in a pool of what was seen before."""
ROOM = 1 << 20
"""Numbers that one choice may give away: a row has one."""


@dataclass(frozen=True)
class Columns:
    """Where a value lies among all that a step sends: from `start`, `width` columns a sequence."""

    start: int
    width: int


@dataclass(frozen=True, eq=False)
class Forward:
    """A forward as it was noted. `active` None: every sequence had a part in it."""

    node: str
    layout: Layout
    pattern: Pattern
    adapter: str | None
    adapted: list[bool]
    hold: bool
    tokens: Columns
    start: Columns
    active: Columns | None
    clock: tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Choice:
    """Tokens that were chosen, each in a row; `first` is the number of the first.

    `best` and `logits` are of the two likeliest tokens, one behind the other; `score` has the
    logarithm of the sum of the row's exponentials and then the logits of the chosen tokens.
    """

    register: str
    op: str
    first: int
    each: int
    rows: Columns
    positions: Columns
    tokens: Columns
    best: Columns
    logits: Columns
    score: Columns
    whole: Tensor | None


@dataclass(frozen=True, eq=False)
class Acceptance:
    """Drafts held against targets. `branch` lines: of several drafts, which one was taken."""

    register: str
    offset: int
    draft: Columns
    target: Columns
    matches: Columns
    most: Columns | None
    branch: Columns | None
    branches: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Round:
    """Rows of a loop after one of its rounds; `active` had a part in it."""

    register: str
    tokens: Columns
    masked: Columns
    active: Columns


@dataclass(frozen=True, eq=False)
class End:
    """What the step hands out."""

    tokens: Columns
    numbers: Columns
    count: Columns | None
    keep: Columns | None
    path: Columns | None


@dataclass(frozen=True)
class Append:
    """The first rows of the last forward stay in the cache."""

    rows: int


Event = Forward | Choice | Acceptance | Round | Append


@dataclass(frozen=True)
class _Shadows:
    """What ops ask of a batch, for shadows: a mask is nobody's choice."""

    size: int
    device: torch.device
    mask_token_id: int = UNKNOWN
    notes: None = None


@dataclass(eq=False)
class Run:
    """One prefill or step of `batch`; see the module."""

    tracer: Tracer
    batch: Batch
    strategy: str
    method: str
    given: Any
    whole: bool
    shadow: Any = None
    events: list[Event] = field(default_factory=list)
    ended: End | None = None
    whole_numbers: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    sent: tuple[Copy, Copy] | None = None
    begun: Any = None
    _widths: list[int] = field(default_factory=lambda: [0, 0])
    _forwards: int = 0

    def __post_init__(self) -> None:
        self.shadows = _Shadows(self.batch.size, self.batch.device)
        self.begun = self._now()

    # What generated code calls

    def forward(
        self, tokens: Tensor, layout: Layout, pattern: Pattern, *, node: str, **options: Any
    ) -> Hidden:
        """Run a forward of the batch."""
        batch = self.batch
        begin = self._now()
        hidden = batch.forward(tokens, layout, pattern, node=node, **options)
        clock = (begin, self._now())
        plan = batch.model.plan(layout, pattern)
        states = options.get("states")
        rows = slice(None) if states is None else states
        numbers = torch.arange(layout.size, device=batch.device)[rows]
        size = (batch.size, len(numbers))
        start = hidden.positions - (plan.offset + plan.ahead)[rows]
        adapter, active = options.get("adapter"), options.get("active")
        adapter = adapter if adapter in batch.model.adapters else None
        self.events.append(
            Forward(
                node=node,
                layout=layout,
                pattern=pattern,
                adapter=adapter,
                adapted=flags_of(options.get("adapter_rows"), layout.size) if adapter else [],
                hold=bool(options.get("hold")),
                tokens=self._keep(tokens),
                start=self._keep(start[:, :1]),
                active=None if active is None else self._keep(active),
                clock=clock,
            )
        )
        forward = torch.full_like(numbers, self._forwards)
        self._forwards += 1
        states_of = torch.stack((forward, numbers), 1).expand(*size, 2)
        self.shadow = Hidden(states_of, hidden.positions)
        return hidden

    def choose(
        self,
        op: str,
        register: str,
        rows: Hidden,
        call: Callable[..., Any],
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """Choose tokens by `call`, of states or logits of which `rows` are the shadow."""
        found = call(*arguments, **options)
        tokens = found[0] if isinstance(found, tuple) else found
        logits = arguments[1 if op == "candidates" else 0]
        values = self.batch.head(logits) if isinstance(logits, Hidden) else logits
        each = tokens.shape[1] // max(1, values.values.shape[1])
        self._choice(op, register, rows, values, tokens, each)
        return found

    def _choice(
        self, op: str, register: str, rows: Hidden, logits: Logits, tokens: Tensor, each: int
    ) -> None:
        values = logits.values.double()
        best = values.topk(2, dim=2)
        chosen = values.gather(2, tokens.reshape(*values.shape[:2], max(1, each)))
        score = torch.cat((values.logsumexp(2, keepdim=True), chosen), 2)
        first = self.tracer.numbered(self, len(self.events))
        numbers = torch.arange(tokens.shape[1], device=tokens.device) + first
        self.events.append(
            Choice(
                register=register,
                op=op,
                first=first,
                each=each,
                rows=self._keep(rows.states),
                positions=self._keep(rows.positions),
                tokens=self._keep(tokens),
                best=self._keep(best.indices),
                logits=self._keep_others(best.values),
                score=self._keep_others(score),
                whole=values if self.whole else None,
            )
        )
        self.shadow = numbers.expand_as(tokens)

    def accept(
        self,
        register: str,
        draft: Tensor,
        target: Tensor,
        call: Callable[..., ops.Accepted],
        *arguments: Any,
        **options: Any,
    ) -> ops.Accepted:
        """Hold drafts against targets by `call`; `draft` and `target` are their shadows.

        A draft that was accepted is the choice of the row that verified it.
        """
        found = call(*arguments, **options)
        table = arguments[2] if len(arguments) > 2 else None
        most = options.get("most")
        offset = options.get("offset", 1)
        self.events.append(
            Acceptance(
                register=register,
                offset=offset,
                draft=self._pair(arguments[0], draft),
                target=self._pair(arguments[1], target),
                matches=self._keep(found.matches),
                most=None if most is None else self._keep(most),
                branch=None if found.branch is None else self._keep(found.branch),
                branches=() if table is None else tuple(map(tuple, table.numbers.tolist())),
            )
        )
        if table is not None and found.branch is not None:
            lines = ops.choose_rows(table, found.branch, low=0)
            draft, target = ops.gather_rows(draft, lines), ops.gather_rows(target, lines)
        tokens, width = target[:, : found.tokens.shape[1]], found.drafted.shape[1]
        self.shadow = ops.Accepted(
            tokens=tokens,
            drafted=torch.cat((draft[:, :offset], target[:, : max(0, width - offset)]), 1),
            matches=found.matches,
            rows=found.rows,
            bonus=ops.gather_rows(target, found.matches.unsqueeze(1)),
            branch=found.branch,
        )
        return found

    def find(self, call: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
        """Look tokens up by `call`."""
        found = call(*arguments, **options)
        self.shadow = torch.full_like(found, FOUND)
        return found

    def fill_after_eos(self, filled: Rows, before: Rows, shadow: Rows) -> Rows:
        """Return the shadow of rows that were filled behind an EOS: that is nobody's choice."""
        new = before.masked & ~filled.masked
        return Rows(shadow.tokens.masked_fill(new, UNKNOWN), filled.masked)

    def round(self, register: str, active: Tensor, held: Rows, shadow: Rows) -> None:
        """Note rows after a round of their loop."""
        self.events.append(
            Round(
                register=register,
                tokens=self._pair(held.tokens, shadow.tokens),
                masked=self._keep(held.masked),
                active=self._keep(active),
            )
        )

    def append(self, rows: int) -> None:
        """Note that the first rows of the last forward stay in the cache."""
        self.events.append(Append(rows))

    def end(self, emit: Emit, tokens: Tensor, carry: dict[str, Tensor]) -> None:
        """Note what comes of the step, and begin to send all that was noted."""
        self.ended = End(
            tokens=self._keep(emit.tokens),
            numbers=self._keep(tokens),
            count=None if emit.count is None else self._keep(emit.count),
            keep=None if emit.keep is None else self._keep(emit.keep),
            path=None if emit.path is None else self._keep(emit.path),
        )
        size, device = self.batch.size, self.batch.device
        others = self.others or [torch.empty((size, 0), dtype=torch.float64, device=device)]
        self.sent = (
            Copy.of(torch.cat(self.whole_numbers, 1)),
            Copy.of(torch.cat(others, 1)),
        )
        self.whole_numbers, self.others = [], []
        self.tracer.ended(self, carry)

    # How values are kept

    def _keep(self, values: Tensor) -> Columns:
        """Keep whole numbers or flags, [B, ...], as they are now."""
        return self._kept(values.to(torch.int64), self.whole_numbers, 0)

    def _keep_others(self, values: Tensor) -> Columns:
        return self._kept(values, self.others, 1)

    def _kept(self, values: Tensor, where: list[Tensor], kind: int) -> Columns:
        flat = values.reshape(len(values), -1).clone()
        columns = Columns(self._widths[kind], flat.shape[1])
        self._widths[kind] += columns.width
        where.append(flat)
        return columns

    def _pair(self, tokens: Tensor, numbers: Tensor) -> Columns:
        """Keep tokens, and behind them where they come from."""
        return self._keep(torch.cat((tokens, numbers), 1))

    def _now(self) -> Any:
        """Return the time: the host's, or an event of the device for which nobody waits."""
        if self.batch.device.type != "cuda":
            return time.perf_counter()
        event = torch.Event(self.batch.device, enable_timing=True)
        event.record()
        return event

"""Which programs a strategy's steps note, followed without a model: what is compiled ahead of them.

A step's code is run as it is, on a batch of one sequence whose backbone computes nothing. What it
notes follows from the code alone: no length, no token and no number of sequences is part of a
program (`noted.py`). Each loop takes a round, or as many as are each other work; and then none,
where it may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.model.backend import Choice, Chooser, Program
from nldc.runtime.model.scores import Scores
from nldc.runtime.rows.plans import Plans
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member
from nldc.runtime.step.noted import OWN
from nldc.runtime.step.record import commit
from nldc.runtime.step.state import StepState
from nldc.runtime.step.values import Emit

CPU = torch.device("cpu")
PROMPT = 64
"""How long the prompt is. Of a prefill nothing is noted, and carried values are as wide for all."""
ROOM = 1 << 20
"""How many rows a sequence may have in the cache: more than any step writes behind the prompt."""
Noted = tuple[Program, tuple[torch.dtype, ...]]
"""A program, and the dtypes of the memory that it reads and writes."""


def programs(
    prefill: Callable[[Any, Tensor], Emit],
    step: Callable[[Any, dict[str, Tensor]], Emit],
    sizes: Sequence[int] = (1,),
    *,
    texts: bool,
) -> tuple[Noted, ...]:
    """Return what the steps of a strategy note, each once.

    `sizes` are numbers of live sequences that the step may go by. `texts`: the device keeps what
    the sequences said.
    """
    found: dict[Noted, None] = {}

    def launch(program: Program, memory: Sequence[Tensor], _slots: Tensor) -> None:
        found[program, tuple(each.dtype for each in memory)] = None
        for _, _, _, *operands in program:
            for place in operands:
                if isinstance(place, tuple) and place[1] == OWN:
                    memory[place[0]].zero_()  # any row has this number

    for size in sizes:
        backend = _Nothing(launch)
        model = Model(backend, {}, Plans(CPU, torch.float32))
        cache = KVCache(backend.backbone.config, torch.float32, CPU)
        state = StepState(backend.backbone.config, CPU)
        state.expect(0, texts=texts)
        members = [Member(cache.acquire(ROOM), key, history=lambda: [0]) for key in range(size)]
        with torch.inference_mode():
            for member in members:
                batch = _Followed(model, cache, [member], state)
                commit(batch, prefill(batch, batch.prompt([0] * PROMPT)))
                state.learn(member.slot, cache.length(member.slot), 1)
            for batch in (kind(model, cache, members, state) for kind in (_Followed, _Fewest)):
                commit(batch, step(batch, batch.carried()))
                for member in members:
                    state.learn(member.slot, cache.length(member.slot), 1)
    return tuple(found)


class _Followed(Batch):
    """A batch of which nobody asks what is in its tensors."""

    def rounds(
        self, active: Tensor, most: int, *, least: int = 0, apart: bool = False
    ) -> Iterator[int]:
        """See `StepBatch.rounds`."""
        del active, least
        self.begin_rounds()
        for number in range(most if apart else min(most, 1)):
            yield number
            self.settle()
        self._rounds -= 1

    def who(self, active: Tensor) -> list[bool]:
        """Return that nobody goes on, who needs the most room."""
        del active
        return [False] * self.size


class _Fewest(_Followed):
    """The same where loops end before their first round, if they may."""

    def rounds(
        self, active: Tensor, most: int, *, least: int = 0, apart: bool = False
    ) -> Iterator[int]:
        """See `StepBatch.rounds`."""
        yield from super().rounds(active, min(most, least), least=least, apart=apart)


class _Nothing:
    """A backend that computes nothing: all states and logits are 0, and all tokens too."""

    capturable = True

    def __init__(self, between: Any) -> None:
        self.between = between
        config = SimpleNamespace(
            num_layers=1, num_kv_heads=1, num_heads=1, head_dim=1, vocab_size=2, mask_token_id=0,
            hidden_size=1,
        )  # fmt: skip
        self.backbone: Any = SimpleNamespace(
            config=config,
            device=CPU,
            dtype=torch.float32,
            rope=SimpleNamespace(reserve=lambda _: None),
            embed=lambda tokens: torch.zeros((*tokens.shape, 1)),
        )

    def rows(self, *_: Any) -> None:
        """See `Backend`."""

    def layer(self, _number: int, states: Tensor, _rows: None) -> Tensor:
        """See `Backend`."""
        return states

    def move(self, *_: Any) -> None:
        """See `Backend`."""

    def head(self, states: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.zeros((len(states), 2))

    def choose(self, values: Tensor, _choice: Choice) -> Tensor:
        """See `Backend`."""
        return torch.zeros(values.shape[:2], dtype=torch.int64)

    def measured(self, values: Tensor, scores: Scores) -> tuple[Tensor, ...]:
        """See `Backend`."""
        return tuple(torch.zeros(values.shape[:2]) for _ in scores.names)

    def mix(self, parts: Sequence[Tensor], _weights: Sequence[float | Tensor]) -> Tensor:
        """See `Backend`."""
        return torch.zeros_like(parts[0])

    def candidates(self, values: Tensor, count: int) -> Tensor:
        """See `Backend`."""
        return torch.zeros((len(values), count), dtype=torch.int64)

    def safety(self, _sampler: Any, logits: Tensor, *_rows: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.zeros(logits.shape[:2])

    def head_choose(self, _states: Tensor, choice: Choice) -> Tensor:
        """See `Backend`."""
        return torch.zeros(choice.positions.shape, dtype=torch.int64)

    def head_choose_scored(
        self, states: Tensor, _choice: Choice | Chooser, asked: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Backend`."""
        shape = states.shape[:2]
        return torch.zeros(shape, dtype=torch.int64), tuple(torch.zeros(shape) for _ in asked.names)

    def scored(self, states: Tensor, _tokens: Tensor) -> Tensor:
        """See `Backend`."""
        return torch.zeros(len(states))

"""A strategy as the engine runs it: a prefill, a step, and how it hands sequences over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nldc.runtime.engine.handover import Handover
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.params import Asked, Role
from nldc.runtime.step.values import Emit

Prefill = Callable[[StepBatch, Tensor], Emit]
Step = Callable[[StepBatch, dict[str, Tensor]], Emit]


@dataclass(frozen=True)
class Strategy:
    """One way to decode, and how it hands sequences over; None: it is the only one.

    A step writes at most `reach` rows behind a length; `looks_up`: it asks for texts; `routes`: it
    goes by the number of sequences. With `route`, each sequence takes one of `steps`: it is asked
    with how many of the strategy are live, and what the host was told that the sequence carries.
    `asked` is what it asks of the params that requests bring. `carries_prompt`: its steps may
    compute rows of the prompt.
    """

    prefill: Prefill
    step: Step
    handover: Handover | None = None
    reach: int = 1
    looks_up: bool = False
    routes: bool = False
    asked: tuple[tuple[Asked, Role], ...] = ()
    route: Callable[[int, Mapping[str, int]], str] | None = None
    steps: Mapping[str, Step] = field(default_factory=dict)
    carries_prompt: bool = False


@dataclass(frozen=True)
class Room:
    """The rows of the cache that a sequence may need, whichever strategy runs it.

    `prompt` and `token` are the most that stay for a token of the prompt or the text; `scratch` the
    most that one step, or the prefill beyond its prompt, writes behind the committed ones.
    """

    prompt: int = 1
    token: int = 1
    scratch: int = 1

    def rows(self, prompt: int, tokens: int) -> int:
        """Return the rows for a prompt of so many tokens, and so many that follow it."""
        return prompt * self.prompt + tokens * self.token + self.scratch

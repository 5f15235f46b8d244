"""What a step is said to launch beside forwards and heads is what its code does launch.

A step runs on a backend that computes nothing, greedy and for one sequence; what is noted counts
when it is done, and a call of torch that computes or moves something counts as a launch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from nldc import api
from nldc.codegen.costs import LOOK_OPS, SAFETY_OPS
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.program import Loop, Program, walk
from nldc.cost.device import load_device
from nldc.cost.geometry import RELEASED
from nldc.cost.step import Setting, step_costs
from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.rows.plans import Plans
from nldc.runtime.step.batch import Model
from nldc.runtime.step.followed import CPU, PROMPT, ROOM, _Followed, _Nothing
from nldc.runtime.step.member import Member
from nldc.runtime.step.noted import OWN
from nldc.runtime.step.record import commit
from nldc.runtime.step.state import StepState

MERGED = 1
"""A head that chooses ends with a launch that has the best of all its tiles."""
OF_BACKEND = {
    "choose": LOOK_OPS,
    "measured": LOOK_OPS,
    "candidates": LOOK_OPS,
    "mix": 1,
    "safety": SAFETY_OPS,
    "head_choose": MERGED,
    "head_choose_scored": MERGED,
}
NO_WORK = (
    "aten.empty",
    "aten.detach",
    "aten.detach_",
    "aten.lift_fresh",
    "aten._local_scalar_dense",
)


@dataclass(eq=False)
class Launched(_Nothing):
    """Counts what is launched, but for forwards and the heads' own products."""

    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__(self._between)

    def _between(self, program: Any, memory: Sequence[Tensor], _slots: Tensor) -> None:
        self.found["between"] += 1
        with _disable_current_modes():
            for _, _, _, *operands in program:
                for place in operands:
                    if isinstance(place, tuple) and place[1] == OWN:
                        memory[place[0]].zero_()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in (*OF_BACKEND, "layer", "head", "rows", "move"):
            return value

        def call(*arguments: Any) -> Any:
            self.found[name] += OF_BACKEND.get(name, 0)
            with _disable_current_modes():
                made = value(*arguments)
                return made.to(torch.bfloat16) if name == "head" else made

        return call


class Quiet(_Followed):
    """A batch whose inputs count with their forward."""

    def _inputs(self, tokens: Tensor, embeddings: Tensor | None) -> Tensor:
        with _disable_current_modes():
            return super()._inputs(tokens, embeddings)


class Calls(TorchDispatchMode):
    """Counts calls of torch that make memory of their own, or write some."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = str(func).rsplit(".", 1)[0]
        given = _memory((args, kwargs))
        arguments = func._schema.arguments
        writes = any(one.alias_info is not None and one.alias_info.is_write for one in arguments)
        if name not in NO_WORK and (writes or _memory(made) - given):
            self.found[name] += 1
        return made


def _memory(value: Any) -> set[int]:
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def launched(kind: Any, method: str) -> Counter[str]:
    """Return what a step launches once all that it asks for is there."""
    backend = Launched()
    samplers: Any = dict.fromkeys(kind.SAMPLERS, "stands in for one")
    model = Model(backend, {}, Plans(CPU, torch.float32), samplers)
    cache = KVCache(backend.backbone.config, torch.float32, CPU)
    state = StepState(backend.backbone.config, CPU)
    state.expect(0, texts=kind.LOOKS_UP)
    member = Member(cache.acquire(ROOM), 0, history=lambda: [0])
    own = object.__new__(kind)
    with torch.inference_mode():
        batch = Quiet(model, cache, [member], state)
        commit(batch, own.prefill(batch, batch.prompt([0] * PROMPT)))
        for _ in range(2):
            state.learn(member.slot, cache.length(member.slot), 1)
            backend.found.clear()
            with Calls(backend.found):
                batch = Quiet(model, cache, [member], state)
                commit(batch, getattr(own, method)(batch, batch.carried()))
    return backend.found


def rounds_of(program: Program) -> dict[str, float]:
    """Return how many rounds of each loop a batch runs that nobody reads."""
    return {
        each.origin.node: each.at_most if each.iteration else 1
        for method in program.steps
        for each in walk(method.body)
        if isinstance(each, Loop)
    }


@pytest.mark.parametrize("name", sorted(api.library()))
def test_what_a_step_is_said_to_launch_is_what_it_launches(name: str, tmp_path: Path) -> None:
    graph = api.check(name, others=False).graph
    program = compiled(run(graph))
    kind = api.load(api.compile(name, tmp_path / "made", certify=False))
    setting = Setting(load_device("h200"), RELEASED["8b"], rounds=rounds_of(program))
    costs = step_costs(graph, setting, program)
    for method, cost in zip(program.steps, costs, strict=True):
        found = launched(kind, method.name)
        assert cost.ops == found.total(), found

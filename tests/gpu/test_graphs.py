"""Steps that CUDA captured and replays give what steps give that are launched one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from nldc.runtime import Decoder, Engine
from nldc.runtime.engine.strategy import Room
from nldc.runtime.graph.step_graphs import StepGraphs
from tests.gpu.waits import without_waits
from tests.library import short_steps
from tests.runtime.graph.emulator import Emulator
from tests.runtime.graph.table_attention import TableBackend

pytestmark = pytest.mark.gpu
CAPTURED = (
    "ar", "linear_ss", "linear_ss_lora", "quadratic_ss", "quadratic_ss_ensemble", "tidar",
    "prompt_lookup", "block_diffusion", "block_diffusion_steps", "slow_fast", "token_editing",
    "trained_sampler",
)  # fmt: skip
PROMPTS = ([7, 9, 11] * 20, [3, 4], [200] * 9)
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.8, "seed": 3}, {})


def decoder_of(compiled: Any, device: torch.device, name: str, backend: str) -> Decoder:
    """Return a decoder whose steps can be captured: by kernels, or by torch alone."""
    kind = compiled(name, **short_steps(name, 4))
    given = "triton" if backend == "triton" else "torch"
    decoder: Decoder = kind.from_checkpoint(None, dtype="float32", device=device, backend=given)
    if backend != "triton":
        decoder.model = replace(decoder.model, backend=TableBackend(decoder.model.backbone))
    return decoder


def engine_of(decoder: Decoder, *, graphs: bool) -> Engine:
    """Return an engine with graphs, or without."""
    is_here = decoder.model.backbone.device.type == "cpu"
    return Engine(
        decoder.strategies(),
        decoder.model,
        Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS),
        graphs=graphs,
        recorder=Emulator() if is_here and graphs else None,
    )


def tokens_of(decoder: Decoder, engine: Engine, after: Sequence[int] = (0, 4, 8)) -> Any:
    """Return the tokens of three requests that come one after another."""
    requests = [
        decoder.request(prompt, eos=(), max_new_tokens=24 - 4 * n, sequence_id=n, **OPTIONS[n])
        for n, prompt in enumerate(PROMPTS)
    ]
    for step in range(10**6):
        for request, begin in zip(requests, after, strict=True):
            if begin == step:
                engine.submit(request)
        engine.step()
        if engine.idle and step >= max(after):
            break
    return [request.tokens for request in requests]


@pytest.fixture(params=["triton", "table"])
def capturable(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Return what computes attention; kernels that are interpreted cannot be captured."""
    if request.param == "triton" and device.type != "cuda":
        pytest.skip("kernels are captured on a CUDA device only")
    return str(request.param)


@pytest.mark.parametrize("name", CAPTURED)
def test_replayed_steps_give_the_tokens_of_launched_ones(
    compiled: Any, device: torch.device, capturable: str, name: str
) -> None:
    decoder = decoder_of(compiled, device, name, capturable)
    engine = engine_of(decoder, graphs=True)
    wanted = tokens_of(decoder, engine_of(decoder, graphs=False))
    for _ in range(2):
        assert tokens_of(decoder, engine) == wanted
    captures, replays = engine.graphs.captures, engine.graphs.replays
    assert tokens_of(decoder, engine) == wanted
    assert engine.graphs.captures == captures
    assert engine.graphs.replays > replays + 4


def test_a_replay_waits_for_nothing_but_its_tokens(
    compiled: Any, device: torch.device, capturable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type != "cuda":
        pytest.skip("only a CUDA device is waited for")
    decoder = decoder_of(compiled, device, "linear_ss", capturable)
    engine, replayed, waited = engine_of(decoder, graphs=True), StepGraphs._replayed, 0

    def watched(self: StepGraphs, *arguments: Any) -> Any:
        nonlocal waited
        waited += 1
        with without_waits():
            return replayed(self, *arguments)

    wanted = tokens_of(decoder, engine)
    monkeypatch.setattr(StepGraphs, "_replayed", watched)
    assert tokens_of(decoder, engine) == wanted
    assert waited > 4


def test_graphs_are_made_anew_when_memory_has_moved(
    compiled: Any, device: torch.device, capturable: str
) -> None:
    decoder = decoder_of(compiled, device, "linear_ss", capturable)
    engine, plain = engine_of(decoder, graphs=True), engine_of(decoder, graphs=False)
    for _ in range(2):
        assert tokens_of(decoder, engine) == tokens_of(decoder, plain)
        captures, replays = engine.graphs.captures, engine.graphs.replays
        engine.graphs.forget()
    assert captures > 1
    assert replays > 8
    assert set(engine.graphs.eager) == {"a step of its kind is seen for the first times"}

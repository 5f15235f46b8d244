"""The kernel of what is noted: the same bits as torch, in all memory that a launch may write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import noted_in_torch
import pytest
import torch
from noted_cases import CASES, case
from random_model import random_checkpoint
from torch import Tensor

from nldc import api
from nldc.runtime.kernels.between import between
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.model.backend import Program
from nldc.runtime.model.torch_backend import TorchBackend
from tests.library import short_steps
from tests.lossless.loops_at_random import accepted

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf - inf
TARGET = Target(None, upcast=True)
SHOWN = ("linear_ss", "entropy_bounded")
"""Strategies without a loop and with one."""


def copied(tensor: Tensor) -> Tensor:
    """Return a tensor in a copy of all its memory."""
    memory = tensor.untyped_storage().clone()
    place = (tensor.storage_offset(), tensor.shape, tensor.stride())
    return torch.empty(0, dtype=tensor.dtype).set_(memory, *place)


def bits_of(tensor: Tensor) -> Tensor:
    """Return all memory of a tensor; what is no number is one and the same, whatever its sign."""
    memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    if tensor.dtype != torch.float32:
        return memory
    return memory.view(torch.int32).masked_fill(memory.view(torch.float32).isnan(), 0x7FC00000)


def both(program: Program, memory: Sequence[Tensor], slots: Tensor) -> None:
    """Do a program by the kernel, and hold all memory against what torch made of it."""
    own = [copied(each) for each in memory]
    noted_in_torch.do(program, own, slots)
    between(program, memory, slots, TARGET)
    for one, other in zip(own, memory, strict=True):
        assert torch.equal(bits_of(one), bits_of(other)), program


@pytest.mark.parametrize("op", CASES)
def test_every_op_comes_to_what_torch_makes_of_it(op: str) -> None:
    for seed in range(3):
        CASES[op](case(both, seed))


@pytest.mark.long
@pytest.mark.parametrize("op", CASES)
def test_every_op_does_so_on_many_random_values(op: str) -> None:
    for seed in range(100, 160):
        CASES[op](case(both, seed))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


def check(strategy: str | Path, model: Path, out: Path) -> None:
    """Hold the tokens of a strategy whose steps launch the kernel against those of one without."""
    settings: dict[str, Any] = short_steps(strategy, 4) if isinstance(strategy, str) else {}
    kind = api.load(api.compile(strategy, out, settings, certify=False))
    found = []
    for launch in (None, both):
        decoder = kind.from_checkpoint(model, dtype="float32", device="cpu")
        backend = TorchBackend(decoder.model.backbone)
        backend.between = launch
        decoder.model = replace(decoder.model, backend=backend)
        prompts = [[7, 9, 11] * 5, [3, 4], [8]]
        found.append(decoder.generate(prompts, max_new_tokens=9, eos=(5, 17, 40)).tokens)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", SHOWN)
def test_a_strategy_that_launches_it_says_what_it_says_otherwise(
    name: str, model: Path, tmp_path: Path
) -> None:
    check(name, model, tmp_path / "made")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(api.library()) - set(SHOWN)))
def test_so_does_every_other_strategy(name: str, model: Path, tmp_path: Path) -> None:
    check(name, model, tmp_path / "made")


@pytest.mark.long
def test_so_do_loops_at_random(model: Path, tmp_path: Path) -> None:
    def held(file: Path) -> None:
        check(file, model, file.with_suffix(""))

    assert accepted(range(12), tmp_path, held) > 4

"""A trained sampler by kernels: its definition, of a sequence's own bits, in as many launches."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import CHECKPOINTS
from kernel_cases import DTYPES, TARGET, Rooms
from random_sampler import drawn_block, exact, random_sampler
from test_whole_model import backend_of
from torch import Tensor

from nldc import api
from nldc.codegen.costs import SAFETY_OPS, SAFETY_WIDTH
from nldc.runtime.checkpoint.sampler import SamplerShape
from nldc.runtime.errors import AdapterError
from nldc.runtime.kernels.launchable import Launchable
from nldc.runtime.kernels.safety import WIDEST, Network, fits, safety
from nldc.runtime.model.sampler import Sampler

MASK = 5
DEMO = SamplerShape(rows=100)
CASES = (
    *((DEMO, rows) for rows in (1, 3, 17, 32, 64, 100)),
    (SamplerShape(width=128, layers=2, heads=8, rows=100, top=16), 17),
    (SamplerShape(width=128, layers=1, heads=1, rows=100, top=1), 100),
    (SamplerShape(width=96, layers=2, heads=12, rows=100, top=30), 32),
    (SamplerShape(width=20, layers=1, heads=5, rows=64, top=3), 64),
    (SamplerShape(width=3, layers=5, heads=3, rows=64, top=8), 3),
    (SamplerShape(width=1, layers=1, heads=1, rows=64, top=2), 33),
)


@pytest.mark.parametrize(("shape", "rows"), CASES, ids=str)
def test_it_is_what_is_defined(rooms: Rooms, shape: SamplerShape, rows: int) -> None:
    weights = random_sampler(shape)
    network = Network.of(weights)
    dtype = DTYPES[rows % 3]
    logits, tokens, masked = drawn_block(2, rows, 300)
    logits = logits.to(dtype)
    found = safety(logits, tokens, masked, MASK, network, TARGET)
    rooms.check()
    wanted = exact(weights, logits, tokens, masked, MASK)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)
    assert rows == 1 or wanted.std() > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_so_it_is_whichever_rows_are_masked(dtype: torch.dtype, share: float) -> None:
    weights = random_sampler(DEMO)
    logits, tokens, masked = drawn_block(3, 8, 90, share)
    logits = logits.to(dtype)
    found = safety(logits, tokens, masked, MASK, Network.of(weights), TARGET)
    wanted = exact(weights, logits, tokens, masked, MASK)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("rows", [7, 33])
def test_a_sequence_has_the_same_bits_alone_and_in_any_batch(rows: int) -> None:
    network = Network.of(random_sampler(DEMO))
    logits, tokens, masked = drawn_block(5, rows, 60)

    def found(own: slice) -> Tensor:
        given = logits[own].contiguous(), tokens[own], masked[own]
        return safety(*given, MASK, network, TARGET)

    whole = found(slice(None))
    for first, last in ((0, 1), (3, 4), (4, 5), (1, 3), (2, 5)):
        assert torch.equal(found(slice(first, last)), whole[first:last])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_no_numbers_are_of_their_own_sequence_alone() -> None:
    network = Network.of(random_sampler(DEMO))
    logits, tokens, masked = drawn_block(3, 4, 60)
    before = safety(logits.clone(), tokens, masked, MASK, network, TARGET)
    logits[1, 2, 7] = math.nan
    found = safety(logits, tokens, masked, MASK, network, TARGET)
    assert found[1].isnan().all()
    assert torch.equal(found[::2], before[::2])


@pytest.mark.parametrize("layers", [1, 5])
def test_it_is_launched_as_often_as_a_step_is_said_to_launch_it(
    monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    launched: Counter[str] = Counter()
    launch = Launchable.launch

    def counting(self: Launchable, *arguments: Any) -> None:
        launched[self.name] += 1
        launch(self, *arguments)

    monkeypatch.setattr(Launchable, "launch", counting)
    network = Network.of(random_sampler(SamplerShape(width=16, layers=layers)))
    safety(*drawn_block(2, 4, 60), MASK, network, TARGET)
    assert launched.total() == len(launched) == SAFETY_OPS


# By a backend


def test_a_backend_asks_torch_of_networks_that_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(CHECKPOINTS[0], torch.float32)
    config = backend.backbone.config
    given = drawn_block(2, 5, config.vocab_size)
    for width, own in ((WIDEST, True), (2 * WIDEST, False)):
        shape = SamplerShape(width=width, layers=1, heads=4, rows=5)
        sampler = Sampler(random_sampler(shape))
        assert fits(shape) is (width <= SAFETY_WIDTH) is own
        by_torch = sampler(*given, config.mask_token_id)
        with monkeypatch.context() as patch:
            if own:
                patch.setattr(Sampler, "__call__", None)  # nobody asks it
            found = backend.safety(sampler, *given)
            again = backend.safety(sampler, *given)
        assert torch.equal(found, again)
        assert torch.equal(found, by_torch) is not own
        torch.testing.assert_close(found, by_torch, rtol=0, atol=4e-6)


def test_a_backend_refuses_blocks_of_more_rows_than_a_sampler_has_places() -> None:
    backend = backend_of(CHECKPOINTS[0], torch.float32)
    sampler = Sampler(random_sampler(SamplerShape(width=16, layers=1, rows=4)))
    with pytest.raises(AdapterError, match="blocks of at most 4 rows, not 5"):
        backend.safety(sampler, *drawn_block(1, 5, backend.backbone.config.vocab_size))


def test_the_demo_model_and_its_sampler_decode_by_kernels_as_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = api.load(api.compile("trained_sampler", tmp_path / "made", {"safe": 0.3}, certify=False))
    prompts = [[1, 77, 300, 12], [1, 9, 500, 41, 18, 220]]
    found = []
    for backend in ("torch", "triton"):
        if backend == "triton":
            monkeypatch.setattr(Sampler, "__call__", None)  # nobody asks it
        decoder = kind.from_checkpoint(None, device="cpu", dtype="float32", backend=backend)
        assert set(decoder.model.samplers) == {"judge"}
        result = decoder.generate(prompts, max_new_tokens=16, eos=[])
        found.append((result.tokens, [each.nfe for each in result.stats]))
    assert found[0] == found[1]
    assert all(nfe < 16 for nfe in found[0][1]), "some rows are filled together"

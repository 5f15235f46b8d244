"""Top-k, top-p and min-p in one launch: the very token that torch draws of the same logits."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import DTYPES, TARGET, numbers
from torch import Tensor

from nldc.runtime.kernels import filtered as kernels
from nldc.runtime.kernels import noise
from nldc.runtime.kernels.filtered import Filters, filtered
from nldc.runtime.kernels.noise import Noise
from nldc.runtime.step import sampling
from nldc.runtime.step.sampling import Sampling

FILTERS = (
    Filters(top_k=1),
    Filters(top_k=3),
    Filters(top_k=1000),
    Filters(top_p=0.6),
    Filters(top_p=0.999999),
    Filters(min_p=0.2),
    Filters(min_p=1.0),
    Filters(top_k=7, top_p=0.8, min_p=0.05),
    Filters(top_k=2, top_p=1e-9),
    Filters(top_p=1.0, min_p=0.0),
)


def drawn(
    logits: Tensor, filters: Filters, temperature: float, barred: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the tokens of rows [B, n, V] that the kernel draws, and those that torch draws."""
    batch, own, size = logits.shape
    facts = torch.tensor([[0, 9, -1], [7, 9, 2**62], [2**40 + 1, 9, 5]])[:batch]
    keys, _, seeds = facts.unbind(1)  # columns, as a lineup has them
    positions = torch.arange(batch * own).view(batch, own) * 1009
    heat = torch.full((batch,), temperature, dtype=torch.float64)
    keyed = Noise(positions.view(-1), keys, seeds, heat)
    found = filtered(logits.view(-1, size), filters, keyed, TARGET, barred)
    left = logits.clone()
    if barred is not None:
        left[..., barred] = -math.inf
    rules = Sampling(temperature, filters.top_k, filters.top_p, filters.min_p)
    wanted = sampling.draw(left, positions, keys, rules, seeds.unsqueeze(1))
    return found.view(batch, own), wanted


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_filtered_choice_is_torchs(filters: Filters) -> None:
    number = FILTERS.index(filters)
    size, own = ((2100, 1), (37, 2))[number % 2]
    logits = (numbers(3, own, size) * 3).to(DTYPES[number % 3])
    logits[1] = logits[1].round()  # many are equal
    for temperature, barred in ((0.7, None), (1.9, int(logits[0, 0].argmax()))):
        found, wanted = drawn(logits, filters, temperature, barred)
        assert torch.equal(found, wanted), temperature


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_size_and_sign_are_in_order(dtype: torch.dtype) -> None:
    """At a temperature at which the noise decides between all that stay."""
    values = torch.tensor([-0.0, 0.0, 6e4, -6e4, 1.0, -1.0, 3.0, 3.0, -3.0, 1e-7, -1e-7])
    logits = values.to(dtype).expand(1, 4, -1).contiguous()
    seen: set[int] = set()
    for top_k in (2, 5, 7):
        found, wanted = drawn(logits, Filters(top_k=top_k), 1e7)
        assert torch.equal(found, wanted), top_k
        seen.update(found.flatten().tolist())
    assert len(seen) > 2


def test_rows_without_numbers_or_without_a_choice_say_so() -> None:
    lines = [
        [1.0, 2.0, math.nan],
        [math.inf, 2.0, 1.0],
        [-math.inf] * 3,
        [-math.inf, 0.5, -math.inf],
        [math.nan] * 3,
    ]
    logits = torch.tensor(lines).unsqueeze(0)
    for filters in (FILTERS[7], FILTERS[9]):
        found, wanted = drawn(logits, filters, 1.0)
        assert torch.equal(found, wanted), filters
        assert found[0].tolist() == [
            sampling.NO_NUMBER, sampling.NO_NUMBER, sampling.NOTHING_ALLOWED, 1, sampling.NO_NUMBER,
        ]  # fmt: skip


def test_no_rows_have_no_choice() -> None:
    assert drawn(torch.zeros(3, 0, 50), Filters(top_k=2), 1.0)[0].shape == (3, 0)


def test_numbers_are_those_of_torchs_sampling() -> None:
    assert kernels.UNIT == sampling.UNIT
    assert noise.NO_NUMBER == sampling.NO_NUMBER
    assert noise.NOTHING_ALLOWED == sampling.NOTHING_ALLOWED

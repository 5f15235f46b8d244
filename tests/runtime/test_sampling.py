"""Sampling: ties, filters, and noise that depends on the place alone."""

from __future__ import annotations

import math

import pytest
import torch

from nldc.runtime.errors import PromptError
from nldc.runtime.step.lineup import facts_of
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import (
    UNIT,
    Sampling,
    choose,
    filtered,
    gumbel,
    row_keys,
    weights,
)


def draw(logits: torch.Tensor, positions: torch.Tensor, **options: float) -> torch.Tensor:
    sequences = torch.arange(logits.shape[0])
    return choose(logits, positions, sequences, Sampling(**options))  # type: ignore[arg-type]


def test_of_equal_logits_the_lowest_id_wins() -> None:
    logits = torch.zeros(1, 3, 500)
    logits[0, 1, [40, 41, 400]] = 2.0
    logits[0, 2, 499] = 1.0
    assert draw(logits, torch.arange(3).unsqueeze(0)).tolist() == [[0, 40, 499]]


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    logits, positions = torch.randn(3, 7, 301), torch.arange(21).view(3, 7)
    together = draw(logits, positions, temperature=1.3, seed=5)
    for sequence in range(3):
        for row in range(7):
            alone = choose(
                logits[sequence : sequence + 1, row : row + 1],
                positions[sequence : sequence + 1, row : row + 1],
                torch.tensor([sequence]),
                Sampling(temperature=1.3, seed=5),
            )
            assert alone.item() == together[sequence, row]


def test_seed_sequence_and_position_each_change_the_noise() -> None:
    def noise(seed: int, sequence: int, position: int) -> torch.Tensor:
        keys = row_keys(seed, torch.tensor([[sequence]]), torch.tensor([[position]]))
        return gumbel(keys, 64)[0, 0]

    base = noise(1, 2, 3)
    assert torch.equal(base, noise(1, 2, 3))
    for other in (noise(2, 2, 3), noise(1, 3, 3), noise(1, 2, 4), noise(1 + 2**32, 2, 3)):
        assert (other != base).all()


def test_the_noise_is_pinned() -> None:
    """A change of the hash would change every sampled run, so it must be deliberate."""
    keys = row_keys(7, torch.tensor([[1], [2]]), torch.tensor([[10, 11], [10, 11]]))
    found = gumbel(keys, 3)[:, :, 2].flatten().tolist()
    assert found == pytest.approx(PINNED, abs=1e-12)


PINNED = [0.41286642114884087, -0.3507025789065941, 2.72819743733004, 0.5362198629484783]


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    count = 40_000
    drawn = draw(
        logits.expand(1, count, 4), torch.arange(count).unsqueeze(0), temperature=0.7, seed=3
    )
    found = torch.bincount(drawn[0], minlength=4).double() / count
    want = (logits.double() / 0.7).softmax(0)
    deviation = (want * (1 - want) / count).sqrt()
    assert ((found - want).abs() < 4 * deviation).all()


def test_noise_is_standard_gumbel_and_uncorrelated_between_neighbours() -> None:
    keys = row_keys(0, torch.tensor([[0]]), torch.arange(200).unsqueeze(0))
    noise = gumbel(keys, 500)[0]
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)
    centred = noise - noise.mean()
    assert abs((centred[1:] * centred[:-1]).mean().item()) < 0.02
    assert abs((centred[:, 1:] * centred[:, :-1]).mean().item()) < 0.02


def kept(**options: float) -> list[int]:
    logits = torch.tensor([[0.5, 0.1, 0.1, 0.25, 0.05]]).log()
    values = filtered(logits, Sampling(**{"temperature": 1.0, **options}))  # type: ignore[arg-type]
    return [int(i) for i in torch.isfinite(values[0]).nonzero().flatten()]


def test_filters_keep_what_their_names_say() -> None:
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=2) == [0, 3]
    assert kept(top_k=3) == [0, 1, 2, 3]  # equal logits stay together
    assert kept(top_k=99) == [0, 1, 2, 3, 4]
    assert kept(top_p=0.5) == [0]
    assert kept(top_p=0.51) == [0, 3]
    assert kept(top_p=0.8) == [0, 1, 2, 3]
    assert kept(top_p=1.0) == [0, 1, 2, 3, 4]
    assert kept(min_p=0.3) == [0, 3]
    assert kept(min_p=0.0) == [0, 1, 2, 3, 4]
    assert kept(top_k=4, min_p=0.3) == [0, 3]
    assert kept(temperature=0.5, top_p=0.75) == [0, 3]  # sharper, so fewer are needed


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-9}], ids=str)
def test_the_likeliest_alone_is_greedy_at_any_temperature(filters: dict[str, float]) -> None:
    logits = torch.randn(2, 50, 30)
    positions = torch.arange(50).expand(2, 50)
    for size, temperature in ((1.0, 5.0), (1e-30, 1e300)):
        drawn = draw(logits * size, positions, temperature=temperature, **filters)
        assert torch.equal(drawn, logits.argmax(-1))


def test_processors_see_positions_and_change_the_greedy_choice() -> None:
    def forbid(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        late = (positions >= 5).unsqueeze(-1) & (torch.arange(4) == 3)
        return logits.masked_fill(late, -math.inf)

    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 2, 4)
    positions = torch.tensor([[4, 5]])
    found = choose(logits, positions, torch.tensor([0]), Sampling(processors=(forbid,)))
    assert found.tolist() == [[3, 2]]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": -0.1},
        {"temperature": 10**400},
        {"temperature": 1e-320},
        {"temperature": "hot"},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 2},
        {"min_p": 10**400},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": None},
    ],
)
def test_an_option_out_of_range_is_an_error_with_its_name_and_range(
    options: dict[str, float],
) -> None:
    with pytest.raises(PromptError) as caught:
        Sampling(**options).check()  # type: ignore[arg-type]
    assert next(iter(options)) in caught.value.message
    assert caught.value.hint


def test_top_k_of_all_but_one_removes_the_least() -> None:
    values = filtered(torch.tensor([3.0, 1.0, 2.0]), Sampling(temperature=1.0, top_k=2))
    assert values.tolist() == [3.0, -math.inf, 2.0]


def test_logits_are_divided_by_the_temperature_in_float64() -> None:
    logits = torch.tensor([1.0, 1.0 + 2**-23])
    values = filtered(logits, Sampling(temperature=3.0))
    assert values.tolist() == [1.0 / 3.0, (1.0 + 2**-23) / 3.0]


def test_weights_are_the_softmax_but_for_rounding_and_have_one_sum_in_any_order() -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).double()
    ordered = logits.sort(-1, descending=True).values
    found = weights(ordered)
    sums = found.cumsum(-1)
    mass = sums.double() / sums[:, -1:]
    torch.testing.assert_close(mass, ordered.softmax(-1).cumsum(-1), rtol=0, atol=1e-9)
    assert torch.equal(found.flip(-1).cumsum(-1)[:, -1], sums[:, -1])


def test_as_many_weights_as_a_vocabulary_has_tokens_can_be_added() -> None:
    sums = weights(torch.zeros(1, 2**19 - 1, dtype=torch.float64)).cumsum(-1)
    assert sums[0, -1] == int(UNIT) * (2**19 - 1)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1])
def test_seeds_of_several_sequences_key_the_noise_that_each_keys_alone(seed: int) -> None:
    positions = torch.tensor([[3, 4, 900], [3, 4, 900]])
    sequences = torch.tensor([[5], [2**40]])
    facts = [facts_of(Member(0, 0, Sampling(seed=each))) for each in (seed, 1)]
    together = row_keys(torch.tensor(facts)[:, 1:2], sequences, positions)
    for line, each in enumerate((seed, 1)):
        alone = row_keys(each, sequences[line : line + 1], positions[line : line + 1])
        for found, want in zip(together, alone, strict=True):
            assert torch.equal(found[line : line + 1], want)

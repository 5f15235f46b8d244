"""The noise by which rows are taken at random: keyed, even, and nobody else's."""

from __future__ import annotations

import itertools

import torch

from nldc.noise import uniform as meant
from nldc.runtime.step.noise import uniform
from nldc.runtime.step.sampling import gumbel, row_keys

SEEDS = torch.tensor([[0], [7], [-1], [2**40 + 3]])
KEYS = torch.tensor([[0], [1], [5], [2**33]])


def test_rows_get_what_the_language_says() -> None:
    positions = torch.arange(-1, 40).expand(4, -1).contiguous()
    found = uniform(SEEDS, KEYS, positions, 3, 2)
    for line, (seed, key) in enumerate(zip(SEEDS[:, 0].tolist(), KEYS[:, 0].tolist(), strict=True)):
        seed %= 2**64
        assert found[line].tolist() == [meant(seed, key, at, 3, 2) for at in range(-1, 40)]


def test_every_word_of_the_key_changes_the_numbers() -> None:
    at = torch.arange(64)
    zero, one = torch.tensor([[0]]), torch.tensor([[1]])
    found = [
        uniform(seed, key, at[None] + 0, stream, iteration)[0]
        for seed, key, stream, iteration in (
            (zero, zero, 0, 0), (one, zero, 0, 0), (zero, one, 0, 0), (zero, zero, 1, 0),
            (zero, zero, 0, 1), (one << 32, zero, 0, 0), (zero, one << 32, 0, 0),
        )
    ]  # fmt: skip
    for a, b in itertools.combinations(found, 2):
        assert not torch.equal(a, b)
        assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1])) < 0.5


def test_numbers_are_even_and_have_nothing_to_do_with_sampled_noise() -> None:
    at = torch.arange(20_000)[None]
    zero = torch.tensor([[0]])
    found = uniform(zero, zero, at, 1, 0)[0]
    assert 0 <= float(found.min()) < 0.001
    assert 0.999 < float(found.max()) < 1
    assert abs(float(found.mean()) - 0.5) < 0.01
    assert abs(float((found < 0.2).double().mean()) - 0.2) < 0.01
    sampled = gumbel(row_keys(zero, zero, at), 4)[0]
    for token in range(4):
        both = torch.stack((found.double(), sampled[:, token]))
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03

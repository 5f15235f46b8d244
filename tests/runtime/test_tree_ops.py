"""Ops of drafts that branch say what the interpreter says, also where much is equal."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch

from nldc import interpret
from nldc.runtime.model.scores import candidates
from nldc.runtime.rows.table import Table
from nldc.runtime.step.trees import longest_branch, recalled


@pytest.mark.parametrize("seed", range(6))
def test_the_branch_with_most_matches_is_taken_and_of_equals_the_first(seed: int) -> None:
    random = Random(seed)
    width, length, rows = random.choice(((1, 1, 3), (2, 3, 7), (4, 4, 9), (3, 2, 2)))
    branches = [tuple(sorted(random.choices(range(rows), k=length))) for _ in range(width)]
    draft, target = ([[random.randrange(2) for _ in range(rows)] for _ in range(9)] for _ in "ab")
    found = longest_branch(torch.tensor(draft), torch.tensor(target), Table.of(branches))
    for number, (drafted, chosen) in enumerate(zip(draft, target, strict=True)):
        wanted = interpret.longest_branch(drafted, chosen, 1, branches)
        assert found.branch[number] == wanted.branch
        assert found.matches[number] == wanted.matches
        assert found.bonus[number].tolist() == list(wanted.bonus)
        assert found.tokens[number, : wanted.rows].tolist() == list(wanted.tokens)
        assert found.drafted[number, : wanted.rows].tolist() == list(wanted.drafted)


def test_the_likeliest_tokens_come_first_and_of_equals_the_lower_id() -> None:
    rows = [[1.0, 3.0, 3.0, -math.inf, 2.0], [0.0, -0.0, 0.0, 0.0, 0.0], [-math.inf] * 5]
    for count in (1, 3, 5, 7):
        found = candidates(torch.tensor(rows), count).tolist()
        assert found == [list(interpret.candidates(row, count)) for row in rows]
    assert interpret.candidates([2.0, 5.0], 4) == (1, 0, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 7, 50), (9, 1), (0, 40), (3, 2100)])
def test_the_likeliest_tokens_are_the_first_ones_of_a_stable_sort(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    values = torch.randint(-3, 3, shape).to(dtype)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, torch.finfo(dtype).min], dtype=dtype)
    values = torch.where(torch.rand(shape) < 0.2, odd[torch.randint(5, shape)], values)
    order = values.sort(dim=-1, descending=True, stable=True).indices
    for count in {1, min(2, shape[-1]), min(64, shape[-1]), shape[-1]}:
        assert torch.equal(candidates(values, count), order[..., :count])


@pytest.mark.parametrize("seed", range(6))
def test_entries_that_begin_so_come_first_each_once(seed: int) -> None:
    random = Random(seed)
    entry, entries, count = random.choice(((2, 5, 5), (3, 8, 2), (4, 6, 6), (2, 1, 1)))
    pools = [[random.randrange(3) for _ in range(entry * entries)] for _ in range(9)]
    after = [[random.randrange(4)] for _ in range(9)]
    found = recalled(torch.tensor(pools), entry, torch.tensor(after), count)
    wanted = [
        list(interpret.recall(pool, entry, token, count))
        for pool, (token,) in zip(pools, after, strict=True)
    ]
    assert found.tolist() == wanted


def test_what_is_recalled_is_in_the_order_of_the_pool() -> None:
    pool = (1, 7, 2, 8, 1, 9, 1, 7, 2, 6)
    assert interpret.recall(pool, 2, 1, 2) == (7, 9)
    assert interpret.recall(pool, 2, 1, 5) == (7, 9, 8, 7, 6)
    assert interpret.recall(pool, 2, 4, 2) == (7, 8)

"""Rotation and the cache: queries rotated, keys and values where the pages say, not elsewhere."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DTYPES, EPSILON, TARGET, error, numbers
from torch import Tensor

from nldc.runtime.kernels.low_rank import Delta
from nldc.runtime.kernels.rotary import Heads, Pages, rotary
from nldc.runtime.model.rope import rotate

PAGE = 64
SHAPES = (  # heads, key heads, size of a head, rows of a sequence, lengths before them
    (4, 1, 16, 1, (5, 0, 130)),
    (6, 2, 8, 7, (64, 63)),
    (4, 4, 24, 31, (9, 70)),
    (8, 1, 64, 65, (65,)),
    (16, 2, 128, 9, (3, 300)),
)


def tables(size: int, dim: int) -> tuple[Tensor, Tensor]:
    angle = torch.arange(size)[:, None] / 10.0 ** torch.linspace(0, 4, dim // 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_rows_are_rotated_and_written_to_their_pages(number: int, adapted: bool) -> None:
    heads, kv_heads, dim, own_rows, lengths = SHAPES[number]
    dtype = DTYPES[number % 3]
    batch, rows = len(lengths), len(lengths) * own_rows
    width = (heads + 2 * kv_heads) * dim
    parts = numbers(1 + number % 4, rows, width)
    positions = torch.arange(rows).flip(0) * 3  # not those of the cache
    cos, sin = tables(int(positions.max()) + 1, dim)
    most = max(lengths) // PAGE + 3
    table = torch.randperm(most * (batch + 1)).int().view(batch + 1, most)
    slots = torch.arange(batch).flip(0) + 1
    keys, values = (
        torch.full((most * (batch + 1), kv_heads, PAGE, dim), torch.nan, dtype=dtype)
        for _ in range(2)
    )
    beside = None
    total = parts.double().sum(0)
    if adapted:
        delta, marks = numbers(rows, width, seed=7), (torch.arange(rows) % 2).to(torch.int8)
        total[marks == 1] += delta[marks == 1]
        delta[marks == 0] = torch.nan
        beside = Delta(delta, marks)
    query = rotary(
        parts, positions, cos, sin,
        Pages(table, slots, torch.tensor(lengths)), keys, values,
        Heads(heads, kv_heads, dim, PAGE), TARGET, beside,
    )  # fmt: skip
    total = total.view(rows, -1, dim)
    turned = rotate(
        total[:, : heads + kv_heads],
        cos[positions].double().unsqueeze(1),
        sin[positions].double().unsqueeze(1),
    )
    assert error(query, turned[:, :heads]) < EPSILON[dtype]
    for held, wanted in ((keys, turned[:, heads:]), (values, total[:, heads + kv_heads :])):
        found = []
        for sequence, length in enumerate(lengths):
            for row in range(own_rows):
                page = table[slots[sequence], (length + row) // PAGE]
                place = held[page, :, (length + row) % PAGE]
                found.append(place.clone())
                place.fill_(torch.nan)
        assert error(torch.stack(found), wanted) < EPSILON[dtype]
        assert held.isnan().all()


def test_a_row_without_the_adapter_has_the_bits_of_a_model_without_it() -> None:
    parts, positions = numbers(2, 6, 8 * 16), torch.arange(6)
    found = []
    marks = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.int8)
    for beside in (None, Delta(numbers(6, 8 * 16, seed=3), marks)):
        keys, values = (torch.zeros(1, 2, PAGE, 16) for _ in range(2))
        pages = Pages(torch.zeros(1, 1).int(), torch.zeros(1).long(), torch.zeros(1).long())
        heads = Heads(4, 2, 16, PAGE)
        query = rotary(parts, positions, *tables(6, 16), pages, keys, values, heads, TARGET, beside)
        found.append((query, keys[0].transpose(0, 1)[:6], values[0].transpose(0, 1)[:6]))
    for without, beside in zip(*found, strict=True):
        same = (without == beside).flatten(1).all(1)
        assert same.tolist() == [True, False, True, True, False, True]

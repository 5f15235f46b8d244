"""Rows of a path move to the first places, and all other rows stay as they are."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DTYPES, TARGET, numbers

from nldc.runtime.kernels.moved import moved
from nldc.runtime.kernels.rotary import Heads, Pages

PAGE = 64
CASES = (  # key heads, size of a head, lengths, paths, how many of each stay
    (1, 16, (5,), ((0, 3, 4),), (3,)),
    (2, 8, (62, 0, 126), ((0, 4, 5, 9), (1, 2, 3, 4), (0, 1, 2, 3)), (4, 4, 4)),
    (3, 24, (60, 61), ((2, 3, 70, 71), (0, 5, 6, 7)), (3, 1)),
    (4, 128, (63,), ((0, 64, 65, 130),), (4,)),
)


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("again", [0, 2])
def test_rows_of_a_path_move_to_the_first_places(number: int, again: int) -> None:
    kv_heads, dim, lengths, paths, keeps = CASES[number]
    batch, most = len(lengths), max(lengths) // PAGE + 4
    table = torch.randperm(most * (batch + 1)).int().view(batch + 1, most)
    slots = torch.arange(batch).flip(0) + 1
    shape = (2, 3, most * (batch + 1), kv_heads, PAGE, dim)
    data = numbers(*shape).to(DTYPES[number % 3])
    expected = data.clone()
    for sequence, (length, path, keep) in enumerate(zip(lengths, paths, keeps, strict=True)):
        rows = [length + row for row in (*path[:keep], *range(keep))]
        at = [(int(table[slots[sequence], row // PAGE]), row % PAGE) for row in rows]
        for (page, row), (to, place) in zip(at[:keep], at[keep:], strict=True):
            expected[:, :, to, :, place] = data[:, :, page, :, row]
    # The last sequence of a captured step may stand there several times.
    line = [*range(batch), *[batch - 1] * again]
    pages = Pages(table, slots[line], torch.tensor(lengths)[line])
    path, keep = torch.tensor(paths)[line], torch.tensor(keeps)[line]
    moved(data, pages, path, keep, Heads(4, kv_heads, dim, PAGE), TARGET)
    assert torch.equal(data, expected)

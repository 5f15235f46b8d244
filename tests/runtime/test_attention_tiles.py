"""How attention is cut into programs, and which rows a plan says that rows see."""

from __future__ import annotations

import pytest
import torch

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.attention_tiles import CHUNK, FULL, block_of, divide, tiles_for
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible
from nldc.runtime.rows.plan import Plan
from tests.runtime.handwritten import (
    BIDIRECTIONAL,
    CAUSAL,
    QUADRATIC,
    QUADRATIC_START,
    quadratic_layout,
)

CHUNK_KEYS = CHUNK * KEY_TILE


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 32, 72, 272, 1056])
@pytest.mark.parametrize("keys", [1, 64, 65, 512, 1025, 9300])
@pytest.mark.parametrize(("group", "batch", "size"), [(1, 1, 2), (4, 1, 2), (7, 3, 4), (8, 32, 2)])
def test_programs_take_all_rows_and_keys_and_share_keys_while_the_device_is_idle(
    rows: int, keys: int, group: int, batch: int, size: int
) -> None:
    rows = min(rows, keys)
    found = divide(rows, group, batch, 8, 128, size, keys)
    lines = rows * group
    assert (found.tiles - 1) * found.tile.lines < lines <= found.tiles * found.tile.lines
    assert found.span in (0, KEY_TILE, CHUNK_KEYS)
    programs = found.programs(8 * batch)
    if not found.partial:
        assert found.units == 1
        assert found.tile.whole
        assert keys <= CHUNK_KEYS or programs >= FULL
    else:
        assert (found.units - 1) * found.span < keys <= found.units * found.span
        more = programs // found.units * -(-keys // KEY_TILE)
        assert programs >= min(FULL // 2, more)


def test_few_rows_of_the_8b_at_batch_1_have_a_program_for_each_page() -> None:
    one = divide(1, 4, 1, 8, 128, 2, 1025)
    assert (one.tile.lines, one.programs(8), one.span) == (16, 136, KEY_TILE)
    long = divide(1, 4, 1, 8, 128, 2, 8193)
    assert (long.programs(8), long.span) == (136, CHUNK_KEYS)
    prompt = divide(1024, 4, 1, 8, 128, 2, 1024)
    assert (prompt.tile.lines, prompt.programs(8), prompt.partial) == (128, 256, False)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dim", [8, 24, 64, 100, 128, 256])
def test_tiles_grow_and_hold_the_least_product(dim: int, size: int) -> None:
    tiles = [tile.lines for tile in tiles_for(dim, size)]
    assert tiles == sorted(set(tiles))
    assert tiles[0] == 16
    assert block_of(dim) >= max(dim, 16)
    assert block_of(dim).bit_count() == 1


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [
        (Layout.causal(300), CAUSAL),
        (quadratic_layout(5), QUADRATIC),
        (quadratic_layout(17), QUADRATIC),
        (quadratic_layout(4), QUADRATIC_START),
        (Layout.causal(9), BIDIRECTIONAL),
        (Layout.causal(9), Pattern("blind", lambda q, k: (k.row == 3) & (q.row > 5))),
        (Layout.causal(9), Pattern("window", lambda q, k: (q.row - k.row < 3) & (k.row <= q.row))),
    ],
)
def test_a_plan_says_in_which_ranges_rows_see_none(layout: Layout, pattern: Pattern) -> None:
    plan = Plan.of(layout, pattern, torch.device("cpu"), torch.float32)
    _, own = visible(layout, pattern, 0)
    for sees, (hole, beyond, end) in zip(own, plan.seen.tolist(), strict=True):
        assert 0 <= hole <= beyond <= end <= layout.size
        assert not sees[hole:beyond].any()
        assert not sees[end:].any()
        assert end == 0 or sees[end - 1]
    if pattern is QUADRATIC and layout.size > 100:
        _, gaps = torch.stack((plan.seen[:, 0], plan.seen[:, 1] - plan.seen[:, 0]))
        assert int(gaps.max()) > layout.size // 2


def test_ranges_of_very_many_rows_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldc.runtime.rows.plan.MOST_SEEN", 5)
    plan = Plan.of(Layout.causal(9), BIDIRECTIONAL, torch.device("cpu"), torch.float32)
    assert plan.seen.tolist() == [[9, 9, 9]] * 9

"""The ops of the strategy language on small tensors worked out by hand."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.table import Table
from nldc.runtime.step import ops
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Hidden, Rows


def batch_of_ends(size: int, *eos: int) -> StepBatch:
    """Return a batch of so many sequences which these ids end, as far as the ops ask one."""
    members = [Member(slot, slot, eos=eos) for slot in range(size)]
    return cast(StepBatch, Sequences(Lineup.of(members, 9, torch.device("cpu"))))


BATCH = batch_of_ends(2, 2, 3)


def test_rows_are_segments_in_order_and_masked_is_no_comparison_of_ids() -> None:
    rows = ops.rows(BATCH, torch.tensor([[9], [1]]), 2, torch.tensor([[5], [6]]))
    assert rows.tokens.tolist() == [[9, 9, 9, 5], [1, 9, 9, 6]]
    assert rows.masked.tolist() == [[False, True, True, False]] * 2


def test_groups_share_out_tokens_and_have_masks_of_their_own_number() -> None:
    rows = ops.grouped_rows(BATCH, 2, torch.tensor([[1, 2], [3, 4]]), (1, 2))
    assert rows.tokens.tolist() == [[1, 9, 2, 9, 9], [3, 9, 4, 9, 9]]
    assert rows.masked[0].tolist() == [False, True, False, True, True]


@pytest.mark.parametrize(
    ("draft", "target", "offset", "matches"),
    [
        ([7, 1, 2, 3], [1, 2, 3, 4], 1, 3),
        ([7, 1, 2, 3], [1, 2, 9, 4], 1, 2),
        ([7, 1, 2, 3], [5, 2, 3, 4], 1, 0),
        ([7, 1, 2, 3], [1, 9, 3, 4], 1, 1),  # a later agreement does not count
        ([1, 2, 3], [1, 2, 9, 4], 0, 2),
        ([7], [5], 1, 0),
    ],
)
def test_the_longest_agreeing_prefix_and_one_bonus_are_accepted(
    draft: list[int], target: list[int], offset: int, matches: int
) -> None:
    kept = ops.accept_longest_prefix(torch.tensor([draft]), torch.tensor([target]), offset)
    assert kept.matches.tolist() == [matches]
    assert kept.rows.tolist() == [matches + 1]
    assert kept.bonus.tolist() == [[target[matches]]]
    assert kept.tokens[0, : matches + 1].tolist() == target[: matches + 1]
    accepted = draft[: matches + offset]
    assert kept.drafted[0, : len(accepted)].tolist() == accepted


SCORE = torch.tensor([[0.5, 0.9, 0.9, 0.1], [0.2, 0.3, 0.4, 0.6]])
AMONG = torch.tensor([[True, True, True, True], [True, False, True, True]])


def test_select_unites_its_rules_and_prefers_lower_rows_among_equals() -> None:
    def numbers(**rules: float | torch.Tensor | bool) -> list[list[int]]:
        chosen = ops.select(AMONG, SCORE, **rules)  # type: ignore[arg-type]
        return [row.nonzero().flatten().tolist() for row in chosen]

    assert numbers(at_least=0.5) == [[0, 1, 2], [3]]
    assert numbers(always_best=1) == [[1], [3]]
    assert numbers(at_least=0.95, always_best=1) == [[1], [3]]
    assert numbers(best=2) == [[1, 2], [2, 3]]
    assert numbers(best=torch.tensor([[1], [3]])) == [[1], [0, 2, 3]]
    assert numbers(best=9) == [[0, 1, 2, 3], [0, 2, 3]]
    assert numbers(at_most=0.2, less_is_surer=True) == [[3], [0]]
    assert numbers(always_best=1, less_is_surer=True) == [[3], [0]]
    assert numbers() == [[], []]


def test_filled_rows_are_no_longer_masked_and_idle_sequences_stay() -> None:
    held = ops.rows(BATCH, torch.tensor([[1], [1]]), 2)
    where = torch.tensor([[False, True, False]] * 2)
    filled = ops.fill(held, where, torch.full((2, 3), 9))
    assert filled.masked.tolist() == [[False, False, True]] * 2
    after = ops.begun(held)
    ops.advance(torch.tensor([True, False]), after, filled)
    assert held.masked.tolist() == [[False, True, True]] * 2
    assert after.masked.tolist() == [[False, False, True], [False, True, True]]
    assert ops.left(after.masked).tolist() == [[1], [2]]


def test_a_block_is_finished_when_full_or_when_there_is_an_eos_with_no_mask_before_it() -> None:
    def unfinished(tokens: list[int], masked: list[int]) -> bool:
        rows = Rows(torch.tensor([tokens]), torch.tensor([masked]) == 1)
        return bool(ops.unfinished(BATCH, rows)[0])

    assert unfinished([1, 5, 9], [0, 0, 1])
    assert not unfinished([1, 5, 9], [0, 0, 0])
    assert not unfinished([1, 2, 9], [0, 0, 1])
    assert unfinished([1, 9, 2], [0, 1, 0])


def test_an_eos_may_not_count_count_by_its_place_in_the_list_or_fill_what_comes_after_it() -> None:
    tokens = torch.tensor([[5, 2, 9, 9], [5, 3, 9, 9], [9, 2, 9, 9], [5, 6, 7, 8]])
    masked = torch.tensor(
        [[False, False, True, True]] * 2 + [[True, False, True, True]] + [[False] * 4]
    )
    held = Rows(tokens, masked)
    batch = batch_of_ends(4, 3, 2)
    assert ops.has_masks(held).tolist() == [True, True, True, False]
    assert ops.unfinished(batch, held).tolist() == [False, False, True, False]
    assert ops.unfinished(batch, held, first=True).tolist() == [True, False, True, False]
    filled = ops.fill_after_eos(batch, held)
    assert filled.tokens.tolist() == [[5, 2, 2, 2], [5, 3, 3, 3], [9, 2, 2, 2], [5, 6, 7, 8]]
    assert filled.masked.tolist() == [
        [False] * 4,
        [False] * 4,
        [True, False, False, False],
        [False] * 4,
    ]
    assert ops.fill_after_eos(batch, held, first=True).masked.any(1).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_what_is_left_is_filled_in_active_sequences_only() -> None:
    held = Rows(torch.tensor([[5, 9], [5, 9]]), torch.tensor([[False, True], [False, True]]))
    left = ops.fill_left(torch.tensor([True, False]), held, torch.tensor([[1, 4], [1, 4]]))
    assert left.tokens.tolist() == [[5, 4], [5, 9]]
    assert left.masked.tolist() == [[False, False], [False, True]]


def test_rows_of_hidden_states_are_taken_and_gathered_with_their_positions() -> None:
    hidden = Hidden(torch.arange(24.0).view(2, 4, 3), torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]))
    assert hidden.take(slice(-1, None)).positions.tolist() == [[8], [4]]
    assert hidden.take([3, 1]).positions.tolist() == [[8, 6], [4, 2]]
    index = ops.choose_rows(Table.of([[0, 1], [2, 3]]), torch.tensor([2, 1]), low=1)
    gathered = hidden.gather(index)
    assert gathered.positions.tolist() == [[7, 8], [1, 2]]
    assert gathered.states[0].tolist() == [[6, 7, 8], [9, 10, 11]]


def test_appended_rows_out_of_place_and_ragged_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="must lie at offsets 0 to 1"):
        Layout.of([0, 0], [0, 0], [0, 1], [0, 1], [1, 0], [True, True], append=2)
    with pytest.raises(ValueError, match="group has 1 rows, not 2"):
        Layout.of([0, 0], [0], [0, 1], [0, 1], [0, 1], [True, True], append=2)


def test_a_cache_keeps_the_first_speculative_rows_and_reuses_slots() -> None:
    config = parse_config(
        {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 9,
            "rms_norm_eps": 1e-5, "mask_token_id": 0, "max_position_embeddings": 9,
            "rope_parameters": {"rope_theta": 1e4},
        }
    )  # fmt: skip
    page = 2 * 8 * KEY_TILE * 4
    cache = KVCache(config, torch.float32, torch.device("cpu"), page)
    slot = cache.acquire(16)
    assert not cache.has_room(1)
    cache.append(slot, 5)
    assert cache.length(slot) == 5
    cache.keep(slot, 3)
    assert (cache.committed[slot], cache.length(slot)) == (3, 3)
    cache.append(slot, 1)
    with pytest.raises(ValueError, match="cannot keep 2 of 1"):
        cache.keep(slot, 2)
    cache.release(slot)
    assert cache.length(cache.acquire(16)) == 0

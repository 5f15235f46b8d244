"""Tokens a forward with and without the prompt's, and drafts: what steps come to."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.bench.figures import Answer, Figures, answers_of, figures_of, prompt_forwards
from nldc.runtime.engine.observe import Kind, SequenceStep, StepRecord


def record(kind: Kind, *parts: tuple[int, int, int, int]) -> StepRecord:
    """Parts are (id, drafted, accepted, nfe)."""
    sequences = tuple(SequenceStep(id_, drafted, accepted, accepted, nfe)
                      for id_, drafted, accepted, nfe in parts)  # fmt: skip
    return StepRecord(0, kind, "s", sequences, 1.0, len(parts), 0, 1)


def test_answers_are_put_together_by_their_requests() -> None:
    records = [
        record("prefill", (7, 1, 1, 1)),
        record("prefill", (9, 1, 1, 1)),
        record("step", (7, 4, 3, 2), (9, 4, 1, 2)),
        record("step", (9, 4, 4, 2)),
    ]
    assert answers_of(records, [4, 6]) == [
        Answer(4, 1, 2, ((4, 3),)),
        Answer(6, 1, 4, ((4, 1), (4, 4))),
    ]


def test_the_first_token_of_a_step_was_not_drafted() -> None:
    found = figures_of([Answer(9, 1, 6, ((4, 3), (4, 1), (1, 1), (4, 4)))], 1, verifies=True)
    assert (found.drafts, found.offered, found.accepted) == (3, (3, 3, 3), (2, 2, 1))
    assert found.acceptance_length == pytest.approx((2 + 0 + 3) / 3 + 1)


def test_drafts_may_be_of_several_lengths() -> None:
    found = figures_of([Answer(9, 1, 6, ((2, 2), (4, 2)))], 1, verifies=True)
    assert (found.offered, found.accepted) == ((2, 1, 1), (2, 0, 0))


def test_tokens_a_forward_leave_out_or_take_in_what_the_prompt_took() -> None:
    found = figures_of([Answer(9, 1, 4, ((4, 4), (4, 4)))], 1, verifies=True)
    assert found.tpf_with_prefill == 9 / 5
    assert found.tpf_without_prefill == 8 / 4


def test_what_verifies_nothing_has_no_acceptance_length() -> None:
    found = figures_of([Answer(8, 0, 4, ((4, 4), (4, 4)))], 1, verifies=False)
    assert (found.acceptance_length, found.offered) == (None, ())


def test_without_a_step_there_is_no_figure_of_steps() -> None:
    found = figures_of([Answer(1, 1, 0, ())], 1, verifies=True)
    assert (found.tpf_with_prefill, found.tpf_without_prefill) == (1.0, None)
    assert Figures().tpf_with_prefill is None


@pytest.mark.parametrize(("name", "forwards"), [("ar", 1), ("block_diffusion", 1), ("guided", 1)])
def test_forwards_over_the_prompt_are_counted_where_the_strategy_does_not(
    name: str, forwards: int
) -> None:
    assert prompt_forwards(api.check(name, others=False).graph) == forwards

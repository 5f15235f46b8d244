"""What a step's parts take, as the program has them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from nldc import api
from nldc.acceptance import Acceptance
from nldc.codegen.costs import LOOK_OPS, SAFETY_OPS
from nldc.cost.device import load_device
from nldc.cost.geometry import RELEASED
from nldc.cost.predict import EAGER
from nldc.cost.step import Setting, StepCost, loops, prefill_cost, step_costs, taken
from nldc.cost.text import show_costs
from nldc.cost.tune import tune
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.reuse import parse

SETTING = Setting(load_device("h100"), RELEASED["8b"])
PROFILE = Acceptance("linear_ss", {"block_length": 4}, {1: 400, 2: 300, 3: 200, 4: 100})


@cache
def graph_of(name: str, **settings: int) -> Graph:
    return api.check(name, settings, others=False).graph


def step(name: str, setting: Setting = SETTING, **settings: int) -> StepCost:
    (found,) = step_costs(graph_of(name, **settings), setting)
    return found


def test_forwards_and_heads_stand_with_their_nodes_and_rows() -> None:
    parts = [(part.node, part.head, part.rows) for part in step("quadratic_ss").parts]
    assert parts == [
        ("step.both", False, 72), ("step.choice", True, 8), ("step.guess", True, 7),
    ]  # fmt: skip


def test_an_adapter_costs_on_its_rows_alone() -> None:
    with_, without = step("quadratic_ss_lora"), step("quadratic_ss")
    extra = with_.parts[0].work.products - without.parts[0].work.products
    assert extra == 2 * 34 * 128 * (4096 + 4096) * 64  # 64 of the 72 rows are masks
    assert with_.parts[0].work.weights - without.parts[0].work.weights == 2 * 34 * 128 * 8192
    draft, check = (part for part in step("linear_ss_lora").parts if not part.head)
    assert draft.work.weights > check.work.weights
    assert draft.kernels == check.kernels + 34


def test_weights_are_read_once_for_a_batch_and_keys_for_each_sequence() -> None:
    one, four = (step("ar", replace(SETTING, batch=batch)).parts[0].work for batch in (1, 4))
    assert four.weights == one.weights
    assert four.keys == 4 * one.keys
    assert four.products == 4 * one.products
    # 139 kB a position: 8 heads of 128, keys and values, 2 bytes, 34 layers
    longer = step("ar", replace(SETTING, prefix=SETTING.prefix + 1)).parts[0].work
    assert longer.keys - one.keys == 8 * 128 * 2 * 2 * 34


def test_a_loop_counts_with_the_rounds_that_are_expected_within_its_bounds() -> None:
    whole = step("block_diffusion")
    assert whole.bounded == ("step.filled",)
    assert whole.parts[0].times == 16
    some = step("block_diffusion", replace(SETTING, rounds={"step.filled": 3.5}))
    assert (some.bounded, some.parts[0].times, some.host_waits) == ((), 3.5, 4.5)
    assert some.predicted < whole.predicted / 3
    none = step("block_diffusion", replace(SETTING, rounds={"step.filled": 0}))
    assert none.parts[0].times == 1
    assert loops(graph_of("block_diffusion")) == {"step.filled": "step.filled.seen"}


def test_a_sampler_counts_a_few_launches_and_it_is_said_for_which() -> None:
    rounds = {"step.filled": 1}
    asked = step("trained_sampler", replace(SETTING, rounds=rounds))
    assert asked.samplers == ("step.filled.sure",)
    scored = step("block_diffusion", replace(SETTING, rounds=rounds))
    assert scored.samplers == ()
    in_head = 1  # the choice is of logits that are there
    assert asked.ops - scored.ops == SAFETY_OPS + LOOK_OPS - in_head
    said = "step.filled.sure counts with a sampler up to 128 wide"
    assert said in show_costs(graph_of("trained_sampler"), SETTING)
    assert "sampler" not in show_costs(graph_of("block_diffusion"), SETTING)


def test_rounds_that_a_profile_measured_count_unless_others_are_given() -> None:
    measured = Acceptance("block_diffusion", {}, {16: 10}, rounds={"step.filled": 3.5})
    graph = graph_of("block_diffusion")
    (found,) = step_costs(graph, SETTING.as_measured(measured))
    assert (found.bounded, found.parts[0].times) == ((), 3.5)
    assert "give --rounds" in show_costs(graph, SETTING)
    assert "give --rounds" not in show_costs(graph, SETTING, measured)
    given = replace(SETTING, rounds={"step.filled": 2.0})
    assert given.as_measured(measured) == given
    (tuned,) = tune("block_diffusion", SETTING, measured, {"threshold": (0.9,)}).choices
    assert tuned.cost == found


def test_a_graph_is_launched_once_and_again_for_each_round_of_a_loop() -> None:
    assert (step("linear_ss").launches, step("linear_ss").device_waits) == (1, 0)
    looped = step("block_diffusion", replace(SETTING, rounds={"step.filled": 3}))
    assert (looped.launches, looped.device_waits) == (5, 0)
    eager = step("linear_ss", replace(SETTING, execution=EAGER))
    assert eager.launches == eager.kernels > 1000
    assert eager.device_waits == 1


def test_tokens_are_those_that_a_step_emits_or_those_that_are_accepted() -> None:
    assert step("ar").tokens(None) == 1
    assert step("block_diffusion").tokens(None) == 16
    assert step("linear_ss").tokens(None) is None
    assert step("linear_ss", block_length=4).tokens(PROFILE) == pytest.approx(2.0)
    assert step("linear_ss", block_length=2).tokens(PROFILE) == pytest.approx(1.6)
    assert step("quadratic_ss", block_length=4).most == 4
    assert step("prompt_lookup").most == 9


SHORT = """nldc: 1
name: short
summary: Behind the first place a longer draft than behind the second.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
  other: {op: sample, logits: context.last}
  draft: {op: join, parts: [seed, other]}
carry: {draft: prefill.draft}
step:
  groups: {op: rows, groups: 2, segments: [{tokens: draft, kind: draft}, {masks: 2, kind: mask}]}
  both:
    op: forward
    tokens: groups
    position: group + index
    attention: "k.prefix or k.group == q.group"
    cache: {append: "kind == draft"}
  choice: {op: sample, logits: both.draft}
  kept: {op: accept, draft: draft, target: choice, rule: longest_prefix}
  guess: {op: sample, logits: "both.mask[PICK]"}
  emit: {tokens: kept.drafted, cache: keep kept.rows, next: {draft: [kept.bonus, guess]}}
"""


@pytest.mark.parametrize(
    ("pick", "drafts"),
    [
        ("group == kept.rows - 1][1:", (2, 2)),  # two tokens behind either
        # behind the second place a mask of the first stands in, which drafts nothing there
        ("group == 0 and row < kept.rows * 0 + 3][1:", (2, 1)),
    ],
)
def test_a_draft_is_as_long_as_the_groups_own_rows(pick: str, drafts: tuple[int, ...]) -> None:
    graph = build(parse(SHORT.replace("PICK", pick), "case.yaml")).graph
    assert graph is not None
    (found,) = step_costs(graph, SETTING)
    assert found.drafts == drafts
    profile = Acceptance("short", {}, {1: 50, 2: 50})
    assert found.tokens(profile) == pytest.approx(profile.expected_of(drafts))


def test_of_several_steps_the_one_for_the_batch_is_taken() -> None:
    graph = graph_of("concurrency_router")
    costs = step_costs(graph, SETTING)
    assert [taken(graph, costs, live).step for live in (1, 4, 5)] == [
        "speculative", "speculative", "single",
    ]  # fmt: skip


def test_a_prefill_has_the_rows_of_its_prompt_and_its_adapter_on_its_masks() -> None:
    plain = prefill_cost(graph_of("quadratic_ss"), SETTING).parts[0]
    tuned = prefill_cost(graph_of("quadratic_ss_lora"), SETTING).parts[0]
    assert plain.rows == 1024 + 8
    assert tuned.work.products - plain.work.products == 2 * 34 * 128 * 8192 * 8

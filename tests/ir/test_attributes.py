"""What a file writes wins over its preset; a preset keeps off what every engine does alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.interpret import run
from nldc.ir.attributes import ATTRIBUTE, PRESETS, choose
from nldc.ir.build import build
from nldc.ir.ops import LayRows, Repeat
from nldc.reuse import load
from tests.library import exact
from tests.lossless.hash_model import HashModel, Input

EXACT = exact()
EDITS_AN_EOS = ("token_editing", "sglang")
OTHERS = [name for name in sorted(api.library()) if name not in EXACT]


def edited(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = api.library()[name].read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_written_wins_over_preset_and_preset_over_default() -> None:
    assert choose("repeat.eos", "stops", "vllm") == "stops"
    assert choose("repeat.eos", None, "vllm") == "ignored"
    assert choose("repeat.eos", None, None) == ATTRIBUTE["repeat.eos"].default


@pytest.mark.parametrize("name", EXACT)
def test_a_draft_that_is_verified_begins_with_the_seed_under_every_preset(
    name: str, tmp_path: Path
) -> None:
    file = edited(tmp_path, name, ("guarantee: exact", "guarantee: none"))
    for preset in PRESETS:
        for step in api.check(f"{file}@{preset}", others=False).graph.steps:
            ops = [node.op for node in step.region.nodes]
            assert all(op.seed == "given" for op in ops if isinstance(op, LayRows))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", EXACT)
def test_exactness_is_proved_just_under_presets_that_allow_the_mask_token(
    name: str, preset: str
) -> None:
    if PRESETS[preset]["sample.mask_token"] == "allowed":
        assert api.check(f"{name}@{preset}", others=False).guarantee == "exact"
        return
    with pytest.raises(StrategyError) as error:
        api.check(f"{name}@{preset}")
    labels = [label.text for found in error.value.diagnostics for label in found.labels]
    assert "this never chooses the mask token, which AR may" in labels


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_strategy_checks_under_every_preset(name: str, preset: str) -> None:
    if (name, preset) == EDITS_AN_EOS:
        with pytest.raises(StrategyError) as error:
            api.check(f"{name}@{preset}")
        assert [found.code for found in error.value.diagnostics] == ["NLD122"]
        return
    graph = api.check(f"{name}@{preset}").graph
    assert graph.compat == preset


def test_copies_of_an_eos_that_is_edited_away_are_emitted_though_nothing_chose_them() -> None:
    """So the strategy is refused: run unchecked, no `sample` chose some of its tokens."""
    name, preset = EDITS_AN_EOS
    graph = build(load(api.find(name)), {"block_length": 6}, preset).graph
    assert graph is not None
    unchosen = 0
    for seed in range(280, 340):
        given = Input((1, 2), seed, True, 0.5, (5,), ())
        model, chosen = given.model(), set()

        def choose(
            logits: Sequence[float],
            position: int,
            model: HashModel = model,
            chosen: set[tuple[int, int]] = chosen,
        ) -> int:
            token = model.choose(logits, position)
            chosen.add((position, token))
            return token

        out = run(graph, model, given.prompt, 14, choose, most_steps=20)
        placed = enumerate(out.tokens, len(given.prompt))
        unchosen += not chosen.issuperset(placed)
    assert unchosen > 2


def test_what_is_left_for_a_second_loop_stays_masked_under_every_preset() -> None:
    for preset in PRESETS:
        slow = api.check(f"slow_fast@{preset}").graph.node("step.slow").op
        assert isinstance(slow, Repeat)
        assert slow.exhausted == "keep"


def test_the_preset_in_a_file_is_replaced_by_the_one_that_is_asked_for(tmp_path: Path) -> None:
    file = edited(tmp_path, "block_diffusion", ("params:", "compat: mlx\nparams:"))
    assert api.check(file).graph.compat == "mlx"
    assert api.check(f"{file}@vllm").graph.compat == "vllm"


def test_a_file_whose_name_ends_like_a_preset_is_a_file(tmp_path: Path) -> None:
    file = edited(tmp_path, "block_diffusion").rename(tmp_path / "mine@vllm")
    assert api.check(file).graph.compat is None


def test_a_preset_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(StrategyError) as error:
        api.check("block_diffusion@vlm")
    (found,) = error.value.diagnostics
    assert found.message == "`vlm` is no preset of an engine"
    assert found.help == ("did you mean `vllm`?",)


def test_a_masked_seed_leaves_the_rows_as_many_as_they_were() -> None:
    given, masked = (api.check(f"block_diffusion@{p}").graph for p in ("hf", "mlx"))
    first, second = (graph.node("step.block") for graph in (given, masked))
    assert first.type.size == second.type.size
    assert [row.masked for row in first.type.layout.rows()][:2] == [False, True]
    assert [row.masked for row in second.type.layout.rows()][:2] == [True, True]

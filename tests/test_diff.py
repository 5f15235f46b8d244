"""What differs between strategies: attributes, nodes by name or place, and where tokens part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.diff import Change, Difference, Parting, diff, render
from nldc.ir.attributes import ATTRIBUTE, PRESETS

if TYPE_CHECKING:
    from conftest import Golden

GOLDEN = Path(__file__).parent / "golden" / "diff"


def between(a: str, b: str) -> Difference:
    return diff(api.check(a, others=False), api.check(b, others=False), (a, b))


def edited(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """Write a strategy of the library with its text changed, and return the file."""
    text = api.library()[name].read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", sorted(api.library()))
def test_nothing_differs_between_a_strategy_and_itself(name: str) -> None:
    found = between(name, name)
    assert found.same
    assert found.parts == ()
    assert "nothing differs" in render(found)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("block_diffusion", "block_diffusion@vllm"),
        ("block_diffusion@sglang", "block_diffusion@mlx"),
        ("block_diffusion", "block_diffusion_steps"),
        ("block_diffusion", "slow_fast"),
        ("linear_ss", "linear_ss_lora"),
        ("concurrency_router", "linear_ss"),
    ],
)
def test_the_text_is_pinned(a: str, b: str, golden: Golden) -> None:
    golden(GOLDEN / f"{a}_and_{b}.txt".replace("@", "_as_"), render(between(a, b)))


def test_presets_differ_in_just_the_attributes_whose_values_differ() -> None:
    for name, values in PRESETS.items():
        for other, others in PRESETS.items():
            found = between(f"block_diffusion@{name}", f"block_diffusion@{other}")
            keys = {change.key for change in found.attributes}
            assert keys == {key for key in values if values[key] != others[key]}
            assert {change.node for change in found.nodes} <= {"strategy"}


def test_a_difference_of_an_attribute_names_the_node_the_values_and_the_situation(
    tmp_path: Path,
) -> None:
    other = edited(
        tmp_path,
        "block_diffusion",
        ("op: sample, logits: seen", "op: sample, logits: seen, mask_token: forbidden"),
    )
    found = between("block_diffusion", other)
    change = Change("step.filled.pick", "sample.mask_token", "allowed", "forbidden")
    assert found.attributes == (change,)
    assert found.nodes == ()
    assert found.parts == (Parting("step.filled.pick", ATTRIBUTE["sample.mask_token"].situation),)


def test_a_node_with_another_name_is_no_difference(tmp_path: Path) -> None:
    changes = (("sure:", "unsure:"), ("score: sure", "score: unsure"), ("filled", "done"))
    found = between("block_diffusion", edited(tmp_path, "block_diffusion", *changes))
    assert found.same
    assert found.renamed["step.done.unsure"] == "step.filled.sure"


def test_nodes_pair_with_those_that_do_the_same_and_not_with_the_first() -> None:
    found = between("ar", "linear_ss")
    assert found.renamed == {"step.checked": "step.context"}  # and not the drafting forward
    kept = {change.node for change in found.nodes if change.key is None}
    assert kept == {"param.block_length", "step.block", "step.drafted", "step.kept"}


def test_what_lies_in_a_loop_pairs_with_what_lies_in_the_same_loop() -> None:
    for a in sorted(api.library()):
        renamed = between(a, "slow_fast").renamed
        for old, new in renamed.items():
            assert old.count(".") == new.count(".")
            holder = old.rpartition(".")[0]
            assert renamed.get(holder, holder) == new.rpartition(".")[0]


def test_carried_values_pair_under_names_that_can_be_read() -> None:
    text = render(between("linear_ss", "quadratic_ss"))
    assert "step.next.seed is called step.next.draft in b" in text
    assert "#" not in text


def test_what_is_not_counted_changes_no_token(tmp_path: Path) -> None:
    other = edited(tmp_path, "block_diffusion", (", counted: false", ""))
    found = between("block_diffusion", other)
    assert found.nodes == (Change("prefill.context", "counted", "False", "True"),)
    assert found.parts == ()
    assert "nothing that differs changes a token" in render(found)


def test_eos_ids_do_not_matter_where_an_eos_is_ignored(tmp_path: Path) -> None:
    files = []
    for ids in ("all", "first"):
        folder = tmp_path / ids
        folder.mkdir()
        lines = f"at_least: 1\n    eos: ignored\n    eos_ids: {ids}"
        files.append(edited(folder, "block_diffusion", ("at_least: 1", lines)))
    found = between(*files)
    assert [change.key for change in found.attributes] == ["repeat.eos_ids"]
    assert found.parts == ()


def test_a_seed_that_neither_uses_is_no_place_to_part() -> None:
    found = between("block_diffusion@sglang", "block_diffusion@mlx")
    nodes = {change.node for change in found.attributes}
    assert {"prefill.seed", "step.after"} <= nodes
    assert not {"prefill.seed", "step.after"} & {part.node for part in found.parts}


def test_another_sampler_matters_where_one_is_loaded(tmp_path: Path) -> None:
    found = between("trained_sampler", edited(tmp_path, "trained_sampler", ("judge", "other")))
    assert Change("step.filled.sure", "sampler", "judge", "other") in found.nodes
    assert Parting("step.filled.sure", "a sampler is loaded") in found.parts


def test_proofs_of_both_say_that_their_outputs_cannot_part() -> None:
    found = between("linear_ss", "quadratic_ss")
    assert found.are_exact
    assert not found.same
    assert found.parts == ()
    assert "both are proved to emit what AR emits" in render(found)


def test_the_command_prints_the_difference_and_exits_as_diff_does() -> None:
    runner = CliRunner()
    same = runner.invoke(cli, ["diff", "ar", "ar"])
    other = runner.invoke(cli, ["diff", "block_diffusion", "block_diffusion@vllm"])
    assert (same.exit_code, other.exit_code) == (0, 1)
    assert other.output == render(between("block_diffusion", "block_diffusion@vllm"))


@pytest.mark.parametrize("name", ["next", "route", "param", "strategy", "other"])
def test_a_node_may_be_called_like_what_stands_beside_the_nodes(tmp_path: Path, name: str) -> None:
    renamed = edited(tmp_path, "ar", ("choice", name))
    assert between("ar", renamed).same
    assert between(renamed, "ar").same


@pytest.mark.parametrize("name", ["next", "route", "other"])
def test_a_loop_may_be_called_like_what_stands_beside_the_nodes(tmp_path: Path, name: str) -> None:
    file = edited(tmp_path, "block_diffusion", ("filled", name))
    assert between("block_diffusion", file).same

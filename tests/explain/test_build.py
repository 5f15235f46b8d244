"""What is told of a strategy is what the compiler holds: its code, its places, its cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.cost.device import load_device
from nldc.cost.geometry import load_geometry
from nldc.cost.step import Setting, step_costs
from nldc.explain.build import explained
from nldc.explain.model import Explained, Text, in_words, ranges
from tests.explain.told import told
from tests.reuse.files import BY_FRAGMENT, FRAGMENTS, written


def joined(text: Text) -> str:
    return "\n".join(line.text for line in text.lines).rstrip("\n") + "\n"


def files_of(found: Explained, text: str) -> set[str]:
    """The files, with their lines, that a line of decode.py comes from."""
    (line,) = (each for each in found.code[0].lines if each.text.strip() == text)
    return {f"{found.files[place.file].name}:{place.first}" for place in line.places}


@pytest.mark.parametrize(
    "name", ["ar", "linear_ss_adaptive", "quadratic_ss_lora", "lookahead", "wino"]
)
def test_the_code_and_the_program_are_those_that_are_compiled(name: str) -> None:
    found, checked = told(name), api.check(name, others=False)
    python = api.emit(checked, "python")
    assert python == "\n\n".join(f"# {text.name}\n\n{joined(text)}" for text in found.code)
    assert joined(found.program) == api.emit(checked, "program")


@pytest.mark.parametrize("name", sorted(api.library()))
def test_every_strategy_of_the_library_is_explained(name: str) -> None:
    found = told(name)
    assert found.promise.exact == (found.promise.claimed == "exact")
    assert found.promise.reasons
    assert {region.name.split(".")[0] for region in found.regions} >= {"prefill"}
    assert all(each.grid.lines for each in found.forwards)
    lines = found.code[0].lines
    inside = [line for line in lines if line.text.startswith(" " * 8) and '"""' not in line.text]
    loose = {line.text.strip() for line in inside if not line.places}
    # What no line of the file says: how long a prompt is, and what requests bring.
    assert {each for each in loose if " = batch.param(" not in each} <= {"length = prompt.shape[1]"}


def test_a_line_of_the_code_knows_the_line_of_the_file() -> None:
    found = told("linear_ss")
    assert files_of(found, "choice = batch.head_choose(checked)") == {"linear_ss.yaml:18"}
    assert files_of(found, 'seed = carry["seed"]') == {"linear_ss.yaml:12"}


def test_a_line_that_another_file_brings_in_names_that_file(tmp_path: Path) -> None:
    file = written(tmp_path, v=BY_FRAGMENT, lib__parts=FRAGMENTS)
    found = explained(api.check(file, others=False))
    names = {text.name for text in found.files}
    assert names >= {"v.yaml", "linear_ss"}
    (parts,) = (name for name in names if "parts.yaml" in name)
    places = {found.files[place.file].name for line in found.code[0].lines for place in line.places}
    assert places == {"linear_ss", parts, "v.yaml"} or places == {"linear_ss", parts}
    (box,) = (box for region in found.regions for box in region.boxes if box.name.endswith("_seen"))
    assert box.place is not None
    assert found.files[box.place.file].name == parts
    line = found.files[box.place.file].lines[box.place.first - 1].text
    assert line.strip().startswith("seen: {op: forward")


def test_costs_are_those_of_the_table() -> None:
    setting = Setting(load_device("h200"), load_geometry("8b"))
    checked = api.check("linear_ss", others=False)
    (step,) = explained(checked, setting).steps
    (cost,) = step_costs(checked.graph, setting)
    assert step.total is not None
    assert (step.total.floor, step.total.predicted) == (cost.floor, cost.predicted)
    assert [(each.name, each.rows, each.times) for each in step.costs] == [
        (part.node, part.rows, part.times) for part in cost.parts
    ]


def test_a_loop_that_is_unrolled_has_one_round() -> None:
    rounds = {each.title: each.repeats for each in told("linear_ss").forwards}
    assert rounds == {"prefill.context": 1, "drafted.seen": 1, "checked": 1}
    assert {each.repeats for each in told("block_diffusion").forwards} == {1, 16}


def test_numbers_are_named_as_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == ((0, 2), (5, 5), (7, 8))
    assert in_words([3]) == "row 3"
    assert in_words([0, 1, 4], "token") == "tokens 0-1, 4"

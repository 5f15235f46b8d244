"""A benchmark from its grid to its data."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nldc.bench import as_data, bench, curves_of
from nldc.bench.measured import Measured
from nldc.bench.prompts import asked_of
from nldc.runtime.errors import ProfileError

GOLDEN = Path(__file__).parents[1] / "golden_checkpoints" / "random-0"
SHORT = {"max_new_tokens": 7}


def ran(*strategies: str, **options: Any) -> list[Measured]:
    plan: dict[str, Any] = {"count": 2, "repeats": 1, "generation": SHORT, **options}
    return bench(strategies, GOLDEN, **plan)


def test_a_grid_has_a_line_for_each_run_and_the_same_tokens_where_exact() -> None:
    told: list[tuple[int, int, str]] = []
    found = ran(
        "linear_ss", grid={"block_length": (3, 5)}, repeats=2, warm_up=2,
        watch=lambda *news: told.append(news),
    )  # fmt: skip
    names = ["ar", "linear_ss block_length=3", "linear_ss block_length=5"]
    assert [line.name for line in found] == names
    assert all(line.same for line in found)
    assert [len(line.times) for line in found] == [2, 2, 2]
    assert told[:5] == [
        (0, 12, "ar: warm-up"), (1, 12, "ar: warm-up 2"), (2, 12, "ar: run 1 of 2"),
        (3, 12, "ar: run 2 of 2"), (4, 12, "linear_ss block_length=3: warm-up"),
    ]  # fmt: skip
    assert told[-1][0] == 11


def test_the_median_is_told_and_the_slowest_and_the_fastest() -> None:
    ticks = iter([0, 9, 0, 1, 0, 4, 0, 2] * 2)
    ar, _ = ran("linear_ss", repeats=3, clock=lambda: float(next(ticks)))
    assert (ar.seconds, ar.times) == (2, (1, 4, 2))
    assert ar.slowest_and_fastest == (ar.tokens / 4, ar.tokens / 1)


def test_ar_has_one_token_a_forward_however_it_is_counted() -> None:
    ar, linear = ran("linear_ss", settings={"block_length": 4})
    assert (ar.figures.tpf_with_prefill, ar.figures.tpf_without_prefill) == (1.0, 1.0)
    assert (ar.figures.acceptance_length, ar.figures.drafts) == (None, 0)
    assert linear.figures.acceptance_length == pytest.approx(linear.accepted)
    assert linear.figures.tpf_with_prefill == linear.tpf


def test_prefills_that_a_strategy_does_not_count_are_counted_here() -> None:
    _, blocks = ran("block_diffusion", settings={"block_length": 4})
    figures = blocks.figures
    assert figures.tpf_without_prefill == blocks.tpf
    assert figures.tpf_with_prefill == blocks.tokens / (blocks.nfe + 2)
    assert figures.acceptance_length is None


def test_a_profile_is_of_one_run() -> None:
    with pytest.raises(ProfileError, match="that of one run, not of 2"):
        ran("linear_ss", grid={"block_length": (3, 5)}, write_acceptance="profile.json")


def categories(folder: Path) -> Path:
    path = folder / "asked.jsonl"
    rows = [
        {"category": "b", "prompt": [1, 2, 3]},
        {"category": "a", "prompt": [4, 5]},
        {"category": "b", "prompt": [6]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_categories_are_decoded_apart_and_come_to_the_whole(tmp_path: Path) -> None:
    ticks = count()
    found = ran(
        "linear_ss", prompts=categories(tmp_path), settings={"block_length": 4},
        clock=lambda: float(next(ticks)), generation={**SHORT, "temperature": 0.9},
    )  # fmt: skip
    for line in found:
        assert [each.category for each in line.categories] == ["b", "a"]
        assert [each.figures.answers for each in line.categories] == [2, 1]
        assert sum(each.figures.tokens for each in line.categories) == line.tokens
        assert sum(each.figures.drafts for each in line.categories) == line.figures.drafts
        assert line.same
        assert line.seconds == 2.0
        assert all(each.same and each.times == (1.0,) for each in line.categories)


class Answers:
    """A decoder that answers each conversation with how many messages it saw."""

    def generate(self, prompts: list[list[Any]], **_: Any) -> Any:
        return SimpleNamespace(text=[f"saw {len(prompt)}" for prompt in prompts])


def test_turns_are_asked_behind_the_answers_before_them(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    rows = [
        {"category": "x", "turns": ["one", "two", "three"]},
        {"category": "y", "turns": ["lone"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    ar: Any = Answers()
    asked = asked_of(path, 5, tmp_path, None, ar, {"chat": True})
    assert asked.groups == (("x", (0, 1, 2)), ("y", (3,)))
    contents = [[message["content"] for message in prompt] for prompt in asked.prompts]  # type: ignore[index, union-attr]
    assert contents == [
        ["one"],
        ["one", "saw 1", "two"],
        ["one", "saw 1", "two", "saw 3", "three"],
        ["lone"],
    ]


def test_data_have_a_format_and_are_json(tmp_path: Path) -> None:
    measured = ran(
        "linear_ss", grid={"block_length": (3, 5)}, prompts=categories(tmp_path), steps=True
    )
    data = as_data(measured, {"device": "here"}, curves_of("h100", GOLDEN))
    assert json.loads(json.dumps(data))["format"] == 1
    line = data["results"][1]
    assert (line["name"], line["settings"]) == ("linear_ss block_length=3", {"block_length": 3})
    assert [each["position"] for each in line["by_position"]] == [1, 2]
    accepted = sum(each["accepted"] for each in line["by_position"])
    assert line["acceptance_length"] == accepted / line["drafts"] + 1
    assert line["observed"]["by_prefix"]
    assert line["rows"] == 3 * line["observed"]["live"]
    assert line["forwards"] == 2
    curves = data["predicted"]["forward"]
    assert {each["rows"] for each in curves} >= {1, 512}
    one = {each["prefix"]: each["seconds"] for each in curves if each["rows"] == 1}
    assert sorted(one.values()) == [one[prefix] for prefix in sorted(one)]

"""A profile of accepted tokens, its file, what it says of other lengths, and the masks it deals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nldc import api
from nldc.acceptance import (
    MAX_BYTES,
    Acceptance,
    has_drafts,
    parse_acceptance,
    profile_of,
    read_acceptance,
    write_acceptance,
)
from nldc.cli.commands import cli
from nldc.ir.ops import LayRows
from nldc.ir.taper import survival, taper, tokens_a_step
from nldc.runtime.errors import ProfileError

GOLDEN = Path(__file__).parent / "golden_checkpoints" / "random-0"
GOOD: dict[str, Any] = {
    "format": 1,
    "strategy": "linear_ss",
    "params": {"block_length": 4},
    "accepted": {"1": 400, "2": 300, "3": 200, "4": 100},
}
AFTER = ((9, 2, 1), (1, 3, 9), (0, 1, 30))
WITH_AFTER = Acceptance("quadratic_ss", {"block_length": 3}, {1: 10, 2: 6, 3: 40}, {}, 3, AFTER)
TAPERED = "quadratic_ss_tapered"
SMALL = {"block_length": 3, "rows": 8}
SETS = ("--set", "block_length=3", "--set", "rows=8")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_acceptance(WITH_AFTER, path)
    return path


def nldc(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def masks_of(checked: api.Checked) -> list[int]:
    op = checked.graph.node("step.groups").op
    assert isinstance(op, LayRows)
    return [size.fixed for size in op.layout.segments[1].sizes]


def test_a_profile_expects_its_own_mean_at_the_block_length_where_it_was_measured() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.steps == 1000
    assert profile.mean == pytest.approx(2.0)
    assert profile.expected(4) == pytest.approx(profile.mean)


def test_a_shorter_block_cuts_every_run_off_at_its_length() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.expected(1) == 1
    assert profile.expected(2) == pytest.approx(1 + 0.6)
    assert profile.expected(3) == pytest.approx(1 + 0.6 + 0.3)


def test_beyond_what_was_measured_the_share_that_goes_on_is_one_number() -> None:
    profile = parse_acceptance(GOOD, "file")
    tail = (300 + 100) / (600 + 300)  # positions 2 and 3, the second half, pooled
    assert profile.goes_on(4) == profile.goes_on(40) == pytest.approx(tail)
    assert profile.expected(6) == pytest.approx(2.0 + 0.1 * tail + 0.1 * tail**2)


def test_geometric_runs_are_continued_exactly() -> None:
    accepted = {n: 2 ** (16 - n) for n in range(1, 9)} | {9: 2**8 - 0}
    profile = Acceptance("s", {}, accepted)  # every second run goes on; 9 is where they were cut
    assert profile.expected(64) == pytest.approx(2.0, abs=1e-9)


def test_where_hardly_any_step_came_the_tail_stands_in() -> None:
    profile = Acceptance("s", {}, {1: 500, 2: 499, 3: 1}, most=8)
    assert profile.goes_on(3) == profile.goes_on(7) < 0.01
    assert Acceptance("s", {}, {1: 7}).expected(16) == 1


def test_drafts_of_one_length_are_the_chain_that_needs_no_chain() -> None:
    profile = parse_acceptance(GOOD, "file")
    assert profile.counts == (400, 300, 200, 100)
    assert profile.expected_of([4, 4, 4, 4]) == pytest.approx(profile.expected(4))
    assert profile.expected_of([1]) == 1


def test_short_drafts_behind_likely_points_cost_the_steps_after_them() -> None:
    profile = parse_acceptance(GOOD, "file")
    p = 0.6  # how likely a second token is
    # after 1 a draft of 2 tokens, after 2 one of 1: p(1) = 1 / (1 + p)
    assert profile.expected_of([2, 1]) == pytest.approx((1 + 2 * p) / (1 + p))
    assert profile.expected_of([1, 2]) == pytest.approx(1.0)  # once 1, always 1
    always = Acceptance("s", {}, {1: 0, 2: 100, 3: 100})
    assert always.expected_of([2, 1, 1]) == pytest.approx(1.5)  # goes round: 1, 2, 1, 2


def test_of_steps_that_depend_on_the_one_before_the_long_run_is_that_of_the_masks_dealt() -> None:
    masks = [3, 0, 2]
    expected = tokens_a_step(masks, survival(AFTER, 3))
    assert WITH_AFTER.expected_of([3, 1, 2]) == pytest.approx(expected)
    alone = Acceptance("quadratic_ss", {}, WITH_AFTER.accepted, {}, 3)
    assert alone.expected_of([3, 1, 2]) != pytest.approx(expected, rel=0.05)
    assert (WITH_AFTER.profile, alone.profile) == (AFTER, ((10, 6, 40),))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    for rounds, after in (({"step.filled": 3.5}, ()), ({}, AFTER)):
        profile = Acceptance("s", {"k": 4, "t": 0.5}, {2: 3, 1: 9}, rounds, 4, after)
        write_acceptance(profile, path)
        assert read_acceptance(path) == profile
    assert list(json.loads(path.read_text())["accepted"]) == ["1", "2"]
    assert "    [1, 3, 9],\n" in path.read_text()


def test_a_profile_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "profile.json").mkdir()
    with pytest.raises(ProfileError, match="cannot be written: it is no plain file"):
        write_acceptance(WITH_AFTER, tmp_path / "profile.json")
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_steps_are_counted_by_what_the_step_before_emitted() -> None:
    assert profile_of([[1, 3, 3, 1], [2], []], 3) == ((0, 0, 1), (0, 0, 0), (1, 0, 1))
    assert profile_of([[1], [2], []], 3) == ()  # no step comes after another
    assert profile_of([[1, 1]], 0) == profile_of([[1, 1]], 65) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2"),
        ({"format": True}, "format is True"),
        ({"strategy": 1}, "strategy is 1"),
        ({"strategy": "\x1b[31ma\nb"}, "strategy is '\\x1b[31ma\\nb'"),
        ({"params": {"k": "4"}}, "params is"),
        ({"accepted": None}, "accepted is None"),
        ({"accepted": {}}, "counts no step"),
        ({"accepted": {"1": 0}}, "counts no step"),
        ({"accepted": {"0": 3}}, "accepted has '0': 3"),
        ({"accepted": {"²": 3}}, "accepted has '²': 3"),
        ({"accepted": {"1": -3}}, "accepted has '1': -3"),
        ({"accepted": {"1": 1.5}}, "accepted has '1': 1.5"),
        ({"accepted": {"99999": 1}}, "accepted has '99999': 1"),
        ({"rounds": {"step.filled": -1}}, "rounds is"),
        ({"most": 1e9}, "most is"),
        ({"accepted": {"1": 9, "5": 3}, "most": 2}, "more tokens than most, which is 2"),
        ({"acepted": {}}, "has the key 'acepted'"),
        ({"after": {}}, "after is no lists of whole numbers"),
        ({"after": [1]}, "after is no lists of whole numbers"),
        ({"after": [[1, 2.5]]}, "after is no lists of whole numbers"),
        ({"after": [[1, True]]}, "after is no lists of whole numbers"),
        ({"after": []}, "after has 0 lists"),
        ({"after": [[1] * 65]}, "after has a list of 65 numbers"),
        ({"after": [[9, -2]]}, "after has a number that is not between 0 and"),
        ({"after": [[0, 0]]}, "after counts no steps"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError, match=r"^file") as refused:
        parse_acceptance(GOOD | change, "file")
    assert said in refused.value.message
    assert refused.value.hint


def test_files_that_are_not_there_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there is no file"):
        read_acceptance(tmp_path / "profile.json")
    (tmp_path / "profile.json").write_text("[1")
    with pytest.raises(ProfileError, match="cannot be read as JSON"):
        read_acceptance(tmp_path / "profile.json")
    (tmp_path / "profile.json").write_text(" " * (MAX_BYTES + 1))
    with pytest.raises(ProfileError, match="is too large"):
        read_acceptance(tmp_path / "profile.json")
    with pytest.raises(ProfileError, match="cannot be read: is a directory"):
        read_acceptance(tmp_path)
    (tmp_path / "profile.json").write_text("[1]")
    with pytest.raises(ProfileError, match="holds no JSON object"):
        read_acceptance(tmp_path / "profile.json")


def test_a_profile_that_is_not_there_is_refused_in_a_line_with_what_writes_one() -> None:
    result = nldc("check", TAPERED, "--acceptance", "none.json")
    assert result.exit_code == 1
    assert "there is no file none.json" in result.output
    assert "--write-acceptance FILE" in result.output


def test_masks_are_dealt_by_the_profile_that_is_given() -> None:
    own = api.check(TAPERED, SMALL, others=False)
    given = api.check(TAPERED, {**SMALL, "acceptance": AFTER}, others=False)
    assert masks_of(given) == list(taper(AFTER, 3, 5)) != masks_of(own)
    assert sum(masks_of(given)) <= 5
    assert given.certificate.proved == "exact"
    assert given.certificate.data()["params"]["acceptance"] == AFTER


def test_the_tokens_that_explain_expects_are_those_of_the_prediction(file: Path) -> None:
    options, masks = (TAPERED, *SETS, "--acceptance", file), taper(AFTER, 3, 5)
    expected = f"{tokens_a_step(masks, survival(AFTER, 3)):.2f} tokens"
    explained = nldc("explain", *options).output
    assert f"behind 1 to 3 accepted tokens: {', '.join(map(str, masks))}\n" in explained
    assert f"a step accepts {expected}" in explained
    assert f"{TAPERED}: {expected} a step" in nldc("explain", *options, "--device", "h100").output


def test_a_profile_goes_to_the_files_that_have_one_and_to_one_at_least(
    file: Path, tmp_path: Path
) -> None:
    text = api.find(TAPERED).read_text(encoding="utf-8")
    for name, default, least, most, one in (
        ("block_length", 8, 2, 32, 2),
        ("rows", 40, 2, 1056, 5),
    ):
        bounds = f"{name}: {{type: int, default: {default}, min: {least}, max: {most}"
        assert bounds in text
        text = text.replace(bounds, f"{name}: {{type: int, default: {one}, min: {one}, max: {one}")
    (tmp_path / "one.yaml").write_text(text, encoding="utf-8")  # no other params to be tried
    both = nldc("check", "ar", tmp_path / "one.yaml", "--acceptance", file)
    assert both.exit_code == 0, both.output
    assert "acceptance = a profile of 56 steps" in both.output
    none = nldc("check", "ar", "--acceptance", file)
    assert none.exit_code == 1
    assert "no strategy here has a param of the type profile" in none.output


@pytest.mark.parametrize("what", ["linear_ss", "NLD014"])
def test_what_is_dealt_no_masks_needs_a_device_to_be_explained_by_a_profile(
    what: str, file: Path
) -> None:
    refused = nldc("explain", what, "--acceptance", file)
    assert refused.exit_code == 2
    assert "--acceptance is for a prediction: give --device as well" in refused.output


def test_bench_writes_a_profile_that_compile_takes(tmp_path: Path) -> None:
    path, few = tmp_path / "p.json", ("--count", 1, "--max-new-tokens", 9, "--repeats", 1)
    measured = nldc(
        "bench", "quadratic_ss", "--model", GOLDEN, "--set", "block_length=3", *few,
        "--write-acceptance", path,
    )  # fmt: skip
    assert measured.exit_code == 0, measured.output
    found = read_acceptance(path)
    assert (found.strategy, found.params, found.most) == ("quadratic_ss", {"block_length": 3}, 3)
    assert [len(row) for row in found.after] == [3, 3, 3]
    assert sum(map(sum, found.after)) == found.steps - 1 > 0  # all but the first of the one text
    compiled = nldc("compile", TAPERED, "--emit", "graph", *SETS, "--acceptance", path)
    assert compiled.exit_code == 0, compiled.output
    assert f"param acceptance = {found.after}" in compiled.output


def test_only_whole_drafts_have_a_profile() -> None:
    assert not has_drafts(api.check("ar", others=False).graph)
    assert has_drafts(api.check("linear_ss", others=False).graph)
    refused = nldc("bench", TAPERED, "--model", GOLDEN, *SETS, "--write-acceptance", "p.json")
    assert refused.exit_code == 1
    assert "has no acceptance profile: its drafts are cut short by one" in refused.output
    assert "measure `quadratic_ss`" in refused.output

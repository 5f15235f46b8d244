"""What loops leave: masks and copies that are emitted are refused, and everything else is not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml

from nldc.check.lossless import prove
from nldc.check.lossless.constraints import constraints
from nldc.check.lossless.fills import MOST_WORK
from nldc.ir.build import build
from nldc.reuse import parse
from tests.lossless.loops_at_random import emits_unchosen, search
from tests.lossless.mutants import HERE, STRATEGIES, built

LOOPS = HERE / "loops"
GOOD = sorted(path.stem for path in LOOPS.glob("*.yaml"))
TRIES = 200


@dataclass(frozen=True)
class Broken:
    """A base strategy, `old` text replaced by `new`, and the code that refuses it."""

    name: str
    base: str
    old: str
    new: str
    code: str

    def text(self) -> str:
        text = base_text(self.base)
        assert text.count(self.old) == 1, self
        return text.replace(self.old, self.new)


def base_text(name: str) -> str:
    path = next(p for p in (LOOPS / f"{name}.yaml", STRATEGIES / f"{name}.yaml") if p.exists())
    return path.read_text(encoding="utf-8")


def codes(text: str, settings: dict[str, int | float] | None = None) -> list[str]:
    source, graph = built(text, settings)
    return [diagnostic.code for diagnostic in constraints(graph, source)]


BROKEN = [Broken(**row) for row in yaml.safe_load((HERE / "broken_loops.yaml").read_text("utf-8"))]


@pytest.mark.parametrize("name", GOOD)
def test_a_loop_that_fills_what_is_emitted_is_taken_and_emits_chosen_tokens_only(
    name: str,
) -> None:
    assert codes(base_text(name)) == []
    assert emits_unchosen(built(base_text(name))[1], TRIES, seed=0) is None


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_loop_that_does_not_is_refused(broken: Broken) -> None:
    source, graph = built(broken.text())
    (diagnostic,) = constraints(graph, source)
    assert diagnostic.code == broken.code
    assert diagnostic.help


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_and_is_seen_to_emit_a_token_that_no_sample_chose(broken: Broken) -> None:
    assert emits_unchosen(built(broken.text())[1], TRIES, seed=1) is not None


def test_there_are_enough_broken_loops_and_no_two_are_the_same() -> None:
    assert len(BROKEN) >= 35
    assert len({broken.name for broken in BROKEN}) == len(BROKEN)
    assert len({broken.text() for broken in BROKEN}) == len(BROKEN)


def test_random_loops_that_are_taken_emit_chosen_tokens_only() -> None:
    tally, found = search(count=60, seed=0, tries=6)
    assert found is None, found
    assert tally["accepted"] >= 20
    assert tally["NLD118"] >= 2
    assert tally["NLD122"] >= 5


def test_a_rule_of_all_rows_that_are_left_is_followed_for_every_number_of_them() -> None:
    """Without another rule a round takes as many as the rule says: two rows are never left."""
    text = base_text("masked_blocks")
    share = text.replace("left // 2 + left % 2", "left % 2 * 3 + left // 4")
    assert codes(share) == []
    assert codes(share.replace("best: left", "at_least: 0.4, best: left")) == ["NLD118"]


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("best: 1 + iteration", []),
        ("best: (iteration + 1) // 2", []),
        ("best: iteration // 2", ["NLD118"]),
        ("within: 0", []),
        ("within: 0 - 1", ["NLD118"]),
        ("at_least: 0", []),
        ("at_least: 1 - iteration", []),
        ("at_least: 0.5 - iteration", ["NLD118"]),
        ('where: "rank < 1"', []),
        ('where: "rank < left - 1"', ["NLD118"]),
        ('where: "rank < 2 and iteration > 0"', []),
        ('where: "row == 0 or rank < 1"', []),
        ('where: "score > 0.5"', ["NLD118"]),
    ],
)
def test_what_a_rule_takes_at_the_least(rule: str, found: list[str]) -> None:
    text = base_text("masked_blocks").replace("best: left // 2 + left % 2", rule)
    assert codes(text) == found


def test_a_loop_that_asks_too_much_is_refused_within_bounded_work() -> None:
    text = base_text("masked_blocks").replace("masks: 4", "masks: 400")
    text = text.replace("at_most: 4", "at_most: 400").replace(
        "left // 2 + left % 2", "1 + (iteration * left) % 2, at_least: 0.9"
    )
    assert MOST_WORK < 400 * 400
    assert codes(text) == ["NLD118"]
    assert codes(text.replace("(iteration * left) % 2", "left // 2")) == []


def test_an_exact_strategy_may_draft_with_any_loop() -> None:
    text = (STRATEGIES / "linear_ss.yaml").read_text("utf-8")
    assert "op: denoise" in text
    graph = build(parse(text), {"block_length": 4}).graph
    assert graph is not None
    assert prove(graph).proved == "exact"


ACCEPTED = """      look:  {op: forward, tokens: block, attention: causal, cache: read}
      next:  {op: sample, logits: look}
      kept:  {op: accept, draft: pick, target: next, rule: longest_prefix}
      some:  {op: join, parts: ["pick[kept.matches]", kept.bonus, "pick[2:]"]}
      take:"""


def test_what_a_loop_accepts_is_some_of_what_it_may_be() -> None:
    text = base_text("masked_blocks").replace("      take:", ACCEPTED)
    text = text.replace("tokens: pick}\n  out", "tokens: some}\n  out")
    assert codes(text) == []
    assert emits_unchosen(built(text)[1], TRIES, seed=0) is None
    masks = text.replace('"pick[kept.matches]"', '"block.tokens[kept.matches]"')
    assert codes(masks) == ["NLD122"]
    assert emits_unchosen(built(masks)[1], TRIES, seed=0) is not None
    assert codes(text.replace("target: next", "target: block.tokens")) == ["NLD122"]

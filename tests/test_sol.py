"""The speed of light: oracles on a made-up model against every order, and on checkpoints."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nldc import api
from nldc.cli import cli
from nldc.runtime import Decoder
from nldc.sol import Block, Look, Oracle, Seen, measure, oracles, sol

GOLDEN = Path(__file__).parent / "golden_checkpoints"
PROMPTS = [(1, 38, 26), (5,), (7,) * 9]


def made_up(seed: int, agreement: int = 3) -> Look:
    """Return a model whose tokens depend on the whole block, but often only on the row."""

    def look(block: Block) -> Seen:
        tokens, sure = [], []
        for row in range(len(block)):
            draw = hash((seed, row, tuple(-3 if token is None else token for token in block)))
            tokens.append(row if draw % 4 < agreement else draw // 4 % 3)
            sure.append((draw >> 8) % 97 / 97)
        return Seen(tuple(tokens), tuple(sure))

    return look


def fewest(oracle: Oracle) -> int:
    """Return the fewest forwards in which rows can be committed that are right when they are."""

    @cache
    def left(block: Block) -> int:
        rows = [row for row, token in enumerate(block) if token is None]
        if not rows:
            return 0
        right = oracle.right(block)
        found = [len(rows) + 100]
        for count in range(1, len(right) + 1):
            found += [1 + left(_commit(oracle, block, c)) for c in combinations(right, count)]
        return min(found)

    return left((oracle.target[0], *(None,) * (len(oracle.target) - 1)))


def _commit(oracle: Oracle, block: Block, rows: tuple[int, ...]) -> Block:
    return tuple(oracle.target[i] if i in rows else token for i, token in enumerate(block))


@pytest.mark.parametrize("length", [2, 3, 6])
def test_compaction_lies_between_the_best_order_and_the_serial_one(length: int) -> None:
    gained = 0
    for seed in range(40):
        oracle = Oracle(made_up(seed), 9, length)
        found = oracle.compaction()
        assert fewest(oracle) <= found <= length - 1
        gained += length - 1 - found
    assert gained or length == 2


def test_the_greedy_oracle_is_no_better_than_the_best_order_unless_it_is_given_a_token() -> None:
    stuck = 0
    for seed in range(40):
        oracle = Oracle(made_up(seed, agreement=2), 9, 6)
        forwards, given = oracle.greedy()
        assert given or forwards >= fewest(oracle)
        assert forwards <= 5
        stuck += given
    assert stuck


def test_what_compaction_commits_is_safe_without_the_oracle() -> None:
    """From every state that it passes, serial denoising arrives at the target."""
    for seed in range(20):
        oracle = Oracle(made_up(seed), 9, 6)
        look, block = made_up(seed), (9, *(None,) * 5)
        while None in block:
            block = oracle._largest(block, oracle.right(block))
            alone = block
            while None in alone:
                seen = look(alone)
                masked = [row for row, token in enumerate(alone) if token is None]
                row = max(masked, key=lambda row: (seen.sure[row], -row))
                alone = tuple(seen.tokens[i] if i == row else t for i, t in enumerate(alone))
            assert alone == oracle.target


def test_without_a_budget_compaction_is_serial_or_finds_what_serial_saw() -> None:
    for seed in range(20):
        none = Oracle(made_up(seed, agreement=2), 9, 6, budget=0)
        assert none.compaction() <= 5
        assert none.probes == 0
        some = Oracle(made_up(seed, agreement=2), 9, 6, budget=7)
        some.compaction()
        assert some.probes <= 7


def test_a_model_that_is_always_right_fills_a_block_in_one_forward() -> None:
    oracle = Oracle(made_up(0, agreement=4), 9, 8)
    assert oracle.greedy() == (1, 0)
    assert oracle.compaction() == 1


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("artifacts")

    def load(name: str, folder: Path, **settings: int | float) -> Decoder:
        out = root / "_".join([name, *map(str, settings.values())])
        kind = api.load(api.compile(name, out, settings, certify=False))
        return kind.from_checkpoint(folder, dtype="float64", device="cpu", backend="torch")

    return load


def test_the_serial_target_is_what_one_row_a_forward_gives(artifacts: Any) -> None:
    for folder in (GOLDEN / "random-0", GOLDEN / "random-2"):
        decoder = artifacts("block_diffusion_steps", folder, block_length=5, steps=4)
        for prompt in PROMPTS:
            text = [t for o in oracles(decoder, prompt, 5, 20) for t in o.target]
            result = decoder.generate([prompt], max_new_tokens=20)
            assert result.tokens[0][: len(text)] == text
            if len(text) == 20:
                assert result.stats[0].nfe == 4 * (4 + 1)


def test_no_threshold_reaches_a_block_in_fewer_forwards_than_the_best_order(
    artifacts: Any,
) -> None:
    decoder = artifacts("ar", GOLDEN / "random-0")
    reached = 0
    for oracle in oracles(decoder, PROMPTS[0], 5, 30):
        least = fewest(oracle)
        assert least <= oracle.compaction() <= 4
        for threshold in (0.0, 0.05, 0.1, 0.3, 0.6, 1.0):
            block, forwards = (oracle.target[0], *(None,) * 4), 0
            while None in block:
                seen, best = oracle.look(block), oracle.surest(block)
                block = tuple(
                    seen.tokens[i] if t is None and (i == best or seen.sure[i] >= threshold) else t
                    for i, t in enumerate(block)
                )
                forwards += 1
            if block == oracle.target:
                reached += 1
                assert forwards >= least
    assert reached


def test_ceilings_lie_above_what_strategies_reach_on_the_same_prompts() -> None:
    names = ("ar", "linear_ss", "linear_ss_iterative", "quadratic_ss", "tidar", "prompt_lookup")
    for folder in (GOLDEN / "random-0", GOLDEN / "random-2"):
        report = sol(folder, names, block_lengths=(4,), count=3, max_new_tokens=20)
        ceiling = {line.oracle: line for line in report.ceilings}
        assert ceiling["serial"].tpf == 1.0
        best = max(line.accepted for line in report.ceilings)
        assert [line.strategy for line in report.reached] == list(names)
        assert all(0 < line.tpf <= best for line in report.reached)
        assert ceiling["serial"].forwards >= ceiling["compaction"].forwards


def test_measuring_twice_gives_the_same_numbers(artifacts: Any) -> None:
    decoder = artifacts("ar", GOLDEN / "random-0")
    found = measure(decoder, PROMPTS, 4, 12)
    assert found == measure(decoder, PROMPTS, 4, 12)
    assert {line.blocks for line in found} == {found[0].blocks}
    assert all(line.tokens == 4 * line.blocks for line in found)


def test_a_strategy_is_left_out_where_it_does_not_allow_the_block_length() -> None:
    options: dict[str, Any] = {"count": 1, "max_new_tokens": 4}
    report = sol(GOLDEN / "random-0", ("quadratic_ss",), block_lengths=(2, 40), **options)
    assert [line.block_length for line in report.reached] == [2]
    assert {line.block_length for line in report.ceilings} == {2, 40}


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["sol", "ar", "linear_ss", "--model", str(GOLDEN / "random-0"), "--count", "2"]
    arguments += ["--block-length", "4", "--max-new-tokens", "8"]
    text = CliRunner().invoke(cli, arguments)
    assert text.exit_code == 0, text.stderr
    lines = [line.split() for line in text.stdout.splitlines() if line.strip()]
    assert lines[0][:3] == ["k", "filled", "by"]
    assert [line[1:3] for line in lines if "oracle:" in line] == [
        ["oracle:", "serial"],
        ["oracle:", "greedy"],
        ["oracle:", "compaction"],
    ]
    assert any(line[:2] == ["4", "linear_ss"] for line in lines)
    data = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert data["prompts"] == 2
    assert [line["oracle"] for line in data["ceilings"]] == ["serial", "greedy", "compaction"]
    assert [line["strategy"] for line in data["strategies"]] == ["ar", "linear_ss"]

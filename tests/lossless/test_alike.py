"""What is decided for prompts of every length holds for every length that can be tried.

Random patterns of the prefill are looked at row by row in every prompt up to a length beyond all
their constants, with code of the test's own, and compared with what `alike` says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest

from nldc.check.lossless import codes, prove
from nldc.check.lossless.alike import alike
from nldc.check.lossless.prefill_rows import class_of
from nldc.expr import Ref, to_python
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward
from tests.lossless.mutants import base_text, built

LONGEST = 150
"""Beyond twice the largest sum of two constants below, and their periods."""

LAYOUTS = {
    "plain": ("  rows: {op: rows, segments: [{tokens: $prompt, kind: early}]}\n", ("early",)),
    "last apart": (
        '  rows: {op: rows, segments: [{tokens: "$prompt[:-1]", kind: early}, {tokens: "$prompt[-1:]", kind: final}]}\n',  # noqa: E501
        ("early", "final"),
    ),
    "masks behind": (
        "  rows: {op: rows, segments: [{tokens: $prompt, kind: early}, {masks: 2, kind: final}]}\n",
        ("early", "final"),
    ),
}
ATOMS = (
    "k.row <= q.row", "k.row <= q.row", "q.row - k.row >= 0", "k.position <= q.position",
    "k.row > q.row - C", "q.row - k.row < C", "k.row < C", "q.row < C", "k.row != C", "q.row != C",
    "k.row % D != R", "q.row % D != R", "(q.row - k.row) % D != R", "k.row // D + 1 >= q.row // D",
    "k.row // D <= q.row // D", "k.row == q.row", "k.row + q.row != S", "k.kind == early",
    "q.kind == early", "k.kind == q.kind", "k.position + C > q.position", "k.row < q.row + 1 - C",
)  # fmt: skip
CACHED = (
    "k.position <= q.position", "not k.prefix or k.position >= -C", "k.position != -C",
    "k.position % D != R", "q.position - k.position < C", "not k.prefix", "k.prefix",
    "k.position // D <= 0", "k.row <= q.row",
)  # fmt: skip


def atom(random: Random, atoms: tuple[str, ...]) -> str:
    text = random.choice(atoms)
    divisor = random.choice((2, 3, 7))
    text = text.replace("C", str(random.choice((1, 2, 9, 17, 23))))
    text = text.replace("S", str(random.choice((3, 8, 12))))
    return text.replace("D", str(divisor)).replace("R", str(random.randrange(divisor)))


def pattern(random: Random, atoms: tuple[str, ...]) -> str:
    parts = [atom(random, atoms) for _ in range(random.choice((1, 1, 2, 2, 3)))]
    text = parts[0]
    for part in parts[1:]:
        part = f"not ({part})" if random.random() < 0.2 else part
        text = f"({text}) {random.choice(('and', 'and', 'or'))} ({part})"
    return text


def strategy(random: Random) -> str:
    layout, kinds = random.choice(list(LAYOUTS.values()))
    seen = random.choice((pattern(random, ATOMS), "k.row <= q.row"))
    position = random.choice(("row", "row", "row", "row % 24", "row + row // 17", "index"))
    adapter = random.choice(("kind != early", "row < 0", "row == 19", "row % 23 == 22"))
    append = random.choice(('"kind == early"', '"row >= 0"', '"row < 21"', '"row != 2"'))
    last = kinds[-1] if "masks" not in layout else "early"
    return f"""nldc: 1
name: x
summary: x
guarantee: exact
adapters: {{drafter: {{kind: lora}}}}
prefill:
{layout}  first:
    op: forward
    tokens: rows
    attention: "{seen}"
    position: {position}
    predicts: {{next: "{random.choice(("row >= 0", "row >= 0", "row < 26"))}"}}
    adapter: {{drafter: "{adapter}"}}
    cache: {{append: {append}}}
  seed: {{op: sample, logits: first.{last}.last}}
  second: {{op: forward, tokens: seed, attention: "{pattern(random, CACHED)}", predicts: next, cache: read}}
  more: {{op: sample, logits: second}}
carry: {{seed: prefill.more}}
step:
  context: {{op: forward, tokens: seed, attention: causal, cache: append}}
  choice:  {{op: sample, logits: context}}
  emit:    {{tokens: seed, cache: keep all, next: {{seed: choice}}}}
"""  # noqa: E501


def names(ref: Ref) -> str:
    return "_".join(ref.parts) if len(ref.parts) > 1 else f"name_{ref.root}"


def asked(expr: Any, given: Mapping[str, Any], shape: Any) -> Any:
    """Evaluate by the printed Python, which is not what `alike` does."""
    found = eval(to_python(expr, names), {"__builtins__": {}}, dict(given))
    return np.broadcast_to(np.asarray(found), shape)


def wrong_rows(graph: Graph, length: int) -> tuple[set[Any], dict[str, int]]:
    """Return the classes with a row that is not AR's in a prompt of that length, and what stays."""
    wrong: set[Any] = set()
    kept: dict[str, int] = {}
    labels = {f"name_{kind}": number for number, kind in enumerate(graph.kinds)}
    cached: list[int] = []
    for node in graph.prefill.nodes:
        op = node.op
        if not isinstance(op, Forward):
            continue
        rows = op.layout.rows(length)
        size = len(rows)
        facts = {
            "row": np.array([row.row for row in rows]),
            "index": np.array([row.index for row in rows]),
            "kind": np.array([-1 if r.kind is None else graph.kinds.index(r.kind) for r in rows]),
        }
        one = {f"name_{name}": value for name, value in facts.items()} | labels
        offset = asked(op.position, one, size)
        facts["position"] = offset
        base = len(cached)
        place = offset + base
        behind = {"row": -1, "index": -1, "kind": -1, "position": np.arange(-base, 0)}
        pair = {f"q_{name}": value[:, None] for name, value in facts.items()} | labels
        own = {f"k_{name}": value[None, :] for name, value in facts.items()}
        old = {f"k_{name}": np.asarray(value)[None, ...] for name, value in behind.items()}
        predicate = op.attention.predicate
        sees = asked(predicate, {**pair, **own, "k_prefix": False}, (size, size)).astype(bool)
        sees_old = np.zeros((size, base), dtype=bool)
        if base:
            sees_old = asked(predicate, {**pair, **old, "k_prefix": True}, (size, base)) != 0
        adapted = asked(op.adapter_rows, one, size).astype(bool)
        on = asked(op.predicts_next, one, size)
        for row in rows:
            seen = sorted(
                [cached[k] for k in np.flatnonzero(sees_old[row.row])]
                + [int(place[k]) for k in np.flatnonzero(sees[row.row]) if k != row.row]
            )
            fits = bool(sees[row.row, row.row]) and seen == list(range(int(place[row.row])))
            if not fits:
                wrong.add((class_of(node.name, op.layout, row, length), "sight"))
            flags = (bool(adapted[row.row]), bool(on[row.row]), int(offset[row.row] - row.row))
            wrong.add((class_of(node.name, op.layout, row, length), flags))
        stays = np.flatnonzero(asked(op.append, one, size))
        kept[node.name] = len(stays)
        cached += [int(place[row]) for row in stays]
    return wrong, kept


def judge(graph: Graph) -> tuple[set[Any], set[Any], bool]:
    """Return the classes that are flawed by trial, the others, and whether rows stay evenly."""
    facts: dict[Any, set[Any]] = {}
    kept: list[tuple[int, int]] = []
    for length in (*range(1, 62), *range(63, LONGEST, 17)):
        wrong, stays = wrong_rows(graph, length)
        for one, what in wrong:
            facts.setdefault(one, set()).add(what)
        kept.append((length, stays["prefill.first"]))
    bad = {one for one, whats in facts.items() if "sight" in whats or len(whats) > 1}
    rise = kept[1][1] - kept[0][1]
    even = all(count == kept[0][1] + rise * (length - 1) for length, count in kept)
    return bad, set(facts) - bad, even


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_taken_for_ars_exactly_where_they_are_in_every_prompt(seed: int) -> None:
    try:
        _, graph = built(strategy(Random(seed)))
    except ValueError:
        return  # positions that no row can have
    found = alike(graph)
    bad, good, even = judge(graph)
    unsound = {one for one in bad if one not in found.flaws}
    second = {one for one in unsound if one[0] == "prefill.second"}
    assert not (unsound - second), (seed, unsound)
    if found.kept == {} and not any(one[0] == "prefill.first" for one in found.flaws):
        assert not second, (seed, second)
    flawed = {one for one, flaw in found.flaws.items() if flaw.code != codes.UNDECIDED}
    assert not {one for one in flawed & good if one[0] == "prefill.first"}, (seed, found.flaws)
    assert even or found.kept, seed


@pytest.mark.parametrize("window", [20, 100, 4096, 32_768])
def test_a_window_of_any_size_is_named_with_a_prompt_in_which_it_shows(window: int) -> None:
    seen = f'"k.row <= q.row and k.row > q.row - {window}", predicts: next'
    text = base_text("ar").replace(
        "tokens: $prompt, attention: causal", f"tokens: $prompt, attention: {seen}"
    )
    (problem,) = prove(built(text)[1]).problems
    assert (problem.code, problem.node, problem.key) == ("NLD106", "prefill.context", "attention")
    assert f"in a prompt of {window + 1} tokens row {window} does not see" in problem.text


@pytest.mark.parametrize(
    "seen",
    [
        "q.row - k.row >= 0",
        "k.row < q.row + 1",
        "not k.row > q.row",
        "2 * k.row <= 2 * q.row",
        "k.row <= q.row or k.row < 0 - 4096",
        "k.row <= q.row and k.row + 70 > q.row - q.row % 7 - q.row",
        "k.row // 3 < q.row // 3 or (k.row // 3 == q.row // 3 and k.row % 3 <= q.row % 3)",
        "k.position <= q.position",
        "k.position - q.position <= 0",
    ],
)
def test_a_causal_pattern_is_one_however_it_is_written(seen: str) -> None:
    text = base_text("ar").replace(
        "tokens: $prompt, attention: causal",
        f'tokens: $prompt, attention: "{seen}", predicts: next',
    )
    assert prove(built(text)[1]).proved == "exact"


@pytest.mark.parametrize(
    "seen",
    [
        "k.row <= q.row and k.row * k.row != 900",
        "k.row * 2 <= q.row * 3 and k.row <= q.row",
        "k.row <= q.row and k.row > q.row - 900000000",
    ],
)
def test_what_cannot_be_decided_says_so_where_it_is_written(seen: str) -> None:
    text = base_text("ar").replace(
        "tokens: $prompt, attention: causal",
        f'tokens: $prompt, attention: "{seen}", predicts: next',
    )
    (problem,) = prove(built(text)[1]).problems
    assert (problem.code, problem.node, problem.key) == ("NLD121", "prefill.context", "attention")


def test_a_forward_of_the_prefill_that_only_drafts_may_see_what_it_likes() -> None:
    text = base_text("prompt_reread").replace(
        "tokens: seed, attention: bidirectional",
        'tokens: seed, attention: "k.position > 0 - 20 or k.position * k.position < 7"',
    )
    assert text != base_text("prompt_reread")
    assert prove(built(text)[1]).proved == "exact"

"""Random strategies whose drafts branch: several chains of rows in one forward, of which one stays.

The first option of each choice is right; the others share rows, see other branches, lie elsewhere,
keep what was not accepted, or hold targets against rows of another chain.
"""
# ruff: noqa: E501  (templates of YAML lines, which do not wrap)

from __future__ import annotations

from collections.abc import Callable

from tests.lossless.picks import Pick

POOL = 12
"""Tokens of a carried pool, in entries of a branch's length."""


def drafted(pick: Pick, width: int, size: int) -> str:
    """Nodes that make `found`: `size` tokens for each branch, one branch after another."""
    source = pick.even(("looked", "candidates", "recalled", "same"))
    if source == "looked":
        names = [f"look{number}" for number in range(width)]
        lines = [
            f"  {name}: {{op: lookup, length: {size}, ngram: {1 + number}}}\n"
            for number, name in enumerate(names)
        ]
        return "".join(lines) + f"  found: {{op: join, parts: [{', '.join(names)}]}}\n"
    if source == "same":
        return (
            f"  look: {{op: lookup, length: {size}, ngram: 2}}\n"
            f"  found: {{op: join, parts: [look], times: {width}}}\n"
        )
    if source == "recalled":
        entry = size + 1
        return (
            f"  found: {{op: recall, pool: grams, entry: {entry}, after: seed, count: {width}}}\n"
        )
    adapter = pick(("", "", ", adapter: drafter"))
    text = f"""  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: {size}}}]}}
  guessed: {{op: forward, tokens: block, attention: bidirectional, cache: {pick(("read", "read", "read", "append"))}{adapter}}}
  starts: {{op: candidates, logits: "guessed[1]", count: {width}}}
"""
    if size == 1:
        return text + "  found: {op: join, parts: [starts]}\n"
    rest = f'  rest: {{op: sample, logits: "guessed[2:]"}}\n  spread: {{op: join, parts: [rest], times: {width}}}\n'
    return text + rest + (
        f"  chains: {{op: rows, groups: {width}, segments: [{{tokens: starts}}, {{tokens: spread}}]}}\n"
        "  found: {op: join, parts: [chains.tokens]}\n"
    )  # fmt: skip


def grouped(pick: Pick, width: int, size: int) -> tuple[str, str, str, str, int]:
    """A tree whose branches are groups: each has the seed's row for itself.

    Returns its nodes, position, attention, `of`, and how many rows it has.
    """
    extra = pick(("", "", ", {masks: 1, kind: mk}"))
    length = size + 1
    nodes = f"""  seeds: {{op: join, parts: [{pick(("seed", "seed", "seed", '"found[0]"'))}], times: {width}}}
  tree: {{op: rows, groups: {width}, segments: [{{tokens: seeds, kind: sk}}, {{tokens: found, kind: fk}}{extra}]}}
"""
    position = pick(("index", "index", "row", "group + index", f"row % {length + bool(extra)}"))
    attention = pick(
        (
            "k.prefix or (k.group == q.group and k.index <= q.index)",
            "k.prefix or (k.group == q.group and k.index <= q.index)",
            "k.prefix or (k.index <= q.index and (k.group == q.group or k.index == 0))",
            "k.prefix or (k.group == q.group and k.kind != mk and k.index <= q.index)"
            if extra
            else "k.prefix or k.group == q.group",
            "k.prefix or k.row <= q.row",
            "k.group == q.group and k.index <= q.index",
            "k.prefix or (k.group <= q.group and k.index <= q.index)",
        )
    )
    inside = f" and index < {length}" if extra else ""
    of = pick(
        (
            f"group == branch{inside}",
            f"group == branch{inside}",
            f"group == {width - 1} - branch{inside}",
            f"group == 0{inside}",
            f"(index == 0 and group == 0) or (index > 0 and group == branch{inside})",
            f"(group + index) % {width} == branch{inside}",
            f"group == branch and index < {size}",
            "group == branch",
            f"row >= branch and row < branch + {length}",
        )
    )
    return nodes, position, attention, of, width * (length + bool(extra))


def sharing(pick: Pick, width: int, size: int) -> tuple[str, str, str, str, int]:
    """A tree whose branches share the seed's row. Returns what `grouped` does."""
    nodes = "  tree: {op: rows, segments: [{tokens: seed, kind: sk}, {tokens: found, kind: fk}]}\n"
    right = _place(width, size)
    position = pick((right, right, "row", f"(row + {size - 1}) % {size} + 1"))
    own = f"(k.row - 1) // {size} == (q.row - 1) // {size} and k.row <= q.row"
    attention = pick(
        (
            f"k.prefix or k.row == 0 or ({own})",
            f"k.prefix or k.row == 0 or ({own})",
            f"k.prefix or ({own})",
            "k.prefix or k.row <= q.row",
            f"k.prefix or k.row == 0 or ({own} and k.row != 2)",
        )
    )
    of = pick(
        (
            f"row == 0 or (row - 1) // {size} == branch",
            f"row == 0 or (row - 1) // {size} == branch",
            f"(row - 1) // {size} == branch",
            f"row == 0 or (row - 1) // {size} == 1 - branch",
            f"row == 0 or (row > branch and row <= branch + {size})",
            f"row == 0 or (row - 1) % {width} == branch",
        )
    )
    return nodes, position, attention, of, 1 + width * size


def _place(width: int, size: int) -> str:
    """Return how far a row lies from the seed's: 0, then 1 to `size` in each branch."""
    number = f"(row + {size - 1}) // {size}"
    return f"row - ({number} - ({number} + {width}) // {width + 1}) * {size}"


def trees(pick: Pick, prefill: Callable[[Pick, bool], str]) -> str:
    """Branches that are drafted, verified and kept in one forward."""
    late = pick(("", "late")) == "late"
    width, size = int(pick(("2", "3", "1"))), int(pick(("2", "1", "3")))
    draft = drafted(pick, width, size)
    nodes, position, attention, of, rows = pick.even((grouped, grouped, sharing))(pick, width, size)
    append = pick(
        ("append", "append", '{append: "kind != mk"}' if "mk" in nodes else "append", "read", '{append: "row > 0"}')
    )  # fmt: skip
    other = pick(
        (
            "",
            "",
            '  again: {op: forward, tokens: tree, position: index, attention: "k.prefix or (k.group == q.group and k.index <= q.index)", cache: read}\n',
        )
    )
    target = "again" if other and pick(("", "again")) else "seen"
    adapter = pick(("", "", "", ", adapter: drafter"))
    predicts = pick((", predicts: next", ", predicts: next", "", ", predicts: self"))
    branch = pick((f"{width}", f"{width}", "1"))
    offset = pick(("", "", "", ", offset: 0"))
    tokens = pick(("kept.drafted", "kept.drafted", "kept.tokens", "kept.bonus")) if late else pick(
        ("kept.tokens", "kept.tokens", "kept.drafted", "kept.bonus", "choice")
    )  # fmt: skip
    keep = pick(("kept.path", "kept.path", "kept.path", "kept.rows", "all", "kept.matches"))
    seed = pick(
        ("kept.bonus", "kept.bonus", "kept.bonus", "choice.last", f'"choice[row == kept.branch * {size + 1}]"', "seed")
    )  # fmt: skip
    head = prefill(pick, not late)
    carry, following = "carry: {seed: prefill.seed}", ""
    if "pool: grams" in draft:
        entry = size + 1
        pool = max(width * entry, POOL - POOL % entry)
        head = head.replace(carry, "carry: {seed: prefill.seed, grams: prefill.grams}").replace(
            "  seed:", f"  grams: {{op: lookup, length: {pool}, ngram: 1}}\n  seed:"
        )
        fresh = min(rows // entry * entry, pool)
        following = (
            f', grams: ["choice[:{fresh}]", "grams[{fresh}:]"]'
            if fresh < pool
            else ", grams: grams"
        )
    return (
        head
        + "step:\n"
        + draft
        + nodes
        + f'  seen: {{op: forward, tokens: tree, position: {position}, attention: "{attention}"{predicts}, cache: {append}{adapter}}}\n'
        + other
        + f"  choice: {{op: sample, logits: {target}}}\n"
        + f'  kept: {{op: accept, draft: tree, target: choice, rule: longest_branch, branches: {branch}, of: "{of}"{offset}}}\n'
        + f"  emit: {{tokens: {tokens}, cache: keep {keep}, next: {{seed: {seed}{following}}}}}\n"
    )

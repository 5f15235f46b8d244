"""Random strategy files, some right and many wrong, for the test of the checker's soundness.

Two ways of making one: a published shape with choices at every place where one can go wrong, and a
soup of ops in which each takes whatever values are in sight. A `Pick` makes the choices, so that
hypothesis can shrink them; the first option is always the plain one.
"""
# ruff: noqa: E501  (templates of YAML lines, which do not wrap)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st

Pick = Callable[[Sequence[str]], str]


def random_pick(seed: int) -> Pick:
    """Return a pick that takes the first option more often than the others."""
    random = Random(seed)
    care = random.choice((0.95, 0.88, 0.8, 0.5))

    def pick(options: Sequence[str]) -> str:
        return options[0] if random.random() < care else random.choice(list(options))

    return pick


@st.composite
def strategy_files(draw: st.DrawFn) -> str:
    """Generate strategy files with hypothesis."""
    care = draw(st.sampled_from((10, 4, 2, 0)))

    def pick(options: Sequence[str]) -> str:
        if len(options) == 1 or (care and draw(st.integers(0, care)) < care):
            return options[0]
        return draw(st.sampled_from(list(options)))

    return strategy(pick)


def strategy(pick: Pick) -> str:
    """Return a strategy file."""
    shape = {
        "linear": linear,
        "quadratic": quadratic,
        "ar": autoregressive,
        "twice": twice,
        "branches": branches,
        "soup": soup,
        "routed": routed,
    }[pick_evenly(pick, ("linear", "quadratic", "ar", "twice", "branches", "soup", "routed"))]
    return HEAD + shape(pick)


def pick_evenly(pick: Pick, options: Sequence[str]) -> str:
    """Choose between equals: the first option of a pick is not favoured."""
    found = "".join(pick(("0", "1")) + pick(("1", "0")) + pick(("0", "1")) for _ in range(3))
    number = int(found, 2) + len(pick(("", "a", "bb", "ccc", "dddd", "eeeee", "ffffff")))
    return options[number % len(options)]


HEAD = """nldc: 1
name: random
summary: Made at random.
guarantee: exact
adapters:
  drafter: {kind: lora}
"""

CAUSAL = (
    "causal",
    '"k.position <= q.position", predicts: next',
    '"k.prefix or k.row <= q.row", predicts: next',
    '"k.row < q.row or k.row == q.row", predicts: next',
    "bidirectional, predicts: next",
    '"k.row < q.row", predicts: next',
    '"k.row <= q.row and not k.prefix", predicts: next',
    '"k.row <= q.row + 1", predicts: next',
    '"k.row <= q.row and k.position > q.position - 4", predicts: next',
    '"k.row <= q.row and k.position != 0 - 2", predicts: next',
    '"k.prefix or k.row == q.row", predicts: next',
    '"k.row <= q.row and (k.row != 1 or q.row < 3)", predicts: next',
    '"k.row <= q.row and (k.row + q.row) % 3 != 2", predicts: next',
    '"k.row <= q.row and k.row // 2 <= q.row // 2", predicts: next',
    "causal, predicts: self",
)
PROMPT = (
    "causal",
    '"k.position <= q.position", predicts: next',
    '"k.row <= q.row or k.row > q.row + 3", predicts: next',
    '"k.row <= q.row and k.row % 4 != 3", predicts: next',
    '"k.row <= q.row and k.row > q.row - 4", predicts: next',
    "bidirectional, predicts: next",
)
POSITION = ("", "", "", ", position: row", ", position: row + 1", ", position: 0", ", position: index",
            ", position: row * 2", ", position: 3 - row")  # fmt: skip
ADAPTER = (
    "",
    "",
    "",
    ', adapter: {drafter: "row > 9"}',
    ", adapter: drafter",
    ', adapter: {drafter: "row == 1"}',
)
APPEND = (
    "append",
    "append",
    "read",
    '{append: "row < 2"}',
    '{append: "row >= 0"}',
    '{append: "row != 1"}',
)
BEFORE = """  early: {op: forward, tokens: $prompt, attention: causal, cache: read}
  chosen: {op: sample, logits: early}
  again: {op: join, parts: ["$prompt[0]", "chosen[:-1]"]}
"""
DRAFTING = ("bidirectional", "causal", '"k.prefix"', '"k.row == q.row"', '"true"')


def prefill(pick: Pick, emit: bool) -> str:
    """A prompt's forward and a seed."""
    attention, append = (
        pick(PROMPT),
        pick(("append", "append", "append", '{append: "row < 3"}', "read")),
    )
    seed = pick(("context.last", "context.last", "context.first", '"context[-1]"'))
    before = pick(("", "", BEFORE))
    tokens = pick(("again", "again", "$prompt")) if before else "$prompt"
    text = f"""prefill:
{before}  context: {{op: forward, tokens: {tokens}, attention: {attention}, cache: {append}}}
  seed: {{op: sample, logits: {seed}}}
"""
    return text + ("  emit: {tokens: seed}\n" if emit else "") + "carry: {seed: prefill.seed}\n"


def draft(pick: Pick, size: str) -> str:
    """Nodes that make `drafted`, Tokens or Rows of the given size that begin with the seed."""
    masks = f"  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: {int(size) - 1}}}]}}\n"
    return pick(
        (
            masks + "  drafted: {op: denoise, rows: block, attention: "
            f"{pick(DRAFTING[:2])}, commit: {{confidence: {pick(('0.0', '0.5'))}}}{pick(('', ', adapter: drafter'))}}}\n",
            masks + f"  seen: {{op: forward, tokens: block, attention: {pick(DRAFTING)}, "
            f"predicts: self, cache: {pick(('read', 'read', 'append'))}{pick(ADAPTER)}}}\n"
            "  guess: {op: sample, logits: seen}\n"
            f'  drafted: {{op: join, parts: [{pick(("seed", "seed", "guess.first"))}, "guess[1:]"]}}\n',
            (
                f"  found: {{op: lookup, length: {int(size) - 1}, ngram: 2}}\n"
                f"  drafted: {{op: join, parts: {pick(('[seed, found]', '[seed, found]', '[found, seed]'))}}}\n"
            ),
            masks
            + f"""  drafted:
    op: repeat
    on: block
    until: full
    at_most: {size}
    body:
      seen: {{op: forward, tokens: block, attention: bidirectional, cache: read}}
      pick: {{op: sample, logits: seen}}
      sure: {{op: score, logits: seen, {pick(("tokens: pick, by: probability", "by: margin"))}}}
      take: {{op: select, among: {pick(("block.masked", "block.masked", "block.filled"))}, score: sure, always: best 1}}
      block: {{op: fill, rows: block, where: take, tokens: pick}}
""",
        )
    )


def accept(pick: Pick, size: str, draft_name: str = "drafted", target: str = "choice") -> str:
    """An `accept` of the draft."""
    part = pick(
        (draft_name, draft_name, f'"{draft_name}[:{int(size) - 1}]"', f'"{draft_name}[1:]"')
    )
    offset = pick(("1", "0", "1")) if part.endswith(('[1:]"', f'[:{int(size) - 1}]"')) else "1"
    return f"  kept: {{op: accept, draft: {part}, target: {target}, rule: longest_prefix, offset: {offset}}}\n"


def emit(pick: Pick, late: bool, draft_name: str = "drafted") -> str:
    """What a linear step emits, keeps and carries."""
    plain = "kept.drafted" if late else "kept.tokens"
    tokens = pick((plain, plain, "kept.drafted", "kept.tokens", draft_name, "choice", "kept.bonus"))
    keep = pick(
        ("keep kept.rows", "keep kept.rows", "keep kept.rows", "keep kept.matches", "keep all")
    )
    seed = pick(
        (
            "kept.bonus",
            "kept.bonus",
            "kept.bonus",
            "choice.last",
            "choice.first",
            "seed",
            f"{draft_name}.last",
        )
    )
    return f"  emit: {{tokens: {tokens}, cache: {keep}, next: {{seed: {seed}}}}}\n"


def linear(pick: Pick) -> str:
    """Draft, verify, accept."""
    size = pick(("3", "4", "2"))
    late = pick(("", "late")) == "late"
    order = [
        f"  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL)}, cache: {pick(APPEND)}{pick(POSITION)}{pick(ADAPTER)}}}\n",
        mixed(pick),
        accept(pick, size),
    ]
    return (
        prefill(pick, not late) + "step:\n" + draft(pick, size) + "".join(order) + emit(pick, late)
    )


def mixed(pick: Pick) -> str:
    """The verifier's choice, sometimes of mixed logits."""
    return pick(
        (
            "  choice: {op: sample, logits: checked}\n",
            "  choice: {op: sample, logits: checked}\n",
            (
                "  other: {op: forward, tokens: drafted, attention: bidirectional, predicts: next, cache: read}\n"
                f"  mixed: {{op: mix, logits: [checked, other], weights: {pick(('[1, 0]', '[0.7, 0.3]', '[0, 1]'))}}}\n"
                "  choice: {op: sample, logits: mixed}\n"
            ),
        )
    )


def autoregressive(pick: Pick) -> str:
    """One to three tokens a step, one forward each."""
    late = pick(("", "late")) == "late"
    count = int(pick(("1", "2", "3")))
    lines = []
    before = "seed"
    for number in range(count):
        lines.append(
            f"  row{number}: {{op: forward, tokens: {before}, attention: {pick(CAUSAL[:8])}, cache: {pick(('append', 'append', 'read'))}{pick(POSITION)}{pick(ADAPTER)}}}\n"
        )
        lines.append(f"  next{number}: {{op: sample, logits: row{number}}}\n")
        before = pick((f"next{number}", f"next{number}", "seed"))
    names = [f"next{number}" for number in range(count)]
    tokens = ["seed", *names[:-1]] if late else names
    tokens = [pick((name, name, name, "seed", names[-1])) for name in tokens]
    lines.append(f"  out: {{op: join, parts: [{', '.join(tokens)}]}}\n")
    lines.append(
        f"  emit: {{tokens: out, cache: keep all, next: {{seed: {pick((names[-1], names[-1], names[0], 'seed'))}}}}}\n"
    )
    return prefill(pick, not late) + "step:\n" + "".join(lines)


def twice(pick: Pick) -> str:
    """Two verifying forwards, over parts or over the whole."""
    size = pick(("4", "3"))
    late = pick(("", "late")) == "late"
    body = pick(
        (
            f"""  early: {{op: forward, tokens: "drafted[:2]", attention: {pick(CAUSAL)}, cache: {pick(('append', 'append', 'read'))}}}
  late: {{op: forward, tokens: "drafted[2:]", attention: {pick(CAUSAL)}, cache: {pick(APPEND)}{pick(POSITION)}}}
  first: {{op: sample, logits: early}}
  second: {{op: sample, logits: late}}
  choice: {{op: join, parts: {pick(('[first, second]', '[first, second]', '[second, first]'))}}}
""" + accept(pick, size),
            f"""  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL)}, cache: {pick(('read', 'read', 'append'))}}}
  choice: {{op: sample, logits: checked}}
""" + accept(pick, size) + f"""  again: {{op: forward, tokens: {pick(('drafted', 'drafted', 'choice'))}, attention: {pick(CAUSAL)}, cache: append{pick(ADAPTER)}}}
""",
            f"""  first: {{op: forward, tokens: seed, attention: {pick(CAUSAL[:8])}, cache: {pick(('append', 'append', 'read'))}}}
  top: {{op: sample, logits: first}}
  rest: {{op: forward, tokens: "drafted[1:]", attention: {pick(CAUSAL)}, cache: {pick(APPEND)}{pick(POSITION)}}}
  others: {{op: sample, logits: rest}}
  choice: {{op: join, parts: [top, others]}}
""" + accept(pick, size),
        )
    )  # fmt: skip
    return prefill(pick, not late) + "step:\n" + draft(pick, size) + body + emit(pick, late)


def quadratic(pick: Pick) -> str:
    """One forward that verifies and drafts, with rows in one of several orders."""
    size = pick(("2", "3"))
    order = pick((", order: groups", ", order: segments"))
    masks_first = pick(("", "first")) == "first"
    tokens = "{tokens: draft, kind: draft}"
    masks = f"{{masks: {pick((size, size, f'{size} + group'))}, kind: mask}}"
    segments = f"{masks}, {tokens}" if masks_first else f"{tokens}, {masks}"
    turned = f"(index + 1) % ({size} + 1)" if masks_first else "index"
    position = pick(
        (
            f"group + {turned}",
            f"group + {turned}",
            "group + index",
            "group",
            "row",
            f"group + {turned} + 1",
        )
    )
    sees_drafts = pick(
        ("k.kind == draft and k.group <= q.group", "k.kind == draft and k.group <= q.group", "k.kind == draft and k.position <= q.position",
         "k.kind == draft", "k.kind == draft and k.group == q.group", "k.group <= q.group", "k.kind == draft and k.group < q.group")
    )  # fmt: skip
    sees_masks = pick(
        ("q.kind == mask and k.group == q.group", "q.kind == mask and k.kind == mask", "k.group == q.group", "q.kind == mask", "k.kind == mask and k.row < q.row")
    )  # fmt: skip
    prefix = pick(("k.prefix", "k.prefix", "k.position < 0", "(k.prefix and k.position != 0 - 3)"))
    append = pick(
        (
            '"kind == draft"',
            '"kind == draft"',
            '"kind == mask"',
            f'"index == {size if masks_first else 0}"',
            '"group >= 0"',
        )
    )
    adapter = pick(("", '    adapter: {drafter: "kind == mask"}\n', "    adapter: drafter\n"))
    choice = pick(
        (
            "both.draft",
            "both.draft",
            '"both[index == 0]"',
            '"both[index == 1]"',
            '"both[kind == draft]"',
        )
    )
    first = pick(
        (
            "q.kind == mask or k.row <= q.row",
            "q.kind == mask or k.row <= q.row",
            "true",
            "k.row <= q.row",
        )
    )
    drafted = pick(("kept.drafted", "kept.drafted", "kept.tokens", "draft"))
    keep = pick(("keep kept.rows", "keep kept.rows", "keep kept.matches", "keep all"))
    bonus = pick(("kept.bonus", "kept.bonus", "choice.last", '"guess[:1]"'))
    seed = pick(
        ("first.prompt.last", "first.prompt.last", "first.mask.first", "first.prompt.first")
    )
    group = pick(("kept.rows - 1", "kept.matches", "0"))
    width = "1:" if "+ group" not in masks else f"1:{size}"
    return f"""prefill:
  start: {{op: rows, segments: [{{tokens: $prompt, kind: prompt}}, {{masks: {size}, kind: mask}}]}}
  first: {{op: forward, tokens: start, attention: "{first}", predicts: {{next: "kind == prompt"}}, cache: {{append: "kind == prompt"}}}}
  seed: {{op: sample, logits: {seed}}}
  guess: {{op: sample, logits: "first.mask[1:]"}}
  draft: {{op: join, parts: {pick(('[seed, guess]', '[seed, guess]', '[guess, seed]'))}}}
carry: {{draft: prefill.draft}}
step:
  groups: {{op: rows, groups: {size}{order}, segments: [{segments}]}}
  both:
    op: forward
    tokens: groups
    position: {position}
    attention: "{prefix} or ({sees_drafts}) or ({sees_masks})"
{adapter}    cache: {{append: {append}}}
  choice: {{op: sample, logits: {choice}}}
  kept: {{op: accept, draft: draft, target: choice, rule: longest_prefix}}
  guess: {{op: sample, logits: "both.mask[group == {group}][{width}]"}}
  emit: {{tokens: {drafted}, cache: {keep}, next: {{draft: [{bonus}, guess]}}}}
"""  # fmt: skip


def branches(pick: Pick) -> str:
    """Two drafts verified side by side in one forward."""
    late = pick(("", "late")) == "late"
    one, other = pick((("a"), ("b"))), pick((("b"), ("a")))
    sees = [
        pick((f"(q.kind == {kind} and k.kind == {kind} and k.row <= q.row)", f"(q.kind == {kind} and k.row <= q.row)", f"(k.kind == {kind} and k.row <= q.row)"))
        for kind in ("a", "b")
    ]  # fmt: skip
    position = pick(("row - row // 3 * 2", "row - row // 3 * 2", "row", "row - row // 4 * 2"))
    root = pick(("k.row == 0", "k.row == 0", "k.row <= 1"))
    append = pick(
        (f'"kind != {other}"', f'"kind != {other}"', "true", f'"kind == {one}"', f'"kind != {one}"')
    )
    return prefill(pick, not late) + f"""step:
  found: {{op: lookup, length: 2, ngram: 2}}
  block: {{op: rows, segments: [{{tokens: seed}}, {{masks: 2}}]}}
  seen: {{op: forward, tokens: block, attention: bidirectional, cache: read}}
  guess: {{op: sample, logits: "seen[1:]"}}
  rows: {{op: rows, segments: [{{tokens: seed}}, {{tokens: {pick(('found', 'guess'))}, kind: a}}, {{tokens: {pick(('guess', 'found'))}, kind: b}}]}}
  checked:
    op: forward
    tokens: rows
    position: {position}
    attention: "k.prefix or {root} or {sees[0]} or {sees[1]}"
    predicts: next
    cache: {{append: {append}}}
  choice: {{op: sample, logits: "checked[kind != {other}]"}}
  drafted: {{op: join, parts: [seed, {'found' if one == 'a' else 'guess'}]}}
  kept: {{op: accept, draft: drafted, target: choice, rule: longest_prefix}}
""".replace("rows: {op", "both_rows: {op").replace("tokens: rows", "tokens: both_rows") + emit(pick, late)  # fmt: skip


def routed(pick: Pick) -> str:
    """Two steps of one file."""

    def body(shape: str, late: bool) -> str:
        if shape == "ar":
            lines = (
                f"  context: {{op: forward, tokens: seed, attention: {pick(CAUSAL[:6])}, cache: append}}\n"
                "  choice: {op: sample, logits: context}\n"
                f"  emit: {{tokens: {pick(('seed',) if late else ('choice',))}, cache: keep all, next: {{seed: {pick(('choice', 'choice', 'seed'))}}}}}\n"
            )
        else:
            lines = (
                draft(pick, "3")
                + f"  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL)}, cache: append}}\n"
                "  choice: {op: sample, logits: checked}\n" + accept(pick, "3") + emit(pick, late)
            )
        return "".join(f"  {line}\n" for line in lines.splitlines())

    late = pick(("", "late")) == "late"
    shapes = [pick(("ar", "linear")), pick(("linear", "ar"))]
    second_late = late if pick(("same", "same", "other")) == "same" else not late
    return (
        prefill(pick, not late)
        + "route: {few: live > 3}\nsteps:\n  few:\n" + body(shapes[0], late)
        + "  many:\n" + body(shapes[1], second_late)
    )  # fmt: skip


# Soup


@dataclass
class _Soup:
    """Values in sight while a step is made up: tokens and logits with their sizes."""

    pick: Pick
    tokens: dict[str, int] = field(default_factory=lambda: {"seed": 1})
    rows: dict[str, int] = field(default_factory=dict)
    logits: dict[str, int] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    appended: int = 0
    lines: list[str] = field(default_factory=list)

    def number(self) -> int:
        return len(self.lines)

    def some(self, values: dict[str, int]) -> str:
        return self.pick(list(reversed(values)))

    def grow(self) -> None:
        """Add one op."""
        name = f"n{self.number()}"
        kinds = ["forward", "sample", "join", "lookup", "accept", "rows"]
        kind = kinds[(self.number() + int(self.pick(("0", "1", "2", "3", "4", "5")))) % len(kinds)]
        if kind == "sample" and self.logits:
            of = self.some(self.logits)
            self.tokens[name] = self.logits[of]
            self.lines.append(f"  {name}: {{op: sample, logits: {of}}}\n")
        elif kind == "join":
            parts = [self.some(self.tokens) for _ in range(int(self.pick(("2", "3", "1"))))]
            if sum(self.tokens[part] for part in parts) <= 6:
                self.tokens[name] = sum(self.tokens[part] for part in parts)
                self.lines.append(f"  {name}: {{op: join, parts: [{', '.join(parts)}]}}\n")
        elif kind == "lookup":
            self.tokens[name] = int(self.pick(("2", "1", "3")))
            self.lines.append(f"  {name}: {{op: lookup, length: {self.tokens[name]}, ngram: 2}}\n")
        elif kind == "rows":
            masks = int(self.pick(("2", "1")))
            of = self.some(self.tokens)
            self.rows[name] = self.tokens[of] + masks
            self.lines.append(
                f"  {name}: {{op: rows, segments: [{{tokens: {of}}}, {{masks: {masks}}}]}}\n"
            )
        elif kind == "accept" and len(self.tokens) > 1:
            pairs = [
                (d, t) for d in self.tokens for t in self.tokens if self.tokens[t] >= self.tokens[d]
            ]
            draft_name, target = pairs[int(self.pick([str(i) for i in range(len(pairs))][::-1]))]
            self.accepted.append(name)
            self.tokens[f"{name}.bonus"] = 1
            self.lines.append(
                f"  {name}: {{op: accept, draft: {draft_name}, target: {target}, rule: longest_prefix}}\n"
            )
        else:
            of = self.some({**self.rows, **self.tokens})
            size = {**self.rows, **self.tokens}[of]
            append = self.pick(("append", "read"))
            self.appended += size if append == "append" else 0
            self.logits[name] = size
            self.lines.append(
                f"  {name}: {{op: forward, tokens: {of}, attention: {self.pick(CAUSAL[:6])}, cache: {append}{self.pick(POSITION[:5])}}}\n"
            )


def soup(pick: Pick) -> str:
    """Ops that take whatever is in sight."""
    late = pick(("", "late")) == "late"
    made = _Soup(pick)
    for _ in range(int(pick(("6", "5", "4", "7", "8")))):
        made.grow()
    outputs = [
        f"{name}.{part}" for name in reversed(made.accepted) for part in ("tokens", "drafted")
    ]
    outputs += list(reversed(made.tokens))
    keeps = [f"keep {name}.rows" for name in reversed(made.accepted)] + ["keep all"]
    seeds = [name for name, size in reversed(made.tokens.items()) if size == 1]
    return (
        prefill(pick, not late) + "step:\n" + "".join(made.lines)
        + f"  emit: {{tokens: {pick(outputs)}, cache: {pick(keeps)}, next: {{seed: {pick(seeds)}}}}}\n"
    )  # fmt: skip

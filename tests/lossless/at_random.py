"""Random strategy files, some right and many wrong, for the test of the checker's soundness.

Two ways of making one: a published shape with choices at every place where one can go wrong, and a
soup of ops in which each takes whatever values are in sight. A `Pick` makes the choices, so that
hypothesis can shrink them; the first option is always the plain one.
"""
# ruff: noqa: E501  (templates of YAML lines, which do not wrap)

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.lossless.counts_at_random import counting
from tests.lossless.fixed_points_at_random import fixed_point
from tests.lossless.masks_at_random import remasked
from tests.lossless.names import rename
from tests.lossless.params_at_random import by_request
from tests.lossless.picks import DrawnPick, Pick, RandomPick
from tests.lossless.reuse_at_random import sometimes_fragmented
from tests.lossless.trees_at_random import trees


def random_pick(seed: int) -> Pick:
    """Return a pick that takes the first option more often than the others."""
    return RandomPick(seed)


@st.composite
def strategy_files(draw: st.DrawFn) -> str:
    """Generate strategy files with hypothesis."""
    return strategy(DrawnPick(draw))


def strategy(pick: Pick) -> str:
    """Return a strategy file."""
    shapes = {
        "linear": linear,
        "quadratic": quadratic,
        "ar": autoregressive,
        "twice": twice,
        "branches": branches,
        "soup": soup,
        "routed": routed,
        "looped": looped,
        "blocks": blocks,
        "begun": begun,
        "counting": counted,
        "trees": lambda pick: trees(pick, prefill),
        "fixed": fixed,
    }
    chosen = pick.even(tuple(shapes))
    text = by_request(pick, HEAD + shapes[chosen](pick))
    if chosen == "blocks" or pick.even(("exact", "exact", "exact", "none")) == "none":
        text = text.replace("guarantee: exact", "guarantee: none")
    if pick.even(("plain", "adversarial")) == "plain":
        return sometimes_fragmented(text, pick)
    seed = "".join(pick.even("0123456789abcdef") for _ in range(5))
    text = rename(text, int(seed, 16)).replace(PLAIN, ADVERSARIAL)
    return sometimes_fragmented(text, pick)


PLAIN = "summary: Made at random."
ADVERSARIAL = "summary: Made at random, with names that meet others."


HEAD = """nldc: 1
name: random
summary: Made at random.
guarantee: exact
adapters:
  drafter: {kind: lora}
  judge: {kind: sampler, optional: true}
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
    '"k.row <= q.row and not k.prompt", predicts: next',
    '"k.prompt or k.row <= q.row", predicts: next',
    '"k.row <= q.row and (k.prompt or k.position > 0 - 3)", predicts: next',
)
WINDOWS = (
    "causal",
    '"k.row <= q.row and k.position > q.position - 30", predicts: next',
    '"not k.prefix or k.position >= -20", predicts: next',
    '"k.row <= q.row and k.position != 0 - 150", predicts: next',
    '"k.row <= q.row and (k.position > 0 - 60 or k.prefix)", predicts: next',
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
      picked: {{op: sample, logits: seen}}
      sure: {{op: score, logits: seen, {pick(("tokens: picked, by: probability", "by: margin"))}}}
      take: {{op: select, among: {pick(("block.masked", "block.masked", "block.filled"))}, score: sure, always: best 1}}
      block: {{op: fill, rows: block, where: take, tokens: picked}}
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


def counted(pick: Pick) -> str:
    """Counts that are carried, count sure rows, route sequences or cut drafts."""
    return counting(pick, prefill(pick, True), CAUSAL)


def file_that_counts(pick: Pick) -> str:
    """Return a strategy file of that shape."""
    return HEAD + counted(pick)


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
    predicts = pick((", predicts: next", "", ", predicts: next, position: row + 1"))
    parts = pick(("[checked, other]", "[other, checked]", "[checked, checked]"))
    weights = pick(("[1, 0]", "[0, 1]", "[0.7, 0.3]", "[0.5, 0.5]", "[1, 0.0]"))
    return pick(
        (
            "  choice: {op: sample, logits: checked}\n",
            "  choice: {op: sample, logits: checked}\n",
            (
                f"  other: {{op: forward, tokens: drafted, attention: bidirectional{predicts}, cache: read}}\n"
                f"  mixed: {{op: mix, logits: {parts}, weights: {weights}}}\n"
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
  opening: {{op: sample, logits: early}}
  second: {{op: sample, logits: late}}
  choice: {{op: join, parts: {pick(('[opening, second]', '[opening, second]', '[second, opening]'))}}}
""" + accept(pick, size),
            f"""  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL)}, cache: {pick(('read', 'read', 'append'))}}}
  choice: {{op: sample, logits: checked}}
""" + accept(pick, size) + f"""  again: {{op: forward, tokens: {pick(('drafted', 'drafted', 'choice'))}, attention: {pick(CAUSAL)}, cache: append{pick(ADAPTER)}}}
""",
            f"""  opening: {{op: forward, tokens: seed, attention: {pick(CAUSAL[:8])}, cache: {pick(('append', 'append', 'read'))}}}
  top: {{op: sample, logits: opening}}
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
    tokens = "{tokens: drafts, kind: dk}"
    dealt = f"{{at_most: {pick.even(('3', '4', '2', '0'))}, profile: counted}}"
    number = pick.even((size, size, f"{size} + group", dealt))
    masks = f"{{masks: {number}, kind: mk}}"
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
        ("k.kind == dk and k.group <= q.group", "k.kind == dk and k.group <= q.group", "k.kind == dk and k.position <= q.position",
         "k.kind == dk", "k.kind == dk and k.group == q.group", "k.group <= q.group", "k.kind == dk and k.group < q.group")
    )  # fmt: skip
    sees_masks = pick(
        ("q.kind == mk and k.group == q.group", "q.kind == mk and k.kind == mk", "k.group == q.group", "q.kind == mk", "k.kind == mk and k.row < q.row")
    )  # fmt: skip
    prefix = pick(("k.prefix", "k.prefix", "k.position < 0", "(k.prefix and k.position != 0 - 3)"))
    append = pick(
        (
            '"kind == dk"',
            '"kind == dk"',
            '"kind == mk"',
            f'"index == {size if masks_first else 0}"',
            '"group >= 0"',
        )
    )
    adapter = pick(("", '    adapter: {drafter: "kind == mk"}\n', "    adapter: drafter\n"))
    choice = pick(
        (
            "both.dk",
            "both.dk",
            '"both[index == 0]"',
            '"both[index == 1]"',
            '"both[kind == dk]"',
        )
    )
    first = pick(
        (
            "q.kind == mk or k.row <= q.row",
            "q.kind == mk or k.row <= q.row",
            "true",
            "k.row <= q.row",
        )
    )
    drafted = pick(("kept.drafted", "kept.drafted", "kept.tokens", "drafts"))
    keep = pick(("keep kept.rows", "keep kept.rows", "keep kept.matches", "keep all"))
    bonus = pick(("kept.bonus", "kept.bonus", "choice.last", '"guess[:1]"'))
    seed = pick(("opening.pk.last", "opening.pk.last", "opening.mk.first", "opening.pk.first"))
    group = pick(("kept.rows - 1", "kept.matches", "0"))
    width = "1:" if "+ group" not in masks else f"1:{size}"
    padded = f", pad_to: {int(size) - 1}" if number == dealt else ""
    return f"""params: {{counted: {{type: profile, default: [[5, 3, 2], [2, 3, 5]]}}}}
prefill:
  start: {{op: rows, segments: [{{tokens: $prompt, kind: pk}}, {{masks: {size}, kind: mk}}]}}
  opening: {{op: forward, tokens: start, attention: "{first}", predicts: {{next: "kind == pk"}}, cache: {{append: "kind == pk"}}}}
  seed: {{op: sample, logits: {seed}}}
  guess: {{op: sample, logits: "opening.mk[1:]"}}
  drafts: {{op: join, parts: {pick(('[seed, guess]', '[seed, guess]', '[guess, seed]'))}}}
carry: {{drafts: prefill.drafts}}
step:
  laid: {{op: rows, groups: {size}{order}, segments: [{segments}]}}
  both:
    op: forward
    tokens: laid
    position: {position}
    attention: "{prefix} or ({sees_drafts}) or ({sees_masks})"
{adapter}    cache: {{append: {append}}}
  choice: {{op: sample, logits: {choice}}}
  kept: {{op: accept, draft: drafts, target: choice, rule: longest_prefix}}
  guess: {{op: sample, logits: "both.mk[group == {group}][{width}]"{padded}}}
  emit: {{tokens: {drafted}, cache: {keep}, next: {{drafts: [{bonus}, guess]}}}}
"""  # fmt: skip


def branches(pick: Pick) -> str:
    """Two drafts verified side by side in one forward."""
    late = pick(("", "late")) == "late"
    one, other = pick(("ka", "kb")), pick(("kb", "ka"))
    sees = [
        pick((f"(q.kind == {kind} and k.kind == {kind} and k.row <= q.row)", f"(q.kind == {kind} and k.row <= q.row)", f"(k.kind == {kind} and k.row <= q.row)"))
        for kind in ("ka", "kb")
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
  rows: {{op: rows, segments: [{{tokens: seed}}, {{tokens: {pick(('found', 'guess'))}, kind: ka}}, {{tokens: {pick(('guess', 'found'))}, kind: kb}}]}}
  checked:
    op: forward
    tokens: rows
    position: {position}
    attention: "k.prefix or {root} or {sees[0]} or {sees[1]}"
    predicts: next
    cache: {{append: {append}}}
  choice: {{op: sample, logits: "checked[kind != {other}]"}}
  drafted: {{op: join, parts: [seed, {'found' if one == 'ka' else 'guess'}]}}
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


# Loops

RULES = (
    "best: 1", "always: best 1, at_least: 0.4", "best: 2", "best: iteration + 1", "best: left // 2 + 1",
    "at_least: 0.0", "at_least: 0.5", "best: left % 2 * 3 + left // 4", "within: 0.5", "where: rank < 1",
    "where: row % 2 == iteration % 2", "where: row * 0.1 <= 0.3", "best: left - 1", "where: score > 0.3",
    "best: iteration", "at_most: 0.9, always: best 1", "where: row < 2 or iteration > 0", "best: 3 - iteration",
    "where: row == left - 1",
)  # fmt: skip
ENDS = ("", "", "", "eos: ignored", "eos: fills", "eos_ids: first", "exhausted: fill", "exhausted: keep",
        "keys: kept", "eos: fills, eos_ids: first", "eos: ignored, exhausted: fill")  # fmt: skip


def _keys(rules: str) -> set[str]:
    return {rule.split(":")[0].strip() for rule in rules.split(",") if ":" in rule}


def loop(pick: Pick, name: str, rows: str, size: int, depth: int = 0) -> str:
    """A `repeat` of any kind over the node `rows`, whose body may hold another."""
    rounds = pick((str(size), str(size), str(size + 2), "1", str(size - 1), "2"))
    least = pick(("", "    at_least: 1\n"))
    ends = "".join(f"    {end}\n" for end in pick.even(ENDS).split(", ") if end)
    rule, more = pick.even(RULES), pick(("", "", ", " + pick.even(RULES[:5])))
    among = pick(
        (f"{rows}.masked", f"{rows}.masked", f"{rows}.masked", f"{rows}.filled", "fresh.masked")
    )
    score = pick(("tokens: picked, by: probability", "by: margin", "by: entropy", "safety"))
    sure = f"{{op: score, logits: seen, {score}}}"
    if score == "safety":
        sure = f"{{op: safety, logits: seen, rows: {rows}, sampler: judge}}"
    mask = pick(("", "", ", mask_token: forbidden"))
    base = pick((rows, rows, rows, "fresh", "inner" if depth < 1 else rows))
    tokens = pick(("picked", "picked", "picked", f"{rows}.tokens", "idea"))
    body = f"""      seen: {{op: forward, tokens: {rows}, attention: {pick(("bidirectional", "bidirectional", '"k.row <= q.row + 1"', "causal, predicts: self"))}, cache: read}}
      picked: {{op: sample, logits: seen{mask}}}
      sure: {sure}
"""
    if among == "fresh.masked" or base == "fresh":
        body += f"      fresh: {{op: rows, segments: [{{masks: {size}}}]}}\n"
    if tokens == "idea":
        body += f"      idea: {{op: lookup, length: {size}, ngram: 1}}\n"
    if base == "inner":
        where = pick((f"{rows}.masked", "after"))
        if where == "after":
            body += f"      after: {{op: select, among: {rows}.masked, score: sure, {pick(('best: 1', 'at_least: 0.3'))}}}\n"
        body += f"      inner: {{op: fill, rows: {rows}, where: {where}, tokens: picked}}\n"
    body += f"""      take: {{op: select, among: {among}, score: sure, {rule}{more if not _keys(more) & _keys(rule) else ""}}}
      {rows}: {{op: fill, rows: {base}, where: take, tokens: {tokens}}}
"""
    body = remasked(pick, rows, body)
    if depth < 1 and pick(("", "", "", "nested")):
        inner = f"      hidden_rows: {{op: rows, segments: [{{masks: {size}}}]}}\n"
        inner += "".join(
            f"    {line}\n" for line in loop(pick, "looped", "hidden_rows", size, 1).splitlines()
        )
        inner = (
            inner.replace(" seen", " look")
            .replace(" picked", " guess")
            .replace(" sure", " rank_")
            .replace(" take", " took")
        )
        body = inner + body.replace("tokens: picked}", "tokens: looped.tokens}", 1)
    return f"""  {name}:
    op: repeat
    on: {rows}
    until: full
    at_most: {rounds}
{least}{ends}    body:
{body}"""


def looped(pick: Pick) -> str:
    """A loop of any kind drafts, a causal forward verifies: right whatever the loop does."""
    size = int(pick(("3", "4", "2")))
    late = pick(("", "late")) == "late"
    block = pick(
        (
            f"{{tokens: seed}}, {{masks: {size - 1}}}",
            f"{{masks: {size}}}",
            f"{{masks: {size - 1}}}, {{tokens: seed}}",
        )
    )
    parts = pick(
        (
            '[seed, "filled.tokens[1:]"]',
            '[seed, "filled.tokens[1:]"]',
            "[filled.tokens]",
            '["filled.tokens[:1]", "filled.tokens[1:]"]',
        )
    )
    return (
        prefill(pick, not late)
        + f"""step:
  block: {{op: rows, segments: [{block}]}}
{loop(pick, "filled", "block", size)}  drafted: {{op: join, parts: {parts}}}
  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL)}, cache: {pick(APPEND)}}}
{mixed(pick)}{accept(pick, str(size))}{emit(pick, late)}"""
    )


def blocks(pick: Pick) -> str:
    """Block diffusion of any kind: what a loop fills is emitted."""
    size = int(pick(("4", "3", "5")))
    seeded = pick(("", "", "seeded"))
    begin = f"{{tokens: seed}}, {{masks: {size - 1}}}" if seeded else f"{{masks: {size}}}"
    kept = pick(
        (
            "filled.tokens",
            "filled.tokens",
            '"filled.tokens[1:]"',
            '"filled.tokens[:-1]"',
            "picked_later",
        )
    )
    late = "  late: {op: sample, logits: refresh}\n" if kept == "picked_later" or seeded else ""
    tokens = "late" if kept == "picked_later" else kept
    carry = "carry: {seed: prefill.seed}\n" if seeded else ""
    after = ', next: {seed: "late[-1:]"}' if seeded else ""
    if seeded:
        carry = f"  seed: {{op: sample, logits: context.last}}\n{carry}"
    refresh_of = "filled.tokens" if kept == "picked_later" else kept
    adapter = pick(
        (
            "",
            "",
            ', adapter: {drafter: "row < 40"}',
            ', adapter: {drafter: "row % 50 < 25"}',
            ", adapter: drafter",
        )
    )
    attention = pick(
        (*PROMPT[:2], '"k.row <= q.row and (q.row < 60 or k.row > 2)", predicts: next', *PROMPT[2:])
    )
    return f"""prefill:
  context: {{op: forward, tokens: $prompt, attention: {attention}{adapter}, cache: append}}
{carry}step:
  block: {{op: rows, segments: [{begin}]}}
{loop(pick, "filled", "block", size)}  out: {{op: join, parts: [{refresh_of}]}}
  refresh: {{op: forward, tokens: out, attention: causal, cache: append}}
{late}  emit: {{tokens: {tokens if tokens == "late" else "out"}, cache: keep all{after}}}
"""  # fmt: skip


def fixed(pick: Pick) -> str:
    """A loop that ends when nothing changes, whose rows are emitted or verified."""
    late = pick(("late", "", "late")) == "late"
    return prefill(pick, not late) + "step:\n" + fixed_point(pick, CAUSAL, ADAPTER, late)


def begun(pick: Pick) -> str:
    """Prefills of several forwards, carried prompt tokens, fixed rows, far thresholds."""
    kind = pick.even(("three", "carried", "fixed", "far", "looked"))
    causal = pick((
        "causal", '"k.row <= q.row and (k.row < 100 or q.row >= 0)", predicts: next',
        '"q.row - k.row >= 0", predicts: next', '"k.row <= q.row and q.row - k.row < 120", predicts: next',
        '"k.row <= q.row and (q.row < 90 or k.row != 3)", predicts: next', '"k.row <= q.row and k.row % 150 != 149", predicts: next',
    ))  # fmt: skip
    step = f"""step:
  checked: {{op: forward, tokens: seed, attention: {pick(CAUSAL[:8])}, cache: append}}
  choice: {{op: sample, logits: checked}}
  emit: {{tokens: choice, cache: keep all, next: {{seed: choice}}}}
"""
    if kind == "three":
        cache = pick(("append", "append", "read"))
        return (
            f"""prefill:
  context: {{op: forward, tokens: $prompt, attention: {causal}, cache: append}}
  pre1: {{op: sample, logits: context.last}}
  again: {{op: forward, tokens: pre1, attention: {pick(WINDOWS)}, cache: {cache}}}
  pre2: {{op: sample, logits: again}}
  early: {{op: forward, tokens: pre2, attention: {pick(CAUSAL[:6])}, cache: {pick(("append", "append", "read"))}}}
  pre3: {{op: sample, logits: early}}
  out: {{op: join, parts: {pick(("[pre1, pre2, pre3]", "[pre1, pre2, pre3]", "[pre1, pre2]"))}}}
  emit: {{tokens: out}}
carry: {{seed: prefill.{pick(("pre3", "pre3", "pre2"))}}}
"""
            + step
        )
    if kind == "carried":
        kept = pick(('"kind == ka"', '"kind == ka"', '"row >= 0"', '"kind == kb"'))
        return (
            f"""prefill:
  last_token: {{op: join, parts: [{pick(("$prompt.last", "$prompt.last", "$prompt.first"))}]}}
  start: {{op: rows, segments: [{{tokens: "$prompt[:-1]", kind: ka}}, {{tokens: "$prompt[-1:]", kind: kb}}]}}
  context: {{op: forward, tokens: start, attention: {causal}, cache: {{append: {kept}}}}}
carry: {{seed: prefill.last_token}}
step:
  found: {{op: lookup, length: 2, ngram: {pick(("2", "1", "3"))}}}
  drafted: {{op: join, parts: [seed, found]}}
  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL[:8])}, cache: append}}
  choice: {{op: sample, logits: checked}}
"""
            + accept(pick, "3")
            + emit(pick, False)
        )
    if kind == "fixed":
        masks = pick(("2", "3", "1"))
        sees = pick(
            (
                "q.kind == mk or k.row <= q.row",
                "k.row <= q.row",
                "q.kind == mk or k.kind == pk and k.row <= q.row",
                "true",
            )
        )
        return (
            f"""prefill:
  start: {{op: rows, segments: [{{tokens: $prompt, kind: pk}}, {{masks: {masks}, kind: mk}}]}}
  opening: {{op: forward, tokens: start, attention: "{sees}", predicts: {{next: "kind == pk"}}, cache: {{append: {pick(('"kind == pk"', '"kind == pk"', '"row < 100"', '"row >= 0"'))}}}}}
  seed: {{op: sample, logits: opening.pk.last}}
  guess: {{op: sample, logits: {pick(("opening.mk.last", "opening.mk.first"))}}}
  late: {{op: forward, tokens: {pick(("seed", "seed", "guess"))}, attention: {pick(WINDOWS)}, cache: {pick(("append", "append", "read"))}}}
  second: {{op: sample, logits: late}}
  out: {{op: join, parts: [seed, second]}}
  emit: {{tokens: out}}
carry: {{seed: prefill.second}}
"""
            + step
        )
    if kind == "far":
        append = pick(("append", "append", '{append: "row < 100"}', '{append: "row < 190"}'))
        return (
            f"""prefill:
  context: {{op: forward, tokens: $prompt, attention: {causal}, cache: {append}{pick(("", "", ", position: row % 150", ", position: row % 5000"))}{pick(("", ', adapter: {drafter: "row > 180"}', ', adapter: {drafter: "row > 9000"}'))}}}
  seed: {{op: sample, logits: context.last}}
  emit: {{tokens: seed}}
carry: {{seed: prefill.seed}}
"""
            + step
        )
    return f"""prefill:
  context: {{op: forward, tokens: $prompt, attention: {causal}, cache: append}}
  seed: {{op: sample, logits: context.last}}
  guess: {{op: lookup, length: 2, ngram: {pick(("1", "2"))}}}
  emit: {{tokens: seed}}
carry: {{seed: prefill.seed, drafts: prefill.guess}}
step:
  drafted: {{op: join, parts: [seed, drafts]}}
  checked: {{op: forward, tokens: drafted, attention: {pick(CAUSAL[:8])}, cache: append}}
  choice: {{op: sample, logits: checked}}
{accept(pick, "3")}  tail: {{op: lookup, length: 3, ngram: 2}}
  padded: {{op: join, parts: [choice, tail]}}
  emit: {{tokens: {pick(("kept.tokens", "kept.tokens", "kept.drafted"))}, cache: {pick(("keep kept.rows", "keep kept.rows", "keep all"))}, next: {{seed: kept.bonus, drafts: {pick(('"padded[kept.rows:kept.rows + 2]"', '"padded[:2]"', '"choice[1:]"'))}}}}}
"""


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

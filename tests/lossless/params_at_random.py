"""Random strategies whose rules, weights and drafts take what requests bring.

Numbers of a random file become params with `runtime: true`, now and then where one may not stand;
samples get temperatures of their own, a verifier's too, which must be refused where it is emitted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from nldc.ir.graph import Graph
from tests.lossless.picks import Pick

HEAD = """params:
  brought_bar: {type: float, default: 0.4, min: 0.0, max: 1.0, runtime: true}
  brought_few: {type: int, default: 1, min: 1, max: 3, runtime: true}
  brought_any: {type: int, default: 2, min: 0, max: 4, runtime: true}
  brought_heat: {type: float, default: 0.5, min: 0.0, max: 2.0, runtime: true}
"""
PLACES = (
    (r"at_least: 0\.\d", ("at_least: brought_bar", "at_least: brought_bar * 0.5 + 0.1")),
    (r"at_most: 0\.\d", ("at_most: brought_bar", "at_most: 1 - brought_bar")),
    (r"within: 0\.5", ("within: brought_bar", "within: 2 * brought_bar - 0.5")),
    (r"always: best 1", ("always: best brought_few", "always: best brought_any")),
    (r"best: 1\b", ("best: brought_few", "best: brought_any", "best: brought_few * 2 - 1")),
    (r"best: 2\b", ("best: brought_few + 1", "best: left - brought_any")),
    (r"best: iteration \+ 1", ("best: iteration + brought_few", "best: iteration * brought_any")),
    (r"score > 0\.3", ("score > brought_bar", '"score > brought_bar or rank < brought_few"')),
    (r"rank < 1\b", ("rank < brought_few", "rank < brought_any")),
    (r"weights: \[(1|0.7), 0[.3]*\]", ("weights: [brought_bar, 1 - brought_bar]",)),
    (r"masks: 2\b", ("masks: 2", "masks: brought_few")),
    (r"at_most: (\d)\n", (r"at_most: \1\n", "at_most: brought_few\n")),
)
SAMPLE = re.compile(r"\{op: sample, logits: (\"[^\"]*\"|[\w.]+)")
HEATS = ("", "", ", temperature: brought_heat", ", temperature: 0", ", temperature: 0.7",
         ", temperature: brought_heat * 2", ", temperature: brought_heat - 1")  # fmt: skip


def by_request(pick: Pick, text: str) -> str:
    """Let a file, one in three, take some of its numbers of requests."""
    if pick.even(("no", "no", "yes")) == "no" or "\nparams:" in text:
        return text
    for pattern, instead in PLACES:
        if re.search(pattern, text):
            text = re.sub(pattern, pick.even((r"\g<0>", *instead)), text)
    parts = SAMPLE.split(text)
    for number in range(1, len(parts), 2):
        parts[number] = f"{{op: sample, logits: {parts[number]}{pick(HEATS)}"
    return "".join(parts).replace("adapters:\n", f"{HEAD}adapters:\n", 1)


def drawn(graph: Graph, seed: int) -> dict[str, int | float]:
    """Return what a request brings: ends of ranges, defaults, and what lies between."""
    random = Random(seed)
    found: dict[str, int | float] = {}
    for name, each in graph.runtime.items():
        between: int | float = random.uniform(each.low, each.high)
        if each.type == "int":
            between = random.randint(int(each.low), int(each.high))
        found[name] = random.choice((each.low, each.high, each.default, between))
    return found


def compiled_in(text: str, values: Mapping[str, int | float]) -> str:
    """Return a file whose runtime params are compiled in, with these values."""
    for name, value in values.items():
        declared = rf"^(  {name}: \{{type: \w+, default: )[\d.e-]+(.*), runtime: true\}}$"
        text, count = re.subn(declared, rf"\g<1>{value!r}\g<2>}}", text, flags=re.MULTILINE)
        if not count:  # a file that was put together anew has a line for each key
            declared = rf"^(  '?{name}'?:\n    type: \w+\n    default: )"
            declared += r"[\d.e-]+((?:\n    m\w+: .*)*)\n    runtime: true$"
            text, count = re.subn(declared, rf"\g<1>{value!r}\g<2>", text, flags=re.MULTILINE)
        assert count == 1, name
    return text

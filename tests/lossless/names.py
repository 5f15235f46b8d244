"""Names that meet each other in generated code, for random strategies.

A file's own names (nodes, kinds, carried values, adapters, steps, loops) are replaced, each
everywhere, by names that Python, the runtime or generated code have already, or that are made of
the file's other names as generated code makes its own: by case, by joining, by endings.
"""

from __future__ import annotations

import builtins
import io
import keyword
import re
import tokenize
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from nldc import runtime
from nldc.runtime.decoder import Decoder
from nldc.runtime.step import ops
from nldc.runtime.step.batch import Batch

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = frozenset(
    {
        "context",
        "seed",
        "early",
        "chosen",
        "again",
        "block",
        "drafted",
        "seen",
        "guess",
        "found",
        "picked",
        "sure",
        "take",
        "checked",
        "choice",
        "kept",
        "other",
        "mixed",
        "row0",
        "row1",
        "row2",
        "next0",
        "next1",
        "next2",
        "out",
        "late",
        "opening",
        "second",
        "both",
        "laid",
        "start",
        "both_rows",
        "n0",
        "n1",
        "n2",
        "n3",
        "n4",
        "n5",
        "n6",
        "n7",
        "n8",
        "n9",
        "others",
        "top",
        "rest",
        "few",
        "many",
        "drafter",
        "judge",
        "drafts",
        "dk",
        "mk",
        "pk",
        "ka",
        "kb",
        "filled",
        "refresh",
        "after",
        "fresh",
        "inner",
        "looped",
        "look",
        "idea",
        "rank_",
        "took",
        "last_token",
        "pre1",
        "pre2",
        "pre3",
        "stored",
        "tail",
        "padded",
        "hidden_rows",
        "lately",
        "n",
        "brought_bar",
        "brought_few",
        "brought_any",
        "brought_heat",
        "fixed",
        "look0",
        "look1",
        "look2",
        "seeds",
        "tree",
        "blank",
        "seen_first",
        "said",
        "middle",
        "twice",
        "more",
        "counted",
        "grams",
        "guessed",
        "starts",
        "spread",
        "chains",
        "whole",
        "worst",
        "sk",
        "fk",
    }
)
KINDS = frozenset({"dk", "mk", "pk", "ka", "kb", "sk", "fk"})
ENDINGS = ("_rows", "_logits", "_sees", "_kernel", "_by_count", "_adapted", "_rows_adapted", "_")
WORD = re.compile(r"(prefill\.|\.|(?<![\w$.]))([A-Za-z_]\w*)")


@cache
def taken() -> tuple[str, ...]:
    """Return what Python, the runtime and generated code call something, in a fixed order."""
    names = {*keyword.kwlist, *keyword.softkwlist}
    names |= {name for name in dir(builtins) if name[0] != "_"}
    for holder in (runtime, ops, Batch, Decoder):
        names |= set(getattr(holder, "__all__", ())) | set(dir(holder))
    for file in sorted(GOLDEN.glob("*/*.py.txt")):
        for token in tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline):
            if token.type == tokenize.NAME:
                names.add(token.string)
    return tuple(sorted(name for name in names if name[0].isalpha()))


def rename(text: str, seed: int) -> str:
    """Give a file other names, each everywhere and no two the same."""
    random = Random(seed)
    present = sorted({m[2] for m in WORD.finditer(text)} & WORDS)
    given: dict[str, str] = {}
    used = {match[2] for match in WORD.finditer(text)}
    for word in present:
        if random.random() < 0.4:
            continue
        others = [other for other in present if other != word]
        made = _made_of(random.sample(others, min(3, len(others))))
        name = random.choice(made if made and random.random() < 0.6 else taken())
        if name not in used:
            used.add(name)
            given[word] = name
    return replaced(text, given)


def _made_of(others: Sequence[str]) -> list[str]:
    """Return names that generated code may make of others."""
    found: list[str] = []
    for place, other in enumerate(others):
        found += [other.upper(), other.capitalize(), f"step_{other}", f"prefill_{other}"]
        found += [other + ending for ending in ENDINGS]
        if place:
            found += [f"{others[place - 1]}_{other}", f"{others[place - 1]}_{other}".upper()]
    return found


def replaced(text: str, given: dict[str, str]) -> str:
    """Replace whole words: after a dot only kinds, and what `prefill.` names."""

    def one(match: re.Match[str]) -> str:
        before, word = match[1], match[2]
        if word not in given or (before == "." and word not in KINDS):
            return match[0]
        return before + given[word]

    head, _, body = text.partition("guarantee:")
    return f"{head}guarantee:{WORD.sub(one, body)}"

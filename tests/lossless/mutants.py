"""Single edits to good strategies, each with the code that refuses it: see mutants*.yaml.

A mutant is what a tired author or a port of a research loop gets wrong. Run unchecked, every one
of them parts from AR on some input: see test_mutants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.reuse import flat, load, parse
from nldc.source import Source

HERE = Path(__file__).parent
STRATEGIES = HERE.parents[1] / "strategies"
UNUSUAL = HERE / "unusual"
SMALL: Mapping[str, int] = {"block_length": 4, "rows": 11, "k": 4, "length": 4, "ngram": 2}


@dataclass(frozen=True)
class Mutant:
    """A base strategy, `old` text replaced by `new`, and the code that refuses it.

    `prompts` are the lengths of the prompts on which it is seen to differ, and `live` the numbers
    of live sequences in one step after another, where those that are tried always do not show it.
    """

    name: str
    base: str
    old: str
    new: str
    code: str
    prompts: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    live: tuple[int, ...] = ()

    def text(self) -> str:
        text = base_text(self.base)
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {text.count(self.old)} places to edit in {self.base}")
        return text.replace(self.old, self.new).replace("guarantee: none", "guarantee: exact")


def mutants() -> list[Mutant]:
    """Read the tables: every file mutants*.yaml but that of edits to generated code."""
    tables = sorted(set(HERE.glob("mutants*.yaml")) - {HERE / "mutants_artifacts.yaml"})
    return [Mutant(**row) for file in tables for row in yaml.safe_load(file.read_text("utf-8"))]


@cache
def base_text(name: str) -> str:
    """Return the text of a shipped strategy, or of one of the tests' own, with what it extends."""
    path = next(p for p in (STRATEGIES / f"{name}.yaml", UNUSUAL / f"{name}.yaml") if p.exists())
    return flat(load(path))


def built(text: str, settings: Mapping[str, int | float] | None = None) -> tuple[Source, Graph]:
    """Build a text with small params; it must have no mistake but its guarantee."""
    source = parse(text)
    declared = source.data.get("params") or {}
    given = {name: value for name, value in SMALL.items() if name in declared}
    made = build(source, {**given, **(settings or {})})
    if made.graph is None:
        raise ValueError([f"{d.span}: {d.message}" for d in made.found])
    return source, made.graph

"""Files of a folder, and what is said of one of them."""

from __future__ import annotations

from pathlib import Path

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.ir.build import build
from nldc.ir.text import show_graph
from nldc.reuse import load, parse
from nldc.source import Source

FRAGMENTS = """nldc: 1
fragments:
  confident:
    help: Rows are filled as soon as they are sure.
    params:
      threshold: {type: float, default: 0.5, min: 0.0, max: 1.0}
      rounds: {type: int, default: 4, min: 1, max: 64}
    takes: [rows]
    nodes:
      filled:
        op: repeat
        on: rows
        until: full
        at_least: 1
        at_most: rounds
        body:
          seen: {op: forward, tokens: rows, attention: bidirectional, cache: read}
          pick: {op: sample, logits: seen}
          sure: {op: score, logits: seen, tokens: pick, by: probability}
          take: {op: select, among: rows.masked, score: sure, at_least: threshold, always: best 1}
          rows: {op: fill, rows: rows, where: take, tokens: pick}
    yields: filled
"""
BY_FRAGMENT = """nldc: 1
name: by_fragment
extends: linear_ss
params: {sure: {type: float, default: 0.25, min: 0.0, max: 1.0}}
step:
  drafted: {include: lib/parts.yaml#confident, with: {rows: block, threshold: sure}}
"""


def written(folder: Path, **files: str) -> Path:
    """Write files, `__` in their names for a folder, and return the first."""
    paths = []
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths[0]


def graph_of(source: Source) -> str:
    """Return the text of a source's graph; it has no mistake but in what it promises."""
    made = build(source)
    assert made.graph is not None, [(d.span, d.message) for d in made.found]
    return show_graph(made.graph)


def said_of(file: Path | str) -> list[str]:
    """Return the code of every mistake in a file, or in a text, and what it says."""
    try:
        if isinstance(file, Path):
            api.check(file, others=False)
        else:
            api.check_source(parse(file, "text.yaml"), others=False)
    except StrategyError as error:
        return [f"{found.code} {found.message}" for found in error.diagnostics]
    return []


__all__ = ["BY_FRAGMENT", "FRAGMENTS", "graph_of", "load", "parse", "said_of", "written"]

"""A random strategy in two files, or with a fragment, is the strategy in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nldc.ir.build import build
from nldc.ir.text import show_graph
from nldc.reuse import flat, load, parse
from nldc.source import Source
from tests.lossless.at_random import random_pick, strategy
from tests.lossless.reuse_at_random import fragmented, split

COUNT = 30


def meaning(source: Source) -> str | set[str]:
    """A graph as text, or what is wrong with it."""
    made = build(source)
    return {d.code for d in made.found} if made.graph is None else show_graph(made.graph)


def seeds(count: int) -> Iterator[tuple[int, str]]:
    """Random strategies that are written in one piece."""
    for seed in range(count):
        text = strategy(random_pick(seed))
        if "fragments:" not in text:
            yield seed, text


def extended(folder: Path, count: int) -> None:
    graphs = 0
    for seed, text in seeds(count):
        base, own = split(text, random_pick(seed + 10_000))
        (folder / "base.yaml").write_text(base, encoding="utf-8")
        (folder / "own.yaml").write_text(own, encoding="utf-8")
        source, plain = load(folder / "own.yaml"), parse(text)
        assert source.data == plain.data, seed
        meant = meaning(plain)
        assert meaning(source) == meant, seed
        assert parse(flat(source)).data == source.data, seed
        graphs += isinstance(meant, str)
    assert graphs > count // 5


def moved(count: int) -> None:
    found = 0
    for seed, text in seeds(count):
        other = fragmented(text, random_pick(seed + 20_000))
        found += other != text
        assert meaning(parse(other)) == meaning(parse(text)), seed
    assert found > count // 2


def test_an_extension_means_what_the_whole_means(tmp_path: Path) -> None:
    extended(tmp_path, COUNT)


def test_a_node_in_a_fragment_means_what_it_means_outside() -> None:
    moved(COUNT)


@pytest.mark.long
def test_many_extensions_and_fragments_mean_the_same(tmp_path: Path) -> None:
    extended(tmp_path, 1500)
    moved(1500)

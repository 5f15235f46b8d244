"""The pictures of docs/certificate.md: what is right and what is wrong of each obligation.

The wrong strategies are those that the page shows, read from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nldc import api
from nldc.source import parse
from scripts.site.masks import Mask, against, as_svg, mask_of

PAGE = Path(__file__).parents[2] / "docs" / "certificate.md"
ROWS = 4
"""Rows of a block in the pictures."""
FORWARDS: Mapping[str, tuple[str, str]] = {
    "sees_mask": ("quadratic_ss", "step.both"),
    "sees_later": ("linear_ss", "step.checked"),
    "sees_less": ("linear_ss", "step.checked"),
    "sees_branch": ("prompt_lookup_tree", "step.checked"),
    "purity": ("quadratic_ss_lora", "step.both"),
}
"""Of obligations about forwards: the strategy that is right, and the forward that is drawn."""
OUTCOMES: Mapping[str, tuple[Callable[[int, int], bool], Callable[[int, int], bool]]] = {
    "source": (lambda matches, at: at <= matches, lambda _, at: at < ROWS - 1),
    "cache": (lambda matches, at: at <= matches, lambda _, __: True),
    "seed": (lambda matches, at: at == matches, lambda _, at: at == ROWS - 1),
    "progress": (lambda matches, at: at <= matches, lambda matches, at: at < matches),
}
"""Of the others: whether place `at` is emitted, kept or carried in the outcome with `matches`."""


def pictures() -> Iterator[tuple[str, str]]:
    """Yield every picture: its path below docs/, and its text."""
    texts = _wrong_ones()
    for name, (base, forward) in FORWARDS.items():
        right = _mask(f"extends: {base}\n", forward, f"right: {base}")
        wrong = _mask(texts[name], forward, f"wrong: {name}")
        marked = against(right, wrong) if name != "purity" else _seen_by_deciding_rows(wrong)
        yield f"certificate/{name}-right.svg", as_svg([right])
        yield f"certificate/{name}-wrong.svg", as_svg([marked])
    for name, (is_right, is_wrong) in OUTCOMES.items():
        right, wrong = _outcomes("right", is_right), _outcomes(f"wrong: {name}", is_wrong)
        marked = against(right, wrong) if name != "source" else _drafts_that_differ(wrong)
        yield f"certificate/{name}-right.svg", as_svg([right])
        yield f"certificate/{name}-wrong.svg", as_svg([marked])


def _wrong_ones() -> dict[str, str]:
    """Return the strategies of the page by name, without the lines that all have."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return {
        re.search(r"^name: (\w+)$", block, re.MULTILINE)[1]: block[block.index("extends:") :]
        for block in blocks
    }


def _mask(rest: str, forward: str, title: str) -> Mask:
    """Return what is seen in a forward of a strategy that promises nothing."""
    head = "nldc: 1\nname: page\nsummary: Drawn.\nguarantee: none\n"
    base = rest.split()[1]
    sizes = {"block_length": ROWS, "length": ROWS - 1}
    known = api.params_of(base)
    settings = {name: value for name, value in sizes.items() if name in known}
    source = parse(head + rest, "page.yaml")
    graph = api.check_source(source, settings, others=False).graph
    return mask_of(graph, forward, title, ROWS)


def _seen_by_deciding_rows(mask: Mask) -> Mask:
    """Mark what the rows of tokens see of the rows of the forward."""
    cells = {
        (row, at + len(mask.prefixes))
        for row, is_mask in enumerate(mask.masked)
        if not is_mask
        for at in range(len(mask.masked))
        if mask.sees[row][at + len(mask.prefixes)]
    }
    return replace(mask, wrong=frozenset(cells))


def _drafts_that_differ(mask: Mask) -> Mask:
    """Mark the drafts that are emitted from the first on with which the verifier did not agree."""
    cells = {(row, at) for row in range(ROWS) for at in range(row, ROWS) if mask.sees[row][at]}
    return replace(mask, wrong=frozenset(cells))


def _outcomes(title: str, holds: Callable[[int, int], bool]) -> Mask:
    rows = tuple(f"{matches} right" for matches in range(ROWS))
    sees = tuple(tuple(holds(matches, at) for at in range(ROWS)) for matches in range(ROWS))
    return Mask(title, (), rows, (False,) * ROWS, sees)

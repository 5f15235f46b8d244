"""Which row sees which, as an SVG that follows the reader's light or dark scheme.

A picture has nothing from elsewhere: its colours are in it, and what is wrong has a cross or a
border as well as a colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from nldc.explain.full import sights
from nldc.ir.graph import Graph
from nldc.ir.ops import Fill, Forward, Repeat

CELL, GAP, TEXT, LINE = 16, 2, 7, 12
"""Pixels: a cell's side, between cells, a character's width, a font's height."""
MOST_ROWS = 40
"""The most rows that are drawn."""
STYLE = """
svg{color-scheme:light dark}
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#3d4450}
.h{font-weight:600}
.n{fill:#eef0f4}.p{fill:#8b95a5}.t{fill:#3b6fd4}.m{fill:#d98a1f}
.w{fill:#d32f4a}.x{stroke:#fff;stroke-width:2}.l{fill:#fff;stroke:#d32f4a;stroke-width:2}
@media(prefers-color-scheme:dark){
text{fill:#cfd6e1}.n{fill:#2b303b}.p{fill:#77818f}.t{fill:#6d9bf1}.m{fill:#e7a64a}.w{fill:#f0617a}
.l{fill:#1d2129;stroke:#f0617a}.x{stroke:#16191f}}
"""


@dataclass(frozen=True)
class Mask:
    """A grid: `sees[i]` says of the row with label i which prefixes, then which columns it sees.

    `masked` says of each column whether it is a mask. `wrong` are the cells that should be
    otherwise: (row, column), columns counted with prefixes.
    """

    title: str
    prefixes: tuple[str, ...]
    rows: tuple[str, ...]
    masked: tuple[bool, ...]
    sees: tuple[tuple[bool, ...], ...]
    wrong: frozenset[tuple[int, int]] = frozenset()


def mask_of(graph: Graph, name: str, title: str, prompt: int) -> Mask:
    """Return what the rows of a forward see, for a prompt of so many tokens."""
    op = graph.node(name).op
    if not isinstance(op, Forward):
        raise TypeError(f"{name} is no forward")
    rows = op.layout.rows(prompt)[:MOST_ROWS]
    is_filled = any(
        node.name == op.rows.node and isinstance(node.op, Fill | Repeat) for node in graph.nodes
    )
    masked = tuple(row.masked and not is_filled for row in rows)
    found = sights(graph, op, rows)
    return Mask(
        title,
        found.prefixes,
        tuple(
            f"{row.kind or ('mask' if is_mask else 'token')} +{position}"
            for row, position, is_mask in zip(rows, found.positions, masked, strict=True)
        ),
        masked,
        found.sees,
    )


def against(right: Mask, wrong: Mask) -> Mask:
    """Return the wrong mask with the cells marked in which it differs from the right one."""
    cells = frozenset(
        (row, column)
        for row, (one, other) in enumerate(zip(right.sees, wrong.sees, strict=True))
        for column, pair in enumerate(zip(one, other, strict=True))
        if pair[0] != pair[1]
    )
    return replace(wrong, wrong=cells)


def as_svg(masks: Sequence[Mask]) -> str:
    """Return masks one below another."""
    parts: list[str] = []
    top, widest = 4, 0
    for mask in masks:
        drawn, width, height = _drawn(mask, top)
        parts += drawn
        top += height + 18
        widest = max(widest, width)
    alt = escape("; ".join(mask.title for mask in masks))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest + 8}" height="{top}" '
        f'viewBox="0 0 {widest + 8} {top}" role="img" aria-label="{alt}">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _drawn(mask: Mask, top: int) -> tuple[list[str], int, int]:
    step = CELL + GAP
    left = TEXT * max(map(len, mask.rows)) + 16
    apart = 8
    head = 40
    count = len(mask.prefixes)
    parts = [f'<text class="h" x="4" y="{top + LINE}">{escape(mask.title)}</text>']
    for place, prefix in enumerate(mask.prefixes):
        x = left + place * step + 3
        parts.append(f'<text x="{x}" y="{top + 34}">{escape(prefix[0].upper())}</text>')
    shapes: dict[str, list[str]] = {}
    for place, (row, seen) in enumerate(zip(mask.rows, mask.sees, strict=True)):
        y = top + head + place * step
        parts.append(f'<text x="4" y="{y + LINE}">{escape(row)}</text>')
        for at, is_seen in enumerate(seen):
            x = left + at * step + (apart if at >= count else 0)
            kind = _kind(mask, place, at, is_seen)
            shapes.setdefault(kind, []).append(f"M{x} {y}h{CELL}v{CELL}h-{CELL}z")
            if kind == "w":
                shapes.setdefault("x", []).append(f"M{x + 4} {y + 4}l8 8m0 -8l-8 8")
    parts += [f'<path class="{kind}" d="{"".join(shapes[kind])}"/>' for kind in sorted(shapes)]
    wide = left + (count + len(mask.masked)) * step + apart
    return parts, max(wide, TEXT * len(mask.title) + 12), head + len(mask.rows) * step


def _kind(mask: Mask, row: int, at: int, is_seen: bool) -> str:
    """Return the class of a cell: not seen, prefix, token, mask, wrongly seen, or lacking."""
    count = len(mask.prefixes)
    if (row, at) in mask.wrong:
        return "w" if is_seen else "l"
    if not is_seen:
        return "n"
    return "p" if at < count else "m" if mask.masked[at - count] else "t"

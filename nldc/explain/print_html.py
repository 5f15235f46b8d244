"""One page about a strategy: the graph, who sees whom, the promise, the program and the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from nldc.explain.model import (
    Explained,
    Forward,
    Line,
    Place,
    Printed,
    Promise,
    Text,
    kinds_in_words,
)
from nldc.explain.paint import visible
from nldc.explain.print_svg import pictures
from nldc.explain.print_text import milliseconds
from nldc.view.page import page


def print_html(told: Explained) -> str:
    """Return the page."""
    parts = [
        _head(told),
        _promise(told.promise, told.notes),
        _graph(told),
        _forwards(told),
        _grids(told),
        _sources(told),
    ]
    data = {
        "forwards": [_forward(each) for each in told.forwards],
        "texts": [_text(each) for each in (*told.files, *told.code, told.program)],
    }
    body = f"<main>\n{''.join(parts)}</main>"
    return page(visible(told.name), body, data, styles=("explain.css",), scripts=("explain.js",))


def _head(told: Explained) -> str:
    params = "".join(f"<li>{_safe(name)} = {_safe(value)}</li>" for name, value in told.params)
    uses = "".join(f"<li>{_safe(each)}</li>" for each in told.uses)
    return (
        f'<section><p class="summary">{_safe(told.summary)}</p>'
        f'<ul class="facts">{params}{uses}</ul></section>\n'
    )


def _promise(promise: Promise, notes: Sequence[str]) -> str:
    kind = "exact" if promise.exact else "open"
    rows = []
    for reason in promise.reasons:
        rests = "".join(f"<li>{_safe(each)}</li>" for each in reason.rests)
        label = "in the certificate" if promise.exact else "what mends it"
        formal = f'<p class="soft">{label}: {_safe(reason.formal)}</p>' if reason.formal else ""
        rows.append(
            f'<details><summary><span class="tag">{_safe(reason.name)}</span> '
            f"{_safe(reason.text)}</summary>{formal}<ul>{rests}</ul></details>"
        )
    said = "".join(f"<li>{_safe(note)}</li>" for note in notes)
    return (
        f'<section id="promise"><h2>Promise</h2><p class="promise {kind}">{_safe(promise.text)}</p>'
        f'<div class="reasons">{"".join(rows)}</div><ul class="notes">{said}</ul></section>\n'
    )


def _graph(told: Explained) -> str:
    regions = "".join(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="group" aria-label="{_safe(region.title)}">\n{body}</svg>\n'
        for region, (body, width, height) in zip(
            told.regions, pictures(told, linked=True), strict=True
        )
    )
    return (
        '<section id="graph"><h2>Graph</h2>'
        '<p class="soft">Point at a node, or go from one to the next by keys, for what it says; '
        "its lines in the file light up below.</p>"
        f'<div class="scrolls drawing">{regions}</div>'
        '<p id="said" class="mono said" aria-live="polite"></p></section>\n'
    )


def _forwards(told: Explained) -> str:
    of = "" if told.setting is None else f'<p class="soft">On {_safe(told.setting.text)}.</p>'
    costs = {(cost.name, cost.what): cost for step in told.steps for cost in step.costs}
    head = ["forward", "rows", "at", "attention", "times"]
    rows = []
    for each in told.forwards:
        cost = costs.get((each.name, "forward"))
        times = f"{cost.times:g}" if cost else "1" if each.repeats == 1 else f"≤ {each.repeats}"
        low, high = each.positions
        place = f"+{low}" if low == high else f"+{low} to +{high}"
        if each.size != str(each.rows):  # where it ends depends on the prompt
            place = f"+{low} on"
        with_ = f", {each.adapter}" if each.adapter else ""
        cells = [each.title, kinds_in_words(each.kinds), place, f"{each.attention}{with_}", times]
        rows.append(cells + _seconds(cost.floor if cost else None, cost.predicted if cost else 0))
    for step in told.steps:
        for cost in step.costs:
            if cost.what == "head":
                cells = [f"{cost.title} (head)", str(cost.rows), "", "", f"{cost.times:g}"]
                rows.append(cells + _seconds(cost.floor, cost.predicted))
        if step.total is not None:
            cells = [f"{step.name}, all of it", "", "", "", ""]
            rows.append(cells + _seconds(step.total.floor, step.total.predicted))
    if told.setting is not None:
        head += ["floor", "predicted"]
    lines = [each.counts for each in told.steps]
    lines += [] if told.setting is None else told.setting.speed
    said = "".join(f"<li>{_safe(line)}</li>" for line in lines)
    return (
        f'<section id="costs"><h2>Forwards</h2>{of}{_table(head, rows)}'
        f'<ul class="notes">{said}</ul></section>\n'
    )


def _seconds(floor: float | None, predicted: float) -> list[str]:
    return ["", ""] if floor is None else [milliseconds(floor), milliseconds(predicted)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    numbers = ("times", "floor", "predicted")
    kinds = [' class="number"' if name in numbers else "" for name in head]
    top = "".join(f"<th{kind}>{name}</th>" for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_safe(cell)}</td>" for cell, kind in zip(row, kinds, strict=False))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scrolls"><table><tr>{top}</tr>{body}</table></div>'


def _grids(told: Explained) -> str:
    if not told.forwards:
        return ""
    chosen = "".join(
        f'<option value="{at}">{_safe(each.title)}</option>'
        for at, each in enumerate(told.forwards)
    )
    return (
        '<section id="sight"><h2>Who sees whom</h2>'
        f'<label>Forward <select id="forward">{chosen}</select></label>'
        '<p id="asks" class="mono soft"></p>'
        '<div class="sight"><div id="grid" class="scrolls grid" tabindex="0" role="listbox" '
        'aria-label="Rows of the forward; up and down go from one to the next"></div>'
        '<div id="row" class="row" aria-live="polite"></div></div>'
        '<p id="legend" class="legend"></p></section>\n'
    )


def _sources(told: Explained) -> str:
    files = len(told.files)
    first = "".join(_option(at, each) for at, each in enumerate(told.files))
    second = "".join(
        _option(files + at, each) for at, each in enumerate((*told.code, told.program))
    )
    return (
        '<section id="sources"><h2>File and code</h2>'
        '<p class="soft">Choose a line on one side: what it became, or came from, lights up on the '
        "other.</p>"
        '<div class="sides">'
        f'<div class="side"><label>File <select id="left">{first}</select></label>'
        '<div id="left-lines" class="lines" tabindex="0" role="listbox" '
        'aria-label="Lines of the file"></div></div>'
        f'<div class="side"><label>Made of it <select id="right">{second}</select></label>'
        '<div id="right-lines" class="lines" tabindex="0" role="listbox" '
        'aria-label="Lines of the code"></div></div>'
        "</div></section>\n"
    )


def _option(number: int, text: Text) -> str:
    return f'<option value="{number}">{_safe(text.name)}</option>'


def _forward(forward: Forward) -> dict[str, Any]:
    """Return what the grid shows of a forward."""
    grid = forward.grid
    return {
        "name": visible(forward.title),
        "attention": visible(forward.attention),
        "columns": [visible(each) for each in grid.columns],
        "note": visible(grid.note),
        "place": _place(forward.place),
        "lines": [_line(each) for each in grid.lines],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "first": line.first,
        "last": line.last,
        "kind": visible(line.kind),
        "masked": line.masked,
        "position": line.position,
        "cached": list(line.cached),
        "sees": [list(each) for each in line.sees],
        "adapted": line.adapted,
        "stays": line.stays,
        "needed": line.needed,
        "why": [visible(each) for each in line.why],
        "wrong": None if line.wrong is None else asdict(line.wrong),
    }


def _text(text: Text) -> dict[str, Any]:
    return {"name": visible(text.name), "lines": [_printed(each) for each in text.lines]}


def _printed(line: Printed) -> list[Any]:
    """Return a line with its places: the file's number, the first and the last line."""
    return [visible(line.text.replace("\t", "    ")), [_place(place) for place in line.places]]


def _place(place: Place | None) -> list[int] | None:
    return None if place is None else [place.file, place.first, place.last]


def _safe(text: str) -> str:
    """Return text as HTML shows it."""
    return escape(visible(text))

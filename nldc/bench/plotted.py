"""The plots of a benchmark's page, with a table beside each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from nldc.bench.tables import NONE, Data, number, share, table_of
from nldc.view.plot import COLOURS, Axis, Line, Mark, legend, plot


def plotted(data: Data) -> Iterator[str]:
    """Yield the sections of a page that have a plot."""
    yield _speed(data)
    yield _positions(data)
    yield from _rows(data)
    yield from _prefixes(data)
    yield _pareto(data)


def _speed(data: Data) -> str:
    """Return tokens a second against tokens a forward."""
    lines = [line for line in data["results"] if line["tpf_without_prefill"]]
    colours = _colours(lines)
    marks = [
        Mark(
            x=line["tpf_without_prefill"],
            y=line["tps"],
            tip=f"{line['name']}: {line['tps']:.1f} tokens/s, "
            f"{line['tpf_without_prefill']:.2f} tokens a forward, {share(line)} as AR",
            label=_short(line),
            colour=colours[line["strategy"]],
            shape=_shape(line),
            spread=(line["tps_slowest"], line["tps_fastest"]),
        )
        for line in lines
    ]
    joined = [
        Line(tuple((mark.x, mark.y) for mark in own), name, colours[name], faint=True)
        for name in colours
        for own in [[m for m, line in zip(marks, lines, strict=True) if line["strategy"] == name]]
        if len(own) > 1
    ]
    x, y = (
        Axis("tokens a forward, without prefill", from_zero=True),
        Axis("tokens a second", from_zero=True),
    )
    rows = [
        (
            line["name"], number(line["tpf_without_prefill"]), number(line["tps"], 1),
            number(line["tps_slowest"], 1), number(line["tps_fastest"], 1),
        )
        for line in lines
    ]  # fmt: skip
    return _plotted(
        "Tokens a second against tokens a forward",
        "What a forward brings, and what is left of it in time. Bars reach from the slowest repeat "
        "to the fastest. A ring is a strategy whose tokens need not be AR's.",
        lambda: plot("tokens a second against tokens a forward", x, y, joined, marks),
        bool(marks),
        _keys(lines, colours),
        table_of(("strategy", "tokens a forward", "tokens/s", "slowest", "fastest"), rows),
    )


def _positions(data: Data) -> str:
    """Return which share of drafts was accepted up to each of their places."""
    drafting = [line for line in data["results"] if line["by_position"]]
    lines = [
        Line(
            points=tuple(
                (each["position"], 100 * each["accepted"] / each["offered"])
                for each in line["by_position"]
            ),
            tip=line["name"],
            colour=number,
            dashed=number >= COLOURS,
        )
        for number, line in enumerate(drafting)
    ]
    rows = [
        (
            line["name"], str(each["position"]), str(each["offered"]), str(each["accepted"]),
            f"{100 * each['accepted'] / each['offered']:.1f} %",
            f"{100 * each['accepted'] / before:.1f} %" if before else NONE,
        )
        for line in drafting
        for before, each in zip(
            [line["drafts"], *(each["accepted"] for each in line["by_position"])],
            line["by_position"],
            strict=False,
        )
    ]  # fmt: skip
    heading = ("strategy", "place", "drafts so long", "accepted", "share", "of those before")
    return _plotted(
        "Acceptance by position",
        "The share of drafts that were accepted up to a place, of those that had one there.",
        lambda: plot(
            "acceptance by position",
            Axis("place in the draft"),
            Axis("accepted up to there, %", from_zero=True),
            lines,
        ),
        bool(lines),
        legend([(each.tip, each.colour, "dashed" if each.dashed else "line") for each in lines]),
        table_of(heading, rows),
    )


def _rows(data: Data) -> Iterator[str]:
    """Yield what a forward costs against its rows: predicted, and as steps were measured."""
    predicted = data.get("predicted")
    curves: dict[int, list[tuple[float, float]]] = {}
    for each in predicted["forward"] if predicted else ():
        curves.setdefault(each["prefix"], []).append((each["rows"], 1e3 * each["seconds"]))
    lines = [
        Line(tuple(points), f"{prefix} tokens in the cache", number, dashed=True)
        for number, (prefix, points) in enumerate(curves.items())
    ]
    measured = [
        (line, line["rows"], 1e3 * line["observed"]["seconds"] / line["forwards"])
        for line in data["results"]
        if line["observed"] and line["rows"] and line["observed"]["seconds"] > 0
    ]
    if not lines and not measured:
        return
    colour = len(lines)
    marks = [
        Mark(
            x=count,
            y=ms,
            tip=f"{line['name']}: {count:.4g} rows, {ms:.3g} ms a forward",
            label=_short(line, always=True),
            colour=colour,
            shape=_shape(line),
        )
        for line, count, ms in measured
    ]
    rows = [(each.tip, f"{x:g}", f"{y:.3f}") for each in lines for x, y in each.points]
    rows += [(line["name"], f"{count:.4g}", f"{ms:.3f}") for line, count, ms in measured]
    where = "Give --predict for what a device is predicted to take."
    if predicted:
        where = f"Dashed: predicted for {predicted['device']}, by tokens in the cache."
    keys = [(each.tip, each.colour, "dashed") for each in lines]
    keys += [("measured here", colour, "dot")] if marks else []
    yield _plotted(
        "What a forward costs against its rows",
        f"{where} Marks: a step's time as it was measured here, over its forwards, all that lies "
        "between them included; rows of all sequences together.",
        lambda: plot(
            "cost of a forward against rows",
            Axis("rows of a forward", log=True),
            Axis("milliseconds", log=True),
            lines,
            marks,
        ),
        True,
        legend(keys),
        table_of(("what", "rows", "ms a forward"), rows),
    )


def _prefixes(data: Data) -> Iterator[str]:
    """Yield what a step takes against the tokens in the cache."""
    seen = [line for line in data["results"] if line["observed"] and line["observed"]["by_prefix"]]
    lines = [
        Line(
            tuple((prefix, 1e3 * seconds) for prefix, seconds in line["observed"]["by_prefix"]),
            line["name"],
            number,
            dashed=number >= COLOURS,
        )
        for number, line in enumerate(seen)
    ]
    rows = [(each.tip, f"{x:g}", f"{y:.3f}") for each in lines for x, y in each.points]
    if lines:
        yield _plotted(
            "What a step costs against the tokens in the cache",
            "As measured here: the median of the steps with the most sequences, in parts by the "
            "mean number of tokens that a sequence had.",
            lambda: plot(
                "cost of a step against the cache",
                Axis("tokens in the cache, a sequence"),
                Axis("milliseconds a step", from_zero=True),
                lines,
            ),
            True,
            legend([(e.tip, e.colour, "dashed" if e.dashed else "line") for e in lines]),
            table_of(("strategy", "tokens in the cache", "ms a step"), rows),
        )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other is at least as good as in both numbers and
    better in one, by the first number.
    """
    best = [
        place
        for place, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    ]
    return sorted(best, key=lambda place: points[place])


def _pareto(data: Data) -> str:
    """Return speed against agreement for what is not exact, and the front of it."""
    lines = [line for line in data["results"] if line["guarantee"] != "exact"]
    colours = _colours(lines)
    points = [(100 * line["agreement"], line["tps"]) for line in lines]
    best = front(points)
    marks = [
        Mark(x, y, f"{line['name']}: {x:.1f} % as AR, {y:.1f} tokens/s", line["name"],
             colours[line["strategy"]], "dot" if place in best else "ring")
        for place, (line, (x, y)) in enumerate(zip(lines, points, strict=True))
    ]  # fmt: skip
    drawn = [Line(tuple(points[place] for place in best), "the front", 0, faint=True)]
    if points:
        ends = (min(x for x, _ in points), max(x for x, _ in points))
        speed = data["results"][0]["tps"]
        drawn.append(Line(tuple((x, speed) for x in dict.fromkeys(ends)), "AR", 4, dashed=True))
    rows = [
        (line["name"], f"{x:.1f} %", f"{y:.1f}", "yes" if place in best else "")
        for place, (line, (x, y)) in enumerate(zip(lines, points, strict=True))
    ]
    return _plotted(
        "Speed against agreement, where tokens need not be AR's",
        "Filled: on the front, that is, no other is as fast and as near to AR, and better in one. "
        "Dashed: AR's speed.",
        lambda: plot(
            "speed against agreement",
            Axis("tokens as AR, %"),
            Axis("tokens a second", from_zero=True),
            drawn,
            marks,
        ),
        bool(marks),
        "",
        table_of(("strategy", "as AR", "tokens/s", "on the front"), rows),
    )


def _plotted(
    title: str, text: str, draw: Callable[[], str], has_points: bool, keys: str, table: str
) -> str:
    if not has_points:
        return (
            f"<section><h2>{escape(title)}</h2><p class='soft'>Nothing here has any.</p></section>"
        )
    return (
        f'<section class="plotted"><h2>{escape(title)}</h2><p class="soft">{escape(text)}</p>'
        f"<figure>{draw()}{keys}</figure>"
        f"<details><summary>As a table</summary>{table}</details></section>"
    )


def _colours(lines: Sequence[Data]) -> dict[str, int]:
    """Return a colour for each strategy."""
    return {name: place for place, name in enumerate(dict.fromkeys(e["strategy"] for e in lines))}


def _keys(lines: Sequence[Data], colours: Mapping[str, int]) -> str:
    shapes = {line["strategy"]: _shape(line) for line in lines}
    return legend([(name, colour, shapes[name]) for name, colour in colours.items()])


def _shape(line: Data) -> str:
    if line["strategy"] == "ar":
        return "square"
    return "dot" if line["guarantee"] == "exact" else "ring"


def _short(line: Data, *, always: bool = False) -> str:
    """Return what a mark is called: the values of the grid, or the strategy; `always` both."""
    values = ", ".join(f"{value:g}" for value in line["settings"].values())
    if always and values:
        return f"{line['strategy']} {values}"
    return values or line["strategy"]

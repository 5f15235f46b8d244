"""A page for each strategy of the library: its promise and why, its file, masks and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nldc import api
from nldc.explain.build import explained
from nldc.explain.print_svg import print_svg
from nldc.ir.ops import Forward
from nldc.limits import counts_of, in_words
from scripts.site.masks import Mask, as_svg, mask_of

ROOT = Path(__file__).parents[2]
SMALL: Mapping[str, int] = {"block_length": 4, "rows": 10, "branches": 2, "columns": 3, "steps": 2}
"""Params of the pictures, which are drawn smaller than strategies run."""
PROMPT = 4
"""Tokens of the prompt in pictures."""
FAMILIES = {
    "exact": "Exact: AR, and drafts that a verifier checks",
    "none": "Promising nothing: samplers of their own",
}
NAMED = {
    "source": "every emitted token is one that AR's rows chose",
    "visibility": "those rows see what AR's rows see",
    "purity": "no adapter and no changed logits are on them",
    "cache": "what stays in the cache is AR's",
    "seed": "what is carried to the next step is again as supposed",
    "progress": "every step emits a token",
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield every page and picture of the gallery: its path below docs/, and its text."""
    figures = measured()
    found = {name: path for name, path in api.library().items() if path.parent.name == "strategies"}
    yield "gallery/README.md", index(sorted(found), figures)
    for name in sorted(found):
        yield from of(name)


def of(name: str) -> Iterator[tuple[str, str]]:
    """Yield the page and the picture of a strategy."""
    yield f"gallery/{name}.md", page(name, api.find(name).read_text("utf-8"), measured())
    yield f"gallery/{name}.svg", as_svg(list(_masks(name)))
    yield f"gallery/{name}_graph.svg", print_svg(explained(api.check(name, others=False)))


COLUMNS = (
    *("TPF with prefill", "without", "acceptance length", "tokens a cycle", "tokens as AR"),
    *("tokens/s", "to AR"),
)
"""Of the README's table, behind the name."""


def measured() -> dict[str, list[str]]:
    """Return the README's figures of the demo model: for each strategy, the cells of its line."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## The demo model, measured")[2]
    rows = re.findall(r"^\| `(\w+)`(?: \(([^)]*)\))? \|(.*)\|$", text, re.MULTILINE)
    return {
        name: [aside, *(cell.strip() for cell in cells.split("|"))] for name, aside, cells in rows
    }


def _small(name: str) -> dict[str, int | float]:
    known = api.params_of(name)
    return {param: value for param, value in SMALL.items() if param in known}


def _masks(name: str) -> Iterator[Mask]:
    graph = api.check(name, _small(name), others=False).graph
    seen: set[tuple[object, ...]] = set()
    for node in graph.nodes:
        if not isinstance(node.op, Forward):
            continue
        attention = node.op.attention.name or "by a condition"
        mask = mask_of(graph, node.name, f"{node.name}: {attention}", PROMPT)
        if (mask.rows, mask.masked, mask.sees) not in seen:
            seen.add((mask.rows, mask.masked, mask.sees))
            yield mask


def index(names: list[str], figures: Mapping[str, list[str]]) -> str:
    """Return the page that lists them all, by what they promise."""
    lines = [
        "# Gallery",
        "",
        "Every strategy that comes with the package: its file, what its rows see, and its figures",
        "on the [demo model](../demo-model.md). `nldc compile NAME` takes each by its name;",
        "`extends: NAME` makes [a variant](../language.md#reuse) of it.",
    ]
    for promise, title in FAMILIES.items():
        lines += ["", f"## {title}", ""]
        lines += ["| strategy | what it does | TPF | as AR |", "| --- | --- | ---: | ---: |"]
        for name in names:
            head = _head(name)
            if head["guarantee"] == promise:
                _, tpf, _, _, _, same, *_ = figures[name]
                lines.append(f"| [`{name}`]({name}.md) | {head['summary']} | {tpf} | {same} |")
    lines += [
        "",
        "TPF is tokens a forward; *as AR*, the share of AR's tokens that stand at their places.",
        "[How this was measured](../../README.md#the-demo-model-measured).",
        "",
    ]
    return "\n".join(lines)


def _head(name: str) -> dict[str, Any]:
    """Return the keys of a file, with those that it leaves to the one that it extends."""
    found: dict[str, Any] = yaml.safe_load(api.find(name).read_text("utf-8"))
    return {**_head(found["extends"]), **found} if "extends" in found else found


def page(name: str, text: str, figures: Mapping[str, list[str]]) -> str:
    """Return the page of a strategy, whose file is given."""
    checked = api.check(name, others=False)
    graph, certificate = checked.graph, checked.certificate
    small = _small(name)
    drawn = f"with {', '.join(f'`{k}: {v}`' for k, v in small.items())}" if small else "as it runs"
    lines = [f"# {name}", "", graph.summary, "", "## Promise", ""]
    if certificate.proved == "exact":
        count = certificate.outcomes
        lines += [
            f"**Exact, proved** in {count} outcome{'s' * (count != 1)} of a step: with any model,",
            "prompt and seed the tokens are AR's. The proof rests on",
            "",
        ]
        for obligation, ground in certificate.data()["obligations"].items():
            nodes = dict.fromkeys([*ground["nodes"], *ground["rows"]])
            lines.append(f"- *{obligation}*: {NAMED[obligation]}, by {_listed(nodes)}")
        lines += ["", "[The certificate, in pictures](../certificate.md) explains each of these."]
    else:
        lines += ["**None.** Its text need not be AR's, and the compiler says why:", ""]
        for problem in certificate.problems:
            lines.append(f"- {problem.message} ([{problem.code}](../errors/{problem.code}.md))")
        whatever = "../losslessness.md#what-holds-whatever-is-promised"
        lines += ["", f"What holds of [every strategy]({whatever}) holds of it."]
    lines += ["", "## The file", "", "```yaml", text.rstrip(), "```", ""]
    if "extends:" in text:
        lines += [f"`nldc explain {name} --flat` prints the whole, without `extends`.", ""]
    lines += [
        "```sh",
        f"nldc compile {name} -o build/{name}",
        f'nldc run build/{name} --prompt "def fibonacci(n):" --max-new-tokens 32',
        "```",
        "",
        "## Its graph",
        "",
        f"![{name}: its nodes and what they take]({name}_graph.svg)",
        "",
        "## What its rows see",
        "",
        f"Every forward {drawn}, on a prompt of {PROMPT} tokens. A line is a row that looks, a",
        "column what it may see: grey the cached prefix (`P`), blue tokens, orange masks.",
        "",
        f"![{name}: which rows see which]({name}.svg)",
        "",
        "## What a step takes",
        "",
        *[f"- {in_words(each)}" for each in counts_of(graph)],
        "",
        "## On the demo model",
        "",
    ]
    aside, *cells = figures[name]
    if aside:
        lines += [f"With {aside}:", ""]
    lines += [
        f"| {' | '.join(COLUMNS)} |",
        f"|{' ---: |' * len(cells)}",
        f"| {' | '.join(cells)} |",
        "",
        "[How this was measured, and on what](../../README.md#the-demo-model-measured).",
        "",
    ]
    return "\n".join(lines)


def _listed(nodes: Mapping[str, None]) -> str:
    return ", ".join(f"`{node}`" for node in nodes)

"""A benchmark as one page: its tables, and plots with a table beside each.

Everything is made of the data that `--json` prints, so that a page tells nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from nldc.bench.plotted import plotted
from nldc.bench.tables import Data, number, share, table_of
from nldc.view.page import page

TERMS = (
    ("TPF with prefill", "all tokens over all forwards, those over prompts included"),
    ("TPF without prefill", "the tokens of steps over the forwards of steps"),
    ("acceptance length", "accepted drafted tokens over drafts, + 1 for the verifier's own token"),
    ("as AR", "the share of AR's tokens that stand at their place"),
)  # fmt: skip


def page_of(data: Data) -> str:
    """Return the page of a benchmark's data."""
    sections = [
        _terms(data),
        _results(data),
        *_by_category(data),
        *plotted(data),
    ]
    body = "<main>\n" + "\n".join(sections) + "\n</main>"
    return page("nldc bench", body, {}, styles=("bench.css",), scripts=("bench.js",))


def _terms(data: Data) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in data["environment"].items())
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in TERMS)
    return f'<section><p class="soft">{escape(machine)}</p><dl class="terms">{terms}</dl></section>'


def _results(data: Data) -> str:
    heading = (
        "strategy", "guarantee", "tokens/s", "slowest", "fastest", "TPF with prefill",
        "TPF without prefill", "acceptance length", "tokens a cycle", "first token, ms", "as AR",
    )  # fmt: skip
    rows = [
        (
            _full_name(line), line["guarantee"], number(line["tps"], 1),
            number(line["tps_slowest"], 1), number(line["tps_fastest"], 1),
            number(line["tpf_with_prefill"]), number(line["tpf_without_prefill"]),
            number(line["acceptance_length"]), number(line["accepted"]),
            number(1e3 * line["time_to_first_token"], 1), share(line),
        )
        for line in data["results"]
    ]  # fmt: skip
    return f"<section><h2>Results</h2>{table_of(heading, rows, words=2)}</section>"


def _by_category(data: Data) -> Iterator[str]:
    heading = (
        "strategy", "category", "answers", "tokens/s", "TPF with prefill", "TPF without prefill",
        "acceptance length", "as AR",
    )  # fmt: skip
    rows = [
        (
            line["name"], each["category"], str(each["answers"]), number(each["tps"], 1),
            number(each["tpf_with_prefill"]), number(each["tpf_without_prefill"]),
            number(each["acceptance_length"]), share(each),
        )
        for line in data["results"] for each in line["categories"]
    ]  # fmt: skip
    if rows:
        yield f"<section><h2>By category</h2>{table_of(heading, rows, words=2)}</section>"


def _full_name(line: Data) -> str:
    return " with ".join([line["name"], *line["adapters"]])

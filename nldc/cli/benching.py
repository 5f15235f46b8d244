"""The command that times strategies: bench."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import offer_figures, offer_strategies
from nldc.cli.costing import DEVICE_HELP, Values
from nldc.cli.machine import as_json, write_document
from nldc.cli.options import (
    Settings,
    chat_of,
    generation_of,
    loading,
    loading_of,
    once,
    params,
    prompt_set,
    sampling,
    settings_of,
)
from nldc.cli.output import Bar, is_terminal, put, refuse_place, say, table, write
from nldc.diagnostics import counted

if TYPE_CHECKING:
    from nldc.bench import Measured


@click.command()
@click.argument(
    "strategies_", metavar="FILE...", nargs=-1, required=True, shell_complete=offer_strategies
)
@params
@click.option(
    "--grid",
    type=Values(),
    multiple=True,
    metavar="NAME=VALUES",
    help="Run with each value of a param, as block_length=4,8,16 or 4..32:4; given again, with "
    "every combination.",
)
@loading
@prompt_set
@sampling
@click.option(
    "--warm-up",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs of each strategy before those that are timed.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Timed runs of each strategy: the median is told, the slowest and the fastest.",
)
@click.option(
    "--write-acceptance",
    type=click.Path(),
    metavar="FILE",
    help="Write how many tokens the steps of the one strategy accepted, for --acceptance.",
)
@click.option(
    "--longer-than",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="Tell tokens a forward also of the answers of more than N tokens; may be given again.",
)
@click.option(
    "--predict",
    "figures",
    shell_complete=offer_figures,
    help=f"Predict each step beside: {DEVICE_HELP}",
)
@as_json
@click.option(
    "--html", type=click.Path(), metavar="FILE", help="Write a page with plots and tables as well."
)
def bench(
    strategies_: tuple[str, ...],
    settings: Settings,
    acceptance: str | None,
    grid: Sequence[tuple[str, tuple[int | float, ...]]],
    model: str | None,
    prompts: str | None,
    count: int,
    chat: bool,
    warm_up: int,
    repeats: int,
    write_acceptance: str | None,
    longer_than: tuple[int, ...],
    figures: str | None,
    as_json: bool,
    html: str | None,
    **options: Any,
) -> None:
    """Time strategies on the same prompts beside AR; says of each whether its tokens are AR's.

    In a file of prompts with a key `category`, --count is that of each category.
    """
    axes = once("--grid", grid)
    for name, _ in settings:
        if name in axes:
            raise click.UsageError(f"--set and --grid both give {name}")
    if html is not None:
        from nldc.view.page import BEGINNING

        refuse_place(html, BEGINNING)
    loading = loading_of(options)
    generation = generation_of(options, "batch_size") | chat_of(options, chat, "--chat")
    from nldc import bench as bench_

    with _shown() as watch:
        measured = bench_.bench(
            strategies_,
            model,
            settings=settings_of(strategies_, settings, acceptance),
            grid=axes,
            prompts=prompts,
            count=count,
            warm_up=warm_up,
            repeats=repeats,
            loading=loading,
            generation=generation,
            write_acceptance=write_acceptance,
            device=figures,
            longer_than=longer_than,
            steps=html is not None,
            watch=watch,
        )
    environment = bench_.environment()
    data = bench_.as_data(measured, environment, bench_.curves_of(figures, model))
    if html is not None:
        put(html, bench_.page_of(data))
        say(f"{html}: {counted(len(measured), 'run')}")
    if as_json:
        write_document(**data)
        return
    _write_tables(measured, longer_than, figures)
    write("\n" + ", ".join(f"{name} {value}" for name, value in environment.items()))


class _Bar:
    """A line on the terminal that tells which run of how many is under way."""

    def __enter__(self) -> _Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

        self._bar = Bar(MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` runs are over, and which is next."""
        self._bar.show(done, total, text)


def _shown() -> AbstractContextManager[Any]:
    return _Bar() if is_terminal(sys.stderr) else nullcontext()


def _write_tables(
    measured: Sequence[Measured], longer_than: Sequence[int], figures: str | None
) -> None:
    for line in table([_speed(line, measured[0]) for line in measured], _SPEED):
        write(line)
    write("")
    heading = (*_FIGURES, *(f"TPF > {least}" for least in longer_than))
    for line in table([_figures(line) for line in measured], heading):
        write(line)
    if measured[0].categories:
        write("")
        for line in table([row for each in measured for row in _categories(each)], _CATEGORIES):
            write(line)
    if figures is not None:
        write(f"\na step on {figures}, predicted, and as it was measured here:")
        for line in table(list(_predicted_rows(measured)), _PREDICTED):
            write(line)


_SPEED = ("strategy", "tokens/s", "slowest", "fastest", "to AR", "first token", "as AR")
_FIGURES = (
    "strategy", "TPF with prefill", "TPF without prefill", "acceptance length", "tokens a cycle",
)  # fmt: skip
_CATEGORIES = (
    "strategy", "category", "answers", "tokens/s", "TPF with prefill", "without",
    "acceptance length", "as AR",
)  # fmt: skip
_PREDICTED = ("strategy", "live", "cached", "floor", "predicted", "measured", "ratio")
NONE = "none"
"""What stands where there is no such number."""


def _speed(line: Measured, ar: Measured) -> tuple[str, ...]:
    is_wrong = line.guarantee == "exact" and not line.same
    ratio = line.tokens_per_second / ar.tokens_per_second if ar.tokens_per_second else 0.0
    slowest, fastest = line.slowest_and_fastest
    return (
        _named(line),
        f"{line.tokens_per_second:.1f}",
        f"{slowest:.1f}",
        f"{fastest:.1f}",
        "wrong" if is_wrong else f"{ratio:.2f}",
        f"{line.time_to_first_token:.3f} s",
        _share(line.same, line.agreement),
    )


def _figures(line: Measured) -> tuple[str, ...]:
    figures = line.figures
    return (
        _named(line),
        _number(figures.tpf_with_prefill),
        _number(figures.tpf_without_prefill),
        _number(figures.acceptance_length),
        f"{line.accepted:.2f}",
        *(f"{tpf:.2f}" if tpf else "none" for _, tpf in line.longer),
    )


def _categories(line: Measured) -> Iterator[tuple[str, ...]]:
    for each in line.categories:
        figures = each.figures
        yield (
            _named(line),
            each.category,
            str(figures.answers),
            f"{each.tokens_per_second:.1f}",
            _number(figures.tpf_with_prefill),
            _number(figures.tpf_without_prefill),
            _number(figures.acceptance_length),
            _share(each.same, each.agreement),
        )


def _predicted_rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """Yield a step of each strategy: sequences and tokens in the cache, then milliseconds."""
    for line in measured:
        seen, floor, predicted = line.observed, line.floor, line.predicted
        if seen is None or floor is None or predicted is None:
            continue
        times = (f"{1e3 * seconds:.2f} ms" for seconds in (floor, predicted, seen.seconds))
        ratio = f"{seen.seconds / predicted:.2f}"
        yield (line.name, str(seen.live), str(seen.prefix), *times, ratio)


def _named(line: Measured) -> str:
    return " with ".join([line.name, *line.adapters])


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _share(same: bool, agreement: float) -> str:
    return "100 %" if same else f"{100 * agreement:.1f} %"

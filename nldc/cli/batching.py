"""The command that answers a file of prompts: batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import offer_artifacts
from nldc.cli.machine import as_json, write_document
from nldc.cli.options import (
    chat_of,
    generation_of,
    loading,
    loading_of,
    sampling,
    strategy,
    templating,
    text_ends,
)
from nldc.cli.output import Bar, say, takes_bars
from nldc.diagnostics import counted

if TYPE_CHECKING:
    from nldc.batch.run import Progress


@click.command()
@click.argument("prompts", type=click.Path())
@click.option(
    "-o", "--out", required=True, type=click.Path(), help="File to write: .jsonl or .parquet."
)
@click.option(
    "--artifact",
    required=True,
    type=click.Path(),
    shell_complete=offer_artifacts,
    help="Folder of a compiled strategy.",
)
@loading
@click.option(
    "--chat", is_flag=True, help="Each prompt of text is a message, and goes through the template."
)
@templating
@sampling
@strategy
@text_ends
@click.option("--token-ids", is_flag=True, help="Write the ids of the tokens as well.")
@click.option(
    "--batch",
    "max_live",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="The most rows that are decoded at a time, on each device.",
)
@click.option(
    "--queue",
    "max_queue",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="The most rows that are read and wait, on each device.",
)
@click.option(
    "--on-error",
    type=click.Choice(["row", "stop"]),
    default="row",
    show_default=True,
    help="A row that fails becomes a row with an error, or stops the run.",
)
@click.option(
    "--ignore-other-keys", is_flag=True, help="Pass over keys of rows that mean nothing here."
)
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever an earlier run has written.")
@click.option("--ray", is_flag=True, help="Answer on a Ray cluster: RAY_ADDRESS, or one here.")
@click.option(
    "--actors",
    type=click.IntRange(1),
    help="With --ray: how many decode (default: one a GPU, or a node where there is none).",
)
@as_json
def batch(
    prompts: str,
    out: str,
    artifact: str,
    model: str | None,
    *,
    chat: bool,
    strategy: str | None,
    keep_special_tokens: bool,
    token_ids: bool,
    max_live: int,
    max_queue: int,
    on_error: Any,
    ignore_other_keys: bool,
    overwrite: bool,
    ray: bool,
    actors: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer each row of the file PROMPTS once into the file OUT; go on where it was killed.

    A row is a line of JSON: {"prompt": "…"}, {"messages": […]} or a list of token ids, with an "id"
    and options of its own if it has any.
    """
    if actors is not None and not ray:
        raise click.UsageError("--actors is for --ray")
    loaded = loading_of(options)
    bar = loaded.pop("progress")
    template = chat_of(options, is_chat=True, asking="")
    from nldc.batch.run import batch as batch_
    from nldc.batch.worker import Plan

    plan = Plan(
        artifact=artifact,
        model=model,
        loading=loaded,
        generation=generation_of(options, "stop")
        | {"skip_special_tokens": not keep_special_tokens},
        templating={n: v for n, v in template.items() if n != "chat" and v not in (None, {})},
        strategy=strategy,
        chat=chat,
        token_ids=token_ids,
        ignore_other_keys=ignore_other_keys,
        max_live=max_live,
        max_queue=max_queue,
        folder=str(Path(prompts).resolve().parent),
    )
    with _shown() as watch:
        done = batch_(
            prompts,
            out,
            plan,
            ray=ray,
            actors=actors,
            on_error=on_error,
            overwrite=overwrite,
            loading_bar=bar,
            watch=watch,
        )
    say(_summary(done, out))
    if as_json:
        write_document(
            out=out,
            rows=done.rows,
            before=done.before,
            done=done.done,
            failed=done.errors,
            tokens=done.tokens,
            nfe=done.nfe,
            seconds=done.seconds,
        )


class _Bar:
    """A line on the terminal that tells how many rows are done."""

    def __enter__(self) -> _Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        said = TextColumn("{task.description}")
        self._bar = Bar(MofNCompleteColumn(), BarColumn(), said, TimeRemainingColumn())
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far a run is."""
        if progress.done:
            done = progress.before + progress.done
            self._bar.show(done, progress.rows, f"{_speed(progress)}{_errors(progress)}")


def _shown() -> AbstractContextManager[Any]:
    return _Bar() if takes_bars() else nullcontext()


def _summary(done: Progress, out: str) -> str:
    if not done.done:
        return f"{out}: {counted(done.rows, 'row')}, all done before"
    before = f", {done.before} before" if done.before else ""
    tpf = done.tokens / done.nfe if done.nfe else 0.0
    cost = f"{counted(done.tokens, 'token')} in {counted(done.nfe, 'forward')}, {tpf:.2f} a forward"
    rows = f"{counted(done.done, 'row')}{_errors(done)}{before}"
    return f"{out}: {rows}; {cost}; {_speed(done)}"


def _speed(progress: Progress) -> str:
    speed = progress.tokens / progress.seconds if progress.seconds else 0.0
    return f"{speed:.1f} tokens/s"


def _errors(progress: Progress) -> str:
    return f", {progress.errors} with an error" if progress.errors else ""

"""Commands that look at the steps of runs: trace, bisect."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nldc import tabular
from nldc.cli.completing import offer_artifacts, offer_parts
from nldc.cli.machine import as_json, write_document
from nldc.cli.options import (
    chat_of,
    generation_of,
    loading,
    loading_of,
    prompt_set,
    sampling,
    strategy,
)
from nldc.cli.output import colored, put, say, width_of, write, write_painted
from nldc.diagnostics import counted

if TYPE_CHECKING:
    from nldc.bisect import Bisected, Chooser, Parting
    from nldc.trace.document import Trace

LEAST_SHARE = 0.001
"""The least probability that is written with four places."""


@click.command()
@click.argument("file", type=click.Path())
@click.option("--brief", is_flag=True, help="Leave out the table of steps.")
@click.option("--html", "page", type=click.Path(), metavar="OUT", help="Write a page to look at.")
@click.option(
    "--chrome", type=click.Path(), metavar="OUT", help="Write what Perfetto and Chrome show."
)
@click.option(
    "--replay", metavar="ARTIFACT", help="Run it again, and say whether every step is the same."
)
@loading
@as_json
def trace(
    file: str,
    brief: bool,
    page: str | None,
    chrome: str | None,
    replay: str | None,
    model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show a run that was traced, step by step; FILE is what run --trace wrote."""
    from nldc.trace.file import COMPACT, as_data, read_trace
    from nldc.trace.summary import summary
    from nldc.trace.text import lines_of

    if page is not None and page == chrome:
        raise click.UsageError("--html and --chrome name the same file")
    found, texts = read_trace(file), {}
    if page is not None:
        from nldc.trace.page import page_of

        texts[page] = page_of(found)
    if chrome is not None:
        from nldc.trace.chrome import chrome_of

        texts[chrome] = json.dumps(chrome_of(found), **COMPACT)
    for path, text in texts.items():
        put(path, f"{text}\n")
        if not as_json:
            write(f"wrote {path}")
    if replay is not None:
        _replay(found, replay, model, options, as_json=as_json)
    elif as_json:
        write_document(**as_data(summary(found)))
    elif page is None and chrome is None:
        width = width_of(sys.stdout)
        for line in lines_of(found, color=colored(sys.stdout), steps=not brief, width=width):
            write_painted(line)


def _replay(
    found: Trace, artifact: str, model: str | None, options: dict[str, Any], *, as_json: bool
) -> None:
    """Run a trace again, say what came of it, and leave with 1 if it was another run."""
    loading = loading_of(options, traced=True)
    from nldc.trace.replay import replay

    again = replay(found, artifact, model, loading)
    apart = again.apart
    if as_json:
        write_document(ok=apart is None, **asdict(again))
    else:
        for note in again.notes:
            write(note)
        if apart is None:
            told = f"every step is the same ({counted(again.steps, 'step')})"
            write(told if not again.numbers else f"{told}; numbers up to {again.numbers:.3g} apart")
        else:
            write(f"step {apart.step} of sequence {apart.sequence} differs: {apart.what}")
            write(f"  in the trace: {apart.before}")
            write(f"  now: {apart.now}")
    if apart is not None:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("first", metavar="ARTIFACT", shell_complete=offer_artifacts)
@click.argument("second", metavar="[OTHER]", required=False, shell_complete=offer_artifacts)
@loading
@click.option("--dtype-b", help="Run the second in this dtype.")
@click.option("--device-b", help="Run the second on this device.")
@click.option(
    "--backend-b", type=click.Choice(["torch", "triton", "numba"]), help="Run the second by this."
)
@strategy
@click.option(
    "--strategy-b",
    shell_complete=offer_parts,
    help="Run the second by this strategy: of OTHER, or of ARTIFACT where there is none.",
)
@prompt_set
@sampling
@as_json
def bisect(
    first: str,
    second: str | None,
    model: str | None,
    dtype_b: str | None,
    device_b: str | None,
    backend_b: str | None,
    strategy: str | None,
    strategy_b: str | None,
    prompts: str | None,
    count: int,
    chat: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the first step in which two runs part, and say whether by a tie, arithmetic or logic.

    They are two artifacts; or an ARTIFACT and AR; or one in two dtypes, on two devices or backends,
    or by two of its strategies.
    """
    loading = loading_of(options, traced=True)
    from nldc.bisect import bisect as bisect_

    given = {"dtype": dtype_b, "device": device_b, "backend": backend_b}
    found = bisect_(
        first,
        second,
        model,
        prompts=prompts,
        count=count,
        loading=loading,
        other={name: value for name, value in given.items() if value is not None},
        generation=generation_of(options, "batch_size") | chat_of(options, chat, "--chat"),
        strategies=(strategy, strategy_b),
    )
    if as_json:
        write_document(ok=found.parting is None, **asdict(found))
    else:
        for line in _bisected_lines(found):
            _write_wrapped(line)
    if found.parting is not None:
        if not as_json:
            verb = "differs" if found.prompts == 1 else "differ"
            say(f"{found.differing} of {counted(found.prompts, 'prompt')} {verb}")
        raise click.exceptions.Exit(1)


def _write_wrapped(line: str) -> None:
    """Write a line; on a terminal it is wrapped, and what follows indented a little more."""
    width = width_of(sys.stdout)
    if width is None:
        write(line.replace(tabular.HELD, " "))
        return
    after = " " * (len(line) - len(line.lstrip()) + 2)
    for part in tabular.wrap(line, width, after):
        write(part)


def _bisected_lines(found: Bisected) -> Iterator[str]:
    one, two = found.names
    if found.parting is None:
        cost = f"{counted(found.tokens, 'token')} of {counted(found.prompts, 'prompt')}"
        yield f"{one} and {two}: the same tokens ({cost})"
        return
    parting = found.parting
    yield f"{one} and {two} part at token {parting.token} of prompt {parting.prompt}"
    yield f"  after {', '.join(map(str, parting.before)) or 'the prompt'}"
    for name, chooser in ((one, parting.first), (two, parting.second)):
        yield f"  {name}: {_chooser_line(chooser)}"
    yield from _verdict_lines(parting)


def _chooser_line(chooser: Chooser) -> str:
    if chooser.token is None:
        return "the end"
    token = f"token {chooser.token}"
    if chooser.text is not None:
        token += f" {chooser.text!r}".replace(" ", tabular.HELD).replace(tabular.HELD, " ", 1)
    if chooser.node is None:
        return token
    gap = ""
    if chooser.gap is not None:
        word = "ahead" if chooser.gap >= 0 else "behind"
        gap = f", {word} by {abs(chooser.gap):.4g}"
    where = f" ({chooser.place})" if chooser.place else ""
    return (
        f"{token} ({_share(chooser.probability)}{gap}), by {chooser.node}{where} "
        f"in row {chooser.row} of {chooser.forward}, step {chooser.step}, "
        f"position {chooser.position}"
    )


def _share(probability: float | None) -> str:
    """Return a probability with four places, or with as many as a small one needs."""
    assert probability is not None
    is_small = 0 < probability < LEAST_SHARE
    return f"{probability:.1e}" if is_small else f"{probability:.4f}"


def _verdict_lines(parting: Parting) -> Iterator[str]:
    first, *rest = parting.evidence
    yield f"{parting.verdict}: {first}"
    yield from (f"  {line}" for line in rest)

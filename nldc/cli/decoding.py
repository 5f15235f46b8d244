"""Commands that decode: run, verify, certify, bench, sol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.costing import DEVICE_HELP
from nldc.cli.options import (
    Settings,
    chat_of,
    generation_of,
    loading,
    loading_of,
    params,
    prompt_set,
    sampling,
    settings_of,
    strategy,
    templating,
)
from nldc.cli.output import hide_notes, say, table, write
from nldc.diagnostics import counted
from nldc.runtime.errors import NldcRuntimeError, PromptError

if TYPE_CHECKING:
    from nldc.bench import Measured
    from nldc.prompts import Prompt
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.stats import Stats
    from nldc.verify import Difference, Verified


BAR = 30


@click.command()
@click.argument("artifact")
@loading
@click.option("--prompt", help="Text to continue.")
@click.option("--chat", help="A message to answer, through the chat template.")
@click.option(
    "--messages",
    type=click.Path(),
    help="File with a conversation to answer: a JSON list of messages, or a message a line; "
    "- for stdin.",
)
@click.option("--file", "file", type=click.Path(), help="File with text to continue; - for stdin.")
@click.option("--ids", help="Token ids to continue, as in 1,17,42; token ids come out.")
@templating
@sampling
@strategy
@click.option(
    "--stop",
    multiple=True,
    help="End before this text, in which special tokens may stand; may be given again.",
)
@click.option(
    "--keep-special-tokens", is_flag=True, help="Show special tokens, such as <|im_end|>."
)
@click.option("--quiet", is_flag=True, help="Leave out notes, and the numbers at the end.")
@click.option(
    "--ahead-only",
    is_flag=True,
    help="Refuse a model or a GPU of which the artifact does not carry every kernel.",
)
def run(
    artifact: str,
    model: str | None,
    quiet: bool,
    strategy: str | None,
    keep_special_tokens: bool,
    **options: Any,
) -> None:
    """Decode with a compiled ARTIFACT: text as it comes, then what it cost."""
    if quiet:
        hide_notes()
    prompt, is_chat = _prompt_of(options)
    chat = chat_of(options, is_chat, "--chat or --messages")
    if keep_special_tokens and options["ids"] is not None:
        raise click.UsageError("--keep-special-tokens is for text, and --ids gives token ids")
    generation = generation_of(options, "stop")
    from nldc.verify import load_decoder, named_strategy

    only = {"ahead_only": options["ahead_only"]}
    decoder = load_decoder(artifact, model, **loading_of(options), **only)
    generation |= named_strategy(decoder, strategy)
    if options["ids"] is not None:
        result = decoder.generate([prompt], **generation)
        write(",".join(map(str, result.tokens[0])))
        stats: Stats | None = result.stats[0]
    else:
        text = {"skip_special_tokens": not keep_special_tokens}
        stats = _stream(decoder, prompt, **generation, **chat, **text)
    if stats is not None and not quiet:
        say("\n" + "\n".join(_stats_lines(stats)))


def _prompt_of(options: Mapping[str, Any]) -> tuple[Prompt, bool]:
    from nldc.prompts import parse_ids, read_messages

    names = ("prompt", "chat", "messages", "file", "ids")
    given = [name for name in names if options[name] is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --prompt, --chat, --file and --ids, or --messages")
    value = options[given[0]]
    if given[0] == "messages":
        return read_messages(value), True
    if given[0] == "ids":
        return parse_ids(value), False
    if given[0] == "file":
        try:
            with click.open_file(value, encoding="utf-8") as file:
                return file.read(), False
        except OSError as error:
            raise PromptError(f"cannot read {value}: {error.strerror}", None) from None
        except UnicodeDecodeError:
            name = "standard input" if value == "-" else value
            raise PromptError(f"{name} is not UTF-8 text", "save it as UTF-8") from None
    return value, given[0] == "chat"


def _stream(decoder: Decoder, prompt: Prompt, **options: Any) -> Stats | None:
    """Print the text as it comes and return what it cost."""
    pieces = iter(decoder.stream(prompt, **options))
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            write("")
            stats: Stats | None = end.value
            return stats
        write(piece, end="")


def _stats_lines(stats: Stats) -> Iterator[str]:
    cost = f"{counted(stats.tokens, 'token')} in {counted(stats.nfe, 'forward')}"
    yield f"{cost}: {stats.tpf:.2f} tokens a forward"
    wait = stats.time_to_first_token
    if stats.adapters:
        yield f"with the adapter {', '.join(stats.adapters)}"
    yield f"{stats.tokens_per_second:.1f} tokens/s, the first token after {wait:.3f} s"
    if not stats.accepted:
        return
    mean = sum(stats.accepted) / len(stats.accepted)
    yield f"accepted {mean:.2f} tokens a cycle in {counted(len(stats.accepted), 'cycle')}:"
    most = max(stats.histogram.values())
    for accepted, cycles in stats.histogram.items():
        yield f"{accepted:4}  {'#' * max(1, round(BAR * cycles / most)):{BAR}}  {cycles}"


@click.command()
@click.argument("artifact")
@loading
@prompt_set
@sampling
@strategy
def verify(
    artifact: str,
    model: str | None,
    prompts: str | None,
    count: int,
    chat: bool,
    strategy: str | None,
    **options: Any,
) -> None:
    """Decode the same prompts by AR and by a compiled ARTIFACT; show where they first differ.

    Of several strategies every exact one is tried, and then all of them taking turns.
    """
    from nldc.verify import verify as verify_

    found, pair = verify_(
        artifact,
        model,
        prompts=prompts,
        count=count,
        loading=loading_of(options),
        generation=generation_of(options, "batch_size") | chat_of(options, chat, "--chat"),
        strategy=strategy,
    )
    for each in found:
        for difference in each.differences:
            write("\n".join(_difference_lines(difference, pair.decoder)))
        write(_verdict(each))
    if pair.decoder.model.adapters:
        say(f"with the adapter {', '.join(pair.decoder.model.adapters)}")
    if not all(each.same for each in found):
        raise click.exceptions.Exit(1)


def _difference_lines(difference: Difference, decoder: Decoder) -> Iterator[str]:
    place = f"prompt {difference.prompt}, token {difference.place}"
    yield f"{place}: AR has {difference.expected}, the artifact {difference.found}"
    yield f"  after {', '.join(map(str, difference.before)) or 'the prompt'}"
    try:
        decode = decoder.tokenizer.decode
    except NldcRuntimeError:
        return
    for name, token in (("AR", difference.expected), ("artifact", difference.found)):
        tail = "(end)" if token is None else ""
        tokens = [*difference.before, *(() if token is None else (token,))]
        text = decode(tokens, keep_special_tokens=True)
        yield f"  {name + ':':10} {text!r} {tail}".rstrip()


def _verdict(found: Verified) -> str:
    ar, own = found.nfe
    tokens, prompts = counted(found.tokens, "token"), counted(found.prompts, "prompt")
    cost = f"{tokens} of {prompts}; forwards: AR {ar}, this {own}"
    if found.same:
        return f"{found.strategy}: the same tokens as AR ({cost})"
    return f"{found.strategy}: {len(found.differences)} of {prompts} differ ({cost})"


@click.command()
@click.argument("artifact")
@click.option("--tokens", type=click.IntRange(1), default=48, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def certify(artifact: str, tokens: int, seed: int) -> None:
    """Run a compiled ARTIFACT on a made-up backbone that shows every way to part from AR.

    Needs no model. Every acceptance count occurs, and every cache entry is compared.
    """
    from nldc.certify import certify as certify_

    report = certify_(artifact, tokens=tokens, seed=seed)
    write(report.text(), end="")
    if not report.holds:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("strategies_", metavar="FILE...", nargs=-1, required=True)
@params
@loading
@prompt_set
@sampling
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--write-acceptance",
    type=click.Path(),
    metavar="FILE",
    help="Write how many tokens the steps of the one strategy accepted, for --acceptance.",
)
@click.option("--predict", "figures", help=f"Predict each step beside: {DEVICE_HELP}")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def bench(
    strategies_: tuple[str, ...],
    settings: Settings,
    acceptance: str | None,
    model: str | None,
    prompts: str | None,
    count: int,
    chat: bool,
    repeats: int,
    write_acceptance: str | None,
    figures: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time strategies on the same prompts beside AR; says of each whether its tokens are AR's."""
    from nldc import bench as bench_

    measured = bench_.bench(
        strategies_,
        model,
        settings=settings_of(strategies_, settings, acceptance),
        prompts=prompts,
        count=count,
        repeats=repeats,
        loading=loading_of(options),
        generation=generation_of(options, "batch_size") | chat_of(options, chat, "--chat"),
        write_acceptance=write_acceptance,
        device=figures,
    )
    environment = bench_.environment()
    if as_json:
        rows = [
            {**asdict(line), "tpf": line.tpf, "tps": line.tokens_per_second} for line in measured
        ]
        write(json.dumps({"environment": environment, "results": rows}, indent=2))
        return
    for line in table([_bench_row(line, measured[0]) for line in measured], _BENCH_HEADING):
        write(line)
    if figures is not None:
        write(f"\na step on {figures}, predicted, and as it was measured here:")
        for line in table(list(_predicted_rows(measured)), _PREDICTED_HEADING):
            write(line)
    write("\n" + ", ".join(f"{name} {value}" for name, value in environment.items()))


_BENCH_HEADING = ("strategy", "tokens/s", "to AR", "TPF", "accepted", "first token", "as AR")


_PREDICTED_HEADING = ("strategy", "live", "cached", "floor", "predicted", "measured", "ratio")


def _predicted_rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """Yield a step of each strategy: sequences and tokens in the cache, then milliseconds."""
    for line in measured:
        seen, floor, predicted = line.observed, line.floor, line.predicted
        if seen is None or floor is None or predicted is None:
            continue
        times = (f"{1e3 * seconds:.2f} ms" for seconds in (floor, predicted, seen.seconds))
        ratio = f"{seen.seconds / predicted:.2f}"
        yield (line.strategy, str(seen.live), str(seen.prefix), *times, ratio)


def _bench_row(line: Measured, ar: Measured) -> tuple[str, ...]:
    is_wrong = line.guarantee == "exact" and not line.same
    ratio = line.tokens_per_second / ar.tokens_per_second if ar.tokens_per_second else 0.0
    return (
        " with ".join([line.strategy, *line.adapters]),
        f"{line.tokens_per_second:.1f}",
        "wrong" if is_wrong else f"{ratio:.2f}",
        f"{line.tpf:.2f}",
        f"{line.accepted:.2f}",
        f"{line.time_to_first_token:.3f} s",
        "100 %" if line.same else f"{100 * line.agreement:.1f} %",
    )


@click.command()
@click.argument("strategies_", metavar="[FILE]...", nargs=-1)
@loading
@click.option(
    "--prompts", type=click.Path(), help="File with a prompt a line (text, ids, or JSON)."
)
@click.option("--count", type=click.IntRange(1), default=4, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--block-length",
    "block_lengths",
    type=click.IntRange(2),
    multiple=True,
    default=(4, 8, 16, 32),
    show_default=True,
    help="Rows of a block; may be given again.",
)
@click.option(
    "--budget",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    help="Forwards that the search may spend on a block.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def sol(
    strategies_: tuple[str, ...],
    model: str | None,
    prompts: str | None,
    count: int,
    max_new_tokens: int,
    block_lengths: tuple[int, ...],
    budget: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a checkpoint's ceilings: what oracles commit a forward, and what strategies reach."""
    from nldc import sol as sol_

    report = sol_.sol(
        model,
        strategies_,
        block_lengths=block_lengths,
        prompts=prompts,
        count=count,
        max_new_tokens=max_new_tokens,
        budget=budget,
        loading=loading_of(options),
    )
    if as_json:
        write(json.dumps(report.data(), indent=2))
    else:
        write(report.text(), end="")

"""Commands that decode: run, verify, certify, sol."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import offer_artifacts, offer_strategies
from nldc.cli.machine import as_json, plain, write_document
from nldc.cli.options import (
    chat_of,
    generation_of,
    loading,
    loading_of,
    prompt_set,
    prompts_and_count,
    sampling,
    strategy,
    templating,
    text_ends,
)
from nldc.cli.output import (
    counting,
    hide_notes,
    put,
    refuse_place,
    say,
    start_torch,
    table,
    width_of,
    write,
)
from nldc.diagnostics import counted
from nldc.runtime.errors import NldcRuntimeError, PromptError

if TYPE_CHECKING:
    from nldc.certify import CertifyReport
    from nldc.prompts import Prompt
    from nldc.runtime.decoder import Decoder, Result
    from nldc.runtime.engine.stats import Stats
    from nldc.runtime.step.logprobs import TokenLogprob
    from nldc.trace.document import Trace
    from nldc.verify import Difference, Verified


BAR = 30


@click.command()
@click.argument("artifact", shell_complete=offer_artifacts)
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
@click.option(
    "--image",
    "images",
    type=click.Path(),
    multiple=True,
    help="File with a picture, where the text says <image>, or before the text; may be given "
    "again.",
)
@templating
@sampling
@strategy
@text_ends
@click.option(
    "--logprobs",
    type=int,
    metavar="N",
    help="List the tokens with their log-probabilities, and the N likeliest in place of each; "
    "the text comes whole.",
)
@click.option("--quiet", is_flag=True, help="Leave out notes, and the numbers at the end.")
@click.option(
    "--trace",
    "traced",
    type=click.Path(),
    metavar="FILE",
    help="Write what each step did, for nldc trace. Steps are launched one by one, without graphs.",
)
@click.option(
    "--ahead-only",
    is_flag=True,
    help="Refuse a model or a GPU of which the artifact does not carry every kernel.",
)
@as_json
def run(
    artifact: str,
    model: str | None,
    quiet: bool,
    strategy: str | None,
    keep_special_tokens: bool,
    as_json: bool,
    traced: str | None,
    **options: Any,
) -> None:
    """Decode with a compiled ARTIFACT: text as it comes, then what it cost."""
    if quiet:
        hide_notes()
    if traced is not None:
        from nldc.trace.file import BEGINNING

        refuse_place(traced, BEGINNING)
    prompt, is_chat = _prompt_of(options)
    chat = chat_of(options, is_chat, "--chat or --messages")
    if keep_special_tokens and options["ids"] is not None:
        raise click.UsageError("--keep-special-tokens is for text, and --ids gives token ids")
    generation = generation_of(options, "stop", "logprobs")
    loading = {
        **loading_of(options, traced=traced is not None),
        "ahead_only": options["ahead_only"],
    }
    from nldc.trace.running import watch
    from nldc.verify import load_decoder, named_strategy

    watched = None if traced is None else watch(artifact, model, **loading)
    decoder = watched.decoder if watched else load_decoder(artifact, model, **loading)
    generation |= named_strategy(decoder, strategy)
    generation["skip_special_tokens"] = not keep_special_tokens
    as_whole = as_json or options["ids"] is not None or options["logprobs"] is not None

    def decoded() -> tuple[Stats | None, str | None, Callable[[], None]]:
        """Return what decoding cost, what ended it if that is known, and what shows the rest."""
        if not as_whole:
            return _stream(decoder, prompt, **generation, **chat), None, lambda: None
        given: Any = prompt if options["messages"] is not None else [prompt]
        result = decoder.generate(given, **generation, **chat)

        def show() -> None:
            if as_json:
                write_document(**_run_data(result))
            elif options["ids"] is not None:
                write(",".join(map(str, result.tokens[0])))
            else:
                write(result.text[0])
            if result.logprobs[0] and not as_json:
                write("\n" + "\n".join(_logprob_lines(result.logprobs[0], decoder)))

        return result.stats[0], result.finish[0], show

    if watched is None or traced is None:
        stats, _, show = decoded()
    else:
        try:
            with watched.listening() as recorder:
                stats, finish, show = decoded()
        except (KeyboardInterrupt, BrokenPipeError):
            say(f"\n{traced} is not written: the run did not end")
            raise
        ends = [(0 if stats is None else stats.tokens, finish)]
        _write_trace(watched.trace(recorder, {**generation, "strategy": strategy}, ends), traced)
    show()
    if stats is not None and not quiet:
        say("\n" + "\n".join(stats_lines(stats)))


def _run_data(result: Result) -> dict[str, Any]:
    """Return what a document says of the one prompt that was run."""
    return {
        "text": result.text[0],
        "tokens": result.tokens[0],
        "finish": result.finish[0],
        "stats": stats_data(result.stats[0]),
        "logprobs": [
            {"token": each.token, "logprob": each.logprob, "top": list(each.top)}
            for each in result.logprobs[0]
        ],
    }


def stats_data(stats: Stats) -> dict[str, Any]:
    """Return what a run cost as plain data, with what follows from it."""
    return {**plain(stats), "tpf": stats.tpf, "tokens_per_second": stats.tokens_per_second}


def _write_trace(trace: Trace, file: str) -> None:
    from nldc.trace.file import text_of

    put(file, text_of(trace))


def _prompt_of(options: Mapping[str, Any]) -> tuple[Prompt, bool]:
    """Return the prompt that is given, and whether it is a message or a conversation."""
    from nldc.pictures import with_pictures
    from nldc.prompts import parse_ids, read_messages

    names = ("prompt", "chat", "messages", "file", "ids")
    given = [name for name in names if options[name] is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --prompt, --chat, --file and --ids, or --messages")
    kind, value, images = given[0], options[given[0]], options["images"]
    if images and kind in ("messages", "ids"):
        raise click.UsageError(f"--image goes with a text, and --{kind} is none")
    if kind == "messages":
        return read_messages(value), True
    if kind == "ids":
        return parse_ids(value), False
    text = _read(value) if kind == "file" else value
    return with_pictures(text, images) if images else text, kind == "chat"


def _read(name: str) -> str:
    try:
        with click.open_file(name, encoding="utf-8") as file:
            return str(file.read())
    except OSError as error:
        raise PromptError(f"cannot read {name}: {error.strerror}", None) from None
    except UnicodeDecodeError:
        name = "standard input" if name == "-" else name
        raise PromptError(f"{name} is not UTF-8 text", "save it as UTF-8") from None


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


def _logprob_lines(found: Sequence[TokenLogprob], decoder: Decoder) -> Iterator[str]:
    has_text = decoder.reader.any_tokenizer is not None

    def shown(token: int) -> str:
        if not has_text:
            return str(token)
        return f"{token} {decoder.tokenizer.decode([token], keep_special_tokens=True)!r}"

    def likeliest(each: TokenLogprob) -> str:
        return ", ".join(f"{shown(token)} {logprob:.4f}" for token, logprob in each.top)

    rows = [(shown(each.token), f"{each.logprob:.4f}", likeliest(each)) for each in found]
    yield from table(rows, ("token", "logprob", "likeliest" if found[0].top else ""))


def stats_lines(stats: Stats) -> Iterator[str]:
    """Yield what a run cost as lines of text."""
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
    width = width_of(sys.stderr)
    bar = BAR if width is None else max(1, min(BAR, width - len(f"{most:8}  ")))
    for accepted, cycles in stats.histogram.items():
        yield f"{accepted:4}  {'#' * max(1, round(bar * cycles / most)):{bar}}  {cycles}"


@click.command()
@click.argument("artifact", shell_complete=offer_artifacts)
@loading
@prompt_set
@sampling
@strategy
@as_json
def verify(
    artifact: str,
    model: str | None,
    prompts: str | None,
    count: int,
    chat: bool,
    strategy: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Decode the same prompts by AR and by a compiled ARTIFACT; show where they first differ.

    Of several strategies every exact one is tried, and then all of them taking turns.
    """
    generation = generation_of(options, "batch_size") | chat_of(options, chat, "--chat")
    loading = loading_of(options)
    from nldc.verify import verify as verify_

    with counting("decoding") as progress:
        found, pair = verify_(
            artifact,
            model,
            prompts=prompts,
            count=count,
            loading=loading,
            generation=generation,
            strategy=strategy,
            progress=progress,
        )
    same = all(each.same for each in found)
    if as_json:
        trials = [
            {**plain(each), "nfe": each.nfe[1], "ar_nfe": each.nfe[0], "same": each.same}
            for each in found
        ]
        write_document(ok=same, trials=trials, adapters=list(pair.decoder.model.parts))
    else:
        for each in found:
            for difference in each.differences:
                write("\n".join(_difference_lines(difference, pair.decoder)))
            write(_verdict(each))
    if pair.decoder.model.parts:
        say(f"with the adapter {', '.join(pair.decoder.model.parts)}")
    if not same:
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
    verb = "differs" if found.prompts == 1 else "differ"
    return f"{found.strategy}: {len(found.differences)} of {prompts} {verb} ({cost})"


@click.command()
@click.argument("artifact", shell_complete=offer_artifacts)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="How many tokens of each sequence are held against AR's.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of what the backbone makes up."
)
@as_json
def certify(artifact: str, tokens: int, seed: int, as_json: bool) -> None:
    """Run a compiled ARTIFACT on a made-up backbone that shows every way to part from AR.

    Needs no model. Every acceptance count occurs, and every cache entry is compared.
    """
    start_torch()
    from nldc.certify import certify as certify_

    with counting("running it") as progress:
        report = certify_(artifact, tokens=tokens, seed=seed, progress=progress)
    if as_json:
        write_document(ok=report.holds, **_report_data(report))
    else:
        write(report.text(), end="")
    if not report.holds:
        raise click.exceptions.Exit(1)


def _report_data(report: CertifyReport) -> dict[str, Any]:
    """Return what was run and found, with the steps by how many tokens they emitted."""
    parts = [_report_data(part) for part in report.parts]
    counts = {**plain(report), "accepted": dict(report.accepted), "parts": parts}
    return {**counts, "holds": report.holds}


@click.command()
@click.argument("strategies_", metavar="[FILE]...", nargs=-1, shell_complete=offer_strategies)
@loading
@prompts_and_count(4)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="The most tokens of an answer.",
)
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
@as_json
def sol(
    strategies_: tuple[str, ...],
    model: str | None,
    prompts: str | None,
    chat: bool,
    count: int,
    max_new_tokens: int,
    block_lengths: tuple[int, ...],
    budget: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a checkpoint's ceilings: what oracles commit a forward, and what strategies reach."""
    templating = chat_of(options, chat, "--chat")
    loading = loading_of(options)
    from nldc import sol as sol_

    with counting("measuring") as progress:
        report = sol_.sol(
            model,
            strategies_,
            block_lengths=block_lengths,
            prompts=prompts,
            count=count,
            max_new_tokens=max_new_tokens,
            budget=budget,
            loading=loading,
            templating=templating,
            progress=progress,
        )
    if as_json:
        write_document(**report.data())
    else:
        write(report.text(width_of(sys.stdout)), end="")

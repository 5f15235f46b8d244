"""The `nldc` command: arguments in, a call of the library, text and an exit code out.

Exit codes: 0 fine, 1 a mistake of the user's or a difference found, 2 a wrong command line,
70 a bug of ours, 130 interrupted. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from nldc import __version__
from nldc.diagnostics import Diagnostic, InternalError, StrategyError
from nldc.render import printable, render_json, render_line, render_text, summarize
from nldc.runtime.errors import NldcRuntimeError, PromptError

if TYPE_CHECKING:
    from nldc.api import Checked
    from nldc.bench import Measured
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.stats import Stats
    from nldc.verify import Difference, Verified

Command = TypeVar("Command", bound=Callable[..., Any])

BAR = 30
_NUMBER = re.compile(r"[\d.]+( s)?|wrong")
INTERNAL = 70
INTERRUPTED = 130


class _Commands(click.Group):
    """Turns what a command raises into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except StrategyError as error:
            _say(render_text(error.diagnostics, color=_colored(sys.stderr)))
            _say(summarize(error.diagnostics))
            ctx.exit(1)
        except NldcRuntimeError as error:
            _say_error(error.message, error.hint)
            ctx.exit(1)
        except KeyboardInterrupt:
            _say("\ninterrupted")
            ctx.exit(INTERRUPTED)
        except MemoryError:
            _say_error("there is not enough memory", "use a smaller model or dtype bfloat16")
            ctx.exit(1)
        except InternalError as error:
            _say(str(error))
            ctx.exit(INTERNAL)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _say_error(f"{place}{(error.strerror or str(error)).lower()}", None)
            ctx.exit(1)
        except Exception as error:
            if _is_interrupt(error):
                _say("\ninterrupted")
                ctx.exit(INTERRUPTED)
            if type(error).__name__ == "OutOfMemoryError":
                _say_error(
                    "the device has not enough memory", "use dtype bfloat16, or fewer prompts"
                )
                ctx.exit(1)
            _say(traceback.format_exc())
            _say(str(InternalError(f"{type(error).__name__}: {error}")))
            ctx.exit(INTERNAL)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library in the middle of an import may wrap it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_error(message: str, hint: str | None) -> None:
    _say(f"{click.style('error', fg='red', bold=True)}: {printable(message)}")
    if hint:
        _say(f"{click.style('help', fg='cyan', bold=True)}: {printable(hint)}")


def _colored(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _table(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> Iterator[str]:
    """Yield lines with their columns aligned, columns of numbers to the right."""
    lines = [heading, *rows] if heading else list(rows)
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [
        all(_NUMBER.fullmatch(cell) for cell in column[1 if heading else 0 :]) for column in columns
    ]
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        yield "  ".join(cells).rstrip()


# Options that commands share


class _Setting(click.ParamType[tuple[str, int | float]]):
    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | float]:
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        try:
            return name, int(text)
        except ValueError:
            pass
        try:
            return name, float(text)
        except ValueError:
            self.fail(f"{text!r} is not a number", param, ctx)


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_settings = click.option(
    "--set", "settings", type=_Setting(), multiple=True, help="Give a param another value."
)
_loading = _options(
    click.option("--model", type=click.Path(), help="Checkpoint folder (default: the demo model)."),
    click.option(
        "--adapter", default="auto", show_default=True, help="Adapter folder, `auto` or `none`."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="What the weights are computed in.",
    ),
    click.option("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)."),
    click.option(
        "--backend", type=click.Choice(["torch", "triton"]), help="Who computes attention."
    ),
)
_sampling = _options(
    click.option("--max-new-tokens", type=int, default=128, show_default=True),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."),
    click.option("--top-k", type=int),
    click.option("--top-p", type=float),
    click.option("--min-p", type=float),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option(
        "--max-thinking-tokens", type=int, help="End thinking after so many tokens, in any mode."
    ),
    click.option(
        "--end-think-token-id", type=int, help="Token that ends thinking (default: the model's)."
    ),
)
_prompt_set = _options(
    click.option(
        "--prompts", type=click.Path(), help="File with a prompt a line (text, ids, or JSON)."
    ),
    click.option(
        "--count", type=click.IntRange(1), default=8, show_default=True, help="How many prompts."
    ),
    click.option(
        "--batch", "batch_size", type=click.IntRange(1), help="Sequences at a time (default: all)."
    ),
)

_strategy = click.option(
    "--strategy",
    help="Of an artifact with several: NAME, or NAME:TOKENS,NAME to switch after so many tokens.",
)

_LOADING = ("adapter", "dtype", "device", "backend")
_SAMPLING = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"),
    *("max_thinking_tokens", "end_think_token_id"),
)


def _loading_of(options: Mapping[str, Any]) -> dict[str, Any]:
    loading = {name: options[name] for name in _LOADING}
    if loading["adapter"] == "none":
        loading["adapter"] = None
    return loading


def _generation_of(options: Mapping[str, Any], *more: str) -> dict[str, Any]:
    return {name: options[name] for name in (*_SAMPLING, *more)}


# Commands


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nldc")
def cli() -> None:
    """Check, compile and run decoding strategies written in YAML."""


def _promise(checked: Checked) -> str:
    """Return what the file promises; an `exact` that could not be proved was refused."""
    return "exact (proved)" if checked.guarantee == "exact" else checked.guarantee


@cli.command()
@click.argument("files", nargs=-1, required=True)
@_settings
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "line", "json"]),
    default="text",
    show_default=True,
    help="How mistakes are written.",
)
def check(files: tuple[str, ...], settings: tuple[tuple[str, int | float], ...], form: str) -> None:
    """Check strategy FILES (or strategies of the library): all mistakes at once."""
    from nldc import api

    found: list[Diagnostic] = []
    for file in files:
        try:
            checked = api.check(file, dict(settings))
        except StrategyError as error:
            found += error.diagnostics
        else:
            found += checked.warnings
            if form == "text":
                click.echo(f"{file}: {checked.graph.name} is fine; guarantee: {_promise(checked)}")
    if form == "json":
        click.echo(render_json(found))
    elif form == "line":
        for diagnostic in found:
            click.echo(render_line(diagnostic))
    elif found:
        _say(render_text(found, color=_colored(sys.stderr)))
        _say(summarize(found))
    if any(diagnostic.severity == "error" for diagnostic in found):
        raise click.exceptions.Exit(1)


@cli.command("compile")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(), help="Folder to write.")
@_settings
def compile_(
    files: tuple[str, ...], out: str, settings: tuple[tuple[str, int | float], ...]
) -> None:
    """Compile strategy FILES (or strategies of the library) into one folder that Python imports.

    Of several, the first is the default; `nldc run --strategy` names another. A setting goes to
    every file that has such a param.
    """
    from nldc import api

    checked = api.check_together(files, dict(settings))
    warnings = [warning for each in checked for warning in each.warnings]
    if warnings:
        _say(render_text(warnings, color=_colored(sys.stderr)))
    click.echo(f"wrote {api.write(checked, out)}")
    if len(checked) > 1:
        for line in _switch_lines(api.switching(checked)):
            click.echo(line)


def _switch_lines(handovers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say between which strategies a sequence may go from one step to the next, and why not."""
    yield "between steps a sequence may go on with another strategy:"
    rows = [(f"  {name}", "->", ", ".join(data["switches"]) or "none")
            for name, data in handovers.items()]  # fmt: skip
    yield from _table(rows)
    for name, data in handovers.items():
        for other, reason in data["refused"].items():
            yield f"  not from {name} to {other}: {reason}"


@cli.command()
@click.argument("artifact")
@_loading
@click.option("--prompt", help="Text to continue.")
@click.option("--chat", help="A message to answer, through the chat template.")
@click.option("--file", "file", type=click.Path(), help="File with text to continue; - for stdin.")
@click.option("--ids", help="Token ids to continue, as in 1,17,42; token ids come out.")
@_sampling
@_strategy
@click.option("--stop", multiple=True, help="End before this text; may be given again.")
@click.option("--quiet", is_flag=True, help="Leave out the numbers at the end.")
def run(
    artifact: str, model: str | None, quiet: bool, strategy: str | None, **options: Any
) -> None:
    """Decode with a compiled ARTIFACT: text as it comes, then what it cost."""
    prompt, is_chat = _prompt_of(options)
    from nldc.verify import load_decoder, named_strategy

    decoder = load_decoder(artifact, model, **_loading_of(options))
    generation = _generation_of(options, "stop") | named_strategy(decoder, strategy)
    if isinstance(prompt, list):
        result = decoder.generate([prompt], **generation)
        click.echo(",".join(map(str, result.tokens[0])))
        stats: Stats | None = result.stats[0]
    else:
        stats = _stream(decoder, prompt, chat=is_chat, **generation)
    if stats is not None and not quiet:
        _say("\n" + "\n".join(_stats_lines(stats)))


def _prompt_of(options: Mapping[str, Any]) -> tuple[str | list[int], bool]:
    from nldc.prompts import parse_ids

    given = [name for name in ("prompt", "chat", "file", "ids") if options[name] is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --prompt, --chat, --file and --ids")
    value = options[given[0]]
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


def _stream(decoder: Decoder, prompt: str, **options: Any) -> Stats | None:
    """Print the text as it comes and return what it cost."""
    pieces = iter(decoder.stream(prompt, **options))
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            click.echo()
            stats: Stats | None = end.value
            return stats
        click.echo(piece, nl=False)


def _stats_lines(stats: Stats) -> Iterator[str]:
    yield f"{stats.tokens} tokens in {stats.nfe} forwards: {stats.tpf:.2f} tokens a forward"
    wait = stats.time_to_first_token
    yield f"{stats.tokens_per_second:.1f} tokens/s, the first token after {wait:.3f} s"
    if not stats.accepted:
        return
    mean = sum(stats.accepted) / len(stats.accepted)
    yield f"accepted {mean:.2f} tokens a cycle in {len(stats.accepted)} cycles:"
    most = max(stats.histogram.values())
    for accepted, cycles in stats.histogram.items():
        yield f"{accepted:4}  {'#' * max(1, round(BAR * cycles / most)):{BAR}}  {cycles}"


@cli.command()
@click.argument("artifact")
@_loading
@_prompt_set
@_sampling
@_strategy
def verify(
    artifact: str,
    model: str | None,
    prompts: str | None,
    count: int,
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
        loading=_loading_of(options),
        generation=_generation_of(options, "batch_size"),
        strategy=strategy,
    )
    for each in found:
        for difference in each.differences:
            click.echo("\n".join(_difference_lines(difference, pair.decoder)))
        click.echo(_verdict(each))
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
        text = decode([*difference.before, *(() if token is None else (token,))])
        yield f"  {name + ':':10} {text!r} {tail}".rstrip()


def _verdict(found: Verified) -> str:
    ar, own = found.nfe
    cost = f"{found.tokens} tokens of {found.prompts} prompts; forwards: AR {ar}, this {own}"
    if found.same:
        return f"{found.strategy}: the same tokens as AR ({cost})"
    return f"{found.strategy}: {len(found.differences)} of {found.prompts} prompts differ ({cost})"


@cli.command()
@click.argument("artifact")
@click.option("--tokens", type=click.IntRange(1), default=48, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def certify(artifact: str, tokens: int, seed: int) -> None:
    """Run a compiled ARTIFACT on a made-up backbone that shows every way to part from AR.

    Needs no model. Every acceptance count occurs, and every cache entry is compared.
    """
    from nldc.certify import certify as certify_

    report = certify_(artifact, tokens=tokens, seed=seed)
    click.echo(report.text(), nl=False)
    if not report.holds:
        raise click.exceptions.Exit(1)


@cli.command()
@click.argument("strategies_", metavar="FILE...", nargs=-1, required=True)
@_settings
@_loading
@_prompt_set
@_sampling
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def bench(
    strategies_: tuple[str, ...],
    settings: tuple[tuple[str, int | float], ...],
    model: str | None,
    prompts: str | None,
    count: int,
    repeats: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Time strategies on the same prompts beside AR; says of each whether its tokens are AR's."""
    from nldc import bench as bench_

    measured = bench_.bench(
        strategies_,
        model,
        settings=dict(settings),
        prompts=prompts,
        count=count,
        repeats=repeats,
        loading=_loading_of(options),
        generation=_generation_of(options, "batch_size"),
    )
    environment = bench_.environment()
    if as_json:
        rows = [{**vars(line), "tpf": line.tpf, "tps": line.tokens_per_second} for line in measured]
        click.echo(json.dumps({"environment": environment, "results": rows}, indent=2))
        return
    for line in _table([_bench_row(line, measured[0]) for line in measured], _BENCH_HEADING):
        click.echo(line)
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in environment.items()))


_BENCH_HEADING = ("strategy", "tokens/s", "to AR", "TPF", "accepted", "first token", "as AR")


def _bench_row(line: Measured, ar: Measured) -> tuple[str, ...]:
    is_wrong = line.guarantee == "exact" and not line.same
    ratio = line.tokens_per_second / ar.tokens_per_second if ar.tokens_per_second else 0.0
    return (
        line.strategy,
        f"{line.tokens_per_second:.1f}",
        "wrong" if is_wrong else f"{ratio:.2f}",
        f"{line.tpf:.2f}",
        f"{line.accepted:.2f}",
        f"{line.time_to_first_token:.3f} s",
        "100 %" if line.same else f"{100 * line.agreement:.1f} %",
    )


@cli.command()
@click.argument("strategies_", metavar="[FILE]...", nargs=-1)
@_loading
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
        loading=_loading_of(options),
    )
    if as_json:
        click.echo(json.dumps(report.data(), indent=2))
    else:
        click.echo(report.text(), nl=False)


@cli.command()
@click.argument("what", metavar="FILE|CODE")
@_settings
def explain(what: str, settings: tuple[tuple[str, int | float], ...]) -> None:
    """Explain an error CODE, or the graph, masks and promise of a strategy FILE."""
    from nldc import errors

    code = what.upper()
    if re.fullmatch(r"NLD\d+", code):
        if code not in errors.REGISTRY:
            raise click.BadParameter(
                f"{code} is no error code; they are {', '.join(errors.REGISTRY)}"
            )
        click.echo(errors.page(errors.REGISTRY[code]), nl=False)
        return
    from nldc import api
    from nldc.explain import explain as explain_

    click.echo(explain_(api.check(what, dict(settings))), nl=False)


@cli.command("diff")
@click.argument("a")
@click.argument("b")
def diff(a: str, b: str) -> None:
    """Tell in what strategies A and B differ, and where their outputs can part.

    A strategy is a file, or the name of one of the library; FILE@PRESET sets its open attributes as
    an engine has them, as in block_diffusion@vllm.
    """
    from nldc import api
    from nldc import diff as diff_

    found = diff_.diff(api.check(a), api.check(b), (a, b))
    click.echo(diff_.render(found), nl=False)
    if not found.same:
        raise click.exceptions.Exit(1)


@cli.command()
def strategies() -> None:
    """List the strategies of the library."""
    from nldc import api

    checked = [api.check(name) for name in api.library()]
    rows = [(each.graph.name, _promise(each), each.graph.summary) for each in checked]
    for line in _table(rows, ("name", "guarantee", "what it does")):
        click.echo(line)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of strategy files, for editors."""
    from nldc.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@cli.command()
def doctor() -> None:
    """Tell what this machine can run, and why not the rest."""
    from nldc.doctor import examine

    findings = list(examine())
    rows = [("ok" if each.usable else "no", each.name, each.detail) for each in findings]
    for line in _table(rows):
        click.echo(line)
    if any(each.needed and not each.usable for each in findings):
        raise click.exceptions.Exit(1)


@cli.command("import-gguf")
@click.argument("file", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(), help="Folder to write.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="What the weights are stored as.",
)
@click.option("--mask-token", help="Id or text of the token that stands for masked rows.")
def import_gguf(file: str, out: str, dtype: str, mask_token: str | None) -> None:
    """Turn a Llama model in a GGUF FILE into a checkpoint folder."""
    from nldc.import_gguf import import_gguf as import_gguf_

    mask = int(mask_token) if mask_token and mask_token.isdecimal() else mask_token
    report = import_gguf_(file, out, dtype=dtype, mask_token=mask)
    click.echo(str(report))


@cli.group()
def train() -> None:
    """Train a tri-mode model from scratch, or the LoRA drafter of a checkpoint."""


@train.command("base")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the state in OUT.")
@_settings
def train_base(out: Path, resume: bool, settings: tuple[tuple[str, int | float], ...]) -> None:
    """Train the demo model's recipe on the standard library's source: OUT/checkpoint."""
    from nldc import training

    click.echo(f"wrote {training.train_base(out, dict(settings), resume)}")


@train.command("drafter")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: the checkpoint.")
@_settings
def train_drafter(
    checkpoint: Path, out: Path | None, settings: tuple[tuple[str, int | float], ...]
) -> None:
    """Train a LoRA drafter against the frozen verifier: OUT/linear_spec_lora."""
    from nldc import training

    click.echo(f"wrote {training.train_drafter(checkpoint, out, dict(settings))}")


def main() -> None:
    """Run the command line; the entry point of the `nldc` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack some characters
    cli(prog_name="nldc")


if __name__ == "__main__":
    main()

"""Commands for who writes strategies: check, compile, explain, diff, strategies, schema."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.costing import DEVICE_HELP, refuse_without_device, setting, setting_of
from nldc.cli.options import Settings, limits, limits_of, params, settings_of
from nldc.cli.output import colored, say, say_painted, table, write
from nldc.diagnostics import Diagnostic, StrategyError
from nldc.render import render_json, render_line, render_text, summarize

if TYPE_CHECKING:
    from nldc.ahead.compiling import Ahead
    from nldc.api import Checked
    from nldc.codegen.stages import Stage


def _promise(checked: Checked) -> str:
    """Return what the file promises; an `exact` that could not be proved was refused."""
    return "exact (proved)" if checked.guarantee == "exact" else checked.guarantee


@click.command()
@click.argument("files", nargs=-1, required=True)
@params
@limits
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "line", "json"]),
    default="text",
    show_default=True,
    help="How mistakes are written.",
)
def check(
    files: tuple[str, ...],
    settings: Settings,
    acceptance: str | None,
    form: str,
    **options: Any,
) -> None:
    """Check strategy FILES (or strategies of the library): all mistakes at once."""
    from nldc import api

    found: list[Diagnostic] = []
    given = settings_of(files, settings, acceptance)
    shared = set(given) - set(dict(settings))
    for file in files:
        others = shared - api.params_of(file)
        try:
            own = {n: v for n, v in given.items() if n not in others}
            checked = api.check(file, own, limits=limits_of(options))
        except StrategyError as error:
            found += error.diagnostics
        else:
            found += checked.warnings
            if form == "text":
                promise = f"guarantee: {_promise(checked)}{_for_params(checked)}"
                write(f"{file}: {checked.graph.name} is fine; {promise}")
    if form == "json":
        write(render_json(found))
    elif form == "line":
        for diagnostic in found:
            write(render_line(diagnostic))
    elif found:
        say_painted(render_text(found, color=colored(sys.stderr)))
        say(summarize(found))
    if any(diagnostic.severity == "error" for diagnostic in found):
        raise click.exceptions.Exit(1)


def _for_params(checked: Checked) -> str:
    """Return for which values of its params a strategy was checked."""
    values = ", ".join(f"{name} = {value}" for name, value in checked.graph.shown.items())
    return f", for {values}" if values else ""


@click.command("compile")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(), help="Folder to write.")
@click.option(
    "--emit",
    "stage",
    type=click.Choice(["graph", "program", "python", "kernels"]),
    help="Print this stage of one strategy instead of writing a folder.",
)
@params
@limits
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Put all kernels for this GPU, cuda:90 or hip:gfx942, into the artifact, and say what "
    "they take; may be given again.",
)
@click.option(
    "--geometry",
    metavar="NAME|FOLDER",
    help="With --target: the model that kernels are for, 3b, 8b, 14b or a checkpoint's folder "
    "(default: --model's, or the demo model).",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    help="With --target: the most sequences at a time that kernels are for (default: 8).",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="With --target: processes that compile (default: one a processor).",
)
@click.option(
    "--model",
    type=click.Path(),
    help="Checkpoint that params follow which are not set, as block_length follows its block_size; "
    "with --target also what kernels are for, unless --geometry says.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="With --target: what is computed in (default: bfloat16).",
)
@click.option(
    "--certify/--no-certify",
    "certified",
    default=True,
    help="Run the artifact on a made-up backbone before it is written (default: do).",
)
def compile_(
    files: tuple[str, ...],
    out: str | None,
    stage: Stage | None,
    settings: Settings,
    acceptance: str | None,
    targets: tuple[str, ...],
    geometry: str | None,
    batch: int | None,
    jobs: int | None,
    model: str | None,
    dtype: str | None,
    certified: bool,
    **options: Any,
) -> None:
    """Compile strategy FILES (or strategies of the library) into one folder that Python imports.

    Of several, the first is the default; `nldc run --strategy` names another. A setting goes to
    every file that has such a param, a checkpoint's value to every param that follows it. An
    artifact whose own code does not keep its promise when it is run is not written. With --emit
    nothing is written or run.
    """
    from nldc import api

    given_ahead = {"--dtype": dtype, "--geometry": geometry, "--batch": batch, "--jobs": jobs}
    for name, value in given_ahead.items():
        if value is not None and not targets:
            raise click.UsageError(f"{name} says what --target compiles for: give a target")
    if stage is not None:
        if out is not None or targets:
            other = "-o" if out is not None else "--target"
            raise click.UsageError(f"--emit prints and writes nothing: leave {other} out")
        if len(files) > 1:
            raise click.UsageError(f"--emit prints one strategy, not {len(files)}: give one FILE")
    elif out is None:
        raise click.UsageError("Missing option '-o' / '--out', or '--emit' to print a stage.")
    given = settings_of(files, settings, acceptance)
    checked = api.check_together(files, given, model, limits=limits_of(options))
    warnings = [warning for each in checked for warning in each.warnings]
    if warnings:
        say_painted(render_text(warnings, color=colored(sys.stderr)))
    if stage is not None:
        write(api.emit(checked[0], stage), end="")
        return
    assert out is not None
    ahead = None
    if targets:
        from nldc.ahead.compiling import BATCH, compile_ahead

        ahead = compile_ahead(
            checked,
            targets,
            geometry=geometry or model,
            dtype=dtype or "bfloat16",
            batch=batch or BATCH,
            jobs=jobs,
        )
    attached = None if ahead is None else ahead.files
    folder = api.write(checked, out, certify=certified, attached=attached)
    write(f"wrote {folder}")
    for line in _count_lines(checked):
        write(line)
    if len(checked) > 1:
        certificate = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        for line in _switch_lines(certificate["between_steps"]):
            write(line)
    if ahead is not None:
        for line in _kernel_lines(ahead):
            write(line)


def _count_lines(checked: Sequence[Checked]) -> Iterator[str]:
    """Say what each step counts at most, of launches and waits."""
    from nldc.limits import counts_of, in_words

    for each in checked:
        owner = f"{each.graph.name}: " if len(checked) > 1 else ""
        yield from (f"{owner}{in_words(counts)}" for counts in counts_of(each.graph))


def _kernel_lines(ahead: Ahead) -> Iterator[str]:
    """Say what the kernels take that were compiled, target by target."""
    from nldc.ahead.text import HEADING, headline, lines_of, spilling

    for target, kernels in ahead.coverage.kernels.items():
        yield f"{headline(ahead, target)}:"
        found = kernels.values()
        yield from (f"  {line}" for line in table(list(lines_of(found)), HEADING))
        yield from (f"  {line}" for line in spilling(found))
    yield f"compiled in {ahead.seconds:.0f} s; what each kernel takes is in kernels.json"


def _switch_lines(handovers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say between which strategies a sequence may go from one step to the next, and why not."""
    yield "between steps a sequence may go on with another strategy:"
    rows = [(f"  {name}", "->", ", ".join(data["switches"]) or "none")
            for name, data in handovers.items()]  # fmt: skip
    yield from table(rows)
    for name, data in handovers.items():
        for other, reason in data["refused"].items():
            yield f"  not from {name} to {other}: {reason}"


@click.command()
@click.argument("what", metavar="FILE|CODE")
@params
@click.option("--device", help=f"Predict what a step costs there: {DEVICE_HELP}")
@setting
def explain(
    what: str,
    settings: Settings,
    acceptance: str | None,
    device: str | None,
    **options: Any,
) -> None:
    """Explain an error CODE, or the graph, masks and promise of a strategy FILE.

    With --device, what each of its forwards and a whole step cost there: bytes, operations, the
    floor below which no kernel can be, and a prediction (docs/performance.md).
    """
    profiles = _profiles_of(what) if acceptance is not None else ()
    if device is None:
        refuse_without_device({"acceptance": None if profiles else acceptance, **options})
    from nldc import errors

    code = what.upper()
    if re.fullmatch(r"NLD\d+", code):
        if code not in errors.REGISTRY:
            meant = _nearest_code(code, errors.REGISTRY)
            raise click.BadParameter(
                f"{code} is no error code; {meant} is, and docs/errors has a page for each"
            )
        write(errors.page(errors.REGISTRY[code]), end="")
        return
    from nldc import api
    from nldc.acceptance import read_acceptance

    profile = None if acceptance is None else read_acceptance(acceptance)
    dealt = {} if profile is None else dict.fromkeys(profiles, profile.profile)
    checked = api.check(what, {**dict(settings), **dealt}, others=False)
    if device is not None:
        from nldc.cost.text import show_costs

        write(show_costs(checked.graph, setting_of(device, options), profile), end="")
        return
    from nldc.explain import explain as explain_

    write(explain_(checked), end="")


def _profiles_of(file: str) -> frozenset[str]:
    from nldc import api

    return api.profiles_of(file)


def _nearest_code(code: str, known: Iterable[str]) -> str:
    """Return the code whose number begins alike, as NLD031 for nld31, or else lies nearest."""
    number = int(code[3:12])
    return min(known, key=lambda each: (abs(int(each[3:]) - number), each))


@click.command("diff")
@click.argument("a")
@click.argument("b")
def diff(a: str, b: str) -> None:
    """Tell in what strategies A and B differ, and where their outputs can part.

    A strategy is a file, or the name of one of the library; FILE@PRESET sets its open attributes as
    an engine has them, as in block_diffusion@vllm.
    """
    from nldc import api
    from nldc import diff as diff_

    found = diff_.diff(api.check(a, others=False), api.check(b, others=False), (a, b))
    write(diff_.render(found), end="")
    if not found.same:
        raise click.exceptions.Exit(1)


@click.command()
def strategies() -> None:
    """List the strategies of the library."""
    from nldc import api

    checked = [api.check(name, others=False) for name in api.library()]
    rows = [(each.graph.name, _promise(each), each.graph.summary) for each in checked]
    for line in table(rows, ("name", "guarantee", "what it does")):
        write(line)


@click.command()
def schema() -> None:
    """Print the JSON Schema of strategy files, for editors."""
    from nldc.schema import json_schema

    write(json.dumps(json_schema(), indent=2))

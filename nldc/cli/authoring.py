"""Commands for who writes strategies: check, compile, explain, diff, strategies, schema."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import (
    offer_artifacts,
    offer_codes,
    offer_figures,
    offer_geometries,
    offer_strategies,
    offer_targets,
)
from nldc.cli.costing import DEVICE_HELP, refuse_without_device, setting, setting_of
from nldc.cli.machine import as_json, json_anyway, plain, write_document
from nldc.cli.options import Settings, limits, limits_of, params, settings_of
from nldc.cli.output import (
    USUAL,
    colored,
    counting,
    put,
    say_diagnostics,
    say_mistakes,
    start_torch,
    table,
    width_of,
    write,
    write_painted,
)
from nldc.diagnostics import Diagnostic, StrategyError
from nldc.render import diagnostic_data, render_json, render_line

if TYPE_CHECKING:
    from nldc.ahead.compiling import Ahead
    from nldc.api import Checked
    from nldc.codegen.stages import Stage
    from nldc.explain.model import Explained


def _promise(checked: Checked) -> str:
    """Return what the file promises; an `exact` that could not be proved was refused."""
    return "exact (proved)" if checked.guarantee == "exact" else checked.guarantee


@click.command()
@click.argument("files", nargs=-1, required=True, shell_complete=offer_strategies)
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
@as_json
def check(
    files: tuple[str, ...],
    settings: Settings,
    acceptance: str | None,
    form: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Check strategy FILES (or strategies of the library): all mistakes at once."""
    from nldc import api

    found: list[Diagnostic] = []
    fine: list[dict[str, Any]] = []
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
            fine.append(_strategy_data(file, checked))
            if form == "text" and not as_json:
                promise = f"guarantee: {_promise(checked)}{_for_params(checked)}"
                write(f"{file}: {checked.graph.name} is fine; {promise}")
    if form == "json" and not as_json:
        write(render_json(found))
    elif form == "line" and not as_json:
        for diagnostic in found:
            write(render_line(diagnostic))
    elif found:
        say_mistakes(found)
    failed = any(diagnostic.severity == "error" for diagnostic in found)
    if as_json:
        shown = [diagnostic_data(diagnostic) for diagnostic in found]
        write_document(ok=not failed, strategies=fine, diagnostics=shown)
    if failed:
        raise click.exceptions.Exit(1)


def _strategy_data(file: str, checked: Checked) -> dict[str, Any]:
    """Return what a document says of a strategy that is fine."""
    graph = checked.graph
    return {
        "file": file,
        "name": graph.name,
        "summary": graph.summary,
        "guarantee": graph.guarantee,
        "proved": graph.guarantee == "exact",
        "params": dict(graph.settings),
    }


def _for_params(checked: Checked) -> str:
    """Return for which values of its params a strategy was checked."""
    values = ", ".join(f"{name} = {value}" for name, value in checked.graph.shown.items())
    return f", for {values}" if values else ""


@click.command("compile")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, shell_complete=offer_strategies
)
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
    shell_complete=offer_targets,
    help="Put all kernels for this GPU, cuda:90 or hip:gfx942, into the artifact, and say what "
    "they take; may be given again.",
)
@click.option(
    "--geometry",
    metavar="NAME|FOLDER",
    shell_complete=offer_geometries,
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
@as_json
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
    as_json: bool,
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
        say_diagnostics(warnings)
    shown = [diagnostic_data(warning) for warning in warnings]
    if stage is not None:
        text = api.emit(checked[0], stage)
        if as_json:
            write_document(stage=stage, text=text, diagnostics=shown)
        else:
            write(text, end="")
        return
    assert out is not None
    ahead = None
    if targets:
        from nldc.ahead.compiling import BATCH, compile_ahead

        with counting("compiling kernels") as progress:
            ahead = compile_ahead(
                checked,
                targets,
                geometry=geometry or model,
                dtype=dtype or "bfloat16",
                batch=batch or BATCH,
                jobs=jobs,
                progress=progress,
            )
    attached = None if ahead is None else ahead.files
    if certified:
        start_torch()
    with counting("running it") as progress:
        folder = api.write(checked, out, certify=certified, attached=attached, progress=progress)
    if as_json:
        write_document(**_artifact_data(folder, files, checked, ahead), diagnostics=shown)
        return
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


def _artifact_data(
    folder: Path, files: Sequence[str], checked: Sequence[Checked], ahead: Ahead | None
) -> dict[str, Any]:
    """Return what a document says of an artifact that was written."""
    from nldc.limits import NOUNS, counts_of

    strategies = [
        {
            **_strategy_data(file, each),
            "steps": {
                counts.step: {name: getattr(counts.total, name) for name in NOUNS}
                for counts in counts_of(each.graph)
            },
        }
        for file, each in zip(files, checked, strict=True)
    ]
    data: dict[str, Any] = {"artifact": folder, "strategies": strategies}
    if len(checked) > 1:
        certificate = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        data["between_steps"] = certificate["between_steps"]
    if ahead is not None:
        data["kernels"] = ahead.coverage.data()
        data["seconds"] = ahead.seconds
    return data


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
        yield from table(list(lines_of(found)), HEADING, indent="  ")
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
@click.argument("what", metavar="FILE|CODE", shell_complete=offer_codes)
@params
@click.option(
    "--device",
    shell_complete=offer_figures,
    help=f"Say what a step costs there: {DEVICE_HELP}",
)
@click.option("--full", is_flag=True, help="Tell all of it; with --device, all that is counted.")
@click.option("--html", type=click.Path(), help="Write one page about it, for a browser.")
@click.option("--svg", type=click.Path(), help="Write the graph as a picture, for documents.")
@click.option(
    "--flat", is_flag=True, help="Print the file as if nothing were extended or included, as YAML."
)
@setting
@as_json
def explain(
    what: str,
    settings: Settings,
    acceptance: str | None,
    device: str | None,
    full: bool,
    html: str | None,
    svg: str | None,
    flat: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain an error CODE, or the promise, graph, forwards and masks of a strategy FILE.

    With --device, what each of its forwards and a whole step cost there: the floor below which no
    kernel can be, and a prediction (docs/performance.md); with --full also bytes and operations.
    """
    drawn = html is not None or svg is not None
    if as_json and (flat or full or drawn):
        raise click.UsageError("--json gives all of it: leave --flat, --full, --html and --svg out")
    if flat:
        if settings or acceptance is not None or device is not None or full or drawn:
            raise click.UsageError("--flat prints the file as it is: leave the other options out")
        from nldc import api, reuse

        write(reuse.flat(reuse.load(api.find(what))), end="")
        return
    profiles = _profiles_of(what) if acceptance is not None else ()
    if device is None:
        refuse_without_device({"acceptance": None if profiles else acceptance, **options})
    from nldc import errors

    code = what.upper()
    if full and drawn:
        raise click.UsageError("--full is for the terminal: leave out --html and --svg")
    if re.fullmatch(r"NLD\d+", code):
        if code not in errors.REGISTRY:
            meant = _nearest_code(code, errors.REGISTRY)
            raise click.BadParameter(
                f"{code} is no error code; {meant} is, and docs/errors has a page for each"
            )
        if full or drawn:
            raise click.UsageError(f"{code} is an error code, which has no more than its page")
        if as_json:
            write_document(**plain(errors.REGISTRY[code]))
        else:
            write(errors.page(errors.REGISTRY[code]), end="")
        return
    from nldc import api
    from nldc.acceptance import read_acceptance

    profile = None if acceptance is None else read_acceptance(acceptance)
    dealt = {} if profile is None else dict.fromkeys(profiles, profile.profile)
    checked, mistakes = api.look(what, {**dict(settings), **dealt}, others=False)
    costed = None if device is None else setting_of(device, options)
    if full and costed is not None:
        from nldc.cost.text import show_costs

        write(show_costs(checked.graph, costed, profile), end="")
    elif full:
        from nldc.explain import explain as explain_

        write(explain_(checked), end="")
    else:
        from nldc.explain.build import explained
        from nldc.explain.print_text import MOST_LINES, print_text

        if as_json:
            _explain_to_machines(explained(checked, costed, profile), mistakes)
        elif drawn:
            _draw(explained(checked, costed, profile), html, svg)
        else:
            room = width_of(sys.stdout) or USUAL
            told = explained(checked, costed, profile, most_lines=MOST_LINES, merge=True)
            write_painted(print_text(told, room=room, colored=colored(sys.stdout)), end="")
    if mistakes:
        raise StrategyError(mistakes)


def _explain_to_machines(told: Explained, mistakes: Sequence[Diagnostic]) -> None:
    """Write all that is told as a document, and leave if the promise is not kept."""
    found = [diagnostic_data(each) for each in mistakes]
    write_document(ok=not mistakes, diagnostics=found, **plain(told))
    if mistakes:
        say_mistakes(mistakes)
        raise click.exceptions.Exit(1)


def _draw(told: Explained, html: str | None, svg: str | None) -> None:
    """Write the page and the picture that are asked for; both are made before one is written."""
    texts = {}
    if html is not None:
        from nldc.explain.print_html import print_html

        texts[html] = print_html(told)
    if svg is not None:
        from nldc.explain.print_svg import print_svg

        if svg in texts:
            raise click.UsageError("--html and --svg name the same file")
        texts[svg] = print_svg(told)
    for path, text in texts.items():
        put(path, text)
        write(f"wrote {path}")


def _profiles_of(file: str) -> frozenset[str]:
    from nldc import api

    return api.profiles_of(file)


def _nearest_code(code: str, known: Iterable[str]) -> str:
    """Return the code whose number begins alike, as NLD031 for nld31, or else lies nearest."""
    number = int(code[3:12])
    return min(known, key=lambda each: (abs(int(each[3:]) - number), each))


@click.command("diff")
@click.argument("a", shell_complete=offer_strategies)
@click.argument("b", shell_complete=offer_strategies)
@as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """Tell in what strategies A and B differ, and where their outputs can part.

    A strategy is a file, or the name of one of the library or, as package:name, of an installed
    package; FILE@PRESET sets its open attributes as an engine has them, as in block_diffusion@vllm.
    """
    from nldc import api
    from nldc import diff as diff_

    found = diff_.diff(api.check(a, others=False), api.check(b, others=False), (a, b))
    if as_json:
        write_document(
            ok=found.same,
            a=found.a,
            b=found.b,
            attributes=found.attributes,
            nodes=found.nodes,
            renamed=found.renamed,
            are_exact=found.are_exact,
            parts=found.parts,
        )
    else:
        write(diff_.render(found, width_of(sys.stdout)), end="")
    if not found.same:
        raise click.exceptions.Exit(1)


@click.command()
@as_json
def strategies(as_json: bool) -> None:
    """List the strategies of the library, and of installed packages that declare theirs."""
    from nldc import api, packages

    names = [*api.library()]
    names += [f"{package}:{each}" for package, own in packages.packages().items() for each in own]
    found: list[Checked | StrategyError] = []
    with counting("checking") as progress:
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            try:
                found.append(api.check(name, others=False))
            except StrategyError as error:
                found.append(error)
    both = list(zip(names, found, strict=True))
    if as_json:
        write_document(strategies=[_listed_data(name, each) for name, each in both])
        return
    for line in table(
        [_listed_row(name, each) for name, each in both], ("name", "guarantee", "what it does")
    ):
        write(line)


def _listed_row(name: str, found: Checked | StrategyError) -> tuple[str, str, str]:
    if isinstance(found, StrategyError):
        return (name, "refused", found.diagnostics[0].message)
    return (name, _promise(found), found.graph.summary)


def _listed_data(name: str, found: Checked | StrategyError) -> dict[str, Any]:
    if isinstance(found, StrategyError):
        refused = [diagnostic_data(each) for each in found.diagnostics]
        return {"file": name, "name": name, "refused": refused}
    return _strategy_data(name, found)


@click.command()
@json_anyway
def schema() -> None:
    """Print the JSON Schema of strategy files, for editors."""
    from nldc.editor_schema import json_schema

    write(json.dumps(json_schema(), indent=2))


@click.command()
@click.argument("artifact", shell_complete=offer_artifacts)
@click.option("-o", "--out", required=True, type=click.Path(), help="Folder to write.")
@as_json
def export(artifact: str, out: str, as_json: bool) -> None:
    """Write a compiled ARTIFACT as a folder for transformers: generate(custom_generate=FOLDER)."""
    from nldc.hf.folder import export as export_

    folder = export_(artifact, out)
    if as_json:
        write_document(folder=folder)
    else:
        write(f"wrote {folder}")

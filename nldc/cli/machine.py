"""`--json`: what a command found as one JSON document on standard output, mistakes included.

A document begins with the version of its form, that of nldc, the command, and whether it went well
(exit code 0); then comes what the command found, and last its `diagnostics`. Keys stay within a
version of the form; new ones may come. Standard error says what it says without `--json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click

from nldc import __version__
from nldc.cli.output import write
from nldc.render import diagnostic_data

FORM = 1
"""The version of the documents: another one where a key goes or means something else."""
OPTION = "--json"
_ASKED = "nldc.cli.machine.asked"
_COMMAND = "nldc.cli.machine.command"
_LINES = "nldc.cli.machine.lines"
_LINE = "nldc.cli.machine.line"
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def _option(
    says: str, *, lines: bool = False, told: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def noted(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta.update({_ASKED: value, _COMMAND: _name(ctx), _LINES: lines})
        return value

    return click.option(
        OPTION,
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=noted,
        expose_value=told,
        help=says,
    )


as_json = _option("Print one JSON document instead (docs/cli.md).")
as_json_lines = _option("Print a line of JSON for each turn (docs/cli.md).", lines=True)
json_anyway = _option("What is printed is JSON anyway; mistakes are then, too.", told=False)


def _name(ctx: click.Context) -> str:
    return ctx.command_path.partition(" ")[2]


def note_line(ctx: click.Context, words: Sequence[str]) -> None:
    """Keep the words of a command line, for mistakes in it that no command hears of."""
    options = words[: words.index("--")] if "--" in words else words
    ctx.meta[_LINE] = tuple(options)


def words_of(ctx: click.Context) -> tuple[str, ...]:
    """Return the words of the command line."""
    words: tuple[str, ...] = ctx.meta.get(_LINE, ())
    return words


def is_asked(ctx: click.Context) -> bool:
    """Whether a command was asked for a document; else by the words of its line."""
    asked: bool = ctx.meta.get(_ASKED, OPTION in words_of(ctx))
    return asked


def write_document(*, ok: bool = True, diagnostics: Iterable[Any] = (), **found: Any) -> None:
    """Write the document of the command that runs: what it found, by key.

    `diagnostics` are mistakes and warnings as `diagnostic_data` or `mistake_data` has them.
    """
    ctx = click.get_current_context()
    name = ctx.meta.get(_COMMAND) or _name(ctx) or ctx.invoked_subcommand
    head = {"form": FORM, "nldc": __version__, "command": name, "ok": ok}
    document = {**head, **found, "diagnostics": list(diagnostics)}
    indent = None if ctx.meta.get(_LINES) else 2
    write(json.dumps(plain(document), indent=indent, allow_nan=False))


def write_line(found: Mapping[str, Any]) -> None:
    """Write a JSON document that is one line of several."""
    write(json.dumps(plain({"form": FORM, **found}), allow_nan=False))


def mistake_data(code: str, message: str, hint: str | None) -> dict[str, Any]:
    """Return a mistake that is in no strategy file, in the shape of those that are."""
    from nldc.diagnostics import Diagnostic

    return diagnostic_data(Diagnostic(code, "error", message, (), () if hint is None else (hint,)))


def code_of(error: Exception) -> str:
    """Return the word for a kind of mistake: `checkpoint` of a CheckpointError."""
    name = type(error).__name__.removeprefix("Nldc").removesuffix("Error")
    return _WORD.sub("_", name).lower()


def plain(value: Any) -> Any:
    """Return a value as JSON has it: of a dataclass its fields, null for a number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return [plain(each) for each in sorted(value)]
    return str(value) if isinstance(value, Path) else value

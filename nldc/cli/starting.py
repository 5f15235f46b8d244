"""The command that begins a strategy: init."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from nldc.cli.completing import offer_strategies
from nldc.cli.machine import as_json, write_document
from nldc.cli.output import write
from nldc.runtime.errors import NldcRuntimeError


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "other",
    metavar="STRATEGY",
    shell_complete=offer_strategies,
    help="Begin as this strategy: one of the library, package:name, or a file.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write (default: NAME.yaml); none that is there.",
)
@click.option(
    "--editor",
    is_flag=True,
    help="Write nldc.schema.json beside it, by which editors complete and check.",
)
@as_json
def init(name: str, other: str | None, out: Path | None, editor: bool, as_json: bool) -> None:
    """Write a commented strategy called NAME to start from: exact linear self-speculation.

    It checks, compiles and runs as it is; what to do next is told.
    """
    from nldc import starter

    starter.check_name(name)
    path = out or Path(f"{name}.yaml")
    schema = path.with_name(starter.SCHEMA)
    if path.exists():
        raise NldcRuntimeError(f"{path} is there already", "choose another name, or -o FILE")
    text = starter.starter(name, other, has_schema=editor or schema.exists())
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    if editor and not schema.exists():
        from nldc.editor_schema import json_schema

        schema.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    built = shlex.quote(str(Path("build") / name))
    steps = [
        f"nldc check {shlex.quote(str(path))}",
        f"nldc compile {shlex.quote(str(path))} -o {built}",
        f'nldc run {built} --prompt "def fibonacci(n):"',
    ]
    if as_json:
        write_document(file=path, name=name, schema=schema if editor else None, next=steps)
        return
    write(f"wrote {path}")
    for step in steps:
        write(f"  {step}")

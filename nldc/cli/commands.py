"""The commands as one group, and how the command line is run."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping

import click

from nldc import __version__
from nldc.cli import (
    authoring,
    batching,
    benching,
    chat,
    completing,
    costing,
    decoding,
    models,
    serving,
    starting,
    tracing,
)
from nldc.cli.group import Commands
from nldc.cli.output import show_steps

__all__ = ["cli", "run"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nldc")
@click.option(
    "-v", "--verbose", is_flag=True, help="Tell what is read, made and used, on standard error."
)
def cli(verbose: bool) -> None:
    """Check, compile and run decoding strategies written in YAML."""
    if verbose:
        show_steps()


SECTIONS: Mapping[str, tuple[click.Command, ...]] = {
    "Write a strategy": (
        starting.init,
        authoring.check,
        authoring.explain,
        authoring.diff,
        authoring.strategies,
        authoring.schema,
    ),
    "Compile and run": (
        authoring.compile_,
        decoding.run,
        chat.chat,
        batching.batch,
        serving.serve,
        authoring.export,
    ),
    "Look and measure": (
        tracing.trace,
        decoding.verify,
        tracing.bisect,
        decoding.certify,
        benching.bench,
        decoding.sol,
        costing.tune,
    ),
    "Models and this machine": (
        models.import_gguf,
        models.quantize,
        models.train,
        models.doctor,
        completing.completion,
    ),
}
"""The commands as the help lists them."""

for section in SECTIONS.values():
    for command in section:
        cli.add_command(command)
cli.sections = {
    title: [str(command.name) for command in section] for title, section in SECTIONS.items()
}


def run() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack some characters
    cli(prog_name="nldc")

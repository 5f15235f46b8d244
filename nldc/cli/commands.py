"""The commands as one group, and how the command line is run."""

from __future__ import annotations

import io
import sys

import click

from nldc import __version__
from nldc.cli import authoring, costing, decoding, models
from nldc.cli.group import Commands

__all__ = ["cli", "run"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nldc")
def cli() -> None:
    """Check, compile and run decoding strategies written in YAML."""


for command in (
    authoring.check,
    authoring.compile_,
    decoding.run,
    decoding.verify,
    decoding.certify,
    decoding.bench,
    decoding.sol,
    authoring.explain,
    costing.tune,
    authoring.diff,
    authoring.strategies,
    authoring.schema,
    models.doctor,
    models.import_gguf,
    models.quantize,
    models.train,
):
    cli.add_command(command)


def run() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack some characters
    cli(prog_name="nldc")

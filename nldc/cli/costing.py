"""What is predicted of a device: the options that say for what, and `tune`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from nldc.cli.completing import offer_figures, offer_geometries, offer_params, offer_strategies
from nldc.cli.machine import as_json, write_document
from nldc.cli.options import together
from nldc.cli.output import counting, width_of, write

if TYPE_CHECKING:
    from nldc.cost.step import Setting

DEVICE_HELP = "h100, h200, a100, cpu, or a file with another device's figures."
MOST = 2**31 - 1
"""The largest number of tokens or sequences: beyond, a rate is no longer a finite number."""
_DEFAULTS: Mapping[str, Any] = {
    "geometry": "8b", "prefix": 1024, "batch": 1, "dtype": None, "execution": "graph",
}  # fmt: skip


class _Rounds(click.ParamType[tuple[str, float]]):
    """NODE=MEAN."""

    name = "node=mean"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        name, _, text = str(value).partition("=")
        try:
            mean = float(text)
        except ValueError:
            mean = -1.0
        if not name or not 0 <= mean < 2**31:
            self.fail(f"{value!r} is not of the form node=mean, as in step.filled=3.5", param, ctx)
        return name, mean


class Values(click.ParamType[tuple[str, tuple[int | float, ...]]]):
    """NAME=LOW..HIGH, NAME=LOW..HIGH:STEP, or NAME=ONE,ANOTHER."""

    name = "name=values"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | float, ...]]:
        """Return the name and its values; fail if the text is not of that form."""
        name, _, text = str(value).partition("=")
        try:
            found = _values(text)
        except ValueError:
            found = ()
        if not name or not found:
            self.fail(f"{value!r} is not of the form name=4..32, 4..32:4 or 4,8,16", param, ctx)
        return name, found


def _values(text: str) -> tuple[int | float, ...]:
    """Return the values that a text lists; raises ValueError if it lists none."""
    low, dots, rest = text.partition("..")
    if not dots:
        return tuple(int(part) if _is_whole(part) else float(part) for part in text.split(","))
    high, _, step = rest.partition(":")
    return tuple(range(int(low), int(high) + 1, int(step or 1))[: 1 << 16])


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


setting = together(
    click.option(
        "--geometry",
        metavar="3b|8b|14b|DIR",
        shell_complete=offer_geometries,
        help="Released checkpoint, or the folder of another (default: 8b).",
    ),
    click.option(
        "--prefix",
        type=click.IntRange(1, MOST),
        help="Tokens in the cache, a sequence (default: 1024).",
    ),
    click.option("--batch", type=click.IntRange(1, MOST), help="Live sequences (default: 1)."),
    click.option(
        "--dtype",
        type=click.Choice(["bfloat16", "float16", "float32"]),
        help="What is computed in (default: bfloat16 if the device has figures for it).",
    ),
    click.option(
        "--execution",
        type=click.Choice(["graph", "eager"]),
        help="A step as one graph of fused kernels, or each kernel launched from Python "
        "(default: graph).",
    ),
    click.option(
        "--rounds",
        type=_Rounds(),
        multiple=True,
        help="How many rounds a loop takes on average, as in step.filled=3.5 (default: what the "
        "profile says, or as many as it may); may be given again.",
    ),
)


def setting_of(device: str, options: Mapping[str, Any]) -> Setting:
    """Return what the options say a step is costed for.

    Raises:
        NldcRuntimeError: there is no such device or geometry.
    """
    from nldc.cost.device import load_device
    from nldc.cost.geometry import load_geometry
    from nldc.cost.predict import EXECUTIONS
    from nldc.cost.step import Setting

    given = {name: options[name] for name in _DEFAULTS if options[name] is not None}
    chosen = {**_DEFAULTS, **given}
    found = load_device(device)
    return Setting(
        device=found,
        geometry=load_geometry(chosen["geometry"]),
        prefix=chosen["prefix"],
        batch=chosen["batch"],
        dtype=chosen["dtype"] or found.usual,
        execution=EXECUTIONS[chosen["execution"]],
        rounds=dict(options["rounds"]),
    )


def refuse_without_device(options: Mapping[str, Any]) -> None:
    """Raise UsageError if an option is given that only means something for a device."""
    for name, value in options.items():
        if value not in (None, ()):
            raise click.UsageError(f"--{name} is for a prediction: give --device as well")


@click.command()
@click.argument("strategy", metavar="FILE", shell_complete=offer_strategies)
@click.option("--device", required=True, shell_complete=offer_figures, help=DEVICE_HELP)
@click.option(
    "--acceptance",
    required=True,
    type=click.Path(),
    help="Profile of what the strategy accepts, as bench --write-acceptance writes it.",
)
@setting
@click.option(
    "--param",
    "params",
    type=Values(),
    multiple=True,
    shell_complete=offer_params,
    help="Values to try, as in block_length=4..32, 4..32:4 or 4,8,16 (default: all values of the "
    "params that the profile names); may be given again.",
)
@as_json
def tune(
    strategy: str,
    device: str,
    acceptance: str,
    params: tuple[tuple[str, tuple[int | float, ...]], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Find the params of a strategy FILE that promise the most tokens a second on a device."""
    from nldc.acceptance import read_acceptance
    from nldc.cost.tune import show_tuned, tuned_data
    from nldc.cost.tune import tune as tune_

    profile = read_acceptance(acceptance)
    setting = setting_of(device, options)
    with counting("trying") as progress:
        tuned = tune_(strategy, setting, profile, dict(params), progress=progress)
    if as_json:
        write_document(**tuned_data(tuned))
    else:
        write(show_tuned(tuned, width_of(sys.stdout)), end="")

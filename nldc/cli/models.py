"""Commands around models and the machine: doctor, import-gguf, train."""

from __future__ import annotations

from pathlib import Path

import click

from nldc.cli.machine import as_json, plain, write_document
from nldc.cli.options import settings
from nldc.cli.output import counting, loading_bar, start_torch, table, waiting, write


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Tell what this machine can run, and why not the rest."""
    from nldc.doctor import examine

    with waiting("looking"):
        findings = list(examine())
    ok = all(each.usable for each in findings if each.needed)
    if as_json:
        write_document(ok=ok, findings=findings)
    else:
        rows = [("ok" if each.usable else "no", each.name, each.detail) for each in findings]
        for line in table(rows):
            write(line)
    if not ok:
        raise click.exceptions.Exit(1)


@click.command("import-gguf")
@click.argument("file", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(), help="Folder to write.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="What the weights are stored as and computed in: float32, if none are kept quantised.",
)
@click.option(
    "--keep-quantised",
    is_flag=True,
    help="Keep matrices in Q8_0, Q4_0 and Q4_1 as they are, and compute in bfloat16.",
)
@click.option("--mask-token", help="Id or text of the token that stands for masked rows.")
@as_json
def import_gguf(
    file: str,
    out: str,
    dtype: str | None,
    keep_quantised: bool,
    mask_token: str | None,
    as_json: bool,
) -> None:
    """Turn a Llama model in a GGUF FILE into a checkpoint folder."""
    start_torch()
    from nldc.import_gguf import import_gguf as import_gguf_

    mask = int(mask_token) if mask_token and mask_token.isdecimal() else mask_token
    with counting("writing weights") as progress:
        report = import_gguf_(
            file,
            out,
            dtype=dtype,
            mask_token=mask,
            keep_quantised=keep_quantised,
            progress=progress,
        )
    if as_json:
        write_document(**plain(report))
    else:
        write(str(report))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--bits", type=click.Choice(["4", "8"]), required=True, help="Bits of a weight.")
@click.option(
    "--group",
    type=click.Choice(["32", "64", "128"]),
    help="Neighbours in a row that share a scale. By itself 32 at 4 bits, a whole row at 8.",
)
@click.option("--symmetric", is_flag=True, help="No zero of its own for each group of 4 bits.")
@click.option(
    "--float",
    "floating",
    is_flag=True,
    help="With 8 bits: floats (E4M3), a scale for each row; embedding and head stay as they are.",
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@as_json
def quantize(
    model: Path,
    bits: str,
    group: str | None,
    symmetric: bool,
    floating: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Write the checkpoint in the folder MODEL with weights of 8 or 4 bits.

    Matrices are rounded to whole numbers with a scale for each group, in the format
    `pack-quantized` of compressed-tensors, or with `--float` to floats, in its format
    `float-quantized`; at 4 bits, embedding and head get 8. All else of the folder is copied. What
    is written decodes as any checkpoint: `nldc run ARTIFACT --model OUT`.
    """
    start_torch()
    from nldc.runtime.checkpoint.quantising import quantize as quantize_

    report = quantize_(
        model,
        out,
        int(bits),
        None if group is None else int(group),
        symmetric=symmetric,
        floating=floating,
        progress=loading_bar(),
    )
    if as_json:
        write_document(**plain(report))
    else:
        write(str(report))


@click.group()
def train() -> None:
    """Train a tri-mode model from scratch, or a checkpoint's LoRA drafter or sampler."""


class _Training(click.Command):
    """Lists the numbers that `--set` changes; only who asks for help waits for torch to load."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the numbers of the recipe with their defaults."""
        super().format_epilog(ctx, formatter)
        from nldc import training

        held = training.recipe_numbers(self.name or "")
        with formatter.section("What --set changes"):
            formatter.write_dl([(name, str(value)) for name, value in held.items()])


@train.command("base", cls=_Training)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the state in OUT.")
@settings
@as_json
def train_base(
    out: Path, resume: bool, settings: tuple[tuple[str, int | float], ...], as_json: bool
) -> None:
    """Train the demo model's recipe on the standard library's source: OUT/checkpoint."""
    start_torch()
    from nldc import training

    with counting("training") as progress:
        folder = training.train_base(out, dict(settings), resume, progress)
    _wrote(folder, as_json)


def _wrote(folder: Path, as_json: bool) -> None:
    if as_json:
        write_document(folder=folder)
    else:
        write(f"wrote {folder}")


@train.command("drafter", cls=_Training)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: the checkpoint.")
@settings
@as_json
def train_drafter(
    checkpoint: Path,
    out: Path | None,
    settings: tuple[tuple[str, int | float], ...],
    as_json: bool,
) -> None:
    """Train a LoRA drafter against the frozen verifier: OUT/linear_spec_lora."""
    start_torch()
    from nldc import training

    with counting("training") as progress:
        folder = training.train_drafter(checkpoint, out, dict(settings), progress)
    _wrote(folder, as_json)


@train.command("sampler", cls=_Training)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: the checkpoint.")
@settings
@as_json
def train_sampler(
    checkpoint: Path,
    out: Path | None,
    settings: tuple[tuple[str, int | float], ...],
    as_json: bool,
) -> None:
    """Train what says which rows are safe to commit: OUT/commit_sampler."""
    start_torch()
    from nldc import training

    with counting("training") as progress:
        folder = training.train_sampler(checkpoint, out, dict(settings), progress)
    _wrote(folder, as_json)

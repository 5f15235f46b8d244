"""Write a checkpoint again with weights of 8 or 4 bits, in the format that others read too.

All matrices are rounded, each group of neighbours in a row with a scale of its own; embedding and
head, which weigh most for the text, keep 8 bits. Beside floats of 8 bits they stay as they are: a
program that looks for no scale there would read such floats as if it were 1. Norms, whatever else
the weight files hold and all other files of the folder are copied. The new folder appears whole or
not at all.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import CONFIG, ModelConfig, left_out
from nldc.runtime.checkpoint.folder import (
    Described,
    check_free,
    write_folder,
    write_json,
    write_tensors,
)
from nldc.runtime.checkpoint.quantised_tensors import tensors_of
from nldc.runtime.checkpoint.quantization import BITS, KEY, scheme, settings
from nldc.runtime.checkpoint.tensors import FLOATS, STORED, TensorFile
from nldc.runtime.checkpoint.weights import (
    EMBEDDING,
    HEAD,
    INDEX,
    SINGLE,
    Progress,
    open_files,
    own_dtype,
    tensor_shapes,
)
from nldc.runtime.errors import CheckpointError
from nldc.runtime.invariant.quantised import FLOAT8, quantise
from nldc.runtime.json_file import read_json

GROUPS = (32, 64, 128)
DEFAULT_GROUP = {4: 32, 8: None}
"""Neighbours that share a scale where nobody says how many; None for a whole row."""
FORMAT_NAMES = {kind: name for name, kind in (FLOATS | STORED).items()}
CHUNK = 1 << 24
"""Bytes that are copied at a time."""


@dataclass(frozen=True)
class Report:
    """What was quantised. `error` is the root mean square of the matrices' rounding, relative."""

    source: Path
    out: Path
    bits: int
    group: int | None
    matrices: int
    before: int
    after: int
    error: float
    floating: bool

    def __str__(self) -> str:
        scales = "a row" if self.group is None else f"{self.group} neighbours"
        apart = ", embedding and head to 8" if self.bits != 8 else ""
        kind = ""
        if self.floating:
            kind, apart = "floats of ", "; embedding and head as they were"
        return (
            f"quantised {self.source} to {self.out}: {self.matrices} matrices to {kind}{self.bits} "
            f"bits, a scale for {scales}{apart}\n"
            f"{self.before / 1e6:.1f} MB became {self.after / 1e6:.1f} MB; "
            f"weights are off by {self.error:.2%} of their size (root mean square)"
        )


@dataclass(frozen=True)
class _Rounding:
    """How one matrix is rounded; `group` None is a scale for each row."""

    bits: int
    group: int | None
    symmetric: bool
    floating: bool = False


def quantize(
    source: str | Path,
    out: str | Path,
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = False,
    floating: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the checkpoint in the folder `source` with weights of so many `bits` into `out`.

    `group` neighbours of a row share a scale; by itself 32 at 4 bits, and a whole row at 8.
    Numbers of 4 bits get a zero of their own in each group unless all are `symmetric`, as those of
    8 bits are. `floating` numbers are floats of 8 bits (E4M3), with a scale for each row; embedding
    and head then stay as they are. `progress` is told how many bytes of how many have been read.

    Raises:
        CheckpointError: the checkpoint cannot be read, is quantised already, or does not divide
            into such groups, or `out` cannot be written; then nothing is.
    """
    source, out = Path(source), Path(out)
    if bits not in BITS:
        raise CheckpointError(f"{bits} bits are not supported", "use 4 or 8")
    if group is not None and group not in GROUPS:
        raise CheckpointError(
            f"groups of {group} are not supported", "use " + ", ".join(map(str, GROUPS))
        )
    if floating and bits != 8:
        raise CheckpointError(f"floats of {bits} bits are not supported", "use --bits 8")
    if floating and group is not None:
        raise CheckpointError(
            "floats in groups are not supported", "leave --group out: each row has a scale"
        )
    group = group or DEFAULT_GROUP[bits]
    config = ModelConfig.load(source)
    if config.quantised:
        raise CheckpointError(
            f"{source} is quantised already", "take the checkpoint that it was made from"
        )
    check_free(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise CheckpointError(f"{out} lies inside {source}", "give a folder beside it")
    files = open_files(source)
    layers = min(config.num_layers, len(files) + 1)
    shapes = tensor_shapes(replace(config, num_layers=layers))
    for name, shape in shapes.items():
        if name not in files:
            raise CheckpointError(
                f"{source}: tensor `{name}` is in none of the weight files",
                "the checkpoint is incomplete",
            )
        files[name].expect(
            name,
            shape,
            f"its shape follows from {CONFIG}; do the two belong together?" + left_out(config),
        )
    chosen = {
        name: _rounding(name, bits, group, symmetric=symmetric, floating=floating)
        for name, shape in shapes.items()
        if len(shape) == 2 and not (floating and name in (EMBEDDING, HEAD))
    }
    for name, rounding in chosen.items():
        if rounding.group is not None and shapes[name][1] % rounding.group:
            raise CheckpointError(
                f"groups of {rounding.group} do not divide the width {shapes[name][1]} of `{name}`",
                "use " + (_dividing(shapes, chosen) or "--bits 8, with a scale for each row"),
            )
    work = _Work(files, chosen, _scale_dtype(source, config), progress)
    described = work.described(shapes)

    def write(folder: Path) -> None:
        _copy_rest(source, folder, files)
        write_tensors(folder / SINGLE, described, work.parts(described))
        data = read_json(source / CONFIG)
        described_so = _settings(bits, group, symmetric=symmetric, floating=floating)
        write_json(folder / CONFIG, {**data, KEY: described_so})

    write_folder(out, write)
    return Report(
        source=source,
        out=out,
        bits=bits,
        group=group,
        matrices=len(chosen),
        before=sum({file.path: file.state[0] for file in files.values()}.values()),
        after=(out / SINGLE).stat().st_size,
        error=math.sqrt(work.off / max(work.size, 1e-300)),
        floating=floating,
    )


def _rounding(
    name: str, bits: int, group: int | None, *, symmetric: bool, floating: bool
) -> _Rounding:
    if name in (EMBEDDING, HEAD) and bits < 8:
        return _Rounding(8, None, symmetric=True)
    return _Rounding(bits, group, symmetric=symmetric or bits == 8, floating=floating)


def _dividing(shapes: Mapping[str, tuple[int, ...]], chosen: Mapping[str, _Rounding]) -> str:
    """Return the sizes of groups that divide all matrices that are cut into groups."""
    widths = [shapes[name][1] for name, rounding in chosen.items() if rounding.group is not None]
    fine = [str(size) for size in GROUPS if not any(width % size for width in widths)]
    return "--group " + " or ".join(fine) if fine else ""


def _settings(bits: int, group: int | None, *, symmetric: bool, floating: bool) -> dict[str, Any]:
    own = scheme(
        bits, group, symmetric=symmetric or bits == 8, targets=["Linear"], floating=floating
    )
    groups = {"group_0": own}
    ends = [name.removesuffix(".weight") for name in (HEAD, EMBEDDING)]
    if bits < 8:
        # what is named is looked for before kinds of modules are
        groups["group_1"] = scheme(8, None, symmetric=True, targets=ends)
    return settings(groups, ignore=ends if floating else ())


def _scale_dtype(source: Path, config: ModelConfig) -> torch.dtype:
    """Return what scales are stored in: the checkpoint's own dtype, of at most 32 bits."""
    own = own_dtype(source, config)
    return torch.float32 if own == torch.float64 else own


class _Work:
    """Rounds and copies the tensors of a checkpoint, one at a time; adds up what is off."""

    def __init__(
        self,
        files: Mapping[str, TensorFile],
        chosen: Mapping[str, _Rounding],
        scale_dtype: torch.dtype,
        progress: Progress | None,
    ) -> None:
        self._files = files
        self._chosen = chosen
        self._scale_dtype = scale_dtype
        self._progress = progress
        self._order = sorted(files, key=lambda name: (files[name].path, name))
        self.off = 0.0
        self.size = 0.0

    def described(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Described]:
        """Return what is written, in the order of `parts`."""
        found: dict[str, Described] = {}
        for name in self._order:
            if name not in self._chosen:
                entry = self._files[name].entries[name]
                found[name] = (entry.format, entry.shape)
                continue
            kind = FLOAT8 if self._chosen[name].floating else torch.int8
            empty = torch.empty(shapes[name], dtype=kind, device="meta")
            for part, tensor in self._tensors(name, empty).items():
                found[part] = (FORMAT_NAMES[tensor.dtype], tuple(tensor.shape))
        return found

    def _tensors(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        rounding = self._chosen[name]
        out, width = weight.shape
        group = rounding.group or width
        if weight.is_meta:
            scale = weight.new_empty((out, width // group), dtype=self._scale_dtype)
            zero = None if rounding.symmetric else weight.new_empty((out, width // group))
            return tensors_of(name, weight, rounding.bits, scale, zero)
        made = quantise(
            weight,
            rounding.bits,
            group,
            self._scale_dtype,
            symmetric=rounding.symmetric,
            floating=rounding.floating,
        )
        self._add_error(weight, made.numbers, made.scale, made.zero)
        return tensors_of(name, made.numbers, rounding.bits, made.scale, made.zero)

    def _add_error(
        self, weight: Tensor, numbers: Tensor, scale: Tensor, zero: Tensor | None
    ) -> None:
        groups = (len(weight), scale.shape[1], -1)
        values = numbers.float().view(groups)
        if zero is not None:
            values = values - zero.unsqueeze(-1)
        values = values * scale.float().unsqueeze(-1)
        self.off += float((values - weight.view(groups)).square().sum(dtype=torch.float64))
        self.size += float(weight.square().sum(dtype=torch.float64))

    def parts(self, described: Mapping[str, Described]) -> Iterator[Any]:
        """Yield the bytes of what is `described`."""
        total = sum(entry.stop - entry.start for entry in map(self._entry, self._order))
        done = 0
        for name in self._order:
            if name in self._chosen:
                weight = self._files[name].read(name, torch.float32, torch.device("cpu"))
                if not bool(weight.isfinite().all()):
                    raise CheckpointError(
                        f"{self._files[name].path}: tensor `{name}` holds values that are no "
                        "numbers",
                        "no weights of a model do; download the file again",
                    )
                for part, tensor in self._tensors(name, weight).items():
                    assert described[part][1] == tuple(tensor.shape)
                    yield tensor.reshape(-1).view(torch.uint8).numpy().data
            else:
                yield from self._copied(name)
            done += self._entry(name).stop - self._entry(name).start
            if self._progress is not None:
                self._progress(done, total)

    def _entry(self, name: str) -> Any:
        return self._files[name].entries[name]

    def _copied(self, name: str) -> Iterator[bytes]:
        entry = self._entry(name)
        with self._files[name].path.open("rb") as file:
            file.seek(entry.start)
            left = entry.stop - entry.start
            while left:
                part = file.read(min(CHUNK, left))
                if not part:
                    raise CheckpointError(
                        f"{self._files[name].path} was changed while it was read",
                        "quantise it when it is complete",
                    )
                left -= len(part)
                yield part


def _copy_rest(source: Path, folder: Path, files: Mapping[str, TensorFile]) -> None:
    """Copy all of a checkpoint's folder but its weights and its config."""
    weights = {file.path.name for file in files.values()} | {SINGLE, INDEX, CONFIG}
    for path in sorted(source.iterdir()):
        if path.name in weights:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)

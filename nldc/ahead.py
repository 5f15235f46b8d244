"""The kernels of an artifact, compiled for GPUs that are not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nldc import api
from nldc.verify import model_folder

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.kernels.ahead import KernelReport
    from nldc.runtime.rows.pattern import Pattern


@dataclass(frozen=True)
class Ahead:
    """What the kernels take on one target, by the name of their pattern, for one model's heads."""

    target: str
    dtype: str
    group: int
    head_dim: int
    kernels: Mapping[str, KernelReport]


def compile_ahead(
    artifact: str | Path, targets: tuple[str, ...], model: str | Path | None, dtype: str
) -> tuple[Ahead, ...]:
    """Compile every attention kernel of an artifact for every target.

    `model` is the checkpoint whose heads they are for; None is the demo model.

    Raises:
        BackendError: there is no triton, a target is unknown, or a kernel does not fit it.
        CheckpointError: the checkpoint has no config.
    """
    from nldc.runtime.checkpoint.config import ModelConfig
    from nldc.runtime.checkpoint.tensors import dtype_of
    from nldc.runtime.errors import BackendError

    try:
        from nldc.runtime.kernels.ahead import compile_pattern, target_of
    except ImportError as problem:
        raise BackendError(
            f"triton cannot be imported: {problem}", "install triton, or leave --target out"
        ) from problem
    chosen = [(text, target_of(text)) for text in targets]
    config = ModelConfig.load(model_folder(model))
    group = config.num_heads // config.num_kv_heads
    kind = dtype_of(dtype)
    patterns = dict(_patterns(api.load(artifact)))
    return tuple(
        Ahead(
            text,
            dtype,
            group,
            config.head_dim,
            {
                name: compile_pattern(pattern, target, group, config.head_dim, kind)
                for name, pattern in patterns.items()
            },
        )
        for text, target in chosen
    )


def _patterns(decoder: type[Decoder], owner: str = "") -> Iterator[tuple[str, Pattern]]:
    """Yield the attention patterns of a decoder, or of each strategy in it, by name."""
    from nldc.runtime.rows.pattern import Pattern
    from nldc.runtime.switching import SwitchingDecoder

    if issubclass(decoder, SwitchingDecoder):
        for name, part in decoder.PARTS.items():
            yield from _patterns(part, f"{name}: ")
        return
    module = import_module(f"{decoder.__module__.rpartition('.')[0]}.patterns")
    for value in vars(module).values():
        if isinstance(value, Pattern):
            yield owner + value.name, value

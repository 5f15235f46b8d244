"""Run in its own process: compile ahead, load on a GPU that is not there, and launch everything.

Prints as JSON what Triton compiled in spite of what the artifact carries. The device is a driver
that says it is one and runs nothing: what Triton does before, looking for the kernel by the very
arguments of the launch, is as ever. What decides how the host goes on (tokens, logits) is zeros,
and what a step makes of it is done by torch.

Arguments: a folder to write to, a checkpoint, `all` for prompts of any length.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import noted_in_torch
import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from nldc import api
from nldc.ahead import compiling
from nldc.runtime import ahead
from nldc.runtime.ahead import needed
from nldc.runtime.attached import attached
from nldc.runtime.errors import ArtifactError, BackendError
from nldc.runtime.invariant.linear import LINE, Packed
from nldc.runtime.kernels import device, launchable
from nldc.runtime.kernels.coverage import Coverage, Uses
from nldc.runtime.kernels.launchable import Launchable, Target
from nldc.runtime.kernels.product import Matrix
from nldc.runtime.model import triton_backend, triton_weights
from nldc.runtime.model.triton_sizes import sizes_of

HOPPER = GPUTarget("cuda", 90, 32)
SHORT = 8
"""Tokens of a prompt at most, unless all are compiled for."""
TYPES = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64,
    "u1": torch.bool, "i8": torch.int8, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip
LEFT_AS_ZEROS = ("found_ptr", "logit_ptr", "measured_ptr", "safety_ptr")


class Driver:
    """A device of compute capability 9.0 on which nothing happens."""

    def __init__(self) -> None:
        self.target = HOPPER
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (0, 0, 0, 0, 1024),
            unload_module=lambda *_: None,
            get_device_properties=lambda _: {"max_shared_mem": 232448},
        )

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: object) -> int:
        return 0

    def launcher_cls(self, source: Any, _: object) -> Any:
        places = [n for n, name in enumerate(source.fn.arg_names) if name in LEFT_AS_ZEROS]

        def launch(*arguments: Any) -> None:
            own = arguments[-len(source.fn.arg_names) :]
            for place in places:
                own[place].zero_()

        return launch


def without_a_gpu() -> Driver:
    fake = Driver()
    driver.set_active(fake)
    device.check_device = lambda _: None
    launchable._target = lambda _: Target(fake.target.arch)
    between = triton_backend.between

    def done(program: Any, memory: Any, slots: Tensor, target: Target) -> None:
        between(program, memory, slots, target)
        noted_in_torch.do(program, memory, slots)

    triton_backend.between = done
    triton_backend.matrix_of = triton_weights.matrix_of = as_on_a_device
    return fake


def as_on_a_device(weight: Any) -> Matrix:
    """Return a weight as it would lie there: rows are whole cache lines. What it holds is void."""
    plain = weight.shaped if isinstance(weight, Packed) else weight
    out, width = plain.shape
    stride = width + -width % (LINE // plain.dtype.itemsize)
    return Matrix(torch.zeros(out, stride, dtype=plain.dtype), out, width)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what Triton finds, and what it compiles, by name."""
    found: Counter[str] = Counter()

    def listen(*, src: Any, cache_hit: bool, **_: object) -> None:
        found["found" if cache_hit else f"compiled {src.name} {src.signature}"] += 1

    knobs.compilation.listener = listen
    try:
        yield found
    finally:
        knobs.compilation.listener = None


def launched(kernel: Launchable) -> None:
    """Launch a kernel with any arguments of its types; what need not be aligned is not."""
    arguments: list[Any] = []
    for name, kind in kernel.signature.items():
        if isinstance(kind, tuple):
            arguments.append(tuple(torch.zeros(4096, dtype=TYPES[each[1:]]) for each in kind))
        elif kind.startswith("*"):
            whole: Tensor = torch.zeros(64, dtype=TYPES[kind[1:]])
            arguments.append(whole if name in kernel.aligned else whole[1:])
        elif kind.startswith("fp"):
            arguments.append(1e-5)
        else:
            arguments.append(32 if name in kernel.aligned else 1)
    kernel.launch((1,), *arguments)


def main(folder: Path, model: str, *, all_lengths: bool) -> dict[str, Any]:
    if not all_lengths:
        whole = compiling.uses_of

        def few(graph: Any) -> Uses:
            uses = whole(graph)
            forwards = [
                one if isinstance(one.rows, int) else replace(one, rows=(1, SHORT))
                for one in uses.forwards
            ]
            return replace(uses, forwards=tuple(forwards))

        compiling.uses_of = few
    name = "linear_ss_iterative" if all_lengths else "trained_sampler"
    checked = api.check_together([name], {"block_length": 8} if all_lengths else None)
    made = compiling.compile_ahead(checked, ["cuda:90"], model, "bfloat16", batch=2, jobs=1)
    out = api.write(checked, folder / "out", certify=False, attached=made.files)

    cache = folder / "another_cache"
    os.environ["TRITON_CACHE_DIR"] = str(cache)
    fake = without_a_gpu()
    kind = api.load(out)
    how: dict[str, Any] = {"backend": "triton", "device": "cpu", "dtype": "bfloat16"}
    with counted() as engine:
        decoder = kind.from_checkpoint(model, **how, ahead_only=True)
        prompts = [[3, 4, 5], [6, 7, 8, 9, 10]]
        for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 4}):
            decoder.generate(prompts, max_new_tokens=4, eos=[], **options)
        decoder.generate(prompts[:1], max_new_tokens=4, temperature=0.7, eos=[])
        thinks = {"max_thinking_tokens": 1, "end_think_token_id": 7}
        for temperature in (0.0, 0.7):
            decoder.generate(prompts, max_new_tokens=4, temperature=temperature, eos=[], **thinks)
    coverage = Coverage.read(attached(kind.__module__)["kernels.json"])
    sizes = sizes_of(
        decoder.model.backend, decoder.model.adapters.values(), decoder.model.samplers.values()
    )
    kernels = needed(coverage, kind, sizes, HOPPER)
    with counted() as alone:
        for kernel in kernels.values():
            for caches in kernel.kernel.device_caches.values():
                caches[0].clear()  # what this process has loaded already
            launched(kernel)

    said = {}
    fake.target = GPUTarget("cuda", 80, 32)
    said["other device"] = refused(kind, model, how)
    fake.target = HOPPER
    own = triton.__version__
    triton.__version__ = "0.0"
    said["other triton"] = refused(kind, model, how)
    triton.__version__ = own
    said["other dtype"] = refused(kind, model, {**how, "dtype": "float32"})
    more = replace(
        coverage, kernels={"cuda:90": dict(list(coverage.kernels["cuda:90"].items())[1:])}
    )
    ahead.attached = lambda _: {**made.files, "kernels.json": json.dumps(more.data()).encode()}
    said["one less"] = refused(kind, model, how)
    said["allowed"] = list(ahead.use(decoder, HOPPER, only=False))
    ahead.attached = lambda _: {}
    said["nothing"] = refused(kind, model, how)
    archive = out / "kernels_cuda-90.zip"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    try:
        api.load(out)
    except ArtifactError as problem:
        said["changed"] = problem.message
    return {
        "engine": engine,
        "alone": alone,
        "kernels": len(kernels),
        "carried": len(coverage.kernels["cuda:90"]),
        "batch": decoder.new_engine(max_live=64).max_live,
        "said": said,
        "cached": cache.exists(),
        "paths": [
            name
            for name, data in made.files.items()
            if str(Path(triton.__file__).parent).encode() in data
        ],
    }


def refused(kind: Any, model: str, how: dict[str, Any]) -> str:
    try:
        kind.from_checkpoint(model, **how, ahead_only=True)
    except BackendError as problem:
        return f"{problem.message} / {problem.hint}"
    return "nothing"


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], all_lengths="all" in sys.argv)))

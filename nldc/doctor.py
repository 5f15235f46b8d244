"""What this machine can run, and why not the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nldc import __version__
from nldc.verify import model_folder


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it can be used, and what is missing if not."""

    name: str
    usable: bool
    detail: str
    needed: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything that compiling and running depend on; `needed` ones must be usable."""
    yield Finding("nldc", True, f"{__version__}, in {Path(__file__).parent}", needed=True)
    supported = sys.version_info >= (3, 11)
    detail = platform.python_version() + ("" if supported else ": 3.11 or newer is needed")
    yield Finding("python", supported, f"{detail} on {platform.platform()}", needed=True)
    for package in ("numpy", "safetensors", "tokenizers", "jinja2"):
        yield _package(package, needed=True)
    yield from _torch()
    yield from _triton()
    yield _numba()
    yield from _backend()
    yield _graphs()
    yield _package("pillow", purpose="pictures in prompts: pip install 'nldc[vision]'")
    yield _package("gguf", purpose="`nldc import-gguf`: pip install 'nldc[gguf]'")
    yield _demo()


def _package(name: str, needed: bool = False, purpose: str = "") -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        detail = "not installed" + (f"; for {purpose}" if purpose else "")
        return Finding(name, False, detail, needed)
    return Finding(name, True, found, needed)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a broken installation fails in its own ways
        yield Finding("torch", False, f"cannot be imported: {error}", needed=True)
        return
    threads = torch.get_num_threads()
    yield Finding("torch", True, f"{torch.__version__}, {threads} threads", needed=True)
    yield Finding(
        "8 and 4 bits",
        True,
        f"weights stay so on the CPU ({torch.backends.cpu.get_cpu_capability()}) in bfloat16, with "
        "numba in float16 and float32 too, floats of 8 bits with numba only, and on a GPU with "
        "triton in bfloat16 and float16; else they are dequantised when loaded",
    )
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            memory = facts.total_memory / 2**30
            detail = f"{facts.name}, sm_{facts.major}{facts.minor}, {memory:.0f} GiB"
            yield Finding(f"cuda:{number}", True, detail)
    elif torch.version.cuda is None:
        yield Finding("cuda", False, "this torch was built without CUDA: decoding runs on the CPU")
    else:
        yield Finding("cuda", False, "no device that torch can use: decoding runs on the CPU")


def _triton() -> Iterator[Finding]:
    if importlib.util.find_spec("triton") is None:
        yield Finding("triton", False, "not installed: the torch backend is used")
        return
    yield _package("triton")
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    yield Finding(
        "triton interpreter",
        interpreting,
        "kernels run on the CPU, slowly" if interpreting else "off; TRITON_INTERPRET=1 turns it on",
    )
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    yield Finding(
        "C compiler",
        compiler is not None,
        compiler or "triton needs one to launch kernels: install gcc or clang",
    )


def _backend() -> Iterator[Finding]:
    """Yield what a decoder that nobody tells computes with, and why."""
    try:
        import torch

        from nldc.runtime.loading import why_torch
    except Exception:  # what is missing has been said
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    why = why_torch(device, torch.bfloat16)
    if device.type == "cpu":
        kernels = "numba, whole layers in kernels, for weights of 8 and 4 bits"
        yield Finding("backend", True, f"torch, and {kernels}" if why is None else f"torch: {why}")
    elif why is None:
        wide = why_torch(device, torch.float64)
        yield Finding("backend", True, f"triton, whole layers in kernels; torch in float64: {wide}")
    else:
        yield Finding("backend", True, f"torch: {why}")


def _numba() -> Finding:
    """Say whether there are kernels for CPUs."""
    try:
        from nldc.runtime.cpu.available import why_not

        why = why_not()
    except Exception:  # what is missing has been said
        return Finding("numba", False, "of no use without torch")
    if why is not None:
        return Finding("numba", False, f"torch computes with weights of 8 and 4 bits: {why}")
    return _package("numba")


def _graphs() -> Finding:
    """Say whether steps are captured and replayed, and what they need for it."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
        return Finding("CUDA graphs", False, "off: only steps on the triton backend are captured")
    import torch

    if not torch.cuda.is_available():
        return Finding("CUDA graphs", False, "off: steps are captured on a CUDA device only")
    detail = "steps on the triton backend are captured and replayed; --no-graphs turns it off"
    return Finding("CUDA graphs", True, detail)


def _demo() -> Finding:
    folder = model_folder(None)
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).exists()]
    if missing:
        return Finding("demo model", False, f"{folder} lacks {', '.join(missing)}")
    return Finding("demo model", True, str(folder))

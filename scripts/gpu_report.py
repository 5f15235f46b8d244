"""Check and time everything on a GPU, in under six minutes, without a network.

    python scripts/gpu_report.py --wheels .wheels --out build/gpu-report

Writes `report.md` and `report.json` into the output folder, and again whenever something new is
known. Each phase is a process of its own with its own limit of time: one that fails or runs over is
written down, and the others go on. The phases that check run side by side; times are taken when
nothing else runs. `--device cpu --small` goes through all of it on the CPU, in a minute or two.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {  # what is imported, and the package that brings it
    "annotated_types": "annotated_types",
    "click": "click",
    "hypothesis": "hypothesis",
    "jinja2": "jinja2",
    "markdown_it": "markdown_it_py",
    "markupsafe": "markupsafe",
    "mdurl": "mdurl",
    "networkx": "networkx",
    "numpy": "numpy",
    "pluggy": "pluggy",
    "iniconfig": "iniconfig",
    "packaging": "packaging",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic_core",
    "pygments": "pygments",
    "pytest": "pytest",
    "rich": "rich",
    "safetensors": "safetensors",
    "sortedcontainers": "sortedcontainers",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "typing_extensions": "typing_extensions",
    "typing_inspection": "typing_inspection",
    "yaml": "pyyaml",
}
LINKS = ("codegen", "runtime", "strategies")
DTYPES = ("float32", "bfloat16", "float16")
STEPS: tuple[tuple[str, dict[str, int]], ...] = (
    ("ar", {}),
    ("linear_ss", {"block_length": 16}),
    ("quadratic_ss", {"block_length": 8}),
    ("linear_ss", {"block_length": 32}),
    ("block_diffusion", {"block_length": 8}),
    ("quadratic_ss", {"block_length": 16}),
    ("quadratic_ss_tapered", {}),
    ("tidar", {}),
    ("prompt_lookup", {}),
)
"""Strategies whose steps are timed."""
APART = (("linear_ss", {"block_length": 16}),)
"""Those that are timed with the ops between two calls of the model apart, too."""
LOOPED = ("block_diffusion",)
MATRICES = ("qkv", "output", "gate", "up", "down")
"""Of a layer's weights, those that may have 8 or 4 bits."""
SLOW = STEPS[:2]
"""Those that are timed without graphs and on the slower backend too."""
STEMS = ("product", "gated", "summed", "rotary", "low_rank", "head", "quantised")
"""The kernels that have a benchmark of their own, in benchmarks/gpu."""
STEM_ROWS = (1, 32, 72, 272)
FEW_ROWS = (1, 32, 72)
"""With how many rows products of 8 and 4 bits are timed: they are for steps, and many kinds."""
FORWARD_ROWS = (1, 8, 16, 32, 64, 72, 128, 272, 1056)
"""How many rows the kernels, and whole forwards, are timed with."""
FORWARDS = (
    *((rows, 1024) for rows in FORWARD_ROWS),
    *((rows, prefix) for prefix in (128, 4096, 16384) for rows in (1, 32, 272)),
)
"""Forwards that are timed: rows, and the prefix behind which they lie."""


@dataclass(frozen=True)
class Phase:
    """A part of the report: what it does, and how many seconds it may take."""

    name: str
    title: str
    limit: float
    run: Callable[[Options], Iterator[dict[str, Any]]]
    parted: bool = False
    """Whether each backend and dtype is a process of its own, beside the others."""


@dataclass(frozen=True)
class Options:
    """What the command line says. A phase writes into `out`, which is the `work` of the report."""

    device: str
    small: bool
    out: Path
    work: Path
    limit: float
    part: tuple[str, str] | None = None
    """The backend and the dtype that a process of a parted phase looks at; None: at all."""


# What has to be there


def link_folders() -> None:
    """Make the package's links anew where a copy of the tree has lost them."""
    for name in LINKS:
        link = ROOT / "nldc" / name
        if (link / "__init__.py").exists():
            continue
        if link.is_symlink() or link.is_file():
            link.unlink()
        link.symlink_to(Path("..") / name)


def missing() -> list[str]:
    """Return what cannot be imported, of what is needed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def bring(wheels: Path | None) -> list[str]:
    """Unpack the wheels of what is missing behind everything else; return what is missing still."""
    absent = missing()
    found = sorted(wheels.glob("*.whl")) if wheels is not None and wheels.is_dir() else []
    by_name = {re.sub(r"[-.]", "_", path.name.split("-")[0]).lower(): path for path in found}
    chosen = [by_name[NEEDED[name]] for name in absent if NEEDED[name] in by_name]
    if chosen:
        room = Path(tempfile.mkdtemp(prefix="nldc-wheels-"))
        for path in chosen:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(room)
        sys.path.append(str(room))
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, (os.environ.get("PYTHONPATH"), str(room)))
        )
        importlib.invalidate_caches()
    return missing()


# The phases, each a generator of records


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """Whether a row's logits are the same bits in any company, by backend, dtype and prefix."""
    import torch

    from nldc.runtime.alike import ROWS, alike

    prefixes = (30, 90) if options.small else (30, 1000, 2030, 4080, 9200)
    with tempfile.TemporaryDirectory() as scratch:
        kind, pattern = compiled("ar", Path(scratch))
        for backend in backends(options):
            for dtype in DTYPES[:1] if options.small else DTYPES:
                begun = time.perf_counter()
                decoder = kind.from_checkpoint(
                    None, dtype=dtype, device=options.device, backend=backend
                )
                for prefix in prefixes:
                    (one,) = alike(
                        decoder.model,
                        pattern,
                        (prefix,),
                        rows=33 if options.small else ROWS,
                        alone=2 if options.small else 20,
                    )
                    yield {
                        "backend": backend,
                        "dtype": dtype,
                        "prefix": prefix,
                        "checked": one.checked,
                        "differing": one.differing,
                        "where": list(one.where),
                        "seconds": round(time.perf_counter() - begun, 2),
                    }
                    begun = time.perf_counter()
                del decoder
                if options.device != "cpu":
                    torch.cuda.empty_cache()


def exactness(options: Options) -> Iterator[dict[str, Any]]:
    """Whether every exact strategy of the library gives AR's tokens."""
    from nldc import api
    from nldc.prompts import choose_prompts
    from nldc.verify import first_difference, model_folder

    exact = sorted(name for name in api.library() if api.check(name).guarantee == "exact")
    names = ["ar", *(name for name in exact if name != "ar")]
    if options.small:
        names = ["ar", "linear_ss", "quadratic_ss"]
    prompts = choose_prompts(None, 1 if options.small else 3, model_folder(None), None)
    tokens = 6 if options.small else 32
    with tempfile.TemporaryDirectory() as scratch:
        kinds = {name: compiled(name, Path(scratch))[0] for name in names}
        for backend, dtype in parts(options):
            known: dict[float, Any] = {}
            for name in names:
                begun = time.perf_counter()
                decoder = kinds[name].from_checkpoint(
                    None, dtype=dtype, device=options.device, backend=backend
                )
                differ: list[str] = []
                for temperature in (0.0, 0.8):
                    made = decoder.generate(
                        prompts, max_new_tokens=tokens, temperature=temperature, batch_size=2
                    ).tokens
                    for number, pair in enumerate(
                        zip(known.setdefault(temperature, made), made, strict=True)
                    ):
                        found = first_difference(number, *pair)
                        if found is not None:
                            differ.append(
                                f"temperature {temperature}, prompt {number}, token {found.place}"
                            )
                yield {
                    "strategy": name,
                    "backend": backend,
                    "dtype": dtype,
                    "runs": 2 * len(prompts),
                    "differing": len(differ),
                    "where": differ,
                    "seconds": round(time.perf_counter() - begun, 2),
                }


def suite(options: Options) -> Iterator[dict[str, Any]]:
    """The GPU tests: pytest's own counts."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "tests/gpu",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
    ]
    if importlib.util.find_spec("xdist") is not None and not options.small:
        command += ["-n", str(max(2, (os.cpu_count() or 8) - 2))]
    if options.small:
        command += ["-k", "products and float32 and 61 or norms and float32-61"]
    log = options.out / "pytest.log"
    begun = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "NLDC_TEST_DEVICE": options.device},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(timeout=max(options.limit - 5, 5))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # its workers too, or they would slow what is timed next
            process.wait()
    lines = log.read_text(errors="replace").splitlines()
    counts = {
        word: int(number)
        for line in lines[-1:]
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?|deselected)", line)
    }
    yield {
        "code": code,
        "counts": counts,
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))][:40],
        "end": lines[-1] if lines else "",
        "seconds": round(time.perf_counter() - begun, 2),
    }


def compiling(options: Options) -> Iterator[dict[str, Any]]:
    """Compile what is timed later, each benchmark of kernels in a process of its own."""
    if options.device == "cpu":
        return
    begun = time.perf_counter()
    rows = [str(each) for each in FORWARD_ROWS]
    running = {}
    for stem in STEMS:
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / f"{stem}.py"), "--compile"]
        # some take a compiler long: only what is timed
        known = {"head": STEM_ROWS, "quantised": FEW_ROWS}.get(stem)
        command += ["--rows", *(rows if known is None else map(str, known))]
        running[stem] = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    for stem, process in running.items():
        _, problems = process.communicate()
        yield {
            "stem": stem,
            "code": process.returncode,
            "problem": problems.strip().splitlines()[-1:] if process.returncode else [],
            "seconds": round(time.perf_counter() - begun, 2),
        }


def kernel_times(options: Options, rate: float, until: float) -> Iterator[dict[str, Any]]:
    """How long each kernel takes of the 8B's shape in bfloat16, beside its floor."""
    import torch

    timing = script("timing")
    for stem in STEMS:
        module = script(stem)
        for rows in FEW_ROWS if stem == "quantised" else STEM_ROWS:
            if time.monotonic() > until:
                return
            for case in module.cases(rows, torch.bfloat16, torch.device(options.device)):
                yield {
                    "what": "kernel",
                    "name": case.name,
                    "rows": rows,
                    "us": timing.microseconds(case),
                    "floor_us": case.read / rate * 1e6,
                }
            torch.cuda.empty_cache()


def forward_times(
    options: Options,
    backbone: Any,
    pattern: Any,
    floor: float,
    cases: Sequence[tuple[int, int]],
    until: float = float("inf"),
    weights: str = "bfloat16",
) -> Iterator[dict[str, Any]]:
    """Forwards of rows behind a prefix, from their tokens to a greedy choice, in one CUDA graph."""
    import torch

    from nldc.runtime import Layout
    from nldc.runtime.cache.kv_cache import KVCache, Places
    from nldc.runtime.loading import backend_of
    from nldc.runtime.model.backend import Choice, through_layers
    from nldc.runtime.rows.plans import Plans

    name: Any = backends(options)[0]
    backend, device = backend_of(name, backbone), backbone.device
    plans = Plans(device, backbone.dtype)
    for rows, prefix in cases:
        if time.monotonic() > until:
            return
        layout = Layout.causal(rows, append=False)
        plan = plans(layout, pattern)
        backbone.rope.reserve(prefix + rows)
        cache = KVCache(backbone.config, backbone.dtype, device)
        slot = cache.acquire(prefix + rows)
        cache.reserve((slot,), [prefix + rows])
        cache.append(slot, prefix)
        start, zero = (torch.tensor([each], device=device) for each in (prefix, 0))
        places = Places((slot,), (prefix,), zero + slot, start)
        tokens = torch.randint(4, backbone.config.vocab_size, (rows,), device=device)
        choice = Choice(
            (start + plan.offset).view(1, -1), zero, zero.view(1, 1), None, False, None,
            lambda logits: logits.argmax(-1),
        )  # fmt: skip
        with torch.inference_mode():
            shared = backend.rows(plan, cache, places, start + plan.offset)

            def forward(tokens: Any = tokens, shared: Any = shared, choice: Any = choice) -> object:
                states = through_layers(backend, backbone.embed(tokens), shared)
                return backend.head_choose(states, choice)

            call = forward if options.device == "cpu" else script("setting").captured(forward)
            times = 3 if options.small else 8
            found = [milliseconds(call, options, turns=3) for _ in range(times)]
        yield {
            "what": "forward",
            "backend": name,
            "weights": weights,
            "rows": rows,
            "prefix": prefix,
            "ms": median(found[1:]),
            "floor_ms": floor,
        }


def milliseconds(call: Callable[[], object], options: Options, turns: int) -> float:
    """Return what a call takes of some that follow one another, by the device's clock."""
    import torch

    if options.device == "cpu":
        begun = time.perf_counter()
        call()
        return (time.perf_counter() - begun) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(turns):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / turns


def idle(decode: Callable[[], object]) -> dict[str, float]:
    """Return the share of a call in which the device had no kernel to run, and how many it ran.

    Of its time the second half is looked at, which the prompt has no part in.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        decode()
        torch.cuda.synchronize()
    spans = sorted(
        (one.time_range.start, one.time_range.end)
        for one in watched.events()
        if one.device_type == torch.autograd.DeviceType.CUDA
    )
    half = (spans[0][0] + spans[-1][1]) / 2
    spans = [one for one in spans if one[0] >= half]
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return {"idle": 1 - busy / (reached - spans[0][0]), "launches": len(spans)}


def times(options: Options) -> Iterator[dict[str, Any]]:
    """Steps and prefill of the 8B shape in bfloat16 with random weights, beside their floors.

    What matters most comes first: where time runs out, the rest is missing.
    """
    import torch

    until = time.monotonic() + options.limit - 5
    rate, copied = bandwidth(options)
    yield {"what": "bandwidth", "read": rate, "copy": copied}
    backbone, streamed = random_8b(options)
    floor = streamed / rate * 1e3
    yield {"what": "weights", "bytes": streamed, "floor_ms": floor}
    prefix, fast = 40 if options.small else 1024, backends(options)[0]
    near = ((1, 40), (8, 40)) if options.small else FORWARDS[: len(FORWARD_ROWS)]
    with tempfile.TemporaryDirectory() as scratch:
        pattern = compiled("ar", Path(scratch))[1]
        yield from forward_times(options, backbone, pattern, floor, near)
        graphs = fast == "triton"
        some = STEPS[:3] if options.small else STEPS
        yield from step_times(options, backbone, floor, prefix, some, fast, graphs, until)
        if fast == "triton":
            yield from step_times(
                options, backbone, floor, prefix, APART, fast, graphs, until, joined=False
            )
        rivals = script("rivals")
        shape = rivals.SMALL if options.small else rivals.LARGE
        yield from rivals.measure(shape, prefix, torch.device(options.device), until)
        if options.small:
            return
        if options.device != "cpu":
            yield from whole_number_forwards(options, pattern, rate)
            yield from script("attention").measure(options.device, small=False, until=until)
            yield from kernel_times(options, rate, until)
        far = FORWARDS[len(FORWARD_ROWS) :]
        yield from forward_times(options, backbone, pattern, floor, far, until)
        for backend, graphs in ((fast, False), (backends(options)[-1], False)):
            yield from step_times(options, backbone, floor, prefix, SLOW, backend, graphs, until)


def whole_number_forwards(options: Options, pattern: Any, rate: float) -> Iterator[dict[str, Any]]:
    """Forwards of the 8B shape with weights of 8 bits and a scale a row, of 4 bits in groups."""
    import torch

    for bits, group in ((8, 0), (4, 128)):
        backbone, _ = random_8b(options, (bits, group))
        layers, head = backbone.weights.layers, backbone.weights.head
        matrices = [head, *(getattr(one, name) for one in layers for name in MATRICES)]
        streamed = sum(one.words.nbytes + one.scale.nbytes for one in matrices)
        yield from forward_times(
            options, backbone, pattern, streamed / rate * 1e3,
            ((1, 1024), (16, 1024), (32, 1024)), weights=f"{bits} bits",
        )  # fmt: skip
        del backbone, layers, head, matrices
        torch.cuda.empty_cache()


def step_times(
    options: Options,
    backbone: Any,
    floor: float,
    prefix: int,
    cases: Sequence[tuple[str, dict[str, int]]],
    backend: str,
    graphs: bool,
    until: float,
    *,
    joined: bool = True,
) -> Iterator[dict[str, Any]]:
    """Steps of strategies behind a prefix, and its prefill.

    Not `joined`: what a step does between two calls of the model is torch's, op by op.
    """
    import torch

    steps = 4 if options.small else 24
    tokens = torch.randint(
        4, backbone.config.vocab_size, (prefix,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    for name, settings in cases:
        if time.monotonic() > until:
            return
        with tempfile.TemporaryDirectory() as scratch:
            kind, _ = compiled(name, Path(scratch), **settings)
        decoder = kind(backbone, backend=backend, graphs=graphs)
        if not joined:
            decoder.model.backend.between = None
        most = max(steps, 4 * settings.get("block_length", 1)) if name in LOOPED else steps
        step_ms, prefill_ms, forwards, emitted = [], [], 0.0, 0.0
        for turn in range(2 if options.small else 4):
            made = decoder.generate([tokens], max_new_tokens=most, eos=())
            if not turn:
                continue  # kernels are compiled, memory is taken, and graphs are made
            (stats,) = made.stats
            cycles = max(len(stats.accepted), 1)
            # Where a prefill emits nothing, the first token comes with the first step.
            behind = max(cycles - (sum(stats.accepted) >= most), 1)
            step_ms.append((stats.seconds - stats.time_to_first_token) / behind * 1e3)
            prefill_ms.append(stats.time_to_first_token * 1e3 - (cycles - behind) * step_ms[-1])
            emitted = sum(stats.accepted) / cycles
            forwards = max(round((stats.nfe - 1) / cycles), 1)

        def decode(decoder: Any = decoder, most: int = 2 * most) -> object:
            return decoder.generate([tokens], max_new_tokens=most, eos=())

        share = {}
        if options.device != "cpu" and graphs:
            share = idle(decode)
            decoder.engine.graphs.overlap = False
            share["idle_apart"] = idle(decode)["idle"]
        yield {
            "what": "step",
            **share,
            "strategy": name,
            "settings": settings,
            "backend": backend if joined else f"{backend}, ops apart",
            "replayed": decoder.engine.graphs.replays,
            "captured": decoder.engine.graphs.captures,
            "overlapped": decoder.engine.graphs.overlapped,
            "ms": median(step_ms),
            "least_ms": min(step_ms),
            "forwards": forwards,
            "floor_ms": floor * forwards,
            "tokens": emitted,
            "prefix": prefix,
            "prefill_ms": median(prefill_ms),
        }


PHASES = (
    Phase("rows", "Rows in any company", 110, rows),
    Phase("exactness", "Exact strategies against AR", 110, exactness, parted=True),
    Phase("tests", "GPU tests", 150, suite),
    Phase("compiling", "Kernels compiled", 150, compiling),
    Phase("times", "Times", 150, times),
)


# What the phases share


def backends(options: Options) -> tuple[str, ...]:
    """Return the backends that run on the device, the quicker first."""
    return ("torch",) if options.device == "cpu" else ("triton", "torch")


def parts(options: Options) -> list[tuple[str, str]]:
    """Return the backends and dtypes that a process looks at."""
    if options.part is not None:
        return [options.part]
    dtypes = DTYPES[:1] if options.small else DTYPES
    return [(backend, dtype) for backend in backends(options) for dtype in dtypes]


def compiled(name: str, scratch: Path, **settings: int) -> tuple[Any, Any]:
    """Return a strategy's decoder and the first of its attention patterns."""
    from nldc import api
    from nldc.runtime import Pattern

    # The tests certify the library. Trees that benchmarks/ab_step.py times may not know the option.
    known = inspect.signature(api.compile).parameters
    options = {"certify": False} if "certify" in known else {}
    kind = api.load(api.compile(name, scratch / name, settings, **options))
    module = sys.modules[kind.__module__.rpartition(".")[0] + ".patterns"]
    return kind, next(one for one in vars(module).values() if isinstance(one, Pattern))


def bandwidth(options: Options) -> tuple[float, float]:
    """Return the bytes a second of the best read, and of a copy, read and written."""
    import torch

    count = 1 << (22 if options.small else 29)
    given = torch.empty(count, dtype=torch.int32, device=options.device).random_()
    taken = torch.empty_like(given)

    def rate(call: Callable[[], object], moved: int) -> float:
        found = []
        for _ in range(7):
            synchronize(options)
            begun = time.perf_counter()
            call()
            synchronize(options)
            found.append(time.perf_counter() - begun)
        return moved / median(found)

    read = rate(lambda: given.sum(dtype=torch.int32), 4 * count)
    copied = rate(lambda: taken.copy_(given), 8 * count)
    if options.device != "cpu":
        del given, taken
        read = max(read, script("timing").read_rate(torch.device(options.device)))
    return max(read, copied), copied


def script(name: str) -> ModuleType:
    """Return a script of benchmarks/gpu; these import one another."""
    folder = str(ROOT / "benchmarks" / "gpu")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def synchronize(options: Options) -> None:
    """Wait for the device."""
    import torch

    if options.device != "cpu":
        torch.cuda.synchronize()


def random_8b(options: Options, kind: tuple[int, int] | None = None) -> tuple[Any, int]:
    """Return a backbone of the 8B's shape with weights drawn on the device, and the bytes that a
    forward of few rows streams: all weights but the embedding.

    `kind`: matrices have so many bits, and groups of so many columns (0: all of a row).
    """
    import torch

    from nldc.runtime.checkpoint.config import parse_config
    from nldc.runtime.checkpoint.weights import LayerWeights, Weights
    from nldc.runtime.model.backbone import Backbone

    hidden, mlp, heads, kv_heads, dim, layers, vocabulary = (
        (64, 96, 4, 2, 16, 2, 300) if options.small else (4096, 14336, 32, 8, 128, 34, 131072)
    )
    config = parse_config(
        {
            "model_type": "nemotron_labs_diffusion",
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": dim,
            "vocab_size": vocabulary,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "mask_token_id": 3,
            "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }
    )
    device, dtype = torch.device(options.device), torch.bfloat16
    torch.manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(0, 0.02)

    def matrix(out: int, width: int) -> Any:
        if kind is None:
            return drawn(out, width)
        made = script("quantised").drawn(out, width, *kind, dtype, device, shifted=False)
        return made.quantised

    def ones() -> torch.Tensor:
        return torch.ones(hidden, dtype=dtype, device=device)

    weights = Weights(
        embedding=drawn(vocabulary, hidden),
        layers=tuple(
            LayerWeights(
                input_norm=ones(),
                qkv=matrix((heads + 2 * kv_heads) * dim, hidden),
                output=matrix(hidden, heads * dim),
                post_norm=ones(),
                gate=matrix(mlp, hidden),
                up=matrix(mlp, hidden),
                down=matrix(hidden, mlp),
            )
            for _ in range(layers)
        ),
        norm=ones(),
        head=matrix(vocabulary, hidden),
    )
    layer = (2 * heads + 2 * kv_heads) * dim * hidden + 3 * mlp * hidden
    return Backbone(config, weights, dtype, device), 2 * (layers * layer + vocabulary * hidden)


# The report


def machine(options: Options) -> dict[str, Any]:
    """Return what was run on, and when."""
    import platform

    import torch

    try:
        import triton

        kernels = str(triton.__version__)
    except ImportError:
        kernels = "missing"
    here = options.device != "cpu"
    return {
        "device": torch.cuda.get_device_name() if here else platform.processor() or "CPU",
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": kernels,
        "python": platform.python_version(),
        "small": options.small,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a phase that are whole."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Return a table in markdown."""
    every = [head, ["---"] * len(head), *([str(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in every) + "\n"


def by_backend(records: Sequence[dict[str, Any]], line: str, total: str, names: str) -> str:
    """Return a table of how many differ: `line` down, backend and dtype across."""
    columns = list(dict.fromkeys((one["backend"], one["dtype"]) for one in records))
    found = {(one[line], one["backend"], one["dtype"]): one for one in records}
    lines = []
    for key in dict.fromkeys(one[line] for one in records):
        cells: list[object] = [key]
        for column in columns:
            one = found.get((key, *column))
            cells.append("not run" if one is None else f"{one['differing']} of {one[total]}")
        lines.append(cells)
    text = table([names, *(f"{b} {d}" for b, d in columns)], lines)
    for one in records:
        for place in one["where"]:
            text += f"\n- {one[line]}, {one['backend']} {one['dtype']}: {place}"
    return text


def markdown(report: dict[str, Any]) -> str:
    """Return the report as one page."""
    about = report["machine"]
    text = f"# GPU report: {about['device']}\n\n{about['date']}; " + ", ".join(
        f"{name} {about[name]}" for name in ("torch", "cuda", "triton", "python")
    )
    text += "\n\n" + table(
        ("phase", "outcome", "seconds"),
        [(one["title"], one["outcome"], one["seconds"]) for one in report["phases"].values()],
    )
    for name, phase in report["phases"].items():
        records = phase["records"]
        text += f"\n## {phase['title']}\n\n"
        if phase["error"]:
            text += f"```\n{phase['error']}\n```\n\n"
        if not records:
            text += "Nothing is known.\n"
        elif name == "rows":
            text += "Rows of another forward that differ in any bit, by length of the prefix.\n\n"
            text += by_backend(records, "prefix", "checked", "prefix")
        elif name == "exactness":
            text += "Runs whose tokens are not AR's.\n\n"
            text += by_backend(records, "strategy", "runs", "strategy")
        elif name == "tests":
            text += f"`{records[0]['end']}`\n"
            text += "".join(f"\n- {line}" for line in records[0]["failed"])
        elif name == "compiling":
            text += table(
                ("kernel", "exit code", "seconds", "problem"),
                [
                    (one["stem"], one["code"], one["seconds"], " ".join(one["problem"]))
                    for one in records
                ],
            )
        else:
            text += time_tables(records)
    return text + "\n"


def time_tables(records: Sequence[dict[str, Any]]) -> str:
    """Return the tables of the last phase."""
    text = ""
    for one in records:
        if one["what"] == "bandwidth":
            text += f"Memory: {one['read'] / 1e12:.2f} TB/s read at best, "
            text += f"{one['copy'] / 1e12:.2f} TB/s copied (read and written).\n"
        if one["what"] == "weights":
            text += f"\nA forward streams {one['bytes'] / 1e9:.2f} GB of weights: "
            text += f"floor {one['floor_ms']:.2f} ms.\n\n"
    forwards = [one for one in records if one["what"] == "forward"]
    if forwards:
        text += "Forwards, from tokens to a greedy choice, in one graph on a GPU.\n\n" + table(
            ("weights", "rows", "prefix", "backend", "ms", "ms/floor", "to the first"),
            [
                (
                    one["weights"],
                    one["rows"],
                    one["prefix"],
                    one["backend"],
                    f"{one['ms']:.3f}",
                    f"{one['ms'] / one['floor_ms']:.2f}",
                    f"{one['ms'] / forwards[0]['ms']:.2f}",
                )
                for one in forwards
            ],
        )
    kernels = [one for one in records if one["what"] == "kernel"]
    if kernels:
        text += "\nKernels, microseconds a launch in a graph.\n\n" + table(
            ("kernel", "rows", "us", "floor", "us/floor"),
            [
                (
                    one["name"],
                    one["rows"],
                    f"{one['us']:.2f}",
                    f"{one['floor_us']:.2f}",
                    f"{one['us'] / one['floor_us']:.2f}",
                )
                for one in kernels
            ],
        )
    steps = [one for one in records if one["what"] == "step"]
    alone = [one for one in records if one["what"] == "attention"]
    text += "\nSteps.\n\n" + table(
        ("strategy", "backend", "graphs, replays, overlapped", "ms a step", "least", "forwards",
         "floor", "ms/floor", "tokens a step", "prefill, ms", "device idle", "with no overlap"),
        [
            (
                " ".join([one["strategy"], *(f"{k}={v}" for k, v in one["settings"].items())]),
                one["backend"],
                f"{one['captured']}, {one['replayed']}, {one['overlapped']}",
                f"{one['ms']:.2f}",
                f"{one['least_ms']:.2f}",
                one["forwards"],
                f"{one['floor_ms']:.2f}",
                f"{one['ms'] / one['floor_ms']:.2f}",
                f"{one['tokens']:.2f}",
                f"{one['prefill_ms']:.1f} ({one['prefix']})",
                f"{100 * one['idle']:.1f} %" if "idle" in one else "",
                f"{100 * one['idle_apart']:.1f} %" if "idle_apart" in one else "",
            )
            for one in steps
        ],
    )  # fmt: skip
    if alone:
        text += "\nAttention alone, microseconds a layer.\n\n"
        head = ("mask", "rows", "prefix", "ours", "FlexAttention", "ratio")
        text += table(head, script("attention").lines(alone))
    others = [one for one in records if one["what"] == "rival"]
    if others:
        text += "\nWhat else there is.\n\n"
        text += table(("what", "rows", "ms"), script("rivals").lines(others))
    return text


def write(report: dict[str, Any], out: Path) -> None:
    """Write both files, each whole or not at all."""
    for name, text in (
        ("report.json", json.dumps(report, indent=1) + "\n"),
        ("report.md", markdown(report)),
    ):
        fresh = out / (name + ".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(out / name)


@dataclass
class Running:
    """A phase on its way."""

    phase: Phase
    process: subprocess.Popen[bytes]
    begun: float
    until: float
    name: str = ""
    """What its files are called, if not as the phase."""

    @property
    def stem(self) -> str:
        """What its files are called."""
        return self.name or self.phase.name


def start(phase: Phase, options: Options, until: float) -> list[Running]:
    """Start a phase, each of its parts in a process of its own."""
    if not phase.parted:
        return [launch(phase, options, until, None)]
    return [launch(phase, options, until, part) for part in parts(options)]


def launch(phase: Phase, options: Options, until: float, part: tuple[str, str] | None) -> Running:
    """Start a process, which ends by itself when it is told to."""
    stem = "-".join((phase.name, *(part or ())))
    limit = max(min(phase.limit, until - time.monotonic()), 5.0)
    command = [sys.executable, str(Path(__file__).resolve()), "--phase", phase.name]
    command += ["--device", options.device, "--out", str(options.work), "--limit", str(limit)]
    command += ["--small"] if options.small else []
    command += ["--part", *part] if part else []
    with (options.work / f"{stem}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    now = time.monotonic()
    return Running(phase, process, now, now + limit, stem)


def wait(running: Sequence[Running], report: dict[str, Any], options: Options) -> None:
    """Wait for phases, writing the report whenever one of them ends or is stopped."""
    left = list(running)
    while left:
        for one in list(left):
            code = one.process.poll()
            late = code is None and time.monotonic() > one.until
            if code is None and not late:
                continue
            if late:
                os.killpg(one.process.pid, 9)
                one.process.wait()
            left.remove(one)
            log = (options.work / f"{one.stem}.log").read_text(errors="replace")
            outcome = "ran over its limit" if late else "done" if code == 0 else f"failed ({code})"
            state = report["phases"][one.phase.name]
            state["seconds"] = round(time.monotonic() - one.begun, 1)
            if outcome != "done":
                state["error"] += f"{one.stem}: {outcome}\n{log[-3000:]}"
            if state["outcome"] in ("not run", "done"):
                state["outcome"] = outcome
        for phase in (one for one in PHASES if one.name in report["phases"]):
            records = [
                record
                for path in (
                    options.work / f"{phase.name}.jsonl",
                    *(options.work / f"{phase.name}-{b}-{d}.jsonl" for b, d in parts(options)),
                )
                for record in read(path)
            ]
            report["phases"][phase.name]["records"] = records
        write(report, options.out)
        time.sleep(0.5)


def run_phase(name: str, options: Options) -> None:
    """Run one phase here, and write down each record as it comes."""
    (phase,) = (one for one in PHASES if one.name == name)
    stem = "-".join((name, *(options.part or ())))
    with (options.out / f"{stem}.jsonl").open("w", encoding="utf-8") as file:
        for record in phase.run(options):
            file.write(json.dumps(record) + "\n")
            file.flush()


def verdict(report: dict[str, Any]) -> list[str]:
    """Return what is wrong, in words."""
    found = []
    for name, phase in report["phases"].items():
        if phase["outcome"] != "done":
            found.append(f"{phase['title']}: {phase['outcome']}")
        differing = sum(one.get("differing", 0) for one in phase["records"])
        if differing:
            found.append(f"{phase['title']}: {differing} differ")
        failed = [one["stem"] for one in phase["records"] if name == "compiling" and one["code"]]
        if failed:
            found.append(f"{phase['title']}: {', '.join(failed)} failed")
        if name == "tests" and phase["records"] and phase["records"][0]["code"] != 0:
            found.append(f"{phase['title']}: {phase['records'][0]['end']}")
    return found


def main() -> int:
    """Run the command; 0 if everything holds, 1 if not, 2 if it could not begin."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--small", action="store_true", help="less of everything")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-report")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    parser.add_argument("--limit", type=float, default=330.0, help="seconds for all of it")
    parser.add_argument("--only", nargs="+", choices=[phase.name for phase in PHASES],
                        help="only these phases")  # fmt: skip
    parser.add_argument("--phase", choices=[phase.name for phase in PHASES], help="one phase alone")
    parser.add_argument("--part", nargs=2, metavar=("BACKEND", "DTYPE"), help="of that phase")
    given = parser.parse_args()
    until = time.monotonic() + given.limit
    link_folders()
    sys.path.insert(0, str(ROOT))
    absent = bring(given.wheels)
    if absent:
        print(
            f"cannot be imported here: {', '.join(absent)}\n"
            "where there is a network, run `make gpu-wheels`, bring the folder .wheels along, and "
            "give it with `--wheels .wheels` (torch comes with the machine)",
            file=sys.stderr,
        )
        return 2
    import torch

    if given.device != "cpu" and not torch.cuda.is_available():
        print("torch sees no CUDA device; `--device cpu --small` tries the script", file=sys.stderr)
        return 2
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.phase:
        part = tuple(given.part) if given.part else None
        run_phase(given.phase, Options(given.device, given.small, out, out, given.limit, part))
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    with tempfile.TemporaryDirectory(prefix="gpu-report-") as work:
        options = Options(given.device, given.small, out, Path(work), given.limit)
        report = run_all(options, until, given.only or [phase.name for phase in PHASES])
        if (options.work / "pytest.log").exists():
            shutil.copy(options.work / "pytest.log", out)
    print((out / "report.md").read_text(encoding="utf-8"))
    wrong = verdict(report)
    print("\n".join(wrong) if wrong else "everything holds")
    return 1 if wrong else 0


def run_all(options: Options, until: float, names: Sequence[str]) -> dict[str, Any]:
    """Run the phases of these names, writing the report as it grows, and return it."""
    phases = [phase for phase in PHASES if phase.name in names]
    report: dict[str, Any] = {
        "machine": machine(options),
        "phases": {
            phase.name: {
                "title": phase.title,
                "outcome": "not run",
                "seconds": 0.0,
                "error": "",
                "records": [],
            }
            for phase in phases
        },
    }
    write(report, options.out)
    checks = [phase for phase in phases if phase.name != "times"]
    timed = PHASES[-1]
    # What checks may run side by side; what is timed runs alone, and keeps its time.
    reserve = min(timed.limit, options.limit / 2) if timed in phases else 0.0
    begun = [one for phase in checks for one in start(phase, options, until - reserve)]
    wait(begun, report, options)
    if timed in phases:
        wait(start(timed, options, until), report, options)
    return report


if __name__ == "__main__":
    sys.exit(main())

"""Weights of 8 and 4 bits: what they cost in quality, and what a token costs, beside llama.cpp.

Quality is measured on text that a model has not seen: perplexity, and how often the likeliest token
is that of the unquantised checkpoint, both with the true text before each token. The matrices are
those that products compute with, and the rest is computed in float32.

    python benchmarks/quantized.py quality nldc/demo

Speed is AR decoding, one token of each engine in turn; the prefill is left out. llama.cpp is
that of the package cyllama, which has wheels for CPUs; without it, ours alone is timed.

    python benchmarks/quantized.py speed build/smollm2-kept --gguf SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ar_vs_transformers import PROMPT, our_decoder
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.checkpoint.weights import Weights, load_weights
from nldc.runtime.invariant.quantised_ways import pack_weight
from nldc.runtime.reference.attention import causal, over
from nldc.runtime.reference.backbone import PlainBackbone, plain
from nldc.runtime.text.tokenizer import Tokenizer

FLOATS = "8 bits, floats, a scale a row"
VARIANTS: tuple[tuple[str, int, int | None, bool], ...] = (
    ("8 bits, a scale a row", 8, None, True),
    ("8 bits, groups of 32", 8, 32, True),
    (FLOATS, 8, None, True),
    ("4 bits, groups of 32", 4, 32, False),
    ("4 bits, groups of 128", 4, 128, False),
    ("4 bits, groups of 32, symmetric", 4, 32, True),
)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.what == "quality":
        print_quality(options.checkpoint, options.pieces)
    else:
        print_speed(options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("checkpoint", type=Path, nargs="+")
    parser.add_argument("--backend", choices=["torch", "numba"], help="if not what is chosen")
    parser.add_argument("--gguf", help="the same model for llama.cpp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pieces", type=int, default=40, help="held-out texts of 128 tokens")
    parser.add_argument("--tokens", type=int, default=60, help="tokens that are timed")
    return parser.parse_args()


def print_quality(checkpoints: list[Path], pieces: int) -> None:
    for checkpoint in checkpoints:
        rows = held_out(checkpoint, pieces)
        print(f"{checkpoint}: {rows.shape[0]} held-out texts of {rows.shape[1]} tokens")
        base = measured(checkpoint, rows)
        print(f"{'as it is':34} perplexity {base[0]:7.3f}")
        config = ModelConfig.load(checkpoint)
        for name, bits, group, symmetric in VARIANTS:
            if any(
                width % (group or 1) for width in (config.hidden_size, config.intermediate_size)
            ):
                continue
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                report = quantize(
                    checkpoint, out, bits, group, symmetric=symmetric, floating=name == FLOATS
                )
                found, likeliest = measured(out, rows)
            same = float((likeliest == base[1]).float().mean())
            print(
                f"{name:34} perplexity {found:7.3f} ({found / base[0] - 1:+.2%})  "
                f"same token {same:6.2%}  weights off by {report.error:.2%}  "
                f"{report.after / 1e6:.1f} of {report.before / 1e6:.1f} MB",
                flush=True,
            )


def held_out(checkpoint: Path, pieces: int) -> Tensor:
    """Return token ids [pieces, 128] of the demo model's held-out texts."""
    import nldc

    tokenizer = Tokenizer.load(checkpoint)
    lines = (Path(nldc.__file__).parent / "demo" / "heldout.jsonl").read_text("utf-8").splitlines()
    texts = "\n".join(json.loads(line)["prompt"] for line in lines)
    ids = torch.tensor(tokenizer.encode(texts)[: pieces * 128])
    return ids[: len(ids) // 128 * 128].view(-1, 128)


def measured(checkpoint: Path, rows: Tensor) -> tuple[float, Tensor]:
    """Return the perplexity of the texts and the likeliest token at every place but the last."""
    config = ModelConfig.load(checkpoint)
    weights = load_weights(
        checkpoint, config, torch.bfloat16, torch.device("cpu"), form=as_computed
    )
    backbone = PlainBackbone(config, wide(weights))
    positions = torch.arange(rows.shape[1])
    sees = over(causal(len(positions)), torch.float32)
    losses, likeliest = [], []
    with torch.inference_mode():
        for part in torch.split(rows, 8):
            states = backbone.forward(backbone.embed(part), positions, sees)
            logits = backbone.head(states)[:, :-1]
            losses.append(F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()))
            likeliest.append(logits.argmax(-1))
    return math.exp(float(torch.stack(losses).mean())), torch.cat(likeliest)


def as_computed(weight: Any) -> Tensor:
    """Return a matrix with the values that its product has."""
    return weight if isinstance(weight, Tensor) else plain(pack_weight(weight))


def wide(weights: Weights) -> Weights:
    """Return weights as matrices of float32."""

    def of(weight: Any) -> Tensor:
        return plain(weight).float()

    layers = tuple(
        replace(layer, **{name: of(value) for name, value in vars(layer).items()})
        for layer in weights.layers
    )
    return Weights(of(weights.embedding), layers, of(weights.norm), of(weights.head))


def print_speed(options: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {options.threads} threads, products by", end=" ")
    print(f"{torch.backends.cpu.get_cpu_capability()}, bfloat16, 128 tokens of prompt")
    engines: dict[str, Iterator[None]] = {}
    prompt: list[int] = []
    for checkpoint in options.checkpoint:
        decoder = our_decoder(checkpoint, dtype="bfloat16", backend=options.backend)
        prompt = decoder.tokenizer.encode(PROMPT * 40)[:128]
        tokens = decoder.stream(prompt, max_new_tokens=options.tokens + 8, eos=())
        engines[f"nldc, {decoder.backend}, {checkpoint.name}"] = iter(tokens)
    theirs = llama_cpp(options.gguf, prompt, options.threads) if options.gguf else None
    if theirs is not None:
        engines[f"llama.cpp, {Path(options.gguf).name}"] = theirs
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(options.tokens + 3):
        for name, engine in engines.items():
            wall, cpu = time.perf_counter(), time.process_time()
            next(engine)
            if number > 2:
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                times[name].append((wall, cpu))
    for name, found in times.items():
        wall, cpu = ([each[place] * 1e3 for each in found] for place in (0, 1))
        print(
            f"{name:40} {1e3 / statistics.median(wall):6.1f} tok/s, wall "
            f"{statistics.median(wall):6.1f} ms (least {min(wall):.1f}), CPU "
            f"{statistics.median(cpu):6.1f} ms (least {min(cpu):.1f})",
            flush=True,
        )
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's and torch's own endings do not get along


def llama_cpp(gguf: str, prompt: list[int], threads: int) -> Iterator[None] | None:
    """Return what decodes one token of llama.cpp's each time, or None where it is not there."""
    try:
        import cyllama.llama.llama_cpp as cpp
    except ImportError:
        print("llama.cpp     not installed: pip install cyllama")
        return None
    cpp.disable_logging()
    cpp.llama_backend_init()
    model = cpp.LlamaModel(gguf)
    settings = cpp.LlamaContextParams()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 512, threads, threads
    context = cpp.LlamaContext(model, settings)
    greedy = cpp.LlamaSampler(cpp.LlamaSamplerChainParams())
    greedy.add_greedy()

    def decode(tokens: list[int], start: int) -> int:
        batch = cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for place, token in enumerate(tokens):
            batch.add(token, start + place, [0], place == len(tokens) - 1)
        context.decode(batch)
        return int(greedy.sample(context, -1))

    def tokens() -> Iterator[None]:
        token, place = decode(prompt, 0), len(prompt)
        while True:
            yield
            token, place = decode([token], place), place + 1

    return tokens()


if __name__ == "__main__":
    main()

"""The price of rows that do not depend on their company: whole forwards of a model, by dtype.

First every dtype's logits at 1, 2, 7 and 32 rows are compared bitwise with those at 272; then
forwards of several sizes take turns over the weights in the form that `pack` chose and over plain
ones, on which torch chooses another order of sums for each number of rows.

    python benchmarks/row_invariance.py build/smollm2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import torch
from ar_vs_transformers import our_decoder, print_machine
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import LayerWeights, Weights, load_weights
from nldc.runtime.decoder import Decoder
from nldc.runtime.invariant.linear import Packed
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.member import Member

CAUSAL = Pattern("causal", lambda q, k: k.position <= q.position, sees_prefix=True)
PREFIX, MOST = 128, 272
DTYPES = ("float32", "bfloat16", "float16", "float64")
ROWS = (1, 2, 16, 32, 272)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, such as build/smollm2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_machine(options.threads, "see below")
    for dtype in options.dtypes:
        measure(options.checkpoint, dtype, options.rounds)


def measure(checkpoint: Path, dtype: str, rounds: int) -> None:
    start = time.perf_counter()
    decoder = our_decoder(checkpoint, dtype)
    loaded = time.perf_counter() - start
    plain = plain_model(checkpoint, decoder)
    models = {"chosen": decoder.model, "plain": plain}
    print(f"\n{dtype}: loaded in {loaded:.1f} s; {ways_of(decoder.model.backbone.weights)}")
    for name, model in models.items():
        print(f"  rows that differ from those of a forward of {MOST}, {name}: {differing(model)}")
    for rows in ROWS:
        times: dict[str, list[float]] = {name: [] for name in models}
        batches = {name: batch_of(model) for name, model in models.items()}
        for _ in range(rounds + 1):
            for name, batch in batches.items():
                start = time.perf_counter()
                forward(batch, tokens(rows, 1))
                times[name].append(time.perf_counter() - start)
        ours, theirs = (values[1:] for values in times.values())
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"  {rows:4} rows: chosen {statistics.median(ours) * 1e3:6.1f} ms, "
            f"plain {statistics.median(theirs) * 1e3:6.1f} ms, ratio {ratio:.2f}"
        )


def plain_model(checkpoint: Path, decoder: Decoder) -> Model:
    """Return the decoder's model with weights as they come, multiplied as torch likes."""
    backbone = decoder.model.backbone
    config = ModelConfig.load(checkpoint)
    made = Backbone(config, backbone.weights, backbone.dtype, backbone.device)
    made.weights = load_weights(
        checkpoint, config, backbone.dtype, backbone.device, form=lambda weight: weight
    )
    return replace(decoder.model, backend=TorchBackend(made))


def ways_of(weights: Weights) -> str:
    """Return how many products are computed in which way."""
    names = [field.name for field in fields(LayerWeights)]
    each = [getattr(layer, name) for layer in weights.layers for name in names]
    found = Counter(str(one.way) for one in [*each, weights.head] if isinstance(one, Packed))
    return ", ".join(f"{count} products {way}" for way, count in found.items())


def tokens(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 1000, (1, count), generator=generator)


def batch_of(model: Model) -> Batch:
    """Return a batch of one sequence behind a prefix."""
    backbone = model.backbone
    cache = KVCache(backbone.config, backbone.dtype, backbone.device)
    batch = Batch(model, cache, [Member(cache.acquire(PREFIX + MOST), 0)])
    with torch.inference_mode():
        batch.forward(tokens(PREFIX, 0), Layout.causal(PREFIX), CAUSAL)
    return batch


def forward(batch: Batch, ids: Tensor) -> Tensor:
    """Return logits of rows that do not stay; of the last row alone above 32 rows."""
    with torch.inference_mode():
        seen = batch.forward(ids, Layout.causal(ids.shape[1], append=False), CAUSAL)
        return batch.head(seen if ids.shape[1] <= 32 else seen.take(slice(-1, None))).values


def differing(model: Model) -> str:
    """Say how many rows differ from the same rows of one large forward, by size of forward."""
    batch, ids, found = batch_of(model), tokens(MOST, 1), []
    with torch.inference_mode():
        seen = batch.forward(ids, Layout.causal(MOST, append=False), CAUSAL)
        whole = batch.head(seen.take(slice(0, 32))).values[0]
    for count in (1, 2, 7, 32):
        some = forward(batch, ids[:, :count])[0]
        found.append(f"{int((some != whole[:count]).any(1).sum())} of {count}")
    return ", ".join(found)


if __name__ == "__main__":
    main()

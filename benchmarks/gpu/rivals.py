"""What else there is to decode with, on the same device in the same run: the 8B shape, bfloat16.

`transformers` with a Llama of that shape: a token of `generate()`, a prefill, and a step of linear
self-speculation as such loops are written (two forwards, and a comparison on the host for each
row). And plain torch: joined weights, attention by `scaled_dot_product_attention` over a static
cache, the whole forward in one CUDA graph; then the same with its layers compiled.

    python benchmarks/gpu/rivals.py [--device cpu --small]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from setting import LARGE, SMALL, captured
from torch import Tensor

from nldc.cost.geometry import Geometry

ROWS = (1, 16, 32, 72, 272, 1056)
STEP_ROWS = 16


def measure(shape: Geometry, prefix: int, device: torch.device, until: float) -> Iterator[Any]:
    """Yield a record for each rival, as far as there is time."""
    for one in (with_transformers, with_torch):
        if time.monotonic() > until:
            return
        try:
            yield from one(shape, prefix, device, until)
        except Exception as problem:  # they are not ours, and ours is measured
            reason = f"{type(problem).__name__}: {problem}"[:200]
            yield {"what": "rival", "name": one.__name__, "ms": None, "why": reason}
        if device.type == "cuda":
            torch.cuda.empty_cache()


def record(name: str, rows: int, milliseconds: float) -> dict[str, Any]:
    return {"what": "rival", "name": name, "rows": rows, "ms": milliseconds}


def timed(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the median time of a call in milliseconds, the host's part included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    call()
    found = []
    for _ in range(repeats):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        found.append((time.perf_counter() - begun) * 1e3)
    return median(found)


# transformers


def with_transformers(
    shape: Geometry, prefix: int, device: torch.device, until: float
) -> Iterator[Any]:
    """Yield a token of `generate()`, a prefill, and a step of a plain self-speculation loop."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        num_hidden_layers=shape.layers,
        vocab_size=shape.vocabulary,
        max_position_embeddings=32768,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=1,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    prompt = torch.randint(4, shape.vocabulary, (1, prefix), device=device)

    def generated(tokens: int) -> float:
        return timed(
            lambda: model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            ),
            device,
            3,
        )

    with torch.inference_mode():
        few, many = generated(2), generated(18)
        yield record("transformers, a token of generate()", 1, (many - few) / 16)
        prefill = timed(lambda: model(prompt, use_cache=True, logits_to_keep=1), device)
        yield record("transformers, prefill", prefix, prefill)
        if time.monotonic() > until:
            return
        cache = DynamicCache(config=config)
        model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids = torch.randint(4, shape.vocabulary, (1, STEP_ROWS), device=device)
        sees_all = torch.zeros(
            1, 1, STEP_ROWS, prefix + STEP_ROWS, dtype=torch.bfloat16, device=device
        )

        def step() -> int:
            drafted = model(ids, past_key_values=cache, attention_mask=sees_all).logits.argmax(-1)
            cache.crop(-STEP_ROWS)
            given = torch.cat((ids[:, :1], drafted[:, 1:]), 1)
            chosen = model(given, past_key_values=cache).logits.argmax(-1)
            accepted = 0
            for row in range(STEP_ROWS - 1):
                accepted += int(chosen[0, row].item() == given[0, row + 1].item())
            cache.crop(-STEP_ROWS)
            return accepted

        yield record("transformers, a plain linear step", STEP_ROWS, timed(step, device))


# plain torch


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights as a plain loop would have them: what is multiplied together is joined."""

    qkv: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor
    norm: Tensor
    post_norm: Tensor


def with_torch(shape: Geometry, prefix: int, device: torch.device, until: float) -> Iterator[Any]:
    """Yield forwards of rows behind a prefix, in one CUDA graph, and with compiled layers."""
    yield from _forwards(shape, prefix, device, until, layer_forward, "torch, joined, CUDA graph")
    if device.type == "cuda" and time.monotonic() < until - 30:
        compiled = torch.compile(layer_forward, dynamic=False)
        name = "torch.compile, CUDA graph"
        yield from _forwards(shape, prefix, device, until, compiled, name)


def layer_forward(
    x: Tensor, layer: Layer, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor, mask: Tensor,
    place: Tensor, heads: int, kv_heads: int, dim: int,
) -> Tensor:  # fmt: skip
    """Return the states [n, hidden] behind a layer; keys and values go to the static cache."""
    count = len(x)
    qkv = F.linear(F.rms_norm(x, x.shape[-1:], layer.norm), layer.qkv)
    qkv = qkv.view(count, heads + 2 * kv_heads, dim)
    turned = qkv[:, : heads + kv_heads]
    half = torch.cat((-turned[..., dim // 2 :], turned[..., : dim // 2]), -1)
    turned = turned * cos + half * sin
    keys.index_copy_(2, place, turned[:, heads:].transpose(0, 1).unsqueeze(0))
    values.index_copy_(2, place, qkv[:, heads + kv_heads :].transpose(0, 1).unsqueeze(0))
    query = turned[:, :heads].transpose(0, 1).unsqueeze(0)
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
    x = x + F.linear(found.squeeze(0).transpose(0, 1).flatten(1), layer.output)
    both = F.linear(F.rms_norm(x, x.shape[-1:], layer.post_norm), layer.gate_up)
    gate, up = both.chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, layer.down)


def _forwards(
    shape: Geometry,
    prefix: int,
    device: torch.device,
    until: float,
    through: Callable[..., Tensor],
    name: str,
) -> Iterator[Any]:
    like: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}

    def drawn(*size: int) -> Tensor:
        return torch.empty(size, **like).normal_(0, 0.02)

    ones = torch.ones(shape.hidden, **like)
    layers = [
        Layer(
            drawn((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.hidden),
            drawn(shape.hidden, shape.heads * shape.head_dim),
            drawn(2 * shape.intermediate, shape.hidden),
            drawn(shape.hidden, shape.intermediate),
            ones,
            ones,
        )
        for _ in range(shape.layers)
    ]
    embedding, head = (drawn(shape.vocabulary, shape.hidden) for _ in range(2))
    for rows in ROWS:
        if time.monotonic() > until:
            return
        held = drawn(shape.layers, 2, 1, shape.kv_heads, prefix + rows, shape.head_dim)
        cos, sin = drawn(rows, 1, shape.head_dim), drawn(rows, 1, shape.head_dim)
        mask = torch.ones(rows, prefix + rows, dtype=torch.bool, device=device).tril(prefix)
        place = prefix + torch.arange(rows, device=device)
        tokens = torch.randint(4, shape.vocabulary, (rows,), device=device)

        def forward(
            held: Tensor = held, cos: Tensor = cos, sin: Tensor = sin, mask: Tensor = mask,
            place: Tensor = place, tokens: Tensor = tokens,
        ) -> Tensor:  # fmt: skip
            x = embedding[tokens]
            for number, layer in enumerate(layers):
                keys, values = held[number]
                x = through(
                    x, layer, keys, values, cos, sin, mask, place,
                    shape.heads, shape.kv_heads, shape.head_dim,
                )  # fmt: skip
            return F.linear(F.rms_norm(x, x.shape[-1:], ones), head).argmax(-1)

        with torch.inference_mode():
            call: Callable[[], object] = forward
            if device.type == "cuda":
                call = captured(forward)
            yield record(name, rows, timed(call, device))


def lines(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the lines of a table: what, rows, milliseconds."""
    return [
        (
            one["name"],
            str(one.get("rows", "")),
            one.get("why", "") if one["ms"] is None else f"{one['ms']:.2f}",
        )
        for one in records
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny shape")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds")
    given = parser.parse_args()
    found = measure(
        SMALL if given.small else LARGE,
        40 if given.small else 1024,
        torch.device(given.device),
        time.monotonic() + given.limit,
    )
    for one in found:
        print(" | ".join(lines([one])[0]), flush=True)

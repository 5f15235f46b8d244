"""Run in its own process with TRITON_INTERPRET=1: kernels against the reference, as JSON.

Triton fixes interpretation when it is imported, and interprets and compiles in one process badly.
"""

# ruff: noqa: ARG001  (a predicate takes every fact)

from __future__ import annotations

import json

import torch
import triton
import triton.language as tl  # noqa: F401  (the interpreter looks for it in globals)
from handwritten import (
    BIDIRECTIONAL,
    CAUSAL,
    QUADRATIC,
    QUADRATIC_START,
    cases,
    decoder_for,
    quadratic_layout,
)
from patched_once import patch_once

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.model.triton_backend import TritonBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, RowFacts
from nldc.runtime.rows.plan import Plan


@triton.jit
def causal_kernel(
    q_kind, q_group, q_index, q_row, q_position, k_prefix, k_kind, k_group, k_index, k_row,
    k_position,
):  # fmt: skip
    return k_position <= q_position


@triton.jit
def bidirectional_kernel(
    q_kind, q_group, q_index, q_row, q_position, k_prefix, k_kind, k_group, k_index, k_row,
    k_position,
):  # fmt: skip
    return q_row == q_row


@triton.jit
def quadratic_kernel(
    q_kind, q_group, q_index, q_row, q_position, k_prefix, k_kind, k_group, k_index, k_row,
    k_position,
):  # fmt: skip
    drafted = (k_kind == 0) & (k_group <= q_group)
    return k_prefix | drafted | ((k_kind == 1) & (q_kind == 1) & (k_group == q_group))


@triton.jit
def quadratic_start_kernel(
    q_kind, q_group, q_index, q_row, q_position, k_prefix, k_kind, k_group, k_index, k_row,
    k_position,
):  # fmt: skip
    return (q_kind == 1) | (k_position <= q_position)


@triton.jit
def window_kernel(
    q_kind, q_group, q_index, q_row, q_position, k_prefix, k_kind, k_group, k_index, k_row,
    k_position,
):  # fmt: skip
    return (k_position <= q_position) & (k_position > q_position - 5) & (q_row != 2)


def _window(q: RowFacts, k: RowFacts) -> torch.Tensor:
    return (k.position <= q.position) & (k.position > q.position - 5) & (q.row != 2)


def _promptless(q: RowFacts, k: RowFacts) -> torch.Tensor:
    """Return what sees the text behind the prompt, and the rows before it."""
    return (k.prefix & ~k.prompt) | (k.row >= 0) & (k.row <= q.row)


@triton.jit
def promptless_kernel(  # type: ignore[no-untyped-def]
    q_kind, q_group, q_index, q_row, q_position,
    k_prefix, k_kind, k_group, k_index, k_row, k_position, k_prompt,
):  # fmt: skip
    """As `_promptless`."""
    return (k_prefix & (k_prompt == 0)) | ((k_row >= 0) & (k_row <= q_row))


WINDOW = Pattern("window", _window)
PROMPTLESS = Pattern("promptless", _promptless, asks_prompt=True)
KERNELS = {
    CAUSAL: causal_kernel,
    BIDIRECTIONAL: bidirectional_kernel,
    QUADRATIC: quadratic_kernel,
    QUADRATIC_START: quadratic_start_kernel,
    WINDOW: window_kernel,
    PROMPTLESS: promptless_kernel,
}


def layers() -> list[float]:
    """Return how far the backends are apart behind each layer, to the size of its states.

    Both compute the second of two forwards, of two sequences with an adapter on some rows.
    """
    case = next(c for c in cases() if str(c) == "random-5.3")
    decoder = decoder_for(case, "linear_ss_lora", backend="triton", dtype="float32")
    kernel, backbone = decoder.model.backend, decoder.model.backbone
    assert isinstance(kernel, TritonBackend)
    (adapter,) = decoder.model.adapters.values()
    backends = (TorchBackend(backbone), kernel)
    caches = [KVCache(decoder.config, torch.float32, backbone.device) for _ in backends]
    torch.manual_seed(0)
    found = []
    for length, (layout, pattern) in (
        (0, (Layout.causal(60), CAUSAL)),
        (60, (quadratic_layout(3), QUADRATIC)),
    ):
        plan = Plan.of(layout, pattern, backbone.device, torch.float32)
        backbone.rope.reserve(length + plan.reach)
        positions = (length + plan.offset).repeat(2)
        chosen = torch.arange(len(positions)).view(-1, 2)[:, 0] if length else None
        rows = []
        for backend, cache in zip(backends, caches, strict=True):
            slots = tuple(cache.committed) or tuple(cache.acquire(120) for _ in range(2))
            cache.reserve(slots, [length + layout.size] * 2)
            start = torch.full((2,), length)
            places = Places(slots, (length, length), torch.tensor(slots), start)
            lora = (adapter, chosen) if length else ()
            rows.append(backend.rows(plan, cache, places, positions, *lora))
        states = backbone.embed(torch.randint(decoder.config.vocab_size, positions.shape))
        for number in range(decoder.config.num_layers):
            want, got = (
                backend.layer(number, states.clone(), own)
                for backend, own in zip(backends, rows, strict=True)
            )
            found.append(float((got - want).abs().max() / want.abs().max()))
            states = want
        assert torch.allclose(kernel.head(states), backends[0].head(states), atol=1e-5)
    return found


def decoded() -> list[bool]:
    """Return whether a few golden cases come out right, decoded with the kernels."""
    right = []
    for case in (c for c in cases() if str(c) == "random-5.3"):
        for mode in ("ar", "linear_ss", "quadratic_ss_lora"):
            decoder = decoder_for(case, mode, backend="triton")
            found = decoder.generate([case.prompt, case.prompt[:2]], max_new_tokens=5)
            want = case.modes[mode]["tokens"][:5]
            right.append(found.tokens[0] == want)
    return right


def give_kernels() -> None:
    """Let the patterns have their kernels."""
    for of, kernel in KERNELS.items():
        object.__setattr__(of, "kernel", lambda kernel=kernel: kernel)


if __name__ == "__main__":
    torch.set_num_threads(1)
    patch_once()
    give_kernels()
    print(json.dumps({"layers": layers(), "decoded": decoded()}))

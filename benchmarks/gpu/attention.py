"""Attention alone on a GPU, in microseconds a layer, beside FlexAttention: the 8B shape, bfloat16.

    python benchmarks/gpu/attention.py

Rows see what causal decoding shows them, or what the quadratic mask does, behind a prefix; keys and
values are those of eight layers in turn, so that they do not stay in a cache. A call is timed as a
CUDA graph of all eight. FlexAttention is given the same mask and a dense copy of the same keys, and
is compiled for every shape.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from setting import LARGE, captured

LAYERS = 8
HEADS, KV_HEADS, DIM = LARGE.heads, LARGE.kv_heads, LARGE.head_dim
PREFIXES = (128, 1024, 8192)
ROWS = (1, 8, 16, 32, 72, 272, 1056)
BLOCKS = (8, 16, 32)
"""Block lengths of the quadratic mask: 72, 272 and 1056 rows."""


def measure(device: str, *, small: bool, until: float) -> Iterator[dict[str, Any]]:
    """Yield a record for each mask, number of rows and prefix, until the clock says `until`.

    `flex` is absent for the causal mask, and None with `why` where FlexAttention failed.
    """
    from nldc.runtime import Layout

    causal, quadratic = patterns()
    for prefix in (70,) if small else PREFIXES:
        shapes = [("causal", Layout.causal(rows), causal) for rows in ((3,) if small else ROWS)]
        shapes += [
            ("quadratic", quadratic_layout(size), quadratic) for size in ((2,) if small else BLOCKS)
        ]
        for mask, layout, pattern in shapes:
            if time.monotonic() > until:
                return
            record = {"what": "attention", "mask": mask, "rows": layout.size, "prefix": prefix}
            yield record | compare(layout, pattern, prefix, device, flex=mask == "quadratic")


def patterns() -> tuple[Any, Any]:
    """Return the causal and the quadratic pattern, whose predicates the library's strategies have.

    A jitted function has to lie in a file, so they are compiled as those are.
    """
    import tempfile
    from importlib import import_module

    from nldc import api
    from nldc.runtime import Pattern

    found = {}
    scratch = Path(tempfile.mkdtemp(prefix="nldc-attention-"))
    for name, wanted in (("ar", "causal"), ("quadratic_ss", "both")):
        kind = api.load(api.compile(name, scratch / name, {}, certify=False))
        module = import_module(f"{kind.__module__.rpartition('.')[0]}.patterns")
        known = {one.name: one for one in vars(module).values() if isinstance(one, Pattern)}
        found[name] = known[wanted]
    return found["ar"], found["quadratic_ss"]


def quadratic_layout(size: int) -> Any:
    """Return a draft of so many rows, and a block of as many masks behind each of them."""
    from nldc.runtime import Layout

    kind = [0] * size + [1] * size * size
    group = [*range(size), *(place for place in range(size) for _ in range(size))]
    index = [0] * size + [1 + mask for _ in range(size) for mask in range(size)]
    offset = [one + other for one, other in zip(group, index, strict=True)]
    drafted = [one == 0 for one in kind]
    return Layout.of(kind, group, index, range(len(kind)), offset, drafted, size)


def compare(
    layout: Any, pattern: Any, prefix: int, device: str, *, flex: bool
) -> dict[str, float | str | None]:
    """Return microseconds a layer, ours and FlexAttention's, and how far these are apart."""
    import torch

    from nldc.runtime.cache.kv_cache import KVCache, Places
    from nldc.runtime.model.triton_attention import TritonAttention
    from nldc.runtime.rows.plan import Plan
    from tests.runtime.tiles import untiled

    place, rows = torch.device(device), layout.size
    cache = KVCache(config(), torch.bfloat16, place)
    slot = cache.acquire(prefix + rows)
    cache.reserve((slot,), (prefix + rows,))
    cache.data.normal_()
    plan = Plan.of(layout, pattern, place, torch.float32)
    start = torch.tensor([prefix], device=place)
    places = Places((slot,), (prefix,), torch.tensor([slot], device=place), start)
    ours = TritonAttention(plan, cache, places)
    query = torch.randn(rows, HEADS, DIM, device=place, dtype=torch.bfloat16)
    factor = torch.full((rows, 1, 1), DIM**-0.5, device=place)
    record: dict[str, float | str | None] = {
        "us": timed(lambda layer: ours.attend(layer, query, factor), place)
    }
    if not flex:
        return record
    try:
        dense = [
            [untiled(one[cache.table[slot : slot + 1]])[:, :, : prefix + rows] for one in held]
            for held in (cache.keys, cache.values)
        ]
        other = flex_attention(layout, pattern, prefix, place)
        turned = query.transpose(0, 1).unsqueeze(0).contiguous()

        def theirs(layer: int) -> torch.Tensor:
            return other(turned, dense[0][layer], dense[1][layer])

        found = theirs(0)[0].transpose(0, 1).flatten(1)
        apart = (found.float() - ours.attend(0, query, factor).float()).abs().max()
        return record | {"flex": timed(theirs, place), "apart": float(apart)}
    except Exception as problem:  # a compiler fails in its own ways, and ours is measured
        return record | {"flex": None, "why": f"{type(problem).__name__}: {problem}"[:300]}


def flex_attention(layout: Any, pattern: Any, prefix: int, place: Any) -> Callable[..., Any]:
    """Return FlexAttention with the mask of a pattern, compiled where there is a device."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as attend

    from nldc.runtime.rows.pattern import RowFacts

    names = ("kind", "group", "index", "row")
    columns = {name: getattr(layout, name).to(place) for name in names}
    offset = layout.offset.to(place)

    def facts(number: Any) -> RowFacts:
        own, cached = (number - prefix).clamp(min=0), number < prefix
        return RowFacts(
            **{name: torch.where(cached, -1, column[own]) for name, column in columns.items()},
            position=torch.where(cached, number - prefix, offset[own]),
            prefix=cached,
        )

    def sees(_batch: Any, _head: Any, q: Any, k: Any) -> Any:
        return pattern.mask(facts(q + prefix), facts(k))

    rows = layout.size
    mask = create_block_mask(sees, 1, None, rows, prefix + rows, device=str(place))
    call = torch.compile(attend, dynamic=False) if place.type == "cuda" else attend
    return lambda query, key, value: call(query, key, value, block_mask=mask, enable_gqa=True)


def timed(call: Callable[[int], object], place: Any) -> float:
    """Return microseconds of a call for one layer, of all layers in a row."""
    import torch

    def all_layers() -> None:
        for layer in range(LAYERS):
            call(layer)

    if place.type != "cuda":
        begun = time.perf_counter()
        all_layers()
        return (time.perf_counter() - begun) / LAYERS * 1e6
    replay = captured(all_layers)
    found = []
    for _ in range(9):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / LAYERS * 1e3)
    return median(found)


def config() -> Any:
    """Return a config with the 8B's heads."""
    from dataclasses import replace

    from nldc.runtime.checkpoint.config import ModelConfig
    from nldc.verify import model_folder

    return replace(
        ModelConfig.load(model_folder(None)),
        num_layers=LAYERS,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=DIM,
    )


def lines(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the lines of a table: mask, rows, prefix, us, FlexAttention's us, their ratio."""
    found = []
    for one in records:
        flex = one.get("flex")
        found.append(
            (
                one["mask"],
                str(one["rows"]),
                str(one["prefix"]),
                f"{one['us']:.1f}",
                f"{flex:.1f}" if flex else one.get("why", "")[:60],
                f"{flex / one['us']:.2f}" if flex else "",
            )
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="one small shape of each mask")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds")
    given = parser.parse_args()
    for one in measure(given.device, small=given.small, until=time.monotonic() + given.limit):
        print(" | ".join(lines([one])[0]), flush=True)

"""The shapes of a loaded model, as its kernels are made for them."""

from __future__ import annotations

from collections.abc import Iterable

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.kernels.forward import LowRank, Sizes
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.triton_backend import TritonBackend


def sizes_of(
    backend: TritonBackend, adapters: Iterable[Adapter], samplers: Iterable[Sampler] = ()
) -> Sizes:
    """Return the shapes of a model's weights, of its adapters' modules, and of its samplers."""
    found: dict[tuple[str, LowRank], None] = {}
    for adapter in adapters:
        for (_, name), low in sorted(backend.adapter_of(adapter).products.items()):
            ranks, width = low.down.out, low.down.width
            found[name, LowRank(ranks, low.up.shape[1], width, low.columns)] = None
    layer = backend.layers[0]
    return Sizes(
        heads=backend.heads,
        qkv=layer.qkv.shape,
        output=layer.output.shape,
        gate=layer.gate.shape,
        down=layer.down.shape,
        head=backend.head_weight.shape,
        adapter=tuple(found),
        samplers=tuple(dict.fromkeys(each.shape for each in samplers)),
    )

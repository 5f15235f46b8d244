"""An adapter on some rows of a forward, as the kernels take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.low_rank import Delta, LowRankProducts, low_rank
from nldc.runtime.model.triton_weights import matrix_of

GATED = "gated"
"""The product for gate and up, one beside the other."""


@dataclass(frozen=True, eq=False)
class KernelAdapter:
    """The products of an adapter, by layer and product: qkv, output, gated, down."""

    products: Mapping[tuple[int, str], LowRankProducts]

    @staticmethod
    def of(adapter: Adapter, config: ModelConfig) -> KernelAdapter:
        """Return the adapter's weights in the kernels' layout: a copy, since they are small."""
        mlp = config.intermediate_size
        columns = {
            "qkv": (config.num_heads + 2 * config.num_kv_heads) * config.head_dim,
            "output": config.hidden_size,
            GATED: 2 * mlp,
            "down": config.hidden_size,
        }
        found: dict[tuple[int, str], list[tuple[int, Tensor, Tensor, float]]] = {}
        for (layer, module), products in sorted(adapter.products.items()):
            name = GATED if module in ("gate", "up") else module
            shift = mlp if module == "up" else 0
            for low in products:
                down, up = matrix_of(low.down), matrix_of(low.up)
                found.setdefault((layer, name), []).append(
                    (
                        shift + low.start,
                        down.data[:, : down.width],
                        up.data[:, : up.width],
                        low.scale,
                    )
                )
        return KernelAdapter(
            {
                place: LowRankProducts.of(modules, columns[place[1]])
                for place, modules in found.items()
            }
        )


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapter on the rows whose `marks`, int8 [n], are 1; or none."""

    adapter: KernelAdapter | None
    marks: Tensor | None
    target: Target

    @staticmethod
    def on(
        adapter: KernelAdapter | None, rows: Tensor | None, count: int, target: Target
    ) -> Adapted:
        """Return an adapter on the rows with the numbers `rows` (None: on all) of so many."""
        if adapter is None:
            return Adapted(None, None, target)
        device = next(iter(adapter.products.values())).up.device
        if rows is None:
            marks = torch.ones(count, dtype=torch.int8, device=device)
        else:
            marks = torch.zeros(count, dtype=torch.int8, device=device).index_fill_(0, rows, 1)
        return Adapted(adapter, marks, target)

    def beside(self, layer: int, product: str, x: Tensor) -> Delta | None:
        """Return what is added to a layer's product of `x`, None if nothing is."""
        if self.adapter is None or self.marks is None:
            return None
        modules = self.adapter.products.get((layer, product))
        return None if modules is None else low_rank(x, modules, self.marks, self.target)

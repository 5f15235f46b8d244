"""Parameters in training: float32 masters by their released names, and the backbone of a step.

What a forward computes is said by `runtime.reference.backbone`; `computed` gives it copies of the
masters, through which gradients reach them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter, LowRank
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.weights import (
    EMBEDDING,
    HEAD,
    NORM,
    LayerWeights,
    Weights,
    tensor_shapes,
)
from nldc.runtime.reference.backbone import PlainBackbone

Params = Mapping[str, Tensor]
LAYER = "encoder.layers.{}.{}.weight"
WITHIN = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, by released name, in the order of the layers."""

    def place(name: str) -> tuple[int, int, int]:
        if name in (EMBEDDING, NORM, HEAD):
            return (0 if name == EMBEDDING else 2, int(name == HEAD), 0)
        _, _, layer, part, *_ = name.split(".")
        return (1, int(layer), WITHIN.index(part))

    shapes = tensor_shapes(config)
    return {name: shapes[name] for name in sorted(shapes, key=place)}


def init_params(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Draw float32 parameters: norms 1, matrices normal, residual outputs scaled by the depth."""
    generator = torch.Generator().manual_seed(seed)
    params: dict[str, Tensor] = {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            params[name] = torch.ones(shape)
            continue
        std = 0.02 if name in (EMBEDDING, HEAD) else shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= (2 * config.num_layers) ** 0.5
        params[name] = torch.randn(shape, generator=generator) * std
    return params


def computed(params: Params, config: ModelConfig, dtype: torch.dtype) -> PlainBackbone:
    """Return the backbone of these parameters in the compute dtype; gradients reach the masters."""
    cast = {name: value.to(dtype) for name, value in params.items()}

    def layer(number: int) -> LayerWeights:
        def own(part: str) -> Tensor:
            return cast[LAYER.format(number, part)]

        return LayerWeights(
            input_norm=own("input_layernorm"),
            qkv=torch.cat([own(f"self_attn.{part}_proj") for part in "qkv"]),
            output=own("self_attn.o_proj"),
            post_norm=own("post_attention_layernorm"),
            gate=own("mlp.gate_proj"),
            up=own("mlp.up_proj"),
            down=own("mlp.down_proj"),
        )

    weights = Weights(
        embedding=cast[EMBEDDING],
        layers=tuple(map(layer, range(config.num_layers))),
        norm=cast[NORM],
        head=cast[EMBEDDING if config.tied_head else HEAD],
    )
    return PlainBackbone(config, weights)


@dataclass(frozen=True, eq=False)
class OutputLora:
    """A LoRA on the output projections: an (r, in) and an (out, r) matrix a layer, and alpha / r.

    The matrices are float32 masters.
    """

    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]
    scale: float

    def adapter(self, dtype: torch.dtype) -> Adapter:
        """Return it as the backbone takes it; gradients reach the masters."""
        products = {}
        for layer, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            low = LowRank(0, up.shape[0], down.to(dtype), up.to(dtype), self.scale)
            products[layer, "output"] = (low,)
        return Adapter(products)

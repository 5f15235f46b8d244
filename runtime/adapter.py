"""LoRA adapters in PEFT's layout, applied beside the base weights and never written into them.

`y = W x + (alpha / r) B (A x)`: the base product is computed as without an adapter and the
low-rank product is added to it, only on the rows that ask for it. A row without the adapter is
therefore bitwise the row of a model that has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.config import ModelConfig
from nldc.runtime.errors import AdapterError
from nldc.runtime.json_file import read_json
from nldc.runtime.linear import Weight, linear, pack
from nldc.runtime.tensors import TensorFile

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_ALPHA = 1_000_000
FOREIGN = "use the adapter that was made for this model"
_NAME = re.compile(
    r"(?:base_model\.model\.)?encoder\.layers\.(\d+)\.(self_attn|mlp)\.([a-z]+_proj)"
    r"\.lora_([AB])(?:\.default)?\.weight"
)


@dataclass(frozen=True)
class LowRank:
    """One low-rank product, added to the columns `start` to `stop` of a base product.

    `down` is [r, in], `up` [stop - start, r].
    """

    start: int
    stop: int
    down: Weight
    up: Weight
    scale: float


@dataclass(frozen=True)
class Adapter:
    """The products of one adapter, by layer and product: qkv, output, gate, up, down."""

    products: Mapping[tuple[int, str], tuple[LowRank, ...]]

    @staticmethod
    def load(
        folder: str | Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> Adapter:
        """Read the adapter in `folder`, made for a model of this config.

        Raises:
            AdapterError: a file is missing or damaged, the adapter has parts that are no plain
                low-rank products, or its tensors do not fit the model.
        """
        path = Path(folder)
        settings = _settings(path)
        rank = settings.get("r")
        alpha: Any = settings.get("lora_alpha")
        if type(rank) is not int or rank < 1:
            raise AdapterError(
                f"{path / CONFIG}: r = {rank!r}", "give a whole number of at least 1"
            )
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not is_number or not abs(alpha) <= LARGEST_ALPHA:
            raise AdapterError(
                f"{path / CONFIG}: lora_alpha = {alpha!r}",
                f"give a number of at most {LARGEST_ALPHA}",
            )
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        file = TensorFile.open(path / WEIGHTS, AdapterError)
        places = _places(config)
        found: dict[tuple[int, str], list[LowRank]] = {}
        for name in sorted(file.names):
            match = _NAME.fullmatch(name)
            module = f"{match[2]}.{match[3]}" if match else ""
            if match is None or module not in places or int(match[1]) >= config.num_layers:
                raise AdapterError(
                    f"{file.path}: tensor `{name}` fits no module of the model",
                    f"the model has {config.num_layers} layers; " + FOREIGN,
                )
            fused, start, size, inputs = places[module]
            if match[4] == "A":
                file.expect(name, (rank, inputs), FOREIGN)
                other = name.replace("lora_A", "lora_B")
                file.expect(other, (size, rank), FOREIGN)
                product = LowRank(
                    start=start,
                    stop=start + size,
                    down=pack(file.read(name, dtype, device)),
                    up=pack(file.read(other, dtype, device)),
                    scale=float(scale),
                )
                found.setdefault((int(match[1]), fused), []).append(product)
            else:
                file.expect(name.replace("lora_B", "lora_A"), (rank, inputs), FOREIGN)
        if not found:
            raise AdapterError(f"{file.path} holds no adapter", "download the folder again")
        return Adapter({place: tuple(products) for place, products in found.items()})


@dataclass(frozen=True)
class Selected:
    """An adapter on the rows with the numbers `rows` (None: on all rows), or no adapter."""

    adapter: Adapter | None
    rows: Tensor | None = None

    def linear(self, layer: int, module: str, x: Tensor, weight: Weight) -> Tensor:
        """Return the product of `x` [n, in] with a layer's weight, and the adapter's beside it."""
        product = linear(x, weight)
        if self.adapter is None:
            return product
        for low in self.adapter.products.get((layer, module), ()):
            columns = product[:, low.start : low.stop]
            if self.rows is None:
                columns.add_(linear(linear(x, low.down), low.up), alpha=low.scale)
            else:
                delta = linear(linear(x[self.rows], low.down), low.up)
                columns.index_add_(0, self.rows, delta, alpha=low.scale)
        return product


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        settings = read_json(path)
    except FileNotFoundError:
        raise AdapterError(
            f"{path} is missing", f"an adapter's folder holds {CONFIG} and {WEIGHTS}"
        ) from None
    except ValueError as problem:
        raise AdapterError(f"{path} cannot be read: {problem}", "download it again") from problem
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError(f"{path} describes no LoRA adapter", "peft_type must be LORA")
    for key, fine in (
        ("use_rslora", (False, True, None)),
        ("bias", ("none", None)),
        ("use_dora", (False, None)),
        ("fan_in_fan_out", (False, None)),
        ("modules_to_save", (None, [])),
        ("rank_pattern", (None, {})),
        ("alpha_pattern", (None, {})),
    ):
        if settings.get(key) not in fine:
            raise AdapterError(
                f"{path}: {key} = {settings[key]!r} is not supported",
                f"only plain low-rank products are applied: {key} must be {fine[0]!r}",
            )
    return settings


def _places(config: ModelConfig) -> dict[str, tuple[str, int, int, int]]:
    """Return the base product, its first column, the columns and the inputs of each module."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "self_attn.q_proj": ("qkv", 0, query, hidden),
        "self_attn.k_proj": ("qkv", query, key, hidden),
        "self_attn.v_proj": ("qkv", query + key, key, hidden),
        "self_attn.o_proj": ("output", 0, hidden, query),
        "mlp.gate_proj": ("gate", 0, mlp, hidden),
        "mlp.up_proj": ("up", 0, mlp, hidden),
        "mlp.down_proj": ("down", 0, hidden, mlp),
    }

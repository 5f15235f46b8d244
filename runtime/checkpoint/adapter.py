"""LoRA adapters in PEFT's layout, applied beside the base weights and never written into them.

`y = W x + (alpha / r) B (A x)`: the base product is computed as without an adapter and the
low-rank product is added to it, only on the rows that ask for it. A row without the adapter is
therefore bitwise the row of a model that has none.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.config_keys import is_switched_off
from nldc.runtime.checkpoint.tensors import TensorFile
from nldc.runtime.errors import AdapterError, CheckpointWarning
from nldc.runtime.invariant.linear import Weight, linear, pack
from nldc.runtime.json_file import read_json
from nldc.runtime.whole_numbers import shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_ALPHA = 1_000_000
LARGEST_RANK = 1_000_000
FOREIGN = "use the adapter that was made for this model"
NAMED = 8
"""How many unknown keys a warning names."""

READ = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "use_rslora"),
        *("target_modules", "exclude_modules", "layers_to_transform"),
    }
)
OFF: tuple[Any, ...] = (False, None)
NONE: tuple[Any, ...] = (None, [], {})
FIXED: Mapping[str, tuple[Any, ...]] = {
    "use_rslora": (False, True, None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    **dict.fromkeys(("use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out"), OFF),
    **dict.fromkeys(("modules_to_save", "target_parameters", "trainable_token_indices"), NONE),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), ({}, None, [])),
    **dict.fromkeys(("layer_replication", "alora_invocation_tokens"), NONE),
    **dict.fromkeys(("arrow_config", "megatron_config"), NONE),
}
"""What settings of an adapter may hold; the first value is what a message offers."""
REASONS: Mapping[str, str] = {
    "init_lora_weights": "this start of training changes the base weights too; save the adapter as "
    "a plain LoRA (path_initial_model_for_weight_conversion)",
    "alora_invocation_tokens": "an adapter that waits for certain tokens is not supported",
    "layer_replication": "layers that are repeated are not supported",
}
HARMLESS = frozenset(
    {
        *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
        *("lora_dropout", "layers_pattern", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "megatron_core", "qalora_group_size", "peft_version"),
        *("ensure_weight_tying", "runtime_config"),
    }
)
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
        folder: str | Path,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        form: Callable[[Tensor], Weight] = pack,
    ) -> Adapter:
        """Read the adapter in `folder`, made for a model of this config, each matrix in its form.

        Raises:
            AdapterError: a file is missing or damaged, the adapter has parts that are no plain
                low-rank products, or its tensors do not fit the model.
        """
        path = Path(folder)
        settings = _settings(path)
        rank, scale = _scale(settings, path / CONFIG)
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
            _check_target(settings, int(match[1]), module, path / CONFIG)
            fused, start, size, inputs = places[module]
            if match[4] == "A":
                file.expect(name, (rank, inputs), FOREIGN)
                other = name.replace("lora_A", "lora_B")
                file.expect(other, (size, rank), FOREIGN)
                product = LowRank(
                    start=start,
                    stop=start + size,
                    down=form(file.read(name, dtype, device)),
                    up=form(file.read(other, dtype, device)),
                    scale=scale,
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
    for key, fine in FIXED.items():
        if key in settings and settings[key] not in fine:
            raise AdapterError(
                f"{path}: {key} = {settings[key]!r} is not supported",
                REASONS.get(
                    key, f"only plain low-rank products are applied: {key} must be {fine[0]!r}"
                ),
            )
    unknown = [
        key
        for key, value in settings.items()
        if key not in READ and key not in FIXED and key not in HARMLESS
        if not is_switched_off(value)
    ]
    if unknown:
        listed = ", ".join(key if key.isprintable() else repr(key) for key in unknown[:NAMED])
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        warnings.warn(
            f"{path}: not known and ignored: {listed}{more}; if it changes what the adapter "
            "computes, drafts differ from those of the library that wrote it",
            CheckpointWarning,
            stacklevel=3,
        )
    return settings


def _scale(settings: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Return the rank, and the factor on the low-rank product."""
    rank: Any = settings.get("r")
    alpha: Any = settings.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        raise AdapterError(
            f"{path}: r = {shown(rank)}", f"give a whole number from 1 to {LARGEST_RANK}"
        )
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not is_number or not abs(alpha) <= LARGEST_ALPHA:
        raise AdapterError(
            f"{path}: lora_alpha = {alpha!r}", f"give a number of at most {LARGEST_ALPHA}"
        )
    if alpha == 0:
        raise AdapterError(
            f"{path}: lora_alpha = {alpha!r}, so that the adapter would do nothing",
            "leave the adapter out, or take its real lora_alpha",
        )
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _check_target(settings: Mapping[str, Any], layer: int, module: str, path: Path) -> None:
    """Raise if the settings say that a module whose tensors are there is not adapted."""
    name = f"encoder.layers.{layer}.{module}"
    for key, wanted in (("target_modules", True), ("exclude_modules", False)):
        listed = settings.get(key)
        if not isinstance(listed, list):
            continue  # one text is a pattern; the tensors say what it found
        if any(name == each or name.endswith(f".{each}") for each in listed) != wanted:
            raise AdapterError(
                f"{path}: {key} = {listed!r}, but there are tensors for `{name}`", FOREIGN
            )
    layers = settings.get("layers_to_transform")
    known = [layers] if isinstance(layers, int) else layers
    if isinstance(known, list) and known and layer not in known:
        raise AdapterError(
            f"{path}: layers_to_transform = {layers!r}, but there are tensors for `{name}`", FOREIGN
        )


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

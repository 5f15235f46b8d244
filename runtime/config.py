"""The model's config.json: every number that the backbone needs, read from the file.

Unknown keys are ignored, because released configs carry settings of training; a key whose value
would change the numbers in a way the backbone does not compute is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc.runtime.errors import CheckpointError
from nldc.runtime.json_file import read_json

MODEL_TYPE = "nemotron_labs_diffusion"
CONFIG = "config.json"
LARGEST = 1e30
"""No setting that means anything is larger; it keeps out infinity and what overflows."""


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions. `llama_4_beta` 0 means no query temperature; `attention_factor` None means
    that it follows from `mscale` and `mscale_all_dim`.
    """

    rope_type: str
    theta: float
    factor: float = 1.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    truncate: bool = True
    llama_4_beta: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """Geometry and special tokens of one checkpoint."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    context: int
    rope: RopeConfig
    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    block_size: int | None
    tied_head: bool
    end_think_token_id: int | None = None

    @staticmethod
    def load(folder: str | Path) -> ModelConfig:
        """Read `folder/config.json`.

        Raises:
            CheckpointError: no such file, no JSON, or a setting that is missing, of the wrong type
                or not supported.
        """
        path = Path(folder) / CONFIG
        if not Path(folder).is_dir():
            raise CheckpointError(
                f"{folder} is not a folder",
                "give the folder that holds config.json and model.safetensors",
            )
        try:
            data = read_json(path)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing",
                "a checkpoint folder holds config.json, model.safetensors and tokenizer.json",
            ) from None
        except ValueError as error:
            raise CheckpointError(
                f"{path} cannot be read as JSON: {error}", "download the file again"
            ) from error
        if not isinstance(data, dict):
            raise CheckpointError(f"{path} holds no JSON object", "download the file again")
        return parse_config(data, str(path))


def parse_config(data: Mapping[str, Any], origin: str = CONFIG) -> ModelConfig:
    """Return the config in `data`, the content of a config.json; `origin` names it in errors.

    Raises:
        CheckpointError: a setting is missing, of the wrong type, or not supported.
    """
    read = _Reader(data, origin)
    found = read.text("model_type", MODEL_TYPE)
    if found != MODEL_TYPE:
        raise CheckpointError(
            f"{origin}: model_type is `{found}`",
            f"this decoder runs `{MODEL_TYPE}` checkpoints; convert the model first",
        )
    for key, fine in (
        ("hidden_act", ("silu", "swish")),
        ("attention_bias", (False, None)),
        ("mlp_bias", (False, None)),
        ("sliding_window", (None,)),
        ("quantization_config", (None,)),
    ):
        if key in data and data[key] not in fine:
            raise CheckpointError(
                f"{origin}: {key} = {data[key]!r} is not supported",
                f"the backbone computes with {key} = {fine[0]!r}",
            )
    heads = read.whole("num_attention_heads")
    config = ModelConfig(
        hidden_size=read.whole("hidden_size"),
        intermediate_size=read.whole("intermediate_size"),
        num_layers=read.whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=read.whole("num_key_value_heads", heads),
        head_dim=read.whole("head_dim", read.whole("hidden_size") // heads),
        vocab_size=read.whole("vocab_size"),
        rms_norm_eps=read.number("rms_norm_eps"),
        context=read.whole("max_position_embeddings"),
        rope=_rope(data, origin),
        mask_token_id=read.whole("mask_token_id", least=0),
        eos_token_ids=_ids(data.get("eos_token_id"), "eos_token_id", origin),
        bos_token_id=next(iter(_ids(data.get("bos_token_id"), "bos_token_id", origin)), None),
        block_size=read.whole("block_size", 0, least=0) or None,
        tied_head=read.flag("tie_word_embeddings", default=False),
        end_think_token_id=next(
            iter(_ids(data.get("end_think_token_id"), "end_think_token_id", origin)), None
        ),
    )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{origin}: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key-value heads evenly",
            "num_attention_heads must be a multiple of num_key_value_heads",
        )
    if config.head_dim % 2:
        raise CheckpointError(
            f"{origin}: head_dim {config.head_dim} is odd", "rotary positions need an even head_dim"
        )
    for name, token in (
        ("mask_token_id", config.mask_token_id),
        *(("eos_token_id", token) for token in config.eos_token_ids),
    ):
        if not 0 <= token < config.vocab_size:
            raise CheckpointError(
                f"{origin}: {name} {token} is not in the vocabulary of {config.vocab_size}",
                f"{name} must lie between 0 and {config.vocab_size - 1}",
            )
    return config


def _rope(data: Mapping[str, Any], origin: str) -> RopeConfig:
    settings = data.get("rope_parameters")
    where = f"{origin}: rope_parameters"
    if settings is None:
        settings = {"rope_type": "default", "rope_theta": data.get("rope_theta")}
        scaling = data.get("rope_scaling")
        if isinstance(scaling, Mapping):
            settings = {**settings, "rope_type": scaling.get("type", "default"), **scaling}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{where} is no object", "see rope_parameters of a released config")
    read = _Reader(settings, where)
    rope_type = read.text("rope_type", "default")
    theta = read.number("rope_theta", data.get("rope_theta"))
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{where}: partial_rotary_factor is not supported", "the whole head is rotated"
        )
    if rope_type not in ("default", "yarn"):
        raise CheckpointError(
            f"{where}: rope_type `{rope_type}` is not supported", "use `default` or `yarn`"
        )
    if theta <= 1:
        raise read.wrong("rope_theta", theta, "a number above 1")
    beta = read.number("llama_4_scaling_beta", 0.0, least=0.0)
    original = settings.get("original_max_position_embeddings")
    if rope_type == "default":
        if beta and original is None:
            raise CheckpointError(
                f"{where}: llama_4_scaling_beta needs original_max_position_embeddings",
                "add the context length of pre-training",
            )
        known = read.whole("original_max_position_embeddings") if original is not None else 0
        return RopeConfig("default", theta, original_context=known, llama_4_beta=beta)
    factor = settings.get("attention_factor")
    return RopeConfig(
        rope_type="yarn",
        theta=theta,
        factor=read.number("factor"),
        original_context=read.whole("original_max_position_embeddings"),
        beta_fast=read.number("beta_fast", 32.0),
        beta_slow=read.number("beta_slow", 1.0),
        mscale=read.number("mscale", 0.0, least=0.0),
        mscale_all_dim=read.number("mscale_all_dim", 0.0, least=0.0),
        attention_factor=None if factor is None else read.number("attention_factor"),
        truncate=read.flag("truncate", default=True),
        llama_4_beta=beta,
    )


def _ids(value: Any, name: str, origin: str) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{origin}: {name} = {value!r}", "give a token id or a list of them")
    return tuple(ids)


@dataclass(frozen=True)
class _Reader:
    data: Mapping[str, Any]
    origin: str

    def value(self, key: str, default: Any) -> Any:
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(
                f"{self.origin}: `{key}` is missing", "take the config.json of the released model"
            )
        return value

    def wrong(self, key: str, value: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.origin}: {key} = {value!r}", f"give {wanted}")

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float | None = None, least: float | None = None) -> float:
        value = self.value(key, default)
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        fine = fine and abs(value) <= LARGEST
        if not fine or not (value > 0 if least is None else value >= least):
            wanted = "a number above 0" if least is None else f"a number of at least {least:g}"
            raise self.wrong(key, value, wanted)
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a name in quotes")
        return value

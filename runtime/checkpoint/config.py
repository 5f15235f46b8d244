"""The model's config.json: every number that the backbone needs, read from the file.

A key that is left out has the default of the released configuration class. A key whose value asks
for something that the backbone does not compute is an error; `config_keys.py` has the list. A key
that is not known is named in a warning, for it may be one of those.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc.runtime.checkpoint.config_keys import FIXED, REASONS, ROPE, is_switched_off, unknown_keys
from nldc.runtime.checkpoint.quantization import Kind, check_quantization
from nldc.runtime.errors import CheckpointError, CheckpointWarning
from nldc.runtime.json_file import read_json

MODEL_TYPE = "nemotron_labs_diffusion"
VISION_MODEL_TYPE = "nemotron_labs_diffusion_vlm"
CONFIG = "config.json"
LARGEST = 1e30
"""No setting that means anything is larger; it keeps out infinity and what overflows."""
LARGEST_WHOLE = 2**31 - 1
PARADIGMS = ("bidirectional", "autoregressive", "block_diff", "sbd_block_diff")
DTYPES = ("float32", "float64", "bfloat16", "float16")
ROPE_TYPES = ("default", "linear", "yarn")
NAMED = 8
"""How many unknown keys a warning names."""

RELEASED_KV_HEADS = 8
RELEASED_HEAD_DIM = 128
RELEASED_EPS = 1e-5
RELEASED_CONTEXT = 262144
RELEASED_BLOCK_SIZE = 32
RELEASED_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""What the released configuration class takes where a file says nothing of positions."""


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
    """Geometry and special tokens of one checkpoint.

    `dtype` is the one that the checkpoint asks to be computed in, None if it names none.
    `paradigm` is how it was trained, `vision` whether it has a vision part, see `vision.config`;
    `quantised` the kinds of its weights that are stored in 8 or 4 bits.
    `assumed` are keys that shape the weights and that the file leaves out, each with its default;
    `unknown` are keys that nothing is known of.
    """

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
    dtype: str | None = None
    paradigm: str = PARADIGMS[0]
    vision: bool = False
    quantised: frozenset[Kind] = frozenset()
    assumed: tuple[tuple[str, int], ...] = ()
    unknown: tuple[str, ...] = ()

    @staticmethod
    def load(folder: str | Path) -> ModelConfig:
        """Read `folder/config.json`; one CheckpointWarning names the keys that are not known.

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
        config = parse_config(data, str(path))
        if config.unknown:
            warnings.warn(_unknown(config.unknown, str(path)), CheckpointWarning, stacklevel=2)
        return config


def parse_config(data: Mapping[str, Any], origin: str = CONFIG) -> ModelConfig:
    """Return the config in `data`, the content of a config.json; `origin` names it in errors.

    Raises:
        CheckpointError: a setting is missing, of the wrong type, or not supported.
    """
    read = _Reader(data, origin)
    found = read.text("model_type", MODEL_TYPE)
    if found not in (MODEL_TYPE, VISION_MODEL_TYPE):
        raise CheckpointError(
            f"{origin}: model_type is `{found}`",
            f"this decoder runs `{MODEL_TYPE}` checkpoints; convert the model first",
        )
    for key, fine in FIXED.items():
        if key in data and data[key] not in fine:
            raise CheckpointError(
                f"{origin}: {key} = {data[key]!r} is not supported",
                REASONS.get(key, f"the backbone computes with {key} = {fine[0]!r}"),
            )
    hidden, heads = read.whole("hidden_size"), read.whole("num_attention_heads")
    released = {"num_key_value_heads": RELEASED_KV_HEADS, "head_dim": RELEASED_HEAD_DIM}
    # a key that says null is not left out: the released class then derives it
    derived = {"num_key_value_heads": heads, "head_dim": max(1, hidden // heads)}
    heads_and_width = {
        key: read.whole(key, derived[key] if key in data else default)
        for key, default in released.items()
    }
    config = ModelConfig(
        hidden_size=hidden,
        intermediate_size=read.whole("intermediate_size"),
        num_layers=read.whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads_and_width["num_key_value_heads"],
        head_dim=heads_and_width["head_dim"],
        vocab_size=read.whole("vocab_size"),
        rms_norm_eps=read.number("rms_norm_eps", RELEASED_EPS),
        context=read.whole("max_position_embeddings", RELEASED_CONTEXT),
        rope=_rope(data, origin),
        mask_token_id=read.whole("mask_token_id", least=0),
        eos_token_ids=_ids(data.get("eos_token_id"), "eos_token_id", origin),
        bos_token_id=next(iter(_ids(data.get("bos_token_id"), "bos_token_id", origin)), None),
        block_size=read.whole("block_size", RELEASED_BLOCK_SIZE, least=0) or None,
        tied_head=read.flag("tie_word_embeddings", default=False),
        end_think_token_id=next(
            iter(_ids(data.get("end_think_token_id"), "end_think_token_id", origin)), None
        ),
        dtype=_dtype(data, origin),
        paradigm=read.one_of("dlm_paradigm", PARADIGMS, PARADIGMS[0]),
        vision=found == VISION_MODEL_TYPE,
        quantised=check_quantization(data, origin),
        assumed=tuple((key, value) for key, value in released.items() if key not in data),
        unknown=_unknown_keys(data, vision=found == VISION_MODEL_TYPE),
    )
    _check(config, data, origin)
    return config


def _check(config: ModelConfig, data: Mapping[str, Any], origin: str) -> None:
    """Raise where settings contradict one another."""
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{origin}: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key-value heads evenly",
            "num_attention_heads must be a multiple of num_key_value_heads" + left_out(config),
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
    types = data.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise CheckpointError(f"{origin}: layer_types = {types!r}", "give one name a layer")
    for layer, kind in enumerate(types):
        if kind != "full_attention":
            raise CheckpointError(
                f"{origin}: layer_types[{layer}] = {kind!r} is not supported",
                "the backbone attends to the whole context in every layer: `full_attention`",
            )
    if len(types) != config.num_layers:
        raise CheckpointError(
            f"{origin}: layer_types has {len(types)} names for {config.num_layers} layers",
            "give one for each of num_hidden_layers",
        )


def left_out(config: ModelConfig) -> str:
    """Return the end of a remedy that says which keys a config leaves out, if there are any."""
    if not config.assumed:
        return ""
    listed = " and ".join(f"{key} = {value}" for key, value in config.assumed)
    return f"; {CONFIG} leaves out what the released class takes as {listed}"


def _unknown_keys(data: Mapping[str, Any], *, vision: bool) -> tuple[str, ...]:
    found = unknown_keys(data, vision=vision)
    for key in ("rope_parameters", "rope_scaling"):
        inside = data.get(key)
        if isinstance(inside, Mapping):
            found += [
                f"{key}.{name}"
                for name, value in inside.items()
                if name not in ROPE and not is_switched_off(value)
            ]
    return tuple(found)


def _unknown(keys: tuple[str, ...], origin: str) -> str:
    listed = ", ".join(key if key.isprintable() else repr(key) for key in keys[:NAMED])
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    are = "is not a known key and is" if len(keys) == 1 else "are no known keys and are"
    return f"{origin}: {listed}{more} {are} ignored; if the model computes with it, tokens differ"


def _dtype(data: Mapping[str, Any], origin: str) -> str | None:
    """Return the name of the dtype that a config asks for, in its new or its old spelling."""
    found: dict[str, str] = {}
    for key in ("dtype", "torch_dtype"):
        value = data.get(key)
        if value is None or value == "auto":
            continue
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if name not in DTYPES:
            raise CheckpointError(
                f"{origin}: {key} = {value!r} is not supported",
                "take the checkpoint in one of " + ", ".join(DTYPES),
            )
        found[key] = name
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"{origin}: dtype is {found['dtype']} and torch_dtype {found['torch_dtype']}",
            "they are two names of one setting: remove one",
        )
    return next(iter(found.values()), None)


def _rope(data: Mapping[str, Any], origin: str) -> RopeConfig:
    settings, where = _rope_settings(data, origin)
    read = _Reader(settings, where)
    rope_type = read.text("rope_type", read.text("type", "default"))
    if settings.get("type") not in (None, rope_type):
        raise CheckpointError(
            f"{where}: rope_type is `{rope_type}` and type `{settings['type']}`",
            "they are two names of one setting: remove one",
        )
    if rope_type not in ROPE_TYPES:
        raise CheckpointError(
            f"{where}: rope_type `{rope_type}` is not supported",
            "use `default`, `linear` or `yarn`",
        )
    if rope_type == "linear" and settings.get("factor") is None:
        raise CheckpointError(
            f"{where}: rope_type `linear` is not supported",
            "without a `factor`, that is: add it, or use `default` or `yarn`",
        )
    theta = read.number("rope_theta", data.get("rope_theta"))
    if settings.get("partial_rotary_factor") not in (None, 1):
        raise CheckpointError(
            f"{where}: partial_rotary_factor is not supported", "the whole head is rotated"
        )
    if theta <= 1:
        raise read.wrong("rope_theta", theta, "a number above 1")
    beta = read.number("llama_4_scaling_beta", 0.0, least=0.0)
    original = settings.get("original_max_position_embeddings")
    if beta and original is None and rope_type != "yarn":
        raise CheckpointError(
            f"{where}: llama_4_scaling_beta needs original_max_position_embeddings",
            "add the context length of pre-training",
        )
    known = read.whole("original_max_position_embeddings") if original is not None else 0
    if rope_type == "default":
        return RopeConfig("default", theta, original_context=known, llama_4_beta=beta)
    factor = read.number("factor")
    if rope_type == "linear":
        return RopeConfig("linear", theta, factor, original_context=known, llama_4_beta=beta)
    attention_factor = settings.get("attention_factor")
    fast, slow = read.number("beta_fast", 32.0), read.number("beta_slow", 1.0)
    if fast < slow:
        raise read.wrong("beta_fast", fast, f"at least beta_slow, which is {slow:g}")
    return RopeConfig(
        rope_type="yarn",
        theta=theta,
        factor=factor,
        original_context=read.whole("original_max_position_embeddings"),
        beta_fast=fast,
        beta_slow=slow,
        mscale=read.number("mscale", 0.0, least=0.0),
        mscale_all_dim=read.number("mscale_all_dim", 0.0, least=0.0),
        attention_factor=None if attention_factor is None else read.number("attention_factor"),
        truncate=read.flag("truncate", default=True),
        llama_4_beta=beta,
    )


def _rope_settings(data: Mapping[str, Any], origin: str) -> tuple[Mapping[str, Any], str]:
    """Return the settings of rotary positions, and how errors name the place.

    They stand in `rope_parameters`, or as in older files in `rope_scaling` and `rope_theta`; a file
    with none of the three has those of the released class.
    """
    where = f"{origin}: rope_parameters"
    keys = ("rope_parameters", "rope_scaling")
    given = {key: data[key] for key in keys if data.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"{origin}: {key} is no object", "see rope_parameters of a released config"
            )
        for kind, inside in value.items():
            if isinstance(inside, Mapping):
                raise CheckpointError(
                    f"{origin}: {key}.{kind} is an object",
                    "rotary positions by the kind of a layer are not supported",
                )
    if not given:
        old = data.get("rope_theta")
        return ({"rope_type": "default"} if old is not None else RELEASED_ROPE), where
    if len(given) == 2 and given["rope_parameters"] != given["rope_scaling"]:
        raise CheckpointError(
            f"{origin}: rope_parameters and rope_scaling differ",
            "they are two names of one setting: remove rope_scaling, the older one",
        )
    settings: Mapping[str, Any] = next(iter(given.values()))
    outer, inner = data.get("rope_theta"), settings.get("rope_theta")
    if outer is not None and inner is not None and outer != inner:
        raise CheckpointError(
            f"{where}: rope_theta is {inner!r}, and {outer!r} at the root of the file",
            "they are two places of one setting: remove one",
        )
    return settings, where


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
        # some writers of JSON know no whole numbers
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole or isinstance(value, bool) or value < least:
            raise self.wrong(key, value, f"a whole number of at least {least}")
        if value > LARGEST_WHOLE:
            raise self.wrong(key, value, f"a whole number of at most {LARGEST_WHOLE}")
        return int(value)

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

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in known:
            raise self.wrong(key, value, "one of " + ", ".join(known))
        return value

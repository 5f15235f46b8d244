"""The vision part of a config.json: every number that the encoder and the projector need.

A key that is left out has the value of the released checkpoint. What asks for something that is not
computed here is an error, and what nobody has looked at is named in a warning, as for the text.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nldc.runtime.checkpoint.config import CONFIG, LARGEST_WHOLE, ModelConfig
from nldc.runtime.checkpoint.config_keys import is_switched_off
from nldc.runtime.errors import CheckpointError, CheckpointWarning
from nldc.runtime.json_file import read_json
from nldc.runtime.whole_numbers import shown

LONGEST_SIDE = 1400
"""Pixels of a side that is not made smaller; the config's image_size is another number."""
NORM_EPS = 1e-5
"""Of the norms within the encoder; the projector's is the text's."""

RELEASED: Mapping[str, int] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "num_channels": 3,
}
FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("pixtral", None),
    "hidden_act": ("silu", None),
    "num_channels": (3, None),
}
FIXED_AT_ROOT: Mapping[str, tuple[Any, ...]] = {
    "projector_hidden_act": ("gelu", None),
    "multimodal_projector_bias": (False, None),
    "vision_feature_layer": (-1, None),
}
"""What keys may hold; the first value is what a message offers."""
HARMLESS = frozenset(
    {
        *("image_size", "attention_dropout", "initializer_range", "dtype", "torch_dtype"),
        *("architectures", "transformers_version", "attn_implementation"),
    }
)


@dataclass(frozen=True)
class VisionConfig:
    """Geometry of the encoder and of the projector, which ends at the text's width `text_size`.

    A cell is `merge` by `merge` patches, and becomes one row of the prompt.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    merge: int
    rope_theta: float
    text_size: int
    text_eps: float

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads

    @property
    def cell(self) -> int:
        """Pixels of a cell's side."""
        return self.patch_size * self.merge

    @staticmethod
    def load(folder: Path, text: ModelConfig) -> VisionConfig:
        """Read `folder/config.json`, whose text part is `text`.

        Raises:
            CheckpointError: the file cannot be read, or a setting is wrong or not supported.
        """
        path = folder / CONFIG
        try:
            data = read_json(path)
        except (FileNotFoundError, ValueError) as problem:
            raise CheckpointError(f"{path} cannot be read: {problem}", None) from None
        return parse_vision(data, text, str(path))


def parse_vision(data: Mapping[str, Any], text: ModelConfig, origin: str = CONFIG) -> VisionConfig:
    """Return the vision part of `data`, the content of a config.json whose text part is `text`.

    Raises:
        CheckpointError: a setting is of the wrong type, or not supported.
    """
    own = data.get("vision_config") or {}
    if not isinstance(own, Mapping):
        raise CheckpointError(f"{origin}: vision_config is no object", "see a released config")
    inside = f"{origin}: vision_config"
    for where, settings, fixed in ((origin, data, FIXED_AT_ROOT), (inside, own, FIXED)):
        for key, fine in fixed.items():
            if key in settings and settings[key] not in fine:
                raise CheckpointError(
                    f"{where}: {key} = {shown(settings[key])} is not supported",
                    f"pictures are computed with {key} = {fine[0]!r}",
                )
    rope = _rope(own, inside)
    known = {*RELEASED, *FIXED, *HARMLESS, "head_dim", "rope_parameters", "rope_theta"}
    unknown = [key for key, value in own.items() if key not in known and not is_switched_off(value)]
    if unknown:
        warnings.warn(
            f"{inside}: {', '.join(map(shown, unknown[:8]))} not known and ignored; if pictures "
            "are computed with it, tokens differ",
            CheckpointWarning,
            stacklevel=2,
        )
    sizes = {key: _whole(own, key, value, inside) for key, value in RELEASED.items()}
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads or hidden // heads % 4:
        raise CheckpointError(
            f"{inside}: {heads} heads cannot share {hidden} channels",
            "each head needs a multiple of four: rows and columns turn pairs of them",
        )
    if _whole(own, "head_dim", hidden // heads, inside) != hidden // heads:
        raise CheckpointError(
            f"{inside}: head_dim is {own['head_dim']}",
            f"pictures are computed with {hidden // heads}",
        )
    return VisionConfig(
        hidden_size=hidden,
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        patch_size=sizes["patch_size"],
        merge=_whole(data, "spatial_merge_size", 2, origin),
        rope_theta=rope,
        text_size=text.hidden_size,
        text_eps=text.rms_norm_eps,
    )


def _rope(own: Mapping[str, Any], where: str) -> float:
    settings = own.get("rope_parameters") or {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{where}: rope_parameters is no object", "see a released config")
    if settings.get("rope_type") not in (None, "default", "axial"):
        raise CheckpointError(
            f"{where}: rope_type {shown(settings['rope_type'])} is not supported", "use `default`"
        )
    theta = settings.get("rope_theta", own.get("rope_theta", 1e4))
    if type(theta) not in (int, float) or not 1 < theta <= 1e30:
        raise CheckpointError(f"{where}: rope_theta = {shown(theta)}", "give a number above 1")
    return float(theta)


def _whole(data: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = data.get(key)
    value = default if value is None else value
    if type(value) is not int or not 1 <= value <= LARGEST_WHOLE:
        raise CheckpointError(
            f"{where}: {key} = {shown(value)}", "give a whole number of at least 1"
        )
    return value

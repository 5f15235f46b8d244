"""quantization_config of a config.json: which quantised weights are read, and which are refused.

Read are compressed-tensors' `pack-quantized`, weights of 4 or 8 bits in whole numbers, one scale
for a row or for each group of neighbours in it, and `float-quantized`, floats of 8 bits (E4M3),
where one scale may also be that of a whole matrix. What each tensor is follows from the tensors
themselves (`quantised_tensors.py`); here everything that would mean something else is refused by
its name. But where activations beside floats are to be rounded to 8 bits by the range they happen
to have, they are left as they are, and a decoder says so: that is nearer to the model. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nldc.runtime.errors import CheckpointError

KEY = "quantization_config"
METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
FLOAT_FORMAT = "float-quantized"
FLOAT_FORMATS = (FLOAT_FORMAT, "naive-quantized")
"""The other name is written where activations are left as they are; the files are alike."""
MIXED = "mixed-precision"
OWN_METHOD = "nldc"
"""The same layout, with `weight_shift` beside it where 0 is no whole number of a group."""
BITS = (4, 8)
STRATEGIES = ("group", "channel")
FLOAT_STRATEGIES = (*STRATEGIES, "tensor")
STATUSES = (None, "compressed", "frozen")
REMEDY = (
    f"take a checkpoint in {METHOD}'s format {FORMAT} or {FLOAT_FORMAT}, "
    "or quantise one with nldc quantize"
)
UNROUNDED = (
    "the checkpoint's quantization_config rounds activations to 8 bits: here they are not rounded, "
    "so that outputs are nearer to those of the model it was made from"
)
"""What a decoder says of a kind with `activations`."""


class Kind(NamedTuple):
    """A kind of quantised weights: the bits of a number, and whether 0 is the middle one.

    `floating`: numbers are floats. `activations`: the config wants those beside them rounded to 8
    bits too, which is not done.
    """

    bits: int
    symmetric: bool
    floating: bool = False
    activations: bool = False


def check_quantization(data: Mapping[str, Any], origin: str) -> frozenset[Kind]:
    """Return the kinds of quantised weights that a config describes, none if it describes none.

    Raises:
        CheckpointError: they are, in a way that is not.
    """
    given = data.get(KEY)
    if given is None:
        return frozenset()
    where = f"{origin}: {KEY}"
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{where} is no object", REMEDY)
    method, form = given.get("quant_method"), given.get("format")
    if method not in (METHOD, OWN_METHOD):
        raise CheckpointError(f"{where}: quant_method {method!r} is not supported", REMEDY)
    if form not in (FORMAT, *FLOAT_FORMATS, MIXED):
        raise CheckpointError(f"{where}: format {form!r} is not supported", REMEDY)
    if given.get("quantization_status") not in STATUSES:
        status = given["quantization_status"]
        raise CheckpointError(f"{where}: quantization_status {status!r} is not supported", REMEDY)
    for key in ("kv_cache_scheme", "sparsity_config", "transform_config", "moe_sparsity_config"):
        if given.get(key):
            raise CheckpointError(f"{where}: {key} is not supported", REMEDY)
    groups = given.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise CheckpointError(f"{where}: config_groups holds no groups", REMEDY)
    return frozenset(
        _kind(group, form, f"{where}.config_groups.{name}") for name, group in groups.items()
    )


def _kind(group: Any, form: str, where: str) -> Kind:
    """Return the kind of a group's weights, in a config of that format."""
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise CheckpointError(f"{where} describes no weights", REMEDY)
    own = group.get("format")
    if own not in (None, FORMAT, *FLOAT_FORMATS):
        raise CheckpointError(f"{where}: format {own!r} is not supported", REMEDY)
    weights = group["weights"]
    floating = weights.get("type") == "float"
    form = own or form
    if form != MIXED and floating != (form in FLOAT_FORMATS):
        raise CheckpointError(
            f"{where}.weights: type = {weights.get('type')!r} is not supported in format {form!r}",
            REMEDY,
        )
    dynamic = floating and _is_dynamic(group.get("input_activations"))
    for key in ("input_activations", "output_activations"):
        if group.get(key) and not (dynamic and key == "input_activations"):
            raise CheckpointError(
                f"{where}: {key} is not supported",
                "only weights may be quantised, or beside floats activations whose scales are "
                "dynamic; " + REMEDY,
            )
    for key, fine in (
        ("type", ("float",) if floating else ("int", None)),
        ("num_bits", (8,) if floating else BITS),
        ("strategy", (*(FLOAT_STRATEGIES if floating else STRATEGIES), None)),
        ("actorder", (None, False, "weight", "static")),
        ("dynamic", (None, False)),
        ("block_structure", (None,)),
        ("symmetric", (True, None) if floating else (True, False, None)),
    ):
        value = weights.get(key, 8 if key == "num_bits" else None)
        if isinstance(value, list | dict) or value not in fine:
            raise CheckpointError(f"{where}.weights: {key} = {value!r} is not supported", REMEDY)
    # left out or null, either is what compressed-tensors takes by itself
    return Kind(
        weights.get("num_bits", 8),
        weights.get("symmetric") is not False,
        floating,
        activations=dynamic,
    )


def _is_dynamic(activations: Any) -> bool:
    """Whether activations are rounded to floats of 8 bits, by scales that no file holds."""
    return (
        isinstance(activations, Mapping)
        and activations.get("dynamic") is True
        and activations.get("type") == "float"
        and activations.get("num_bits", 8) == 8
    )


def scheme(
    bits: int, group: int | None, *, symmetric: bool, targets: list[str], floating: bool = False
) -> dict[str, Any]:
    """Return a group of `config_groups`; `group` None is one scale a row."""
    return {
        "targets": targets,
        "weights": {
            "num_bits": bits,
            "type": "float" if floating else "int",
            "symmetric": symmetric,
            "strategy": "channel" if group is None else "group",
            "group_size": -1 if group is None else group,
            "dynamic": False,
        },
        "input_activations": None,
        "output_activations": None,
        "format": FLOAT_FORMAT if floating else FORMAT,
    }


def settings(
    groups: Mapping[str, Any], *, ignore: Sequence[str] = (), own: bool = False
) -> dict[str, Any]:
    """Return the quantization_config of such groups; `own` where some have a `weight_shift`.

    `ignore` names matrices that are not quantised. All groups have one format.
    """
    return {
        "quant_method": OWN_METHOD if own else METHOD,
        "format": next(iter(groups.values()))["format"],
        "quantization_status": "compressed",
        "config_groups": dict(groups),
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }

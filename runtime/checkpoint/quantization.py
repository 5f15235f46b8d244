"""quantization_config of a config.json: which quantised weights are read, and which are refused.

Read is compressed-tensors' `pack-quantized`: weights of 4 or 8 bits in whole numbers, one scale for
a row or for each group of neighbours in it, activations as they are. What each tensor is follows
from the tensors themselves (`quantised_tensors.py`); here everything that would mean something else
is refused by its name. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nldc.runtime.errors import CheckpointError

KEY = "quantization_config"
METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
MIXED = "mixed-precision"
OWN_METHOD = "nldc"
"""The same layout, with `weight_shift` beside it where 0 is no whole number of a group."""
BITS = (4, 8)
STRATEGIES = ("group", "channel")
STATUSES = (None, "compressed", "frozen")
REMEDY = f"take a checkpoint in {METHOD}'s format {FORMAT}, or quantise one with nldc quantize"


def check_quantization(data: Mapping[str, Any], origin: str) -> frozenset[tuple[int, bool]]:
    """Return the kinds of quantised weights that a config describes, none if it describes none.

    A kind is the bits of a number, and whether 0 is the middle one (`symmetric`).

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
    if form not in (FORMAT, MIXED):
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
        _kind(group, f"{where}.config_groups.{name}") for name, group in groups.items()
    )


def _kind(group: Any, where: str) -> tuple[int, bool]:
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise CheckpointError(f"{where} describes no weights", REMEDY)
    if group.get("format") not in (None, FORMAT):
        raise CheckpointError(f"{where}: format {group['format']!r} is not supported", REMEDY)
    for key in ("input_activations", "output_activations"):
        if group.get(key):
            raise CheckpointError(
                f"{where}: {key} is not supported", "only weights may be quantised; " + REMEDY
            )
    weights = group["weights"]
    for key, fine in (
        ("type", ("int", None)),
        ("num_bits", BITS),
        ("strategy", (*STRATEGIES, None)),
        ("actorder", (None, False, "weight", "static")),
        ("dynamic", (None, False)),
        ("block_structure", (None,)),
        ("symmetric", (True, False, None)),
    ):
        value = weights.get(key, 8 if key == "num_bits" else None)
        if isinstance(value, list | dict) or value not in fine:
            raise CheckpointError(f"{where}.weights: {key} = {value!r} is not supported", REMEDY)
    # left out or null, either is what compressed-tensors takes by itself
    return weights.get("num_bits", 8), weights.get("symmetric") is not False


def scheme(bits: int, group: int | None, *, symmetric: bool, targets: list[str]) -> dict[str, Any]:
    """Return a group of `config_groups`; `group` None is one scale a row."""
    return {
        "targets": targets,
        "weights": {
            "num_bits": bits,
            "type": "int",
            "symmetric": symmetric,
            "strategy": "channel" if group is None else "group",
            "group_size": -1 if group is None else group,
            "dynamic": False,
        },
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,
    }


def settings(
    groups: Mapping[str, Any], *, ignore: Sequence[str] = (), own: bool = False
) -> dict[str, Any]:
    """Return the quantization_config of such groups; `own` where some have a `weight_shift`.

    `ignore` names matrices that are not quantised.
    """
    return {
        "quant_method": OWN_METHOD if own else METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": dict(groups),
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }

"""Python names for what a file names: its own, unless Python or the generated code needs them."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

TAKEN = frozenset(
    {"batch", "carry", "prompt", "self", "ops", "Decoder", "Emit", "Layout", "Pattern", "Tensor"}
    | {"masks", "kernels", "torch", "active", "iteration", "range", "length", "tensor", "Batch"}
)


def python_names(nodes: Iterable[str]) -> dict[str, str]:
    """Return a Python name for each full node name, all different.

    `step.kept` is `kept`, and `step.filled.pick`, inside a loop, is `filled_pick`.
    """
    names: dict[str, str] = {}
    used = set(TAKEN)
    for node in nodes:
        name = node.split(".", 1)[1].replace(".", "_")
        while name in used or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            name += "_"
        used.add(name)
        names[node] = name
    return names


def folder_names(strategies: Iterable[str]) -> dict[str, str]:
    """Return the name of a package for each strategy, all different: its own where that can be."""
    names: dict[str, str] = {}
    used = {"decode"}
    for strategy in strategies:
        name = strategy
        while name in used or keyword.iskeyword(name):
            name += "_"
        used.add(name)
        names[strategy] = name
    return names

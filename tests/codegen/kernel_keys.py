"""Run in its own process: print what Triton knows the kernels of artifacts by, as JSON.

Triton reads TRITON_INTERPRET when it is imported, and an interpreted function has no such key.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import torch

from nldc import api
from nldc.runtime.kernels import attention
from nldc.runtime.kernels.ahead import source_of, target_of
from nldc.runtime.kernels.attention_tiles import tiles_for
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.rows.pattern import Pattern


def keys(folder: str) -> dict[str, list[str]]:
    """Return, of each pattern, the key of its predicate and that of the attention kernel with it,
    which is what names a compiled kernel on the disk.
    """
    package = api.load(folder).__module__.rpartition(".")[0]
    found = {}
    for pattern in vars(import_module(f"{package}.patterns")).values():
        if isinstance(pattern, Pattern):
            assert pattern.kernel is not None
            predicate = pattern.kernel()
            kernel = attention.launchable(
                predicate, torch.bfloat16, 4, 128, tiles_for(128, 2)[0], Target(90),
                sees_prefix=pattern.sees_prefix, partial=True, upcast=False,
            )  # fmt: skip
            found[pattern.name] = [
                predicate.cache_key,
                source_of(kernel, target_of("cuda:90")).hash(),
            ]
    return found


if __name__ == "__main__":
    print(json.dumps([keys(folder) for folder in sys.argv[1:]]))

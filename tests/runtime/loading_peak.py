"""Load a checkpoint in a process of its own and print how much memory that took at its peak.

python loading_peak.py FOLDER DTYPE WARM: prints the bytes of the weights, and the peak in bytes
above what the process had before. WARM is a small checkpoint that is loaded first, so that what
libraries keep for themselves is there already.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.checkpoint.weights import load_weights, tensor_shapes
from nldc.runtime.model.backbone import Backbone


def load(folder: str, dtype: torch.dtype) -> Backbone:
    config, cpu = ModelConfig.load(folder), torch.device("cpu")
    return Backbone(config, load_weights(Path(folder), config, dtype, cpu), dtype, cpu)


def memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


folder, name, warm = sys.argv[1:]
dtype = dtype_of(name)
load(warm, dtype)
before = memory("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")
backbone = load(folder, dtype)
shapes = tensor_shapes(backbone.config).values()
print(sum(torch.Size(shape).numel() for shape in shapes) * dtype.itemsize)
print(memory("VmHWM:") - before)

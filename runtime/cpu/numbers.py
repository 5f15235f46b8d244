"""The dtypes that kernels for CPUs compute in, as they are told of them."""

from __future__ import annotations

import torch

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
NUMBERS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
BYTES = (4, 2, 2)

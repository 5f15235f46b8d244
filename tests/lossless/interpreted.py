"""Run in its own process with TRITON_INTERPRET=1: exact strategies equal AR through the kernels.

`python -m tests.lossless.interpreted COUNT` tries that many random cases; the first that differs
is shrunk, printed, and ends the run with status 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings

from tests.lossless.cases import EXACT, Case, cases, compiler
from tests.lossless.checkpoints import write
from tests.runtime.patched_once import patch_once


def main() -> None:
    torch.set_num_threads(1)
    patch_once()
    count = int(sys.argv[1])
    tried = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        compiled = compiler(folder)

        @settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(EXACT, dtypes=("float32",), longest=6))
        def equals_ar(case: Case) -> None:
            nonlocal tried
            tried += 1
            checkpoint = write(folder / "checkpoint", case.weights, case.geometry)
            exact, plain = (
                compiled(name, params).from_checkpoint(checkpoint, device="cpu", backend="triton")
                for name, params in ((case.strategy, case.params), ("ar", {}))
            )
            expected = plain.generate(case.prompts, **case.options)
            assert exact.generate(case.prompts, **case.options).tokens == expected.tokens

        equals_ar()
    print(f"{tried} cases")


if __name__ == "__main__":
    main()

"""The tests of the kernels, run where Triton interprets: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent / "kernels"


def can_interpret() -> bool:
    from nldc.runtime.kernels.device import can_interpret

    return can_interpret()


def run(marked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marked, HERE],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


pytestmark = pytest.mark.skipif(
    not can_interpret(), reason="this triton cannot interpret with this numpy"
)


def test_kernels_hold_in_the_interpreter() -> None:
    run("not long")


@pytest.mark.long
def test_kernels_hold_in_the_interpreter_for_all_sizes() -> None:
    run("long")

"""Kernels agree with the eager reference when interpreted, and compile for absent GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def run(script: str, *arguments: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def can_interpret() -> bool:
    from nldc.runtime.kernels.device import can_interpret

    return can_interpret()


needs_interpreter = pytest.mark.skipif(
    not can_interpret(), reason="this triton cannot interpret with this numpy"
)


@needs_interpreter
def test_interpreted_layers_agree_with_torch_and_decode_golden_cases() -> None:
    found = run("interpreted.py", TRITON_INTERPRET="1")
    assert len(found["layers"]) >= 4
    assert max(found["layers"]) < 2**-17
    assert found["decoded"] == [True] * 3


@needs_interpreter
def test_interpreted_attention_is_what_float64_says_and_each_row_is_alone() -> None:
    found = run("attended.py", TRITON_INTERPRET="1")
    check_attention(found)
    assert found["otherwise"] == {"7": False}  # what is fixed does decide the bits
    for name, (weighed, most) in found["skipped"].items():
        assert weighed < 0.75 * most, name


@pytest.mark.long
@needs_interpreter
def test_interpreted_attention_of_many_rows_and_long_prefixes() -> None:
    check_attention(run("attended.py", "long", TRITON_INTERPRET="1"))


def check_attention(found: Any) -> None:
    assert [one for one in found["errors"] if not one[1] <= 1] == []
    for name, agree in found["divided"].items():
        assert len(agree) == 8, name
        assert all(agree), name
    assert [name for name, alike in found["company"].items() if not alike] == []


def test_attention_compiles_ahead_of_time_for_cuda_and_hip(tmp_path: Path) -> None:
    assert run("ahead_of_time.py", TRITON_CACHE_DIR=str(tmp_path)) == []


def test_the_kernels_of_a_layer_and_a_head_compile_ahead_of_time_and_do_not_spill(
    tmp_path: Path,
) -> None:
    assert run("ahead_kernels.py", TRITON_CACHE_DIR=str(tmp_path)) == []


@pytest.mark.long
@pytest.mark.parametrize("arch", ["80", "90", "100"])
def test_every_kernel_compiles_for_every_number_of_rows_and_does_not_spill(
    arch: str, tmp_path: Path
) -> None:
    assert run("ahead_kernels.py", "everything", arch, TRITON_CACHE_DIR=str(tmp_path)) == []


def test_a_page_is_weighed_by_the_same_arithmetic_masked_or_not(tmp_path: Path) -> None:
    found = run("contracted.py", TRITON_CACHE_DIR=str(tmp_path))
    for name, kernel in found["shipped"].items():
        masked, plain = kernel["loops"]
        assert masked["ex2.approx.ftz.f32"] > 1, name
        assert masked == plain, name
        assert kernel["open_to_fusion"] == 0, name
    assert found["merge"]["open_to_fusion"] == 0
    fused = found["fused"]
    assert fused["open_to_fusion"] > 0


@pytest.mark.long
def test_attention_compiles_in_every_dtype_for_every_target(tmp_path: Path) -> None:
    assert run("ahead_of_time.py", "everything", TRITON_CACHE_DIR=str(tmp_path)) == []

"""Kernels compiled for GPUs that are not here, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nldc.cli import cli

pytest.importorskip("triton")
MODEL = Path(__file__).parent / "golden_checkpoints" / "random-1"


def compiled(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Another process: this one may interpret kernels, and cannot do both.
    return subprocess.run(
        [sys.executable, "-m", "nldc.cli", "compile", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_kernel_says_what_it_takes_on_a_target(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = compiled(
        "linear_ss", "quadratic_ss", "-o", out, "--target", "cuda:90", "--model", MODEL,
        "--dtype", "float32",  # there are fewest kernels
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"wrote {out}"
    (head,) = [number for number, line in enumerate(lines) if line.startswith("kernels for")]
    assert lines[head].startswith("kernels for cuda:90, float32, ")
    names = [line.split("  ")[1] for line in lines[head + 1 :]]
    assert names == [
        "linear_ss: causal", "linear_ss: bidirectional",
        "quadratic_ss: prefill_first", "quadratic_ss: both",
    ]  # fmt: skip
    assert all("KiB shared" in line for line in lines[head + 1 :])
    assert all("registers" in line and "no spills" in line for line in lines[head + 1 :])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "cuda:7"), "target 'cuda:7' is unknown"),
        (("--target", "tpu"), "the targets are cuda:80"),
        (("--target", "cuda:90", "--model", "nowhere"), "nowhere"),
        (("--dtype", "float32"), "give a target"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(cli, ["compile", "ar", "-o", str(tmp_path / "out"), *arguments])
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_where_kernels_are_interpreted_none_is_compiled_for_a_target(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = compiled("ar", "-o", out, "--target", "cuda:90", TRITON_INTERPRET="1")
    assert done.returncode in (1, 2)
    assert "unset TRITON_INTERPRET" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()

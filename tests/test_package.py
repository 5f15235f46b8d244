"""What `import nldc` offers, and what a built wheel holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nldc
from nldc import api

ROOT = Path(__file__).parent.parent


def test_the_package_offers_what_it_lists() -> None:
    assert nldc.__all__ == ["__version__", "compile", "load"]
    assert nldc.load is api.load
    assert nldc.compile is api.compile
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = nldc.laod  # type: ignore[attr-defined]


def test_a_wheel_holds_the_code_the_strategies_and_the_demo_model(tmp_path: Path) -> None:
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "build", "runs", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    built = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "nldc/py.typed",
        "nldc/codegen/pipeline.py",
        "nldc/runtime/kernels/attention.py",
        "nldc/runtime/train/loop.py",
        "nldc/strategies/linear_ss.yaml",
        "nldc/cost/devices/h100.yaml",
        "nldc/demo/config.json",
        "nldc/demo/chat_template.jinja",
        "nldc/demo/tokenizer.json",
        "nldc/demo/heldout.jsonl",
        "nldc/demo/model.safetensors.index.json",
        "nldc/demo/linear_spec_lora/adapter_model.safetensors",
    }
    assert not wanted - names
    assert not [name for name in names if name.startswith(("codegen/", "runtime/", "tests/"))]


def test_the_package_runs_as_a_module() -> None:
    run = [sys.executable, "-m", "nldc", "strategies"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert "linear_ss" in found.stdout

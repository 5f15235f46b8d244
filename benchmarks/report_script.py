"""The GPU report's script as a module: it has the model of the 8B's shape, and the clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def gpu_report(tree: Path = ROOT) -> ModuleType:
    """Return this checkout's script, which works on a tree."""
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "scripts/gpu_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_report"] = module
    spec.loader.exec_module(module)
    vars(module)["ROOT"] = tree
    return module

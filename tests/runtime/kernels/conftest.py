"""Kernels in Triton's interpreter: memory that is poisoned, and products whose order is known.

Triton interprets only if TRITON_INTERPRET=1 when it is imported, so these files are collected in
a process of their own, see `tests/runtime/test_interpreted_kernels.py`; or by hand:

    TRITON_INTERPRET=1 pytest tests/runtime/kernels
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]
if INTERPRETED:
    from patched_once import patch_once

    patch_once()


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Poison all memory that wrappers ask for; after the test it must be written, and only that."""
    from kernel_cases import Rooms

    found = Rooms()
    monkeypatch.setattr(torch, "empty", found.empty)
    monkeypatch.setattr(
        torch, "empty_like", lambda x, dtype=None: found.empty(x.shape, dtype=dtype or x.dtype)
    )
    yield found
    found.check()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a product add its terms one after another, as tensor cores do."""
    from products_in_order import add_in_order

    add_in_order(monkeypatch)

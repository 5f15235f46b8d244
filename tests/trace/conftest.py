"""Traced runs on a small checkpoint: each strategy is compiled once, with short steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nldc import api
from nldc.trace.running import Watched, watch
from tests.library import short_steps

CHECKPOINT = Path(__file__).parents[1] / "golden_checkpoints" / "random-0"
LOADING = {"device": "cpu", "backend": "torch", "dtype": "float32"}
Compiled = Callable[[str], Path]
Watch = Callable[[str], Watched]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Return what compiles a strategy of the library."""
    root = tmp_path_factory.mktemp("artifacts")

    def get(name: str) -> Path:
        out = root / name
        if not out.exists():
            api.compile(name, out, short_steps(name, 4), certify=False)
        return out

    return get


@pytest.fixture(scope="session")
def watched(compiled: Compiled) -> Watch:
    """Return what loads a strategy of the library on the small checkpoint, to be listened to."""
    known: dict[str, Watched] = {}

    def get(name: str) -> Watched:
        if name not in known:
            known[name] = watch(compiled(name), CHECKPOINT, **LOADING)
        return known[name]

    return get

"""The device that these tests are about: a CUDA device, or what NLDC_TEST_DEVICE names.

`NLDC_TEST_DEVICE=cpu pytest -m gpu tests/gpu` runs them without one, on the torch backend, and with
TRITON_INTERPRET=1 on the kernels too: slow, and smaller.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nldc import api
from nldc.runtime import Decoder
from tests.runtime.products_in_order import add_in_order

Compiled = Callable[..., type[Decoder]]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device, or skip."""
    place = torch.device(os.environ.get("NLDC_TEST_DEVICE", "cuda"))
    if place.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; NLDC_TEST_DEVICE=cpu runs these tests on the CPU")
    return place


@pytest.fixture(autouse=True)
def _terms_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products have the same bits for every number of rows where they are interpreted."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        add_in_order(monkeypatch)


@pytest.fixture(params=["triton", "torch"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Return each backend that runs on the device."""
    name = str(request.param)
    if name == "triton" and device.type == "cpu":
        kernels = pytest.importorskip("nldc.runtime.kernels.device")
        if not (kernels.interpreted() and kernels.can_interpret()):
            pytest.skip("kernels run on the CPU with TRITON_INTERPRET=1 only")
    return name


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compile a strategy of the library, once."""
    root: Path = tmp_path_factory.mktemp("artifacts")
    known: dict[str, type[Decoder]] = {}

    def get(name: str, **settings: Any) -> type[Decoder]:
        if name not in known:
            known[name] = api.load(api.compile(name, root / name, settings, certify=False))
        return known[name]

    return get

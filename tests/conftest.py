"""Golden files: a test hands its text to `golden`, which compares it with a file.

`pytest --update-golden` rewrites the files; review the diff. A missing file fails.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Read when torch is imported, here and by what tests start: a thread that spins until others come
# takes the core on which they would.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

Golden = Callable[[Path, str], None]

LONGEST = {
    name: place
    for place, name in enumerate(
        (
            "test_strategies.py",
            "test_kernels.py",
            "test_interpreted_kernels.py",
            "test_thinking_budget.py",
            "test_all_modes.py",
            "test_soundness.py",
            "test_random_checkpoints.py",
            "test_step_state.py",
            "test_cli.py",
            "test_certify.py",
            "test_new_op.py",
            "test_names.py",
            "test_switching.py",
            "test_lowering.py",
            "test_pages.py",
            "test_golden.py",
            "test_row_invariance.py",
            "test_overlap.py",
            "test_many_requests.py",
        )
    )
}

# The default run is the same every time; `make test-long` looks further, and prints how to repeat.
settings.register_profile("quick", derandomize=True, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("NLDC_HYPOTHESIS", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files with what tests produce"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that processes end together.

    pytest-xdist would go by the number of tests; `--no-loadscope-reorder` keeps this order.
    """
    items.sort(key=lambda item: LONGEST.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Let the collector of garbage leave alone what was imported and collected, which stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_sessionfinish() -> None:
    """Let the collector have it all back, so that libraries find nothing leaked at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Run torch on one thread: the models of the tests are too small to share."""
    torch.set_num_threads(1)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a golden file, or rewrite the file with --update-golden."""
    is_update = request.config.getoption("--update-golden")

    def compare(path: Path, text: str) -> None:
        if is_update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(
                f"no golden file {path}: run `pytest --update-golden {request.node.nodeid}`,"
                " and review what it wrote"
            )
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests of `make test-browser`."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found is not None, "install chromium"
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()

"""How much memory keys and values may take: as it is written, as it is found, as it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nldc.runtime.cache import budget
from nldc.runtime.cache.budget import SHARES, budget_of, free_memory
from nldc.runtime.errors import PromptError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("512MiB", 512 * 2**20),
        (" 2 GiB ", 2 * 2**30),
        ("2gib", 2 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("3kB", 3000),
        ("7B", 7),
        ("9007199254740993", 9007199254740993),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_bytes_by_their_unit(size: str | int, count: int) -> None:
    assert budget_of(size, CPU) == count


@pytest.mark.parametrize(
    "size",
    ["", "x", "GiB", "-1", "1e9", "5 apples", "1,5GB", "0", "0%", "101%", "0.1B", "½GiB", True, -3,
     1.5j, "9" * 9999 + "x", "9" * 5000, "9" * 400 + ".5GiB"],
)  # fmt: skip
def test_what_is_no_size_is_refused_with_what_would_be_one(size: str | int) -> None:
    with pytest.raises(PromptError, match="KV memory") as caught:
        budget_of(size, CPU)
    assert caught.value.hint is not None
    assert "512MiB" in caught.value.hint
    assert len(caught.value.message) < 100


def test_a_share_is_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_memory", lambda _: 1000)
    assert budget_of("25%", CPU) == 250
    assert budget_of("100 %", CPU) == 1000
    assert budget_of("0.5%", CPU) == 5
    assert budget_of(None, CPU) == 1000 * SHARES["cpu"]
    with pytest.raises(PromptError, match="is nothing"):
        budget_of("0.01%", CPU)


def test_free_memory_is_what_the_machine_and_its_group_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  900 kB\nMemAvailable:     500 kB\nCached: 3 kB\n")
    assert budget.available(meminfo) == 500 * 1024
    other = budget.available(tmp_path / "none")
    assert 2**20 < other < 2**50
    assert budget.left_to_the_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert budget.left_to_the_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1200\n")
    assert budget.left_to_the_group(tmp_path) == 3800
    monkeypatch.setattr(budget, "available", lambda: 700)
    for left, free in ((None, 700), (90, 90), (-5, 0)):
        monkeypatch.setattr(budget, "left_to_the_group", lambda left=left: left)
        assert free_memory(CPU) == free

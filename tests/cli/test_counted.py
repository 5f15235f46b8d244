"""What long work tells of how far it is: from nothing up to all, without a step back."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.acceptance import Acceptance
from nldc.certify import certify
from nldc.cost.device import load_device
from nldc.cost.geometry import RELEASED
from nldc.cost.step import Setting
from nldc.cost.tune import tune
from nldc.sol import sol
from nldc.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden_checkpoints" / "random-0"


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.shares.append(done / total)

    def check(self, least: int) -> None:
        assert len(self.shares) >= least
        assert self.shares == sorted(self.shares)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("counted") / "two"
    return api.compile(["linear_ss", "ar"], out, {"block_length": 4}, certify=False)


def test_a_certificate_counts_the_batches_of_all_strategies(two: Path) -> None:
    told = Told()
    certify(two, 2, progress=told)
    told.check(12)
    assert told.shares[0] == 0
    assert told.shares[-1] > 0.8


def test_verifying_counts_the_tokens_of_all_trials(two: Path) -> None:
    told = Told()
    verify(two, GOLDEN, count=2, generation={"max_new_tokens": 6}, progress=told)
    told.check(4)
    assert told.shares[-1] == 1


def test_a_search_counts_its_choices() -> None:
    told = Told()
    profile = Acceptance("linear_ss", {"block_length": 32}, {1: 10, 2: 30}, {}, 32)
    setting = Setting(load_device("h100"), RELEASED["8b"])
    tune("linear_ss", setting, profile, {"block_length": (4, 8, 16)}, progress=told)
    assert told.shares == [0, 1 / 3, 2 / 3]


def test_the_speed_of_light_counts_lengths_and_runs() -> None:
    told = Told()
    sol(GOLDEN, ["ar"], block_lengths=(2, 3), count=1, max_new_tokens=4, progress=told)
    assert told.shares == [0, 1 / 3, 2 / 3]


def test_kernels_are_counted_once_a_target_s_are(tmp_path: Path) -> None:
    from nldc.ahead.compiling import _tell
    from nldc.ahead.worker import TAKES, TOTAL

    request = tmp_path / "request.json"
    request.write_text('{"targets": ["cuda:90", "cuda:80"]}')
    out = tmp_path / "out"
    out.mkdir()
    told = Told()
    _tell(request, told)
    assert told.shares == []
    (out / f"{TOTAL}cuda:90").write_text("3")
    for name in ("a", "b"):
        (out / name).mkdir()
    (out / "a" / TAKES).write_text("")
    _tell(request, told)
    assert told.shares == [1 / 6]

"""Where the kernels for CPUs cannot be had, torch computes, and it is said why."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
from handwritten import CHECKPOINTS, Ar
from random_model import random_checkpoint

from nldc.runtime.checkpoint.quantising import quantize
from nldc.runtime.cpu import available, compiled, product
from nldc.runtime.errors import BackendError

SETTINGS = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    quantize(random_checkpoint(tmp_path / "source", **SETTINGS), tmp_path / "out", 8)
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    available.why_not.cache_clear()
    yield
    available.why_not.cache_clear()


def said(model: Path, caplog: pytest.LogCaptureFixture, **options: Any) -> str:
    """Load with torch, and return why it is torch."""
    caplog.set_level(logging.INFO, "nldc")
    decoder = Ar.from_checkpoint(model, device="cpu", **options)
    assert decoder.backend == "torch"
    assert len(decoder.generate([[5, 2]], max_new_tokens=2, eos=()).tokens[0]) == 2
    (line,) = (each for each in caplog.messages if each.startswith("backend "))
    return line


def test_numba_may_be_missing(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else found(name)
    )
    assert said(model, caplog) == (
        "backend torch: numba is not installed (pip install 'nldc[cpu]')"
    )
    with pytest.raises(BackendError, match="numba is not installed") as caught:
        Ar.from_checkpoint(model, device="cpu", backend="numba")
    assert "backend torch" in str(caught.value.hint)


def test_numba_may_be_broken(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: object, **_more: object) -> None:
        raise ImportError("Numba needs NumPy 2.4 or less.\nGot NumPy 3.0.")

    monkeypatch.setattr(product, "product", broken)
    assert said(model, caplog) == (
        "backend torch: numba does not compile the kernels: "
        "ImportError: Numba needs NumPy 2.4 or less."
    )


def test_numba_may_be_told_not_to_compile(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert "NUMBA_DISABLE_JIT" in said(model, caplog)


def test_float64_and_plain_weights_are_left_to_torch(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "do not compute in float64" in said(model, caplog, dtype="float64")
    caplog.clear()
    assert "for weights of 8 and 4 bits" in said(CHECKPOINTS[0], caplog)
    with pytest.raises(BackendError, match="float64") as caught:
        Ar.from_checkpoint(model, dtype="float64", device="cpu", backend="numba")
    assert caught.value.hint == "use backend torch, or dtype float32"


def test_torch_may_be_asked_for(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert said(model, caplog, backend="torch") == "backend torch: as asked"


def test_kernels_are_compiled_where_no_place_is_found_to_keep_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    own = numba.cfunc

    def nowhere(signature: object, *, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return own(signature, **options)

    monkeypatch.setattr(numba, "cfunc", nowhere)

    made = compiled.entry(_nothing(1, ""), 1)
    assert asked[0]
    assert not asked[-1]
    assert made.address
    made.call(3)


def _nothing(more: int, source: str) -> Callable[[int], None]:
    def nothing(value: int) -> None:
        _ = source
        _ = value + more

    return nothing


def _kept_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nb[ic]"))


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_kernels_whose_files_are_damaged_are_compiled_and_kept_anew(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compiled.entry(_nothing(1, "a"), 1)
    whole = {path: path.stat().st_size for path in _kept_in(tmp_path)}
    assert len(whole) == 2
    (damaged,) = (path for path in whole if path.suffix == f".{kind}")
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert compiled.entry(_nothing(1, "a"), 1).keeps.cache_hits == 0
    assert {path: path.stat().st_size for path in _kept_in(tmp_path)} == whole
    assert compiled.entry(_nothing(1, "a"), 1).keeps.cache_hits == 1


def test_no_two_kernels_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's name says what is in it, whatever of several processes writes it when."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for number, (more, source) in enumerate(((1, "a"), (2, "a"), (1, "b")), 1):
        compiled.entry(_nothing(more, source), 1)
        assert len(_kept_in(tmp_path)) == 2 * number
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avx2,+fma")
    function = _nothing(1, "a")
    compiled.entry(function, 1)
    assert len(_kept_in(tmp_path)) == 8


def test_what_is_kept_is_another_for_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = compiled.digest.__wrapped__
    own = digest()
    for path in Path(compiled.__file__).parent.glob("*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert digest() == own
    with (tmp_path / "exponent.py").open("a") as file:
        file.write("# another\n")
    assert digest() != own

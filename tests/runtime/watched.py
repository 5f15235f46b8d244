"""What goes between host and device, as far as a CPU can tell: who makes tensors of numbers, and
who reads numbers from tensors.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
READS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
MAKERS = ("tensor", "as_tensor", "from_numpy")
WAITS = (
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2",
    "aten.unique_dim", "aten.unique_consecutive", "aten.equal", "aten.repeat_interleave",
)  # fmt: skip
"""Operators whose results depend on values, so that a device is waited for."""


class _Waits(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func).rsplit(".", 1)[0]
        by_flags = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in WAITS or by_flags:
            self.note(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(found: Counter[str]) -> Iterator[None]:
    """Count in `found` who makes or reads, as `file:function what`, while this is entered."""

    def note(what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            path = Path(frame.f_code.co_filename)
            ours = ROOT in path.parents or "artifact" in path.parts
            if ours and path.name != Path(__file__).name:
                break
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        found[f"{path.name}:{frame.f_code.co_name} {what}"] += 1

    def noting(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            note(what)
            return call(*args, **kwargs)

        return noted

    old: dict[tuple[Any, str], Callable[..., Any]] = {
        (owner, name): getattr(owner, name)
        for owner, names in ((Tensor, READS), (torch, MAKERS))
        for name in names
    }
    for (owner, name), call in old.items():
        setattr(owner, name, noting(name, call))
    try:
        with _Waits(note):
            yield
    finally:
        for (owner, name), call in old.items():
            setattr(owner, name, call)

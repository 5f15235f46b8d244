"""What a CUDA graph does, on the CPU: calls of torch are recorded, and run again.

A replay runs no line of the step: each recorded call is made again on the same memory, and what it
returns is written into the memory that it returned first. So an address that is stale, a length
that became a constant, or a table that nobody wrote again comes out as wrong tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
READS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
WAITS = (
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2",
    "aten.unique_dim", "aten.unique_consecutive", "aten.equal", "aten.repeat_interleave",
    "aten.is_nonzero",
)  # fmt: skip
UPLOADS = ("aten.lift_fresh", "aten.lift_fresh_copy", "aten.lift")
"""How a tensor of numbers of the host begins."""


class RefusedError(Exception):
    """A call that no graph can hold."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call, and which tensors of what it returned are memory of its own."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    own: tuple[Tensor | None, ...]

    def again(self) -> None:
        """Make the call, and put what it returns where that was."""
        found = tree_leaves(self.func(*self.args, **self.kwargs))
        for old, new in zip(self.own, found, strict=True):
            if old is not None:
                old.copy_(new)


@dataclass(eq=False)
class Tape:
    """Calls in order."""

    calls: list[Call] = field(default_factory=list)

    def replay(self) -> None:
        """See `Recorded`."""
        with torch.inference_mode():
            for call in self.calls:
                call.again()


def _memory(value: Any) -> set[int]:
    """Return what tells memory apart; weights that a library packed have none to show."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return {
        one.untyped_storage()._cdata if one.layout == torch.strided else id(one) for one in tensors
    }


def _writes(func: Any) -> bool:
    return any(
        one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments
    )


class _Recording(TorchDispatchMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func).rsplit(".", 1)[0]
        flags = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in WAITS or flags:
            raise RefusedError(f"{name} waits for the device")
        if name in UPLOADS:
            raise RefusedError(f"{name} sends what the host has")
        found = func(*args, **kwargs)
        given = _memory((args, kwargs))
        own = tuple(
            leaf if isinstance(leaf, Tensor) and not _memory(leaf) & given else None
            for leaf in tree_leaves(found)
        )
        if _writes(func) or any(leaf is not None for leaf in own):
            self.tape.calls.append(Call(func, args, kwargs, own))
        return found


@contextmanager
def _unread() -> Iterator[None]:
    """Refuse to tell the host what is in a tensor."""

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise RefusedError(f"Tensor.{name} reads what the device has")

        return refuse

    old = {name: getattr(Tensor, name) for name in READS}
    for name in READS:
        setattr(Tensor, name, refusing(name))
    try:
        yield
    finally:
        for name, method in old.items():
            setattr(Tensor, name, method)


@dataclass(eq=False)
class Emulator:
    """Records on the CPU; see `Recorder`. `tapes` are what was recorded."""

    tapes: list[Tape] = field(default_factory=list)

    def record(self, work: Callable[[Callable[[], Tape]], T]) -> tuple[Tape, T]:
        """See `Recorder`; the work is done meanwhile, one round of each loop."""
        recording = _Recording(Tape())

        def cut() -> Tape:
            done, recording.tape = recording.tape, Tape()
            self.tapes.append(done)
            return done

        with _unread(), recording:
            found = work(cut)
        return cut(), found


def names(tape: Tape) -> Counter[str]:
    """Return how often each operator is called in a replay."""
    return Counter(str(call.func).rsplit(".", 1)[0] for call in tape.calls)

"""Every identifier of generated code is allotted here, so that no two of them ever meet.

A `Scope` is what Python calls one: a module, or a function in it. A name is allotted in a scope
when nothing of that name can be seen from there, and nothing inside already hides it. What Python,
the runtime and the printed text itself use is taken from the start.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from nldc.runtime.abi import DECODER_VARIABLES, PREDICATE_ARGUMENTS

PYTHON = frozenset((*keyword.kwlist, *keyword.softkwlist, *dir(builtins)))
"""What Python's own words and builtins are called, whether or not generated code uses them."""

RUNTIME = frozenset(
    {"annotations", "Any", "Batch", "Emit", "Layout", "Pattern", "RowFacts", "Table", "Tensor"}
    | {"Param", "Worth"}
    | {"BaseDecoder", "Decoder", "ops", "patterns", "sees", "torch", "triton", "tl"}
)
"""What the modules of an artifact import and define under names that are always the same."""

METHOD = ("self", "batch", "active", "iteration")
"""What a method of a decoder may name beside the values of its strategy."""

PREFILL = (*METHOD, "prompt", "length")
STEP = (*METHOD, "carry")


@dataclass
class Scope:
    """The names of a module, or of a function inside `outer`."""

    taken: set[str] = field(default_factory=set)
    outer: Scope | None = None
    inner: list[Scope] = field(default_factory=list)

    def inside(self, names: Iterable[str] = ()) -> Scope:
        """Return a new scope in this one, in which `names` are taken."""
        scope = Scope(set(names), self)
        self.inner.append(scope)
        return scope

    def allot(self, wanted: str) -> str:
        """Take the name, or the first of `name_`, `name_2`, `name_3`, … that meets nothing."""
        name = next(name for name in _like(wanted) if not self._is_taken(name))
        self.taken.add(name)
        return name

    def allot_all(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Take a name for each, in order."""
        return tuple(self.allot(name) for name in wanted)

    def _is_taken(self, name: str) -> bool:
        return self._sees(name) or self._holds(name)

    def _sees(self, name: str) -> bool:
        if name in self.taken:
            return True
        return self.outer._sees(name) if self.outer else name in PYTHON

    def _holds(self, name: str) -> bool:
        return any(name in scope.taken or scope._holds(name) for scope in self.inner)


def _like(name: str) -> Iterator[str]:
    yield name
    yield f"{name}_"
    yield from (f"{name}_{number}" for number in count(2))


def module_scope() -> Scope:
    """Return the scope of an artifact's modules, which share what they define.

    The body of a decoder's class reads constants of its module, so none has the name of a variable
    that the class itself sets.
    """
    return Scope({*RUNTIME, *DECODER_VARIABLES, *PREDICATE_ARGUMENTS, "q", "k"})


def class_scope() -> Scope:
    """Return the scope of a decoder's methods; nothing of its base class begins with `step_`."""
    return Scope({"prefill", "step"})


def node_names(nodes: Iterable[str], scope: Scope) -> dict[str, str]:
    """Return a Python name for each full node name, allotted in `scope`.

    `step.kept` is `kept`, and `step.filled.pick`, inside a loop, is `filled_pick`. The nodes of a
    step choose before those inside its loops.
    """
    ordered = sorted(nodes, key=lambda node: node.count("."))
    return {node: scope.allot(node.split(".", 1)[1].replace(".", "_")) for node in ordered}


def decoder_names(folders: Mapping[str, str]) -> dict[str, str]:
    """Return the name under which each strategy's decoder is imported from its folder."""
    scope = module_scope().inside(("Handover", "SwitchingDecoder"))
    return {
        strategy: scope.allot(f"{''.join(map(str.capitalize, folder.split('_')))}Decoder")
        for strategy, folder in folders.items()
    }


def folder_names(strategies: Iterable[str]) -> dict[str, str]:
    """Return the name of a package for each strategy: its own where that can be.

    They differ by more than case, which some file systems do not tell apart.
    """
    names: dict[str, str] = {}
    used = {"__init__", "check_artifact", "decode", "decoder", "path"}
    for strategy in strategies:
        name = next(
            name
            for name in _like(strategy)
            if name.casefold() not in used and not keyword.iskeyword(name)
        )
        used.add(name.casefold())
        names[strategy] = name
    return names

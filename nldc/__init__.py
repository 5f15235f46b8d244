"""nldc: a declarative decoding-strategy compiler.

`nldc.compile` and `nldc.load` are those of `nldc.api`, found when first used: `import nldc` loads
neither torch nor triton.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nldc.api import compile, load  # noqa: A004

__version__ = "0.1.0"

__all__ = ["__version__", "compile", "load"]


def __getattr__(name: str) -> Any:
    if name in ("compile", "load"):
        return getattr(import_module("nldc.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

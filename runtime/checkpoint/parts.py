"""Which weights beside the base model a strategy asks for, and which of them a checkpoint has.

A strategy declares its adapters by name, each optional or not. What is found is what decodes, and
what is not found is said: a drafter that is silently missing costs only speed, and nobody notices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.errors import AdapterError

AdapterChoice: TypeAlias = str | Path | Mapping[str, str | Path | None] | None
"""An adapter's folder, "auto", None for none, or one of these for each declared name."""

AUTO = "auto"
LOG = logging.getLogger("nldc")


@dataclass(frozen=True)
class Declared:
    """The adapters that a strategy declares; those in `required` it cannot do without."""

    strategy: str
    names: tuple[str, ...]
    required: frozenset[str] = frozenset()

    def check(self, found: Mapping[str, object]) -> None:
        """Raise unless every required adapter is among those found.

        Raises:
            AdapterError: one is missing.
        """
        missing = [name for name in self.names if name in self.required and name not in found]
        if missing:
            raise AdapterError(
                f"the strategy `{self.strategy}` needs the adapter `{missing[0]}`",
                f"give its folder, or put it into the checkpoint as {ADAPTER_FOLDER}; a strategy "
                "that can do without declares it as optional: true",
            )

    def missing(self, found: Mapping[str, object]) -> list[str]:
        """Say of each adapter that was not found that base weights take its place."""
        return [
            f"no {name} adapter: {_doing(name)} with base weights"
            for name in self.names
            if name not in found
        ]


def _doing(name: str) -> str:
    return "drafting" if "draft" in name else "its rows are computed"


def choose_folders(choice: AdapterChoice, checkpoint: Path, declared: Declared) -> dict[str, Path]:
    """Return the folder of each declared adapter that is to be loaded.

    By itself, the one adapter of a strategy is the checkpoint's `linear_spec_lora`; of several,
    each is the checkpoint's folder of its name.

    Raises:
        AdapterError: the choice names no declared adapter, leaves open which of several one folder
            is, or leaves out one that the strategy needs.
    """
    names = declared.names
    if isinstance(choice, Mapping):
        for name in choice:
            if name not in names:
                known = ", ".join(f"`{each}`" for each in names) or "none"
                raise AdapterError(
                    f"the strategy `{declared.strategy}` declares no adapter `{name}`",
                    f"it declares {known}",
                )
        own = {**dict.fromkeys(names, AUTO), **choice}
    elif choice is None or choice == AUTO:
        own = dict.fromkeys(names, choice)
    elif not names:
        raise AdapterError(
            f"the strategy `{declared.strategy}` uses no adapter", "leave the adapter out"
        )
    elif len(names) > 1:
        raise AdapterError(
            f"the strategy `{declared.strategy}` declares the adapters {', '.join(names)}",
            f"say which is which: {names[0]}=FOLDER",
        )
    else:
        own = {names[0]: choice}
    found = {
        name: folder
        for name, wanted in own.items()
        if (folder := _folder(name, wanted, checkpoint, alone=len(names) == 1)) is not None
    }
    if len(names) > 1 and (checkpoint / ADAPTER_FOLDER).is_dir():
        left = [name for name in names if own[name] == AUTO and name not in found]
        if left:
            raise AdapterError(
                f"the strategy `{declared.strategy}` declares the adapters {', '.join(names)}, and "
                f"{checkpoint / ADAPTER_FOLDER} does not say which of them it is",
                f"say which is which: {left[0]}=FOLDER, or {left[0]}=none",
            )
    declared.check(found)
    return found


def _folder(name: str, wanted: str | Path | None, checkpoint: Path, *, alone: bool) -> Path | None:
    if wanted is None:
        return None
    if wanted != AUTO:
        return Path(wanted)
    place = checkpoint / (ADAPTER_FOLDER if alone else name)
    return place if place.is_dir() else None

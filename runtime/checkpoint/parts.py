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

from nldc.runtime.abi import ADAPTER_FOLDER, SAMPLER_FOLDER
from nldc.runtime.errors import AdapterError

AdapterChoice: TypeAlias = str | Path | Mapping[str, str | Path | None] | None
"""An adapter's folder, "auto", None for none, or one of these for each declared name."""

AUTO = "auto"
LOG = logging.getLogger("nldc")


@dataclass(frozen=True)
class Declared:
    """The adapters that a strategy declares; those in `required` it cannot do without, and those in
    `samplers` are trained samplers.
    """

    strategy: str
    names: tuple[str, ...]
    required: frozenset[str] = frozenset()
    samplers: frozenset[str] = frozenset()

    @property
    def loras(self) -> tuple[str, ...]:
        """Those that are no samplers."""
        return tuple(name for name in self.names if name not in self.samplers)

    def folder_of(self, name: str) -> str:
        """Return the name of the checkpoint's folder that holds one, if nobody says another."""
        if name in self.samplers:
            return SAMPLER_FOLDER if len(self.samplers) == 1 else name
        return ADAPTER_FOLDER if len(self.loras) == 1 else name

    def check(self, found: Mapping[str, object]) -> None:
        """Raise unless every required adapter is among those found.

        Raises:
            AdapterError: one is missing.
        """
        missing = [name for name in self.names if name in self.required and name not in found]
        if missing:
            what = "sampler" if missing[0] in self.samplers else "adapter"
            raise AdapterError(
                f"the strategy `{self.strategy}` needs the {what} `{missing[0]}`",
                f"give its folder, or put it into the checkpoint as {self.folder_of(missing[0])}; "
                "a strategy that can do without declares it as optional: true",
            )

    def missing(self, found: Mapping[str, object]) -> list[str]:
        """Say of each adapter that was not found that base weights take its place."""
        return [
            f"no {name} sampler: rows are as safe as their likeliest token is likely"
            if name in self.samplers
            else f"no {name} adapter: {_doing(name)} with base weights"
            for name in self.names
            if name not in found
        ]


def _doing(name: str) -> str:
    return "drafting" if "draft" in name else "its rows are computed"


def choose_folders(choice: AdapterChoice, checkpoint: Path, declared: Declared) -> dict[str, Path]:
    """Return the folder of each declared adapter that is to be loaded.

    By itself, the one adapter of a strategy is the checkpoint's `linear_spec_lora`, and its one
    sampler `commit_sampler`; of several, each is the checkpoint's folder of its name. One folder
    alone is that of the one adapter, or of the one sampler where there is no adapter.

    Raises:
        AdapterError: the choice names no declared adapter, leaves open which of several one folder
            is, or leaves out one that the strategy needs.
    """
    names, loras = declared.names, declared.loras
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
    elif len(loras) == 1:
        own = {**dict.fromkeys(names, AUTO), loras[0]: choice}
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
        if (folder := _folder(wanted, checkpoint / declared.folder_of(name))) is not None
    }
    if len(loras) > 1 and (checkpoint / ADAPTER_FOLDER).is_dir():
        left = [name for name in loras if own[name] == AUTO and name not in found]
        if left:
            raise AdapterError(
                f"the strategy `{declared.strategy}` declares the adapters {', '.join(loras)}, and "
                f"{checkpoint / ADAPTER_FOLDER} does not say which of them it is",
                f"say which is which: {left[0]}=FOLDER, or {left[0]}=none",
            )
    declared.check(found)
    return found


def _folder(wanted: str | Path | None, place: Path) -> Path | None:
    if wanted is None:
        return None
    if wanted != AUTO:
        return Path(wanted)
    return place if place.is_dir() else None

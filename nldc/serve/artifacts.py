"""Artifacts that are served together: one decoder that holds the strategies of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nldc import api
from nldc.runtime.artifact import read_artifact
from nldc.runtime.errors import ArtifactError

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

Bonus = Literal["first", "last"]
_VERIFIED: Mapping[str, Bonus] = {"drafted": "first", "tokens": "last"}
"""Which token of a step the verifier chose itself, by what of `accept` is emitted."""


@dataclass(frozen=True)
class Way:
    """One strategy that is served: what it promises, and how its tokens come to be.

    `bonus` says which token of a step is the verifier's own choice, and not a draft that it agreed
    with; None: the strategy does not verify.
    """

    name: str
    guarantee: str
    summary: str
    bonus: Bonus | None


def load_together(
    folders: Sequence[str | Path], load: Callable[[str | Path], type[Decoder]] = api.load
) -> tuple[type[Decoder], dict[str, Way]]:
    """Return the decoder class of all strategies of some artifacts, and these by name.

    `load` returns the class of one.

    Strategies that were compiled into one artifact hand sequences over as it says; those of two
    artifacts do not.

    Raises:
        ArtifactError: one cannot be loaded, or two strategies have the same name.
    """
    ways: dict[str, Way] = {}
    kinds = []
    for folder in folders:
        for way in _ways(folder):
            if way.name in ways:
                raise ArtifactError(
                    f"two of the artifacts hold a strategy `{way.name}`",
                    "leave one of them out, or rename it in its file: name: NAME",
                )
            ways[way.name] = way
        kinds.append(load(folder))
    return (kinds[0] if len(kinds) == 1 else _joined(kinds)), ways


def _joined(kinds: Sequence[type[Decoder]]) -> type[Decoder]:
    from nldc.runtime.engine.handover import Handover
    from nldc.runtime.switching import SwitchingDecoder

    parts: dict[str, type[Decoder]] = {}
    handovers: dict[str, Handover] = {}
    for kind in kinds:
        if issubclass(kind, SwitchingDecoder):
            parts |= kind.PARTS
            handovers |= kind.HANDOVERS
        else:
            parts[kind.STRATEGY] = kind
            handovers[kind.STRATEGY] = Handover(None, None, 0, {})
    adapters = dict.fromkeys(name for kind in kinds for name in kind.ADAPTERS)
    members: dict[str, Any] = {
        "__module__": kinds[0].__module__,
        "STRATEGY": "+".join(parts),
        "ADAPTERS": tuple(adapters),
        "SCRATCH_ROWS": max(kind.SCRATCH_ROWS for kind in kinds),
        "PROMPT_ROWS": max(kind.PROMPT_ROWS for kind in kinds),
        "TOKEN_ROWS": max(kind.TOKEN_ROWS for kind in kinds),
        "KERNELS": all(kind.KERNELS for kind in kinds),
        "PARTS": parts,
        "HANDOVERS": handovers,
    }
    return type("Decoder", (SwitchingDecoder,), members)


def _ways(folder: str | Path) -> list[Way]:
    artifact = read_artifact(folder)
    several = artifact.manifest.get("strategies")
    if several is None:
        name, proved = artifact.manifest["strategy"], artifact.manifest["guarantee"]["proved"]
        return [_way(name, str(proved), artifact.files["strategy.yaml"])]
    return [
        _way(
            name,
            str(part["guarantee"]["proved"]),
            artifact.files[f"{part['folder']}/strategy.yaml"],
        )
        for name, part in several.items()
    ]


def _way(name: str, proved: str, text: bytes) -> Way:
    import yaml

    data = yaml.safe_load(text)
    steps = data.get("steps") or {"step": data["step"]}
    found = (_bonus(step) for step in steps.values())
    bonus = next((each for each in found if each is not None), None)
    return Way(name, proved, str(data.get("summary", "")), bonus)


def _bonus(step: Mapping[str, Any]) -> Bonus | None:
    """Return which of a step's tokens is the verifier's own, by the nodes of its file."""
    tokens = str((step.get("emit") or {}).get("tokens", ""))
    node, _, output = tokens.partition(".")
    made = step.get(node)
    is_accept = isinstance(made, Mapping) and made.get("op") == "accept"
    return _VERIFIED.get(output) if is_accept else None

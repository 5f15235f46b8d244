"""Which node of a strategy a register of its generated code belongs to, and which logits are a mix
of several rows': read of `program.txt`.

An artifact has its program as text, an instruction a line, with the node that each comes from. So
nothing has to be added to it for traces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nldc.runtime.artifact import Artifact
from nldc.trace.document import Node, Strategy

_METHOD = re.compile(r"(prefill|step\w*):")
_INSTRUCTION = re.compile(
    r"\s+(?P<register>\w+) = (?P<op>[a-z]+) (?P<said>.*)  # (?P<node>\S+), line (?P<line>\d+)"
    r"(?: of (?P<file>.+))?"
)
_LOGITS = re.compile(r"\blogits=(\w+)")
_WEIGHTS = re.compile(r"\bweights=(\[.*\])")


@dataclass(frozen=True)
class Mix:
    """Logits that are a weighted sum of several rows': the node that sums them, and its weights."""

    node: str
    weights: str


@dataclass(frozen=True)
class Known:
    """A strategy as a trace has it, and the nodes of its registers by method and register.

    `mixes` has the registers that hold a mix, or what was chosen in one.
    """

    strategy: Strategy
    registers: Mapping[tuple[str, str], str]
    mixes: Mapping[tuple[str, str], Mix]


def strategies_of(artifact: Artifact) -> dict[str, Known]:
    """Return what an artifact holds, by the strategies' names."""
    parts: Mapping[str, Any] = artifact.manifest.get("strategies") or {}
    if not parts:
        return {artifact.manifest["strategy"]: _known(artifact, artifact.manifest, "")}
    found = {}
    for name, part in parts.items():
        folder = f"{part['folder']}/"
        manifest = _json(artifact.files[f"{folder}manifest.json"])
        found[name] = _known(artifact, manifest, folder)
    return found


def _json(data: bytes) -> Any:
    from nldc.runtime.json_file import parse_json

    return parse_json(data)


def _known(artifact: Artifact, manifest: Mapping[str, Any], folder: str) -> Known:
    file = str(manifest["source"]["file"])
    text = artifact.files[f"{folder}program.txt"].decode("utf-8")
    registers, nodes, mixes = _registers(text, file)
    params = {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in manifest["params"].items()
    }
    strategy = Strategy(str(manifest["guarantee"]["proved"]), file, params, nodes)
    return Known(strategy, registers, mixes)


def _registers(
    text: str, file: str
) -> tuple[dict[tuple[str, str], str], dict[str, Node], dict[tuple[str, str], Mix]]:
    registers: dict[tuple[str, str], str] = {}
    nodes: dict[str, Node] = {}
    mixes: dict[tuple[str, str], Mix] = {}
    method = ""
    for line in text.splitlines():
        found = _METHOD.fullmatch(line)
        if found is not None:
            method = found[1]
            continue
        each = _INSTRUCTION.fullmatch(line)
        if method and each is not None:
            registers[method, each["register"]] = each["node"]
            nodes[each["node"]] = Node(each["op"], int(each["line"]), each["file"] or file)
            weights, logits = _WEIGHTS.search(each["said"]), _LOGITS.search(each["said"])
            if each["op"] == "mix" and weights is not None:
                mixes[method, each["register"]] = Mix(each["node"], weights[1])
            elif logits is not None and (method, logits[1]) in mixes:
                mixes[method, each["register"]] = mixes[method, logits[1]]
    return registers, nodes, mixes

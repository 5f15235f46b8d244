"""The folder that strategies compile to: readable source, the files themselves, and a manifest.

The same file, params and compiler give the same bytes, wherever and whenever it is compiled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nldc.codegen.emit_attention import emit_kernels, emit_patterns
from nldc.codegen.emit_decode import Origin, emit_decode
from nldc.codegen.emit_switch import emit_switch
from nldc.codegen.names import folder_names
from nldc.codegen.pipeline import run
from nldc.codegen.plan import make_plan
from nldc.codegen.room import widest
from nldc.codegen.writer import Writer, commented
from nldc.ir.graph import Graph
from nldc.ir.text import show_graph
from nldc.runtime.abi import ABI_VERSION, MANIFEST


@dataclass(frozen=True)
class Part:
    """One strategy of several: its graph, the files of its own artifact, what was proved of it."""

    graph: Graph
    files: Mapping[str, str]
    proved: str


def emit_artifact(
    graph: Graph,
    file: str,
    text: str,
    compiler: str,
    certificate: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the files of the artifact by name; `file` and `text` are the strategy's own.

    `certificate` is what was proved of the graph, as plain data.
    """
    lowered = run(graph)
    plan = make_plan(lowered)
    proved = "none" if certificate is None else str(certificate["proved"])
    origin = Origin(file, hashlib.sha256(text.encode()).hexdigest(), compiler, proved)
    files = {
        "__init__.py": _package(f"{graph.name}: {graph.summary}", compiler),
        "decode.py": emit_decode(plan, origin),
        "patterns.py": emit_patterns(plan),
        "kernels.py": emit_kernels(plan),
        "graph.txt": show_graph(lowered),
        "strategy.yaml": text,
    }
    if certificate is not None:
        files["certificate.json"] = json.dumps(certificate, indent=2, ensure_ascii=True) + "\n"
    files[MANIFEST] = _manifest(graph, origin, files)
    return files


def emit_switching(
    parts: Mapping[str, Part], handovers: Mapping[str, Mapping[str, Any]], compiler: str
) -> dict[str, str]:
    """Return the files of an artifact that holds several artifacts, each in a folder of its own.

    `parts` are the strategies by name, the default first; `handovers` what was proved of how each
    leaves a sequence and how it is given one: plain data, with the `switches` that it may make.
    """
    folders = folder_names(parts)
    files = {
        f"{folders[name]}/{file}": text
        for name, part in parts.items()
        for file, text in part.files.items()
    }
    graphs = {name: part.graph for name, part in parts.items()}
    room = widest(make_plan(run(graph)).room for graph in graphs.values())
    files["decode.py"] = emit_switch(graphs, folders, handovers, room, compiler)
    summary = f"{', '.join(parts)}: several strategies over one cache."
    files["__init__.py"] = _package(summary, compiler)
    proved = {name: part.proved for name, part in parts.items()}
    certificate = {
        "certificate": 1,
        "strategies": {
            name: {"proved": proved[name], "certificate": f"{folders[name]}/certificate.json"}
            for name in parts
        },
        "between_steps": {name: dict(data) for name, data in handovers.items()},
    }
    files["certificate.json"] = json.dumps(certificate, indent=2, ensure_ascii=True) + "\n"
    claimed = [graph.guarantee for graph in graphs.values()]
    manifest = {
        "abi": ABI_VERSION,
        "compiler": compiler,
        "strategy": "+".join(parts),
        "summary": summary,
        "strategies": {
            name: {
                "folder": folders[name],
                "guarantee": {"claimed": graphs[name].guarantee, "proved": proved[name]},
            }
            for name in parts
        },
        "guarantee": {"claimed": _weakest(claimed), "proved": _weakest(proved.values())},
    }
    files[MANIFEST] = _digested(manifest, files)
    return files


def _weakest(guarantees: Iterable[str]) -> str:
    return min(guarantees, key=("none", "distribution", "exact").index)


def _package(summary: str, compiler: str) -> str:
    out = Writer()
    out.docstring(f"{commented(summary)} Compiled by nldc {compiler}.")
    return out.text() + (
        "\n"
        "from pathlib import Path\n"
        "\n"
        "from nldc.runtime.artifact_import import serve\n"
        "\n"
        "serve(__name__, Path(__file__).parent)\n"
        "\n"
        "from .decode import Decoder  # noqa: E402  (runs what was verified)\n"
        "\n"
        '__all__ = ["Decoder"]\n'
    )


def _manifest(graph: Graph, origin: Origin, files: Mapping[str, str]) -> str:
    manifest = {
        "abi": ABI_VERSION,
        "compiler": origin.compiler,
        "strategy": graph.name,
        "summary": graph.summary,
        "source": {"file": origin.file, "sha256": origin.sha256},
        "params": dict(graph.params),
        "compat": graph.compat,
        "guarantee": {"claimed": graph.guarantee, "proved": origin.proved},
    }
    return _digested(manifest, files)


def _digested(manifest: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the manifest's text, with the digest of every file."""
    digests = {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())
    }
    return json.dumps({**manifest, "files": digests}, indent=2, ensure_ascii=True) + "\n"

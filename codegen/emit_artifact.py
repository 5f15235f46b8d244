"""The folder that a strategy compiles to: readable source, the strategy itself, and a manifest.

The same file, params and compiler give the same bytes, wherever and whenever it is compiled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nldc.codegen.emit_attention import emit_kernels, emit_patterns
from nldc.codegen.emit_decode import Origin, emit_decode
from nldc.codegen.pipeline import run
from nldc.codegen.plan import make_plan
from nldc.codegen.writer import Writer, commented
from nldc.ir.graph import Graph
from nldc.ir.text import show_graph
from nldc.runtime.abi import ABI_VERSION, MANIFEST


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
        "__init__.py": _package(graph, compiler),
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


def _package(graph: Graph, compiler: str) -> str:
    out = Writer()
    out.docstring(f"{graph.name}: {commented(graph.summary)} Compiled by nldc {compiler}.")
    return out.text() + (
        "\n"
        "from pathlib import Path\n"
        "\n"
        "from nldc.runtime.artifact import check_artifact\n"
        "\n"
        "check_artifact(Path(__file__).parent)\n"
        "\n"
        "from .decode import Decoder  # noqa: E402  (only an artifact that is whole is imported)\n"
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
        "files": {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())
        },
    }
    return json.dumps(manifest, indent=2, ensure_ascii=True) + "\n"

"""The folder that strategies compile to: readable source, the files themselves, and a manifest.

The same file, params and compiler give the same bytes, wherever and whenever it is compiled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nldc.codegen.artifact import Builder
from nldc.codegen.names import decoder_names, folder_names
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.print_decode import Header, print_decode
from nldc.codegen.print_kernels import print_kernels
from nldc.codegen.print_patterns import print_patterns
from nldc.codegen.print_switch import Member, print_switch
from nldc.codegen.program_text import show_program
from nldc.codegen.room import widest
from nldc.codegen.writer import Writer, commented
from nldc.ir.graph import Graph
from nldc.ir.text import show_graph
from nldc.runtime.abi import ABI_VERSION

NOTHING: Mapping[str, bytes] = {}
ALONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Part:
    """One strategy of several: its graph, the files of its own artifact, what was proved of it."""

    graph: Graph
    files: Mapping[str, bytes]
    proved: str


def emit_artifact(
    graph: Graph,
    file: str,
    text: str,
    compiler: str,
    certificate: Mapping[str, Any] | None = None,
    attached: Mapping[str, bytes] = NOTHING,
    sources: Mapping[str, str] = ALONE,
) -> dict[str, bytes]:
    """Return the files of the artifact by name; `file` and `text` are the strategy's own.

    Where the strategy was put together of several files, `text` is the whole and `sources` are
    their texts by name: each has its digest in the manifest, and all of them are in the header's.

    `certificate` is what was proved of the graph, as plain data; `attached` are files that go with
    it, such as kernels compiled ahead, under the manifest's digests like all others.
    """
    lowered = run(graph)
    program = compiled(lowered)
    proved = "none" if certificate is None else str(certificate["proved"])
    digests = {name: _digest(each) for name, each in sources.items()}
    header = header_of(file, text, compiler, proved, sources)
    builder = Builder()
    builder.add("__init__.py", _package(f"{graph.name}: {graph.summary}", compiler))
    builder.add("decode.py", print_decode(program, header))
    builder.add("patterns.py", print_patterns(program))
    for name, kernel in print_kernels(program).items():
        builder.add(name, kernel)
    builder.add("graph.txt", show_graph(lowered))
    builder.add("program.txt", show_program(program))
    builder.add("strategy.yaml", text)
    if certificate is not None:
        builder.add_data("certificate.json", certificate)
    for name, content in attached.items():
        builder.add(name, content)
    return builder.seal(
        {
            "abi": ABI_VERSION,
            "compiler": compiler,
            "strategy": graph.name,
            "summary": graph.summary,
            "source": {
                "file": file,
                "sha256": header.sha256,
                **({"files": digests} if digests else {}),
            },
            "params": dict(graph.settings),
            "runtime_params": [
                {
                    "name": name,
                    "type": each.type,
                    "default": each.default,
                    "min": each.low,
                    "max": each.high,
                    "help": each.help,
                }
                for name, each in graph.runtime.items()
            ],
            "compat": graph.compat,
            "guarantee": {"claimed": graph.guarantee, "proved": proved},
        }
    )


def header_of(
    file: str, text: str, compiler: str, proved: str, sources: Mapping[str, str] = ALONE
) -> Header:
    """Return what the header of decode.py says; the arguments are those of `emit_artifact`."""
    digests = {name: _digest(each) for name, each in sources.items()}
    several = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    return Header(file, _digest(several or text), compiler, proved)


def emit_switching(
    parts: Mapping[str, Part],
    handovers: Mapping[str, Mapping[str, Any]],
    compiler: str,
    attached: Mapping[str, bytes] = NOTHING,
) -> dict[str, bytes]:
    """Return the files of an artifact that holds several artifacts, each in a folder of its own.

    `parts` are the strategies by name, the default first; `handovers` what was proved of how each
    leaves a sequence and how it is given one: plain data, with the `switches` that it may make.
    `attached` are as in `emit_artifact`, for all of them.
    """
    folders = folder_names(parts)
    decoders = decoder_names(folders)
    graphs = {name: part.graph for name, part in parts.items()}
    proved = {name: part.proved for name, part in parts.items()}
    builder = Builder()
    for name, part in parts.items():
        for file, content in part.files.items():
            builder.add(f"{folders[name]}/{file}", content)
    room = widest(compiled(run(graph)).room for graph in graphs.values())
    members = [
        Member(
            strategy=name,
            folder=folders[name],
            decoder=decoders[name],
            adapters=tuple(adapter.name for adapter in graph.adapters),
            summary=graph.summary,
            guarantee=graph.guarantee,
            handover=handovers[name],
        )
        for name, graph in graphs.items()
    ]
    builder.add("decode.py", print_switch(members, room, compiler))
    summary = f"{', '.join(parts)}: several strategies over one cache."
    builder.add("__init__.py", _package(summary, compiler))
    certificate = {
        "certificate": 1,
        "strategies": {
            name: {"proved": proved[name], "certificate": f"{folders[name]}/certificate.json"}
            for name in parts
        },
        "between_steps": {name: dict(data) for name, data in handovers.items()},
    }
    builder.add_data("certificate.json", certificate)
    for name, content in attached.items():
        builder.add(name, content)
    claimed = [graph.guarantee for graph in graphs.values()]
    return builder.seal(
        {
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
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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

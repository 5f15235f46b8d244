"""Compiled decoders on a small checkpoint, held against the interpreter on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nldc import api
from nldc.codegen.emit_artifact import emit_artifact
from nldc.codegen.folder import write_folder
from nldc.interpret import run
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.reuse import load
from nldc.runtime import Decoder
from nldc.runtime.abi import ADAPTER_FOLDER
from tests.codegen.attribute_strategies import CHECKPOINT, Reference

PROMPTS = ([1, 38, 26], [5], [7, 12, 7, 31, 2])
EOS = (53, 3, 13, 57)
"""Ids that this checkpoint often chooses."""

HEAD = """nldc: 1
name: case
summary: A case.
guarantee: {guarantee}
prefill:
"""
STEP = """carry: {seed: prefill.seed}
step:
  context: {op: forward, tokens: seed, attention: causal, cache: append}
  choice:  {op: sample, logits: context}
  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}
"""


def with_prefill(nodes: str, guarantee: str = "none") -> str:
    """Return AR with another prefill, whose nodes end in `seed`, an emission among them."""
    return HEAD.format(guarantee=guarantee) + nodes + STEP


def written(text: str, folder: Path, name: str = "case") -> Path:
    """Write a strategy to a file."""
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def graph_of(file: Path | str) -> Graph:
    """Return the graph of a file, of which nothing is proved."""
    graph = build(load(Path(file))).graph
    assert graph is not None
    return graph


def decoder_of(file: Path | str, folder: Path, *, proved: bool = True) -> Decoder:
    """Compile a file, and load the decoder on the small checkpoint."""
    out = folder / f"compiled_{Path(file).stem}"
    if proved:
        api.compile(file, out)
    else:
        text = Path(file).read_text("utf-8")
        write_folder(out, emit_artifact(graph_of(file), "case.yaml", text, api.__version__))
    kind = api.load(out)
    adapters = dict.fromkeys(kind.ADAPTERS, CHECKPOINT / ADAPTER_FOLDER)
    return kind.from_checkpoint(
        CHECKPOINT, dtype="float64", device="cpu", adapter=adapters or None, backend="torch"
    )


def differences(
    file: Path | str,
    folder: Path,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    tokens: int = 10,
    eos: tuple[int, ...] = EOS,
    *,
    proved: bool = True,
) -> list[str]:
    """Compile a file; return where the decoder, in a batch, does other than the interpreter.

    Not `proved`, the file may be one of which the checks cannot decide what they ask.
    """
    decoder = decoder_of(file, folder, proved=proved)
    result = decoder.generate([list(p) for p in prompts], max_new_tokens=tokens, eos=eos)
    model = Reference(decoder, eos)
    found = []
    for place, prompt in enumerate(prompts):
        meant = run(graph_of(file), model, prompt, tokens, most_steps=200)
        stats = result.stats[place]
        ran = (result.tokens[place], stats.nfe, list(stats.accepted))
        if ran != (list(meant.tokens), meant.nfe, list(meant.accepted)):
            found.append(f"prompt {place}: {ran}, not {meant}")
    return found

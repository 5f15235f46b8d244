"""Compiled decoders on a small checkpoint, held against the interpreter on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nldc import api
from nldc.interpret import run
from nldc.runtime import Decoder
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


def decoder_of(file: Path | str, folder: Path) -> Decoder:
    """Compile a file, and load the decoder on the small checkpoint."""
    kind = api.load(api.compile(file, folder / f"compiled_{Path(file).stem}"))
    return kind.from_checkpoint(
        CHECKPOINT, dtype="float64", device="cpu", adapter=None, backend="torch"
    )


def differences(
    file: Path | str,
    folder: Path,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    tokens: int = 10,
    eos: tuple[int, ...] = EOS,
) -> list[str]:
    """Compile a file; return where the decoder, in a batch, does other than the interpreter."""
    decoder = decoder_of(file, folder)
    result = decoder.generate([list(p) for p in prompts], max_new_tokens=tokens, eos=eos)
    model = Reference(decoder, eos)
    found = []
    for place, prompt in enumerate(prompts):
        meant = run(api.check(file).graph, model, prompt, tokens, most_steps=200)
        stats = result.stats[place]
        ran = (result.tokens[place], stats.nfe, list(stats.accepted))
        if ran != (list(meant.tokens), meant.nfe, list(meant.accepted)):
            found.append(f"prompt {place}: {ran}, not {meant}")
    return found

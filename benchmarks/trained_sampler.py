"""Tokens a forward at equal agreement: the trained sampler against thresholds of confidence.

`python benchmarks/trained_sampler.py [--count 24] [--tokens 128]` decodes the demo model's held-out
prompts greedily with `block_diffusion` and `trained_sampler` at several values of the param that a
request brings, and prints a table: TPF, and the share of AR's tokens that stand at their places.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import torch

from nldc import api
from nldc.bench import agreement
from nldc.runtime.decoder import Decoder

VALUES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
SAMPLERS = {"block_diffusion": "threshold", "trained_sampler": "safe"}


def main() -> None:
    """Decode, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = Path(str(resources.files("nldc") / "demo"))
    lines = (demo / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines[: arguments.count]]
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(Path(folder), prompts, arguments.tokens):
            print(line, flush=True)


def rows(folder: Path, prompts: Sequence[str], tokens: int) -> Iterator[str]:
    """Yield the lines of the table."""

    def decoder(name: str) -> Decoder:
        kind = api.load(api.compile(name, folder / name, certify=False))
        return kind.from_checkpoint(device="cpu", dtype="float32")

    truth = decoder("ar").generate(prompts, max_new_tokens=tokens).tokens
    yield "| sampler | param | TPF | tokens as AR |"
    yield "| --- | ---: | ---: | ---: |"
    for name, param in SAMPLERS.items():
        own = decoder(name)
        for value in VALUES:
            found = own.generate(prompts, max_new_tokens=tokens, params={param: value})
            forwards = sum(each.nfe for each in found.stats)
            share = agreement(truth, found.tokens)
            tpf = sum(map(len, found.tokens)) / forwards
            yield f"| `{name}` | {param} = {value} | {tpf:.2f} | {100 * share:.1f} % |"


if __name__ == "__main__":
    main()

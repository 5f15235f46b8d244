"""Run the generated code of exact strategies many times, and hold every text against AR's.

`python -m tests.lossless.equal_runs COUNT [STRATEGY]... [PARAM=VALUE]...` takes each exact strategy
of the library, or those named (of `unusual/` too), compiled with short steps or the params given.
It decodes that many sequences of the hash model in batches of one to four, which join together and
end one by one: prompts of 1 to 60 tokens, greedy and sampled, with ends in prompts and texts,
forbidden tokens, and drafters of every skill. Of several steps a batch takes one all the time, or
those that its sequences are routed to by what they carry. A line a strategy says how many equalled
AR's, and how often a step emitted how many tokens. The first difference is printed, and ends the
run with status 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import torch

from nldc.codegen.emit_artifact import emit_artifact
from nldc.runtime.decoder import Decoder
from tests.library import exact
from tests.lossless import compiled
from tests.lossless.hash_model import Input
from tests.lossless.mutants import base_text, built

TOKENS = 24
SETTINGS: Mapping[str, Mapping[str, int]] = {"lookahead": {"width": 4, "ngram": 4}}
"""Params that say more of a strategy than the smallest."""


def batches(count: int, seed: int = 0) -> Iterator[list[Input]]:
    """Yield batches of inputs, `count` in all; those of a batch know the same ends."""
    random = Random(seed)
    while count > 0:
        ends = random.choice(((), (), (5,), (5, 1)))
        forbidden = random.choice(((), (), (3,)))
        size = min(random.randint(1, 4), count)
        yield [_input(random, ends, forbidden) for _ in range(size)]
        count -= size


def _input(random: Random, ends: tuple[int, ...], forbidden: tuple[int, ...]) -> Input:
    # Few different tokens: the text repeats itself, and what is looked up is often right.
    known = [token for token in range(random.randint(2, 6)) if token not in forbidden]
    length = random.randint(1, 60 if random.random() < 0.1 else 9)
    return Input(
        tuple(random.choice(known) for _ in range(length)),
        random.randrange(1 << 30),
        random.random() < 0.5,
        random.choice((0.3, 0.5, 0.75, 0.95, 1.0)),
        ends,
        forbidden,
    )


def decoder_of(name: str, settings: Mapping[str, int | float]) -> type[Decoder]:
    """Return the generated code of a strategy."""
    text = base_text(name)
    _, graph = built(text, {**SETTINGS.get(name, {}), **settings})
    return compiled.load(emit_artifact(graph, name, text, "0"))


def ways_of(kind: type[Decoder]) -> list[str]:
    """Return the steps that a batch may take all the time; `step`: that it has, or is routed to."""
    named = [name for name in vars(kind) if name.startswith("step_")]
    return [*named, "step"] if kind.ROUTED_BY or not named else named


def held_against_ar(kind: type[Decoder], count: int) -> tuple[Counter[int], str | None]:
    """Return how often steps emitted how many tokens, and the first difference if there is one."""
    emitted, ways = Counter[int](), ways_of(kind)
    for number, given in enumerate(batches(count)):
        ran = compiled.run(kind, given, TOKENS, ways[number % len(ways)])
        for each, got in zip(given, ran, strict=True):
            expected = each.model().expected(TOKENS)
            if got.tokens != expected:
                return emitted, f"{each}: AR has {expected}, the code {got.tokens}"
            emitted.update(got.accepted)
    return emitted, None


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)
    count, *rest = arguments
    names = [each for each in rest if "=" not in each] or exact()
    settings = {
        name: float(value) if "." in value else int(value)
        for name, value in (each.split("=") for each in rest if "=" in each)
    }
    for name in names:
        emitted, difference = held_against_ar(decoder_of(name, settings), int(count))
        if difference is not None:
            print(f"{name}: {difference}")
            return 1
        counts = ", ".join(f"{tokens}: {times}" for tokens, times in sorted(emitted.items()))
        print(f"{name}: {count} runs equal AR's; tokens a step {counts}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

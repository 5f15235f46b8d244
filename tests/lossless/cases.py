"""Random cases for exact strategies: a checkpoint, params, a batch of prompts, and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from nldc import api
from nldc.runtime.decoder import Decoder
from tests.library import exact, params_of
from tests.lossless.checkpoints import Geometry, T, geometry

EXACT = exact()
SIZES: Mapping[str, Sequence[int]] = {
    "block_length": (4, 2, 3, 7), "k": (4, 2, 3, 6), "length": (4, 1, 7), "ngram": (2, 1, 3),
    "most": (2, 1, 4),
}  # fmt: skip
FILTERS: tuple[dict[str, float | int], ...] = ({}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05})


@dataclass(frozen=True)
class Case:
    """One trial of one strategy; hypothesis prints it when it fails."""

    strategy: str
    params: dict[str, int | float]
    geometry: Geometry
    weights: int
    prompts: list[list[int]]
    options: dict[str, Any]
    dtype: str


@st.composite
def cases(
    draw: st.DrawFn, names: Sequence[str], dtypes: Sequence[str] = ("float32", "float64"),
    longest: int = 25,
) -> Case:  # fmt: skip
    """Draw a case of one of the strategies."""

    def choose(options: Sequence[T], /) -> T:
        return draw(st.sampled_from(list(options)))

    name = choose(names)
    declared = params_of(name)
    params: dict[str, int | float] = {
        param: choose([size for size in sizes if size >= declared[param].get("min", size)])
        for param, sizes in SIZES.items()
        if param in declared
    }
    if "threshold" in declared:
        params["threshold"] = choose((0.5, 0.0, 0.05, 1.0))
    drawn = geometry(choose)
    token = st.integers(0, drawn.settings["vocab_size"] - 1)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=9), min_size=1, max_size=4))
    options: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, longest))}
    if choose((False, True, True)):
        options |= {"temperature": choose((0.5, 1.0, 1.7)), "seed": draw(st.integers(0, 2**40))}
        options |= choose(FILTERS)
    if choose((False, True)):
        options["batch_size"] = draw(st.integers(1, len(prompts)))
    if choose((False, False, True)):
        end = (drawn.settings["mask_token_id"] + 1) % drawn.settings["vocab_size"]
        options |= {"max_thinking_tokens": choose((3, 0, 8)), "end_think_token_id": end}
    if choose((False, True)):
        options["eos"] = ()
    weights = draw(st.integers(0, 10**6))
    return Case(name, params, drawn, weights, prompts, options, choose(dtypes))


def compiler(folder: Path) -> Callable[[str, Mapping[str, int | float]], type[Decoder]]:
    """Return a function that compiles a strategy of the library for params, each once."""
    known: dict[tuple[Any, ...], type[Decoder]] = {}

    def compiled(name: str, params: Mapping[str, int | float]) -> type[Decoder]:
        key = (name, *sorted(params.items()))
        if key not in known:
            known[key] = api.load(
                api.compile(name, folder / str(len(known)), params, certify=False)
            )
        return known[key]

    return compiled

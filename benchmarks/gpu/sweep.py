"""Which tiles are quickest for the products of the 8B model; every one must have the same bits.

    python benchmarks/gpu/sweep.py [--rows 1 32 72] [--library]

`product.tile_of` chooses by what this printed. Tiles are compiled by many processes first. With
`--library`, many rows are multiplied by torch too, segment by segment, and compared bit for bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timing import (
    DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    MLP,
    VOCABULARY,
    Case,
    copies_of,
    drawn,
    microseconds,
    read_rate,
)  # fmt: skip
from torch import Tensor

from nldc.runtime.kernels.asked import Asked
from nldc.runtime.kernels.gated import gated
from nldc.runtime.kernels.head import head
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.library import library_sums
from nldc.runtime.kernels.product import Matrix, Tile, product, tile_of

WEIGHTS = {
    "qkv": ((HEADS + 2 * KV_HEADS) * DIM, HIDDEN), "output": (HIDDEN, HEADS * DIM),
    "down": (HIDDEN, MLP), "gate, up": (MLP, HIDDEN), "head": (VOCABULARY, HIDDEN),
}  # fmt: skip
ROWS = (1, 32, 72, 128, 272, 1056)
PROCESSES = 12


@dataclass(frozen=True)
class Trial:
    """A tile for the rows of one product."""

    name: str
    rows: int
    tile: Tile


def trials(counts: tuple[int, ...]) -> Iterator[Trial]:
    """Yield the chosen tile first, and then others, for every product and number of rows."""
    for rows in counts:
        for name, (out, width) in WEIGHTS.items():
            whole = name in ("gate, up", "head")
            shape = Matrix(torch.empty(1, width, dtype=torch.bfloat16), out, width, whole).shape
            first = tile_of(rows, shape, Target(90), weights=1 + (name == "gate, up"))
            known = {first: None}
            for features in (64, 128):
                for warps in (4, 8):
                    for stages in (3, 4, 5):
                        for apart in (False,) if whole or rows > 512 else (True, False):
                            if apart or whole or rows > 128:
                                known[
                                    Tile(first.rows, first.more, features, warps, stages, apart)
                                ] = None
            yield from (Trial(name, rows, tile) for tile in known)


def call_of(trial: Trial, copies: int) -> Callable[[int], Tensor]:
    """Return what computes a trial with one of so many sets of weights."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    out, width = WEIGHTS[trial.name]
    target = Target.of(device)
    torch.manual_seed(0)
    x = drawn(trial.rows, width, dtype=dtype, device=device)
    data = drawn(copies, 1 + (trial.name == "gate, up"), out, width, dtype=dtype, device=device)
    weights = [[Matrix(one, out, width) for one in each] for each in data]
    if trial.name == "gate, up":
        return lambda copy: gated(x, *weights[copy], target, tile=trial.tile)
    if trial.name == "head":

        def chosen(copy: int) -> Tensor:
            found = head(x, weights[copy][0], Asked(token=True), target, tile=trial.tile).tokens
            assert found is not None
            return found

        return chosen
    return lambda copy: product(x, weights[copy][0], target, trial.tile)


def compiled(given: tuple[int, tuple[int, ...]]) -> int:
    """Compile every so-many-th trial; return how many the device cannot have."""
    number, counts = given
    failed = 0
    for trial in list(trials(counts))[number::PROCESSES]:
        try:
            call_of(trial, 1)(0)
        except Exception:  # a tile that does not fit is no choice
            failed += 1
    return failed


def summed(trial: Trial, found: Tensor) -> Tensor:
    """Return the result, of parts their sum."""
    if trial.name in ("gate, up", "head"):
        return found
    total = torch.zeros_like(found[0])
    for part in found:
        total += part
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--library", action="store_true", help="try the library's products too")
    given = parser.parse_args()
    counts = tuple(given.rows)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        failed = sum(pool.map(compiled, [(number, counts) for number in range(PROCESSES)]))
    rate = read_rate(torch.device("cuda"))
    print(f"{torch.cuda.get_device_name()}, {rate / 1e12:.2f} TB/s, {failed} tiles do not fit")
    wanted: dict[tuple[str, int], Tensor] = {}
    for trial in trials(counts):
        out, width = WEIGHTS[trial.name]
        size = out * width * 2 * (1 + (trial.name == "gate, up"))
        copies = 1 if trial.name == "head" else copies_of(size)
        try:
            call = call_of(trial, copies)
            found = summed(trial, call(0))
            time = microseconds(Case(trial.name, trial.rows, size, copies, call), repeats=6)
        except Exception as problem:
            print(f"{trial}: {type(problem).__name__}", flush=True)
            continue
        is_first = (trial.name, trial.rows) not in wanted
        alike = torch.equal(wanted.setdefault((trial.name, trial.rows), found), found)
        print(
            f"{trial.name:9} {trial.rows:5} rows {time:9.2f} us, floor x "
            f"{time / (size / rate * 1e6):5.2f}  {trial.tile}{' (chosen)' * is_first}"
            f"{'' if alike else ' OTHER BITS'}",
            flush=True,
        )
    if given.library:
        by_library()


def by_library() -> None:
    """Compare torch's products of many rows with the kernels', bit for bit, and time them."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    target = Target.of(device)
    for name, (out, width) in WEIGHTS.items():
        if name == "head":
            continue
        weight = Matrix(
            drawn(out, width, dtype=dtype, device=device), out, width, name == "gate, up"
        )
        for rows in (64, 128, 144, 272, 512, 1056, 2048):
            x = drawn(rows, width, dtype=dtype, device=device)
            span = min(weight.shape.span, width)
            found = library_sums(x, weight, span)
            wanted = summed(Trial("qkv", rows, tile_of(rows, weight.shape, target)),
                            product(x, weight, target))  # fmt: skip
            differing = int((found != wanted).any(1).sum())
            case = Case(name, rows, 1, 1, lambda _, x=x, w=weight, s=span: library_sums(x, w, s))
            print(f"library   {name:9} {rows:5} rows {microseconds(case, 5):9.2f} us, "
                  f"{differing} rows differ", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""Make strategies at random, check them, and attack the code of what is accepted.

`python -m tests.lossless.soundness COUNT [SEED]` tries that many different files, prints the counts
as it goes and a line for each failure with its seed, and ends with the tally as JSON, which
`python -m tests.lossless.report --tally` adds up. `... soundness --show SEED` prints one file and
what becomes of it. Any failure ends the run with status 1.

What is accepted is compiled in memory and run: against the interpreter whatever it promises, and
against AR if it is exact; with prompts of 1 to 200 tokens, ends in prompts and texts, in batches,
greedy and sampled, with forbidden tokens; and through one of the scenarios of `nldc certify`, which
have embeddings, thinking budgets and adapters left out.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nldc import api
from nldc.certify import certify_switching
from nldc.certify.run import SCENARIOS, Run
from nldc.certify.text import DifferenceError
from nldc.check.rules import examine
from nldc.codegen.emit_artifact import emit_artifact
from nldc.diagnostics import StrategyError
from nldc.interpret import run as interpret
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward
from nldc.reuse import parse
from nldc.runtime.decoder import Decoder
from nldc.source import Source
from tests.lossless import compiled
from tests.lossless.at_random import ADVERSARIAL, random_pick, strategy
from tests.lossless.hash_model import Input, first_difference, with_only
from tests.lossless.params_at_random import compiled_in, drawn

TOKENS = 9
MASK = 3
PAIRED = 200
"""One in so many accepted files takes turns with others in an artifact of several."""

NUMBER = re.compile(r"\b(\d{2,3})\b")


@dataclass
class Tally:
    """What became of different random files; `codes` counts the first code of each refusal.

    `files`, `graphs` and `accepted` count by guarantee and kind of names, as `exact plain`.
    """

    files: Counter[str] = field(default_factory=Counter)
    graphs: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    paired: int = 0
    equal_but_refused: int = 0
    sampled_refusals: int = 0
    seconds: float = 0.0
    slowest: list[tuple[float, int]] = field(default_factory=list)

    @property
    def made(self) -> int:
        return self.files.total()

    @property
    def certified(self) -> int:
        return sum(number for kind, number in self.accepted.items() if kind.startswith("exact"))

    def line(self) -> str:
        share = self.accepted.total() / max(1, self.graphs.total())
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.accepted.items()))
        return (
            f"{self.made} files, {self.graphs.total()} well typed, {self.accepted.total()} accepted"
            f" ({share:.1%}: {kinds}); {self.failures.total()} failures; {self.sampled_refusals}"
            f" refused ones were run, {self.equal_but_refused} of them never parted from AR; "
            f"{1000 * self.seconds / max(1, self.made):.0f} ms a file"
        )

    def data(self) -> str:
        """Return the tally as one line of JSON."""
        return json.dumps(vars(self), sort_keys=True)

    def add(self, data: str) -> None:
        """Add the tally of another run."""
        other = json.loads(data)
        for name, value in vars(self).items():
            if isinstance(value, Counter):
                value.update(other[name])
            elif isinstance(value, list):
                value[:] = sorted([*value, *map(tuple, other[name])], reverse=True)[:5]
            else:
                setattr(self, name, value + other[name])


def graph_of(text: str) -> Graph | None:
    """Build a random file; None if it is not well typed."""
    try:
        return build(parse(text)).graph
    except StrategyError:
        return None


def kind_of(text: str) -> str:
    """Return the promise of a random file and whether its names are adversarial."""
    promise = "none" if "guarantee: none" in text else "exact"
    return f"{promise} {'adversarial' if ADVERSARIAL in text else 'plain'}"


def examined(text: str) -> tuple[Source, Graph | None, str | None]:
    """Return a file, its graph if it is well typed, and the code that refuses it if one does."""
    source = parse(text, "random.yaml")
    try:
        built = build(source)
    except StrategyError as error:
        return source, None, error.diagnostics[0].code
    if built.graph is None:
        return source, None, next(d.code for d in built.found if d.severity == "error")
    found = (d.code for d in examine(built.graph, source).diagnostics if d.severity == "error")
    return source, built.graph, next(found, None)


# The attack


def attack(text: str, graph: Graph, seed: int, meant: Graph | None = None) -> str | None:
    """Run what was accepted in every way; return what is wrong, if anything.

    The interpreter runs `meant` (None: the graph itself).
    """
    try:
        files = emit_artifact(graph, "random.yaml", text, "0")
        kind = compiled.load(files)
        counts = files["decode.py"].count(b"batch.forward(") == _forwards(graph)
        steps = [name for name in vars(kind) if name.startswith("step_")] or ["step"]
        whole = meant or graph
        for number, (own, step) in enumerate(zip(whole.steps, steps, strict=True)):
            alone = with_only(whole, own)
            for given, most in _inputs(text, graph, seed + number):
                found = _compare(alone, kind, step, given, most, counts=counts)
                if found is None and graph.runtime:
                    found = _same_compiled_in(text, kind, step, given[0], most)
                if found is not None:
                    return found
        if seed % 2:
            return None
        scenario = SCENARIOS[seed // 2 % len(SCENARIOS)]
        run = Run(5, None, given=graph.guarantee == "none")
        run.batch(kind, replace(scenario, lengths=scenario.lengths[:3]), seed, seed % 1000)
    except DifferenceError as problem:
        return f"certify: {problem}"
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


def _forwards(graph: Graph) -> int:
    """Return how many forwards a file has; generated code has fewer if some are for nothing."""
    return sum(isinstance(node.op, Forward) for node in graph.nodes)


def _compare(
    alone: Graph, kind: type[Decoder], step: str, given: Sequence[Input], most: int, *, counts: bool
) -> str | None:
    """Hold generated code against the interpreter for the first input, against AR for all."""
    is_exact = alone.guarantee == "exact"
    ran = compiled.run(kind, given, most, step)
    for number, (each, got) in enumerate(zip(given, ran, strict=True)):
        if set(got.tokens) & set(each.forbidden):
            return f"{each} emits what is forbidden: {got.tokens}"
        if is_exact:
            expected = each.model().expected(most)
            if got.tokens != expected:
                return f"{each}: AR has {expected}, the code {got.tokens}"
        if number == 0 and not (is_exact and len(each.prompt) > 40):
            model = each.model()
            meant = interpret(
                alone, model, each.prompt, most, model.choose, most_steps=3 * most,
                params=each.params, at=each.at,
            )  # fmt: skip
            if (meant.tokens, meant.accepted) != (got.tokens, got.accepted):
                return f"{each}: the interpreter has {meant}, the code {got}"
            if counts and meant.nfe != got.nfe:
                return f"{each}: {meant.nfe} forwards are meant, the code counts {got.nfe}"
    return None


def _same_compiled_in(
    text: str, kind: type[Decoder], step: str, given: Input, most: int
) -> str | None:
    """Hold what a request brings against the same values compiled in: tokens, steps, forwards."""
    fixed = compiled_in(text, given.params)
    graph = build(parse(fixed)).graph
    if graph is None:
        return f"{given.params} cannot be compiled in"
    own = compiled.load(emit_artifact(graph, "random.yaml", fixed, "0"))
    (brought,), (meant,) = (compiled.run(each, [given], most, step) for each in (kind, own))
    same = (brought.tokens, brought.accepted) == (meant.tokens, meant.accepted)
    if not same or brought.nfe < meant.nfe:
        return f"{given}: compiled in it is {meant}, brought by a request {brought}"
    return None


def _inputs(text: str, graph: Graph, seed: int) -> list[tuple[list[Input], int]]:
    """Return batches of prompts, and how many tokens each gets."""
    forbidden = (MASK, 2) if graph.guarantee == "none" or seed % 3 == 0 else ()
    allowed = [token for token in range(6) if token not in forbidden]

    def prompt(length: int, salt: int) -> tuple[int, ...]:
        return tuple(allowed[hash((seed, salt, place)) % len(allowed)] for place in range(length))

    def one(length: int, salt: int, eos: tuple[int, ...]) -> Input:
        skill = (0.75, 0.95, 0.5)[(seed + salt) % 3]
        return Input(
            prompt(length, salt), seed + salt, (seed + salt) % 2 == 1, skill, eos, forbidden,
            drawn(graph, seed + salt),
        )  # fmt: skip

    ends = ((5,), (5, 1))[seed % 2]
    batches = [
        ([one(1 + seed % 3, 1, ()), one(1 + seed % 7, 2, ())], TOKENS),
        ([one(1 + seed % 5, 3, ends), one(2 + seed % 3, 4, ends)], TOKENS),
    ]
    far = [int(number) for number in NUMBER.findall(text) if int(number) < 200]
    if far:
        length = max(far) + 2
        batches.append(([one(length, 5, ())], 2))
    return batches


def counterexample(text: str, graph: Graph, seed: int = 0) -> str | None:
    """Return what is wrong with an accepted strategy, if it does not do as it promises."""
    for number in range(3):
        found = attack(text, graph, seed + number)
        if found is not None:
            return found
    return None


def takes_turns(text: str) -> str | None:
    """Compile a strategy with others and let them take turns; return what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "random.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            checked = (
                api.check(file),
                api.check("ar"),
                api.check("quadratic_ss", {"block_length": 3}),
            )
            folder = api.write(checked, Path(scratch) / "out", certify=False)
            return certify_switching(folder, tokens=8).difference
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"


def run(
    count: int,
    seed: int,
    look_at_refused: int = 50,
    progress: Callable[[Tally], None] = lambda _: None,
    seconds: float = math.inf,
    failed: Callable[[str], bool] = lambda _: True,
) -> tuple[Tally, str | None]:
    """Try `count` different files, or as many as fit into so many seconds.

    `failed` is told of each failure, and says whether to stop there. Returns the tally, and the
    last failure if there is one.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + seconds
    start = time.process_time()
    tally = Tally()
    seen: set[int] = set()
    last = None
    number = seed - 1
    while tally.made < count and time.monotonic() < end:
        number += 1
        text = strategy(random_pick(number))
        if hash(text) in seen:
            continue
        seen.add(hash(text))
        found = _try(text, number, tally, look_at_refused)
        tally.seconds = time.process_time() - start
        if found is not None:
            tally.failures[kind_of(text)] += 1
            last = f"seed {number}: {found}\n{text}"
            if failed(last):
                break
        if tally.made % 500 == 0:
            progress(tally)
    return tally, last


def _try(text: str, seed: int, tally: Tally, look_at_refused: int) -> str | None:
    kind = kind_of(text)
    tally.files[kind] += 1
    before = time.process_time()
    try:
        _, graph, code = examined(text)
    except StrategyError as error:
        graph, code = None, error.diagnostics[0].code
    except Exception as problem:
        return f"check: {type(problem).__name__}: {problem}"
    took = time.process_time() - before
    tally.slowest = sorted([*tally.slowest, (round(took, 3), seed)], reverse=True)[:5]
    if graph is None:
        return None
    tally.graphs[kind] += 1
    if code is not None:
        tally.codes[code] += 1
        if graph.guarantee == "exact" and tally.made % look_at_refused == 0:
            _look(graph, tally)
        return None
    tally.accepted[kind] += 1
    tally.runs += 1
    found = attack(text, graph, seed)
    if found is None and tally.accepted.total() % PAIRED == 0:
        tally.paired += 1
        found = takes_turns(text)
    return found


def _look(graph: Graph, tally: Tally) -> None:
    """Run a refused strategy, to see whether it was refused for nothing."""
    with suppress(IndexError, ValueError):
        tally.equal_but_refused += first_difference(graph, 16, TOKENS) is None
        tally.sampled_refusals += 1


def show(seed: int) -> int:
    """Print a random file and what becomes of it."""
    text = strategy(random_pick(seed))
    print(text)
    tally = Tally()
    found = _try(text, seed, tally, 10**9)
    print(found or f"nothing is wrong: {dict(tally.codes) or 'accepted'}")
    return int(found is not None)


def main() -> int:
    if sys.argv[1:2] == ["--show"]:
        return show(int(sys.argv[2]))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else math.inf
    kinds: Counter[str] = Counter()

    def failed(what: str) -> bool:
        first = what.splitlines()[0][:300]
        print(f"FAILED {first}", flush=True)
        kinds[first.split(":")[1][:40]] += 1
        return False

    tally, found = run(
        count,
        seed,
        progress=lambda t: print(t.line(), flush=True),
        seconds=seconds,
        failed=failed,
    )
    print(tally.line())
    print(dict(tally.codes.most_common()))
    print(f"TALLY {tally.data()}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

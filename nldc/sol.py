"""The speed of light: how many rows an oracle could commit a forward, beside what strategies reach.

An oracle that knows the tokens of a block needs as few forwards as the model's own predictions
allow. Three oracles fill the same blocks with the same tokens: the serial one, which makes these
tokens by committing the surest row of each forward; the greedy one, which commits every row that is
right already; and one that commits rows together only where the model, left alone from there on,
would still arrive at the same block (recursive dynamic compaction, after arXiv 2607.05722, §4).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import api
from nldc.diagnostics import StrategyError
from nldc.prompts import choose_prompts
from nldc.verify import (
    compile_baseline,
    load_baseline,
    model_folder,
    on_same_weights,
    vocabulary_without_tokenizer,
)

if TYPE_CHECKING:
    from rich.table import Table

    from nldc.ir.graph import Graph
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.reader import AsRead

Block = tuple[int | None, ...]
"""The tokens of a block's rows; None is a masked row."""

BLOCK_LENGTHS = (4, 8, 16, 32)
BUDGET = 256
ORACLES = ("serial", "greedy", "compaction")
LENGTH_PARAMS = {"block_length": 0, "k": 0, "length": -1}
"""Params that say how many tokens a cycle can commit, and what they fall short of it."""


@dataclass(frozen=True)
class Seen:
    """What one forward over a block says of each row: its token, and how sure that is."""

    tokens: tuple[int, ...]
    sure: tuple[float, ...]


Look = Callable[[Block], Seen]
"""A forward over a block behind a fixed prefix."""


class Oracle:
    """The three ways to fill one block: `look` runs the model, `budget` bounds its extra forwards.

    Forwards are remembered: every state that an oracle reaches holds target tokens and masks only.
    """

    def __init__(self, look: Look, seed: int, length: int, budget: int = BUDGET) -> None:
        self._look = look
        self._seen: dict[Block, Seen] = {}
        self._safe: dict[Block, bool] = {}
        self._start: Block = (seed, *(None,) * (length - 1))
        self._budget = budget
        self.probes = 0
        self.was_cut = False
        self.target = self._serial()

    def _serial(self) -> tuple[int, ...]:
        block = self._start
        while None in block:
            row = self.surest(block)
            block = _with(block, [row], self.look(block).tokens)
        self.probes = 0
        return tuple(token for token in block if token is not None)

    def look(self, block: Block) -> Seen:
        """Return what a forward over the block says; a new one costs a probe."""
        if block not in self._seen:
            self._seen[block] = self._look(block)
            self.probes += 1
        return self._seen[block]

    def surest(self, block: Block) -> int:
        """Return the masked row whose token is surest, of equal ones the first."""
        sure = self.look(block).sure
        return max(_masked(block), key=lambda row: (sure[row], -row))

    def right(self, block: Block) -> list[int]:
        """Return the masked rows whose token is the target's, the surest first."""
        seen = self.look(block)
        rows = [row for row in _masked(block) if seen.tokens[row] == self.target[row]]
        return sorted(rows, key=lambda row: (-seen.sure[row], row))

    def greedy(self) -> tuple[int, int]:
        """Return the forwards of committing every right row, and how many found none.

        Where none is right, the surest row is given its token.
        """
        block, forwards, given = self._start, 0, 0
        before = self.probes
        while None in block:
            rows = self.right(block)
            given += not rows
            block = _with(block, rows or [self.surest(block)], self.target)
            forwards += 1
        self.probes = before
        return forwards, given

    def compaction(self) -> int:
        """Return the forwards of committing, each time, as large a safe set as the search finds."""
        block, forwards = self._start, 0
        while None in block:
            block = self._largest(block, self.right(block))
            forwards += 1
        return forwards

    def _largest(self, block: Block, rows: Sequence[int]) -> Block:
        """Return the block with all rows committed if that is safe, else with safe ones of halves.

        The surest row alone is always safe in a block that is, so at least one is committed.
        """
        joint = _with(block, rows, self.target)
        if self.is_safe(joint):
            return joint
        if len(rows) == 1:
            return block
        half = (len(rows) + 1) // 2
        return self._largest(self._largest(block, rows[:half]), rows[half:])

    def is_safe(self, block: Block) -> bool:
        """Whether serial denoising from here arrives at the target, as far as the budget shows."""
        way: list[Block] = []
        result = True
        while None in block and block not in self._safe:
            if block not in self._seen and self.probes >= self._budget:
                self.was_cut = True
                return False
            way.append(block)
            row = self.surest(block)
            if self.look(block).tokens[row] != self.target[row]:
                result = False
                break
            block = _with(block, [row], self.target)
        result = result and self._safe.get(block, True)
        self._safe.update(dict.fromkeys(way, result))
        return result


def _masked(block: Block) -> list[int]:
    return [row for row, token in enumerate(block) if token is None]


def _with(block: Block, rows: Sequence[int], tokens: Sequence[int | None]) -> Block:
    chosen = set(rows)
    return tuple(tokens[row] if row in chosen else token for row, token in enumerate(block))


@dataclass(frozen=True)
class Ceiling:
    """One oracle at one block length, over all prompts.

    `forwards` fill `blocks` blocks of `tokens` tokens; each block costs one more, which stores its
    keys. `given` forwards found no right row; `probes` were run only to search, and `cut` blocks
    ended their search at the budget.
    """

    block_length: int
    oracle: str
    blocks: int = 0
    tokens: int = 0
    forwards: int = 0
    given: int = 0
    probes: int = 0
    cut: int = 0

    @property
    def accepted(self) -> float:
        """Tokens a denoising forward."""
        return self.tokens / self.forwards if self.forwards else 0.0

    @property
    def tpf(self) -> float:
        """Tokens a forward, those that store keys included."""
        return self.tokens / (self.forwards + self.blocks) if self.blocks else 0.0

    @property
    def remarks(self) -> str:
        """What the numbers alone do not say."""
        blocks = f"{self.blocks} blocks"
        if self.oracle == "greedy":
            return f"{blocks}, no row right in {self.given} forwards"
        if self.oracle == "compaction":
            cut = f", {self.cut} cut off" if self.cut else ""
            return f"{blocks}, {self.probes} forwards to search{cut}"
        return blocks

    def add(self, forwards: int, *, given: int = 0, probes: int = 0, cut: bool = False) -> Ceiling:
        """Return the sum with one more block."""
        return Ceiling(
            block_length=self.block_length,
            oracle=self.oracle,
            blocks=self.blocks + 1,
            tokens=self.tokens + self.block_length,
            forwards=self.forwards + forwards,
            given=self.given + given,
            probes=self.probes + probes,
            cut=self.cut + cut,
        )


@dataclass(frozen=True)
class Reached:
    """One strategy on the same prompts, at most `block_length` tokens a cycle (None: it has none).

    `accepted` is the mean number of tokens a cycle, `adapters` are those that were loaded.
    """

    block_length: int | None
    strategy: str
    guarantee: str
    tokens: int
    nfe: int
    accepted: float
    adapters: tuple[str, ...] = ()

    @property
    def tpf(self) -> float:
        """Tokens a forward."""
        return self.tokens / self.nfe if self.nfe else 0.0


@dataclass(frozen=True)
class Report:
    """What was measured, on so many prompts."""

    prompts: int
    ceilings: tuple[Ceiling, ...]
    reached: tuple[Reached, ...]

    def data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "prompts": self.prompts,
            "ceilings": [_data(line) for line in self.ceilings],
            "strategies": [_data(line) for line in self.reached],
        }

    def text(self, width: int | None = None) -> str:
        """Return a table for a terminal, or one that is so wide."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("k", "filled by", "tokens a step", "TPF", "remarks"):
            table.add_column(heading, justify="left" if heading in _WORDS else "right")
        lengths = {line.block_length or 0: line.block_length for line in self.reached}
        lengths |= {line.block_length: line.block_length for line in self.ceilings}
        for _, length in sorted(lengths.items()):
            for oracle in self.ceilings:
                if oracle.block_length == length:
                    name = f"oracle: {oracle.oracle}"
                    _add(table, length, name, oracle.accepted, oracle.tpf, oracle.remarks)
            for line in self.reached:
                if line.block_length == length:
                    name = " with ".join([line.strategy, *line.adapters])
                    _add(table, length, name, line.accepted, line.tpf, line.guarantee)
            table.add_section()
        console = Console(width=min(_WIDTH, width or _WIDTH), color_system=None)
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().strip("\n").split("\n")) + "\n"


_WORDS = ("filled by", "remarks")
_WIDTH = 100


def _add(
    table: Table, length: int | None, name: str, accepted: float, tpf: float, remarks: str
) -> None:
    size = "" if length is None else str(length)
    table.add_row(size, name, f"{accepted:.2f}", f"{tpf:.2f}", remarks)


def _data(line: Ceiling | Reached) -> dict[str, Any]:
    return {**asdict(line), "accepted": line.accepted, "tpf": line.tpf}


def sol(
    model: str | Path | None = None,
    strategies: Sequence[str] = (),
    *,
    block_lengths: Sequence[int] = BLOCK_LENGTHS,
    prompts: str | Path | None = None,
    count: int = 8,
    max_new_tokens: int = 64,
    budget: int = BUDGET,
    loading: Mapping[str, Any] | None = None,
    templating: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Measure a checkpoint's ceilings and run strategies (none given: the library) beside them.

    Everything is greedy. A prompt's text ends before the block that holds an EOS, or that goes
    beyond `max_new_tokens`; the first block is never too long. Oracles use no adapter. A strategy
    is left out at block lengths that it does not allow. `templating` has the options of
    `Decoder.generate` that say how conversations become prompts. `progress` is told how many of the
    oracles' lengths and the strategies' runs are done.

    Raises:
        StrategyError: a strategy has mistakes.
        NldcRuntimeError: the checkpoint or a prompt cannot be used.
    """
    folder = model_folder(model)
    files = tuple(strategies) or tuple(api.library())
    with tempfile.TemporaryDirectory() as scratch:
        runs = [run for file in files for run in _compiled(file, block_lengths, Path(scratch))]
        declared = [adapter.name for _, graph, _ in runs for adapter in graph.adapters]
        baseline = compile_baseline(Path(scratch) / "baseline")
        loaded, adapter = load_baseline(baseline, model, loading or {}, declared)
        chosen = choose_prompts(
            prompts,
            count,
            folder,
            vocabulary_without_tokenizer(loaded, folder),
            chat=bool(templating),
        )
        asked = [
            loaded.read(prompt, f"prompt {number}", **(templating or {}))
            for number, prompt in enumerate(chosen)
        ]
        told = _told(progress, len(block_lengths) + len(runs))
        ceilings: list[Ceiling] = []
        for number, rows in enumerate(block_lengths):
            told(number)
            ceilings += measure(loaded, asked, rows, max_new_tokens, budget)
        reached = []
        for number, (length, graph, artifact) in enumerate(runs, len(block_lengths)):
            told(number)
            decoder = on_same_weights(artifact, loaded, adapter)
            result = decoder.generate(asked, max_new_tokens=max_new_tokens)
            cycles = [each for stats in result.stats for each in stats.accepted]
            reached.append(
                Reached(
                    block_length=length,
                    strategy=decoder.STRATEGY,
                    guarantee=graph.guarantee,
                    tokens=sum(stats.tokens for stats in result.stats),
                    nfe=sum(stats.nfe for stats in result.stats),
                    accepted=sum(cycles) / len(cycles) if cycles else 0.0,
                    adapters=tuple(decoder.model.parts),
                )
            )
    return Report(len(asked), tuple(ceilings), tuple(reached))


def _told(progress: Callable[[int, int], object] | None, total: int) -> Callable[[int], object]:
    return (lambda _: None) if progress is None else (lambda done: progress(done, total))


def _compiled(
    file: str, block_lengths: Sequence[int], scratch: Path
) -> Iterator[tuple[int | None, Graph, Path]]:
    """Yield the artifacts of a strategy at every block length that it allows."""
    first = api.check(file, others=False)
    params = first.graph.params
    name = next((name for name in LENGTH_PARAMS if name in params), None)
    lengths: Sequence[int | None] = (None,) if name is None else block_lengths
    for length in lengths:
        settings = {}
        if name is not None and length is not None:
            settings = {name: length + LENGTH_PARAMS[name]}
        try:
            is_first = settings.items() <= params.items()
            checked = first if is_first else api.check(file, settings, others=False)
        except StrategyError:
            continue
        folder = scratch / f"{checked.graph.name}_{length}"
        yield length, checked.graph, api.write([checked], folder, certify=False)


def measure(
    decoder: Decoder,
    prompts: Sequence[AsRead],
    block_length: int,
    max_new_tokens: int = 64,
    budget: int = BUDGET,
) -> tuple[Ceiling, ...]:
    """Return the ceiling of each oracle at one block length, for prompts of tokens."""
    serial, greedy, compaction = (Ceiling(block_length, name) for name in ORACLES)
    for prompt in prompts:
        for oracle in oracles(decoder, prompt, block_length, max_new_tokens, budget):
            serial = serial.add(block_length - 1)
            forwards, given = oracle.greedy()
            greedy = greedy.add(forwards, given=given)
            forwards = oracle.compaction()
            compaction = compaction.add(forwards, probes=oracle.probes, cut=oracle.was_cut)
    return serial, greedy, compaction


def oracles(
    decoder: Decoder,
    prompt: AsRead,
    block_length: int,
    max_new_tokens: int = 64,
    budget: int = BUDGET,
) -> Iterator[Oracle]:
    """Yield the oracle of each block of a prompt's text; every block follows the one before."""
    import torch

    from nldc.runtime.cache.kv_cache import KVCache
    from nldc.runtime.rows.layout import Layout
    from nldc.runtime.rows.pattern import Pattern
    from nldc.runtime.step.batch import Batch
    from nldc.runtime.step.member import Member

    causal = Pattern("causal", lambda q, k: k.position <= q.position, sees_prefix=True)
    bidirectional = Pattern("bidirectional", lambda _q, _k: True, sees_prefix=True)
    rows = Layout.causal(block_length, append=False, predicts_next=False)
    backbone = decoder.model.backbone
    blocks = max(1, max_new_tokens // block_length)
    request = decoder.request(prompt, max_new_tokens=1)
    request.open()
    capacity = len(request.prompt) + (blocks + 1) * block_length
    cache = KVCache(decoder.config, backbone.dtype, backbone.device)
    member = Member(
        cache.acquire(capacity),
        0,
        eos=decoder.endings.ids,
        prompt_length=len(request.prompt),
        embeddings=request.embeddings,
        history=request.history,
    )
    batch = Batch(decoder.model, cache, [member])

    def tokens_of(ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([ids], dtype=torch.int64, device=backbone.device)

    def look(block: Block) -> Seen:
        mask = batch.mask_token_id
        ids = tokens_of([mask if token is None else token for token in block])
        with torch.inference_mode():
            logits = batch.head(batch.forward(ids, rows, bidirectional))
            tokens = batch.sample(logits)
            sure = batch.probability(logits, tokens)
        return Seen(tuple(tokens[0].tolist()), tuple(sure[0].tolist()))

    def follow(ids: Sequence[int]) -> int:
        """Append tokens to the cache and return AR's choice behind them."""
        with torch.inference_mode():
            seen = batch.forward(tokens_of(ids), Layout.causal(len(ids)), causal)
            return int(batch.sample(batch.head(seen.take(slice(-1, None)))))

    seed = follow(batch.prompt(request.prompt)[0].tolist())
    for _ in range(blocks):
        oracle = Oracle(look, seed, block_length, budget)
        if set(oracle.target) & set(decoder.endings.ids):
            return
        yield oracle
        seed = follow(oracle.target)

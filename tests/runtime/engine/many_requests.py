"""Many requests through one engine, each held against what a lone call gives.

`python -m tests.runtime.engine.many_requests COUNT SEED [--graphs]` sends COUNT requests through
one engine on the demo model, drawn from a pool of distinct ones: prompts of many lengths as text,
ids and embeddings; greedy and sampled; ends, stop strings, thinking budgets, processors,
priorities, log-probabilities; every kind of strategy, and sequences that go from one to another;
some fail, and some are cancelled at any time. It prints how far it is, and ends with a line that
says what was compared, or with status 1 at the first difference, or if anything is left:
sequences, pages, tensors, threads, memory.

With `--graphs` steps are captured, and replayed by a device that is as late as it may be, so that
they overlap. The model is a small random one then, and requests that can share graphs come in a
row.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from random import Random
from string import ascii_letters
from traceback import print_exception
from typing import Any

import pytest
import torch
from torch import Tensor

from nldc import api
from nldc.runtime import (
    Decoder,
    Engine,
    Event,
    GenerateOptions,
    PromptEmbeddings,
    QueueFullError,
    Request,
    SwitchingDecoder,
    TokenLogprob,
    sees_tokens,
)
from nldc.runtime.engine.handover import in_turn, schedule
from nldc.runtime.engine.strategy import Room
from tests.runtime.graph.delayed import Delayed, late_copies
from tests.runtime.graph.table_attention import TableBackend

EXACT = ("ar", "linear_ss", "linear_ss_lora", "quadratic_ss", "prompt_lookup", "tidar")
INEXACT = ("block_diffusion", "token_editing")
SETTINGS: dict[str, int | float] = {"block_length": 3}
POOL = 150
MAX_LIVE, MAX_QUEUE, PAGES = 12, 30, 40
MAX_LIVE_CAPTURED = 4
END_THINKING = 35
SPARE_TENSORS = 40
"""How many may be there that were not: tables of rows are made when first used, and then stay."""
SPARE_MIB = 64
"""By how much the memory of the process may grow once everything was used: what allocators keep."""


def shifted(logits: Tensor, positions: Tensor) -> Tensor:
    """Forbid every fifth token, which ones depends on the place."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((ids + positions.unsqueeze(-1)) % 5 == 0, -torch.inf)


@sees_tokens
def no_repeats(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Forbid the token before."""
    before = tokens.gather(2, (positions - 1).clamp_min(0).unsqueeze(-1))
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill((ids == before) & (before >= 0), -torch.inf)


@dataclass(frozen=True)
class Failing:
    """A processor that fails where a token behind a position is asked for."""

    behind: int

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        if int(positions.max()) > self.behind:
            raise KeyError(self.behind)
        return logits


@dataclass(frozen=True)
class NoNumbers:
    """A processor that leaves no numbers behind a position."""

    behind: int

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        return logits.masked_fill((positions > self.behind).unsqueeze(-1), torch.nan)


@dataclass(frozen=True)
class Asked:
    """A distinct request: a prompt, and its options."""

    prompt: Any
    options: GenerateOptions


@dataclass(frozen=True)
class Answer:
    """What comes of one: `error` is what it ends with, "" if it does not."""

    tokens: tuple[int, ...]
    text: str
    finish: str
    nfe: int
    error: str = ""
    logprobs: tuple[TokenLogprob | None, ...] = ()


class DifferenceError(Exception):
    """A request did not give what it gives alone, or something was left."""


def compiled(folder: Path, *, graphs: bool = False) -> Decoder:
    """Return a decoder of all the strategies on the demo model; with `graphs`, to be captured."""
    artifact = api.compile([*EXACT, *INEXACT], folder / "several", SETTINGS, certify=False)
    if not graphs:
        return api.load(artifact).from_checkpoint(dtype="float32", device="cpu", backend="torch")
    sys.path.append(str(Path(__file__).parents[1]))  # run as a module, this knows the root only
    from random_model import random_checkpoint

    model = random_checkpoint(folder / "model", num_hidden_layers=1, text=True)
    decoder = api.load(artifact).from_checkpoint(model, dtype="float64", device="cpu")
    decoder.model = replace(decoder.model, backend=TableBackend(decoder.model.backbone))
    return decoder


def pool_of(decoder: Decoder, count: int, random: Random) -> list[Asked]:
    """Return distinct requests of every kind."""
    lines = (files("nldc") / "demo" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    assert isinstance(decoder, SwitchingDecoder)
    exact_turns = in_turn(decoder.HANDOVERS, EXACT)
    late = schedule("block_diffusion:3,linear_ss", tuple(decoder.strategies()))
    pool = []
    for number in range(count):
        text = random.choice(texts)
        long = random.random() < 0.06
        start = random.randrange(len(text) // 2)
        piece = text[start : start + random.randint(1, 300 if long else 20)]
        prompt: Any = piece
        kind = random.random()
        if kind < 0.3:
            prompt = decoder.tokenizer.encode(piece)
        elif kind < 0.4:
            ids = decoder.tokenizer.encode(piece)
            known = ids if random.random() < 0.5 else None
            prompt = PromptEmbeddings(decoder.embed(ids), known)
        options = GenerateOptions(
            max_new_tokens=random.randint(1, 24 if long else 6),
            strategy=random.choice((*EXACT, *INEXACT, exact_turns, late)),
            sequence_id=number,
            priority=random.choice((0, 0, 0, 1, 5, -3)),
            skip_special_tokens=random.random() < 0.8,
        )
        if random.random() < 0.5:
            options = replace(
                options,
                temperature=random.choice((0.5, 0.9, 1.3)),
                seed=random.randrange(2**40),
                top_k=random.choice((None, 5, 50)),
                top_p=random.choice((None, 0.8)),
                min_p=random.choice((None, 0.05)),
            )
        if random.random() < 0.3:
            options = replace(options, stop=random.sample(["e", "\n", "self", "  ", ")"], 2))
        if random.random() < 0.3:
            ends = random.sample(range(decoder.config.vocab_size), 150)
            options = replace(options, eos=random.choice(((), ends)))
        if random.random() < 0.2:
            options = replace(
                options,
                max_thinking_tokens=random.randint(0, 4),
                end_think_token_id=END_THINKING,
            )
        if random.random() < 0.2:
            options = replace(options, processors=random.choice((shifted, no_repeats)))
        elif random.random() < 0.1:
            size = len(decoder.request(prompt, options=options).prompt)
            fault = random.choice((Failing, NoNumbers))(size + random.randint(0, 4))
            options = replace(options, processors=(fault,))
        if number % 5 == 0:
            options = replace(options, logprobs=number % 4)
        if number % 7 == 0 and not isinstance(prompt, PromptEmbeddings):
            options = replace(options, prompt_logprobs=number % 3)
        pool.append(Asked(prompt, options))
    return pool


def alike_pool_of(decoder: Decoder, count: int, random: Random) -> list[Asked]:
    """Return distinct requests of which most are of a few kinds, and some are launched as ever."""
    pool = []
    for number, asked in enumerate(pool_of(decoder, count, random)):
        options = replace(
            asked.options,
            max_new_tokens=random.randint(1, 40),
            priority=0,
            stop=random.sample(ascii_letters, 12) if random.random() < 0.2 else (),
            eos=random.sample(range(260), 12) if random.random() < 0.2 else (),
            temperature=0.9 if random.random() < 0.2 else 0.0,
            top_k=None,
            top_p=None,
            min_p=None,
            max_thinking_tokens=None,
            end_think_token_id=None,
            processors=asked.options.processors if random.random() < 0.1 else (),
            logprobs=asked.options.logprobs if number % 2 else None,  # no step goes ahead of theirs
        )
        if random.random() < 0.9:
            options = replace(options, strategy=(*EXACT, *INEXACT)[number % 8])
        pool.append(Asked(asked.prompt, options))
    return pool


def _kind(asked: Asked) -> str:
    """Return what is equal for requests that may share graphs."""
    return f"{asked.options.strategy} {asked.options.temperature}"


def in_a_row(pool: Sequence[Asked], count: int, random: Random) -> list[int]:
    """Return so many numbers of a pool, those of a strategy and a temperature one after another."""
    kinds: dict[str, list[int]] = {}
    for number, asked in enumerate(pool):
        kinds.setdefault(_kind(asked), []).append(number)
    found: list[int] = []
    while len(found) < count:
        kind = random.choice(list(kinds.values()))
        found += [random.choice(kind) for _ in range(min(3 * len(kind), 24, count - len(found)))]
    return found


def lone(decoder: Decoder, asked: Asked) -> Answer:
    """Return what a lone call gives."""
    try:
        result = decoder.generate([asked.prompt], options=asked.options)
    except Exception as problem:
        return Answer((), "", "error", 0, f"{type(problem).__name__}: {problem}")
    (stats,) = result.stats
    known = (*result.prompt_logprobs[0], *result.logprobs[0])
    return Answer(
        tuple(result.tokens[0]), result.text[0], result.finish[0], stats.nfe, logprobs=known
    )


@dataclass
class Sent:
    """A request on its way, and what was heard of it; cancelled after so many events, if at all."""

    number: int
    request: Request
    leaves_after: int | None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    events: int = 0


@dataclass
class Run:
    """Sends requests from a pool through an engine, and compares what comes of them."""

    decoder: Decoder
    engine: Engine
    pool: Sequence[Asked]
    answers: Sequence[Answer]
    random: Random
    say: Callable[[str], None] = print
    sent: dict[int, Sent] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    most_live: int = 0
    most_used: int = 0
    most_held: int = 0

    def __call__(self, numbers: Sequence[int]) -> None:
        """Send those with these numbers in the pool; raise at the first difference."""
        since = time.perf_counter()
        before = said = self.ended.total()
        left = deque(numbers)
        while left or not self.engine.idle:
            for _ in range(self.random.choice((0, 1, 2, 5, 20))):
                if left and self._send(left[0]):
                    left.popleft()
            self._cancel()
            for event in self.engine.step():
                self._hear(event)
            cache = self.engine.cache
            self.most_live = max(self.most_live, self.engine.live)
            self.most_used = max(self.most_used, cache.used)
            self.most_held = max(self.most_held, cache.data.shape[2])
            done = self.ended.total()
            if done - said >= len(numbers) / 10:
                said = done
                rate = (done - before) / (time.perf_counter() - since)
                self.say(f"{done - before} of {len(numbers)} requests, {rate:.1f} a second")
        for event in self.engine.step():
            self._hear(event)
        if self.sent:
            raise DifferenceError(f"{len(self.sent)} requests never ended")

    def _send(self, number: int) -> bool:
        asked = self.pool[number]
        request = self.decoder.request(asked.prompt, options=asked.options)
        leaves = self.random.choice((0, 0, 1, 2, 4)) if self.random.random() < 0.12 else None
        try:
            self.engine.submit(request)
        except QueueFullError:
            self.refused += 1
            return False
        self.sent[request.id] = Sent(number, request, leaves)
        return True

    def _cancel(self) -> None:
        for sent in list(self.sent.values()):
            may_leave = sent.leaves_after is not None and sent.events >= sent.leaves_after
            if may_leave and self.random.random() < 0.5:
                self.engine.cancel(sent.request.id)

    def _hear(self, event: Event) -> None:
        sent = self.sent[event.id]
        sent.events += 1
        sent.tokens += event.tokens
        sent.text += event.text
        sent.logprobs += (*event.prompt_logprobs, *event.logprobs)
        if event.finish is None:
            return
        del self.sent[event.id]
        self.ended[event.finish] += 1
        want = self.answers[sent.number]
        error = "" if event.error is None else f"{type(event.error).__name__}: {event.error}"
        assert event.stats is not None
        found = Answer(
            tuple(sent.tokens),
            sent.text,
            event.finish,
            event.stats.nfe,
            error,
            tuple(sent.logprobs),
        )
        if event.finish == "cancelled":
            whole = not want.error
            if whole and (
                found.tokens != want.tokens[: len(found.tokens)]
                or not want.text.startswith(found.text)
            ):
                raise DifferenceError(f"request {sent.number} had {found} before, and has {want}")
        elif want.error:
            if (found.finish, found.error) != (want.finish, want.error):
                raise DifferenceError(f"request {sent.number} ended with {found}, not {want}")
        elif found != want:
            said = f"request {sent.number} gave {found}, alone {want}"
            raise DifferenceError(said) from event.error
        if tuple(sent.request.tokens) != found.tokens and not error:
            raise DifferenceError(f"request {sent.number} says {sent.request.tokens}, not {found}")


@lru_cache(maxsize=1)
def forgets() -> None:
    """Have the type of a bounded cache."""


@dataclass(frozen=True)
class Held:
    """What a process holds: tensors, threads, and the most memory that it ever had, in MiB."""

    tensors: int
    threads: int
    peak: float

    @staticmethod
    def now() -> Held:
        """Count, after what nobody holds was collected, and what bounded caches keep."""
        for each in gc.get_objects():
            is_cache = type(each) is type(forgets) and each.__module__.startswith("nldc.")
            if is_cache and each.cache_parameters()["maxsize"] is not None:
                each.cache_clear()
        gc.collect()
        tensors = sum(issubclass(type(each), Tensor) for each in gc.get_objects())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Held(tensors, threading.active_count(), peak / 2**10)


def run(
    count: int,
    seed: int,
    pool: int = POOL,
    say: Callable[[str], None] = print,
    *,
    graphs: bool = False,
) -> str:
    """Send so many requests, and return the line that says what was compared."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        decoder = compiled(Path(folder), graphs=graphs)
        since = time.perf_counter()
        asked = (alike_pool_of if graphs else pool_of)(decoder, pool, random)
        answers = [lone(decoder, each) for each in asked]
        say(f"{pool} distinct requests alone: {time.perf_counter() - since:.0f} s")
        memory = PAGES * decoder.engine.cache.page_bytes
        if graphs:
            with pytest.MonkeyPatch.context() as patched:
                device = Delayed()
                engine = Engine(
                    decoder.strategies(),
                    decoder.model,
                    Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS),
                    max_live=MAX_LIVE_CAPTURED,
                    max_queue=MAX_QUEUE,
                    kv_memory=memory,
                    recorder=device,
                )
                with late_copies(device.line, patched):
                    return _sent_all(count, decoder, engine, asked, answers, random, say, device)
        bounded = type(decoder).beside(decoder)
        bounded.kv_memory = memory
        engine = bounded.new_engine(max_live=MAX_LIVE, max_queue=MAX_QUEUE)
        return _sent_all(count, decoder, engine, asked, answers, random, say)


def _sent_all(
    count: int,
    decoder: Decoder,
    engine: Engine,
    asked: Sequence[Asked],
    answers: Sequence[Answer],
    random: Random,
    say: Callable[[str], None],
    device: Delayed | None = None,
) -> str:
    """Send so many requests through an engine, and return the line that says what was compared."""
    pool, graphs = len(asked), engine.graphs
    sending = Run(decoder, engine, asked, answers, random, say)
    since = time.perf_counter()
    first = sorted(range(min(pool, count)), key=lambda number: _kind(asked[number]))
    sending(first if device else range(min(pool, count)))  # what is made once is there then
    before = _held(engine, device)
    rest = max(0, count - pool)
    drawn = [random.randrange(pool) for _ in range(rest)]
    sending(drawn if device is None else in_a_row(asked, rest, random))
    seconds = time.perf_counter() - since
    after = _held(engine, device)
    check_nothing_is_left(engine, before, after)
    if device is None and sending.most_held > max(4, 2 * sending.most_used):
        raise DifferenceError(
            f"{sending.most_held} pages were held, and {sending.most_used} in use at most"
        )
    ends = ", ".join(f"{number} {end}" for end, number in sorted(sending.ended.items()))
    captured = (
        f"; {graphs.replays} replays of {graphs.captures} graphs, {graphs.overlapped} overlapped, "
        f"{graphs.wasted} parts wasted, {graphs.eager.total()} launched"
    )
    if graphs.wasted > sending.ended.total():
        raise DifferenceError(f"more is wasted than ends: {captured}")
    return (
        f"{sending.ended.total()} requests as alone ({ends}; {sending.refused} refused by a full "
        f"queue) in {seconds:.0f} s: at most {sending.most_live} live and {sending.most_used} of "
        f"{PAGES} pages used; nothing left, {after.tensors - before.tensors:+} tensors, "
        f"{after.threads - before.threads:+} threads, {after.peak - before.peak:+.0f} MiB at the "
        f"peak{captured if device is not None else ''}"
    )


def _held(engine: Engine, device: Delayed | None) -> Held:
    """Count what is held beside graphs."""
    if device is not None:
        device.line.catch_up()
        engine.graphs.forget()
        device.tapes.clear()
    return Held.now()


def check_nothing_is_left(engine: Engine, before: Held, after: Held) -> None:
    """Raise unless the engine is empty and the process holds no more than before."""
    cache = engine.cache
    left = {
        "live sequences": engine.live,
        "waiting requests": engine.waiting,
        "slots": len(cache.committed),
        "pages": cache.used,
        "tensors": max(0, after.tensors - before.tensors - SPARE_TENSORS),
        "threads": max(0, after.threads - before.threads),
        f"MiB above {SPARE_MIB}": int(max(0, after.peak - before.peak - SPARE_MIB)),
    }
    found = ", ".join(f"{number} {what}" for what, number in left.items() if number)
    if found:
        raise DifferenceError(f"left when all was done: {found}")


def main() -> None:
    """Run what the command line asks for."""
    torch.set_num_threads(1)
    graphs = "--graphs" in sys.argv
    given = [text for text in sys.argv[1:] if text != "--graphs"]
    count, seed = (int(text) for text in (*given, "1000", "0")[:2])
    try:
        print(run(count, seed, say=partial(print, flush=True), graphs=graphs), flush=True)
    except DifferenceError as problem:
        if problem.__cause__ is not None:
            print_exception(problem.__cause__)
        print(f"FAILED: {problem}", flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

"""Traces of what a server decoded: a file for each sequence that ends, in a folder that is bounded.

The engine's thread notes the steps; another one writes. Tokens and texts are in a trace only where
the operator lets prompts into the log.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nldc.runtime.artifact import read_artifact
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.request import Request
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.trace.tracer import Traced, Tracer
from nldc.trace import document as d
from nldc.trace.file import write_trace
from nldc.trace.private import without_text
from nldc.trace.program import Known, strategies_of
from nldc.trace.recording import Recorder
from nldc.trace.running import artifact_of, instrument, model_of, pieces_of

LOG = logging.getLogger("nldc.serve")
NAME = re.compile(r"request-\d{8}T\d{6}-\d+\.json", re.ASCII)
"""What the files are called; nothing else in the folder is touched."""
WAITING = 64
"""Traces that wait to be written; more are dropped."""


class Traces:
    """Writes a trace of each sequence that ends into `folder`, at most `most` bytes in all.

    The oldest files go when a new one needs their place. With `text`, they hold tokens and texts.

    Raises:
        NldcRuntimeError: there is no such folder, and none can be made.
    """

    def __init__(self, folder: Path, artifacts: Sequence[str | Path], most: int, *, text: bool):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise NldcRuntimeError(f"no traces can be written to {folder}: {reason}") from problem
        self.folder = folder
        self.tracer = Tracer(self._hear)
        found = [read_artifact(each) for each in artifacts]
        self._known: dict[str, Known] = {}
        for each in found:
            self._known |= strategies_of(each)
        own = [artifact_of(each, strategies_of(each)) for each in found]
        self._artifact = own[0] if len(own) == 1 else _several(own)
        self._recorder = Recorder(self._known)
        self._most = most
        self._text = text
        self._steps: dict[int, list[d.Step]] = {}
        self._began = time.strftime("%Y%m%dT%H%M%S")
        self._decoder: Decoder | None = None
        self._model: d.Model | None = None
        self._ready: queue.Queue[tuple[Path, d.Trace] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="nldc-traces", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Callable[[str | Path], type[Decoder]]:
        """What loads an artifact so that its steps are told to this."""
        return instrument(self.tracer)

    def serve(self, decoder: Decoder) -> None:
        """Take note of the decoder that is served, of classes that `load` gave."""
        self._decoder = decoder
        self._model = model_of(decoder)

    def name(self, request_id: int) -> str:
        """Return what the file of a request is called."""
        return f"request-{self._began}-{request_id}.json"

    def _hear(self, traced: Traced) -> None:
        """Keep a step of the engine, in the thread that steps."""
        step = self._recorder.step(traced)
        for part in step.parts:
            alone = replace(step, parts=(replace(part, sequence=0),))
            self._steps.setdefault(part.sequence, []).append(alone)

    def ended(self, request: Request) -> None:
        """Let the trace of a request be written that has ended; in the thread that steps."""
        steps = self._steps.pop(request.id, [])
        prompt = self._recorder.prompts.pop(request.id, None)
        self._recorder.forget(request.id)
        if not steps or prompt is None or self._model is None:
            return
        sequence = d.Sequence(len(prompt), prompt, len(request.tokens), request.finish)
        trace = d.Trace(
            d.FORMAT, self._artifact, self._model, _options(request, steps), True, {},
            (sequence,), tuple(steps),
        )  # fmt: skip
        try:
            self._ready.put_nowait((self.folder / self.name(request.id), trace))
        except queue.Full:
            LOG.warning("a trace was dropped: %s wait to be written", WAITING)

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ready.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._ready.get()) is not None:
            try:
                self._write(*given)
            except Exception:
                LOG.exception("a trace could not be written")

    def _write(self, path: Path, trace: d.Trace) -> None:
        if self._text and self._decoder is not None:
            trace = replace(trace, pieces=pieces_of(self._decoder, trace.sequences, trace.steps))
        else:
            trace = without_text(trace)
        write_trace(trace, path)
        files = sorted(
            (each.stat().st_mtime_ns, each.name, each.stat().st_size)
            for each in self.folder.iterdir()
            if NAME.fullmatch(each.name)
        )
        total = sum(size for *_, size in files)
        for _, name, size in files:
            if total <= self._most:
                break
            with suppress(OSError):
                (self.folder / name).unlink()
            total -= size


def _several(own: Sequence[d.Artifact]) -> d.Artifact:
    digest = hashlib.sha256("\n".join(each.sha256 for each in own).encode()).hexdigest()
    strategies = {name: one for each in own for name, one in each.strategies.items()}
    return d.Artifact("+".join(each.name for each in own), own[0].compiler, digest, strategies)


def _options(request: Request, steps: Sequence[d.Step]) -> dict[str, object]:
    """Return the options of `generate` that a request came to."""
    sampling = request.sampling
    strategies = {step.strategy for step in steps}
    thinking = request.thinking
    given: dict[str, object] = {
        "max_new_tokens": request.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "eos": list(request.eos),
        "params": dict(request.params),
        "strategy": next(iter(strategies)) if len(strategies) == 1 else None,
        "max_thinking_tokens": None if thinking is None else thinking.tokens,
        "sequence_ids": [request.key],
    }
    return {name: value for name, value in given.items() if value not in (None, {})}

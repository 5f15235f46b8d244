"""Runs that are traced: an artifact loaded with what a trace wants to know added to its code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc import __version__
from nldc.runtime.artifact import Artifact as ArtifactFiles
from nldc.runtime.artifact import read_artifact
from nldc.runtime.errors import NldcRuntimeError, TraceError
from nldc.trace import document as d
from nldc.trace.program import Known, strategies_of
from nldc.trace.recording import Recorder
from nldc.verify import model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nldc.runtime.decoder import Decoder, Result
    from nldc.runtime.trace.tracer import Traced, Tracer

SAMPLE = 1 << 16
"""Bytes of each end of a file of weights that go into a model's digest."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A decoder whose steps are told to `recorder`, and more to `also`, while it is listened to."""

    decoder: Decoder
    artifact: d.Artifact
    known: Mapping[str, Known]
    tracer: Tracer
    model: d.Model

    @contextmanager
    def listening(self) -> Iterator[Recorder]:
        """Record the steps of the decoder's engine while this is entered."""
        recorder = Recorder(self.known)
        told, self.tracer.told = self.tracer.told, recorder
        self.decoder.engine.observe(self.tracer)
        try:
            yield recorder
        finally:
            self.decoder.engine.ignore(self.tracer)
            self.tracer.told = told

    def run(self, prompts: Sequence[Any], options: Mapping[str, Any]) -> tuple[d.Trace, Result]:
        """Decode prompts and return the trace, and what `Decoder.generate` returns."""
        with self.listening() as recorder:
            result = self.decoder.generate(prompts, **options)
        ends = list(zip(map(len, result.tokens), result.finish, strict=True))
        return self.trace(recorder, options, ends), result

    def trace(
        self,
        recorder: Recorder,
        options: Mapping[str, Any],
        ends: Sequence[tuple[int, str | None]],
    ) -> d.Trace:
        """Return what was recorded, of sequences of so many tokens with such ends, in order.

        Raises:
            TraceError: there are not as many sequences, as one had no step or was another call's.
        """
        ids = sorted(recorder.prompts)
        if len(ids) != len(ends):
            raise TraceError(
                f"{len(ids)} sequences had a step, and {len(ends)} were asked for",
                "ask for at least one new token, and let nobody else use the decoder meanwhile",
            )
        numbers = {id_: number for number, id_ in enumerate(ids)}
        sequences = tuple(
            d.Sequence(len(recorder.prompts[id_]), recorder.prompts[id_], *end)
            for id_, end in zip(ids, ends, strict=True)
        )
        first = recorder.steps[0].number if recorder.steps else 0
        steps = tuple(_numbered(step, numbers, first) for step in recorder.steps)
        return d.Trace(
            format=d.FORMAT,
            artifact=self.artifact,
            model=self.model,
            options=plain_options(options),
            text=True,
            pieces=pieces_of(self.decoder, sequences, steps),
            sequences=sequences,
            steps=steps,
        )


def _numbered(step: d.Step, numbers: Mapping[int, int], first: int) -> d.Step:
    """Return a step whose sequences have other numbers, and steps are counted from number `first`.

    Sequences of other calls are left out.
    """

    def counted(sources: tuple[d.Source | None, ...]) -> tuple[d.Source | None, ...]:
        return tuple(None if each is None else (each[0] - first, *each[1:]) for each in sources)

    parts = []
    for part in step.parts:
        if part.sequence not in numbers:
            continue
        draft = part.draft
        if draft is not None:
            draft = replace(draft, by=counted(draft.by), verified=counted(draft.verified))
        parts.append(
            replace(part, sequence=numbers[part.sequence], chosen=counted(part.chosen), draft=draft)
        )
    return replace(step, number=step.number - first, parts=tuple(parts))


def instrument(tracer: Tracer) -> Callable[[str | Path], type[Decoder]]:
    """Return what loads artifacts so that their steps tell `tracer`."""
    from nldc.runtime.artifact_import import Instrument, load_artifact
    from nldc.runtime.trace.instrument import TRACER, instrumented

    return lambda folder: load_artifact(folder, Instrument(instrumented, {TRACER: tracer}))


def watched(
    artifact: str | Path,
    load: Callable[[type[Decoder]], Decoder],
    *,
    whole: Callable[[int], bool] | None = None,
) -> Watched:
    """Return an artifact's decoder, as `load` makes it of the class, so that it can be listened to.

    `whole` is the tracer's. Raises what loading raises.
    """
    from nldc.runtime.trace.tracer import Tracer

    files = read_artifact(artifact)
    known = strategies_of(files)
    tracer = Tracer(_unheard) if whole is None else Tracer(_unheard, whole)
    decoder = load(instrument(tracer)(artifact))
    return Watched(decoder, artifact_of(files, known), known, tracer, model_of(decoder))


def watch(artifact: str | Path, model: str | Path | None, **options: Any) -> Watched:
    """Return an artifact's decoder with a checkpoint's weights; steps are launched, not replayed.

    `options` are those of `Decoder.from_checkpoint`.
    """
    options = {**options, "graphs": False}
    return watched(artifact, lambda kind: kind.from_checkpoint(model, **options))


def _unheard(traced: Traced) -> None:
    """Do nothing with a step to which nobody listens."""


def artifact_of(files: ArtifactFiles, known: Mapping[str, Known]) -> d.Artifact:
    """Return what a trace says of an artifact that was read."""
    manifest = (files.folder / "manifest.json").read_bytes()
    return d.Artifact(
        name=files.folder.resolve().name,
        compiler=__version__,
        sha256=hashlib.sha256(manifest).hexdigest(),
        strategies={name: each.strategy for name, each in known.items()},
    )


def model_of(decoder: Decoder) -> d.Model:
    """Return what a trace says of the model that a decoder has."""
    folder = decoder.folder
    backbone = decoder.model.backbone
    return d.Model(
        name="" if folder is None else model_folder(folder).resolve().name,
        digest="" if folder is None else model_digest(folder),
        dtype=str(backbone.dtype).removeprefix("torch."),
        device=str(backbone.device),
        backend=decoder.backend,
        adapters=tuple(decoder.model.parts),
    )


def model_digest(folder: Path) -> str:
    """Return a digest of a checkpoint: its config, and the size, the first and the last bytes of
    each file of weights, which hold the tensors' names and shapes. To read all would take minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        if path.name in ("config.json", "tokenizer.json"):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change tokens, as plain data; what is none is left out."""
    found = {}
    for name in d.OPTIONS:
        value = options.get(name)
        if value is not None and value != [] and _is_plain(value):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def pieces_of(
    decoder: Decoder, sequences: Sequence[d.Sequence], steps: Sequence[d.Step]
) -> dict[str, str]:
    """Return the texts of all tokens in a trace by their ids; none where there is no tokenizer."""
    try:
        tokenizer = decoder.tokenizer
    except NldcRuntimeError:
        return {}
    tokens = {token for each in sequences for token in each.prompt or ()}
    for part in (part for step in steps for part in step.parts):
        tokens.update(part.tokens)
        for choice in part.choices:
            tokens.update(choice.tokens, choice.first, choice.second)
        for forward in part.forwards:
            tokens.update(forward.tokens)
        for rows in part.rounds:
            tokens.update(rows.tokens)
        if part.draft is not None:
            tokens.update(part.draft.tokens, part.draft.targets)
    known = [token for token in sorted(tokens) if 0 <= token < decoder.config.vocab_size]
    return {str(token): tokenizer.decode([token], keep_special_tokens=True) for token in known}

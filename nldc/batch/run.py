"""A batch from its file of prompts to its file of answers: begun, or gone on with."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nldc.batch.answer import Answer
from nldc.batch.journal import Journal, files_of
from nldc.batch.output import check_output, write_output
from nldc.batch.source import Source, open_source, read_lines
from nldc.batch.worker import Plan, Worker
from nldc.runtime.artifact import check_artifact
from nldc.runtime.errors import NldcRuntimeError, PromptError

OnError = Literal["row", "stop"]
Answers = Callable[[Source, Iterator[int]], Iterator[Answer]]
"""From the rows that are undone to what comes of them, in any order; one twice does no harm."""


@dataclass
class Progress:
    """How far a run is: `before` of `rows` were done when it began, and so much since then."""

    rows: int
    before: int = 0
    done: int = 0
    errors: int = 0
    tokens: int = 0
    nfe: int = 0
    seconds: float = 0.0


Watch = Callable[[Progress], object]


def batch(
    prompts: str | Path,
    out: str | Path,
    plan: Plan,
    *,
    ray: bool = False,
    actors: int | None = None,
    on_error: OnError = "row",
    overwrite: bool = False,
    loading_bar: Any = None,
    watch: Watch | None = None,
) -> Progress:
    """Answer every row of the file `prompts` into the file `out`, each once; return what was done.

    Goes on where an earlier run for `out` ended, in whatever way it did. With `ray`, so many
    `actors` of a Ray cluster answer (None: one a GPU, or a node where there is none), else this
    process. `on_error`: a row that fails is answered with its error, or stops the run. `watch`
    hears of every row.

    Raises:
        PromptError: the prompts, `out` or an option cannot be used, or a row fails that may not.
        NldcRuntimeError: the artifact or the model cannot be used, or the cluster gave up.
    """
    out = Path(out)
    check_output(out)
    source = open_source(prompts)
    _check_apart(source.path, out)
    asked = _asked(source, plan)
    with Journal(out, asked, len(source), overwrite=overwrite) as journal:
        progress = Progress(len(source), before=len(source) - journal.left)
        if journal.is_finished:
            return progress
        if journal.left:
            answers = _on_cluster(plan, actors) if ray else _here(plan, loading_bar)
            _answer_all(source, journal, answers, progress, on_error, watch)
        write = partial(write_output, token_ids=plan.token_ids)
        journal.finish(write)
    return progress


def _check_apart(prompts: Path, out: Path) -> None:
    """Refuse to write what is read: `overwrite` would remove the prompts.

    Raises:
        PromptError: one of the files of a run for `out` is the file of prompts.
    """
    for path in files_of(out):
        if path.exists() and path.samefile(prompts):
            raise PromptError(f"{prompts} would be written over", "give the answers another name")


def _answer_all(
    source: Source,
    journal: Journal,
    answers: Answers,
    progress: Progress,
    on_error: OnError,
    watch: Watch | None,
) -> None:
    """Have all rows answered; ask again for those that a cluster lost on its way."""
    start = time.perf_counter()
    while left := journal.left:
        for answer in answers(source, journal.undone()):
            if answer.error is not None and on_error == "stop":
                name = f" ({answer.id})" if answer.id is not None else ""
                raise PromptError(f"row {answer.row}{name}: {answer.error}", None)
            if journal.add(answer):
                progress.done += 1
                progress.errors += answer.error is not None
                progress.tokens += answer.tokens
                progress.nfe += answer.nfe
                progress.seconds = time.perf_counter() - start
                if watch is not None:
                    watch(progress)
        if journal.left == left:
            raise NldcRuntimeError(f"{left} rows came back without an answer", "run it again")


def _here(plan: Plan, loading_bar: Any) -> Answers:
    worker = Worker(plan, loading_bar)

    def answers(source: Source, rows: Iterator[int]) -> Iterator[Answer]:
        return worker.answers(read_lines(source.path, ((row, source.offsets[row]) for row in rows)))

    return answers


def _on_cluster(plan: Plan, actors: int | None) -> Answers:
    from nldc.batch.cluster import Cluster

    return Cluster(plan, actors).answers


def _asked(source: Source, plan: Plan) -> dict[str, Any]:
    """Return what the answers of a run depend on, as JSON has it."""
    from nldc.verify import model_folder

    options = {
        **plan.generation,
        **plan.templating,
        "chat_template": _template_of(plan.templating.get("chat_template")),
        "strategy": plan.strategy,
        "chat": plan.chat,
        "token_ids": plan.token_ids,
        "ignore_other_keys": plan.ignore_other_keys,
        **{name: plan.loading.get(name) for name in ("adapter", "dtype")},
    }
    asked = {
        "prompts": {"rows": len(source), "sha256": source.digest},
        "artifact": _digest(check_artifact(plan.artifact)["files"]),
        "model": _digest(_files_of(model_folder(plan.model))),
        "options": options,
    }
    read_back: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return read_back


def _files_of(model: Path) -> Mapping[str, Any]:
    """Return what tells one checkpoint from another without reading its weights."""
    texts = [path for kind in ("*.json", "*.jinja", "*/*.jinja") for path in model.glob(kind)]
    try:
        digests = {
            str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in texts
        }
        sizes = {path.name: path.stat().st_size for path in model.glob("*.safetensors")}
    except OSError:
        return {}  # who loads it says what is wrong
    return digests | sizes


def _template_of(chosen: object) -> object:
    """Return a chat template that is a file as what it holds."""
    try:
        return Path(str(chosen)).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return chosen  # a name, a template itself, or none


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

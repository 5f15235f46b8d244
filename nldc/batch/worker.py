"""Rows through an engine of this process: in as they are read, out as they are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc.batch.answer import Answer
from nldc.batch.row import data_of, name_of, row_of
from nldc.pictures import beside, with_pictures
from nldc.runtime.errors import NldcRuntimeError, PromptError, QueueFullError

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder
    from nldc.runtime.engine.request import Event, Request


@dataclass(frozen=True)
class Plan:
    """All that answers depend on but the rows, as plain data that may travel.

    `loading` goes to `Decoder.from_checkpoint`; `generation` and `templating` are the options of
    rows that give none of their own. With `chat`, a prompt of text is a user's message. Keys that
    mean nothing are an error, unless they are to be ignored. At most `max_live` rows are decoded at
    a time (None: as the cache has room), and `max_queue` wait. Pictures that rows name are files of
    `folder`.
    """

    artifact: str
    model: str | None
    loading: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    templating: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None
    chat: bool = False
    token_ids: bool = False
    ignore_other_keys: bool = False
    max_live: int | None = None
    max_queue: int = 64
    folder: str = "."


@dataclass
class _Running:
    row: int
    id: str | None
    request: Request
    pieces: list[str] = field(default_factory=list)


class Worker:
    """A decoder with an engine of its own that answers rows.

    Raises:
        NldcRuntimeError: the artifact or the checkpoint cannot be used, or an option of `plan`.
    """

    def __init__(self, plan: Plan, progress: Any = None) -> None:
        from nldc.verify import load_decoder

        self._plan = plan
        self._decoder: Decoder = load_decoder(
            plan.artifact, plan.model, **plan.loading, progress=progress
        )
        self._given = _with_strategy(self._decoder, {**plan.generation, "strategy": plan.strategy})
        self._decoder.request([0], **self._given)  # what is wrong for all is no row's error
        self._engine = self._decoder.new_engine(max_live=plan.max_live, max_queue=plan.max_queue)

    def answers(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[Answer]:
        """Yield what comes of rows, as they are done: those that cannot be read are, at once.

        Rows are read only as the engine's queue takes them.
        """
        made, running = starmap(self._made, lines), dict[int, _Running]()
        news: deque[tuple[_Running, Event]] = deque()
        held = next(made, None)
        try:
            while True:
                while held is not None:
                    if isinstance(held, Answer):
                        yield held
                    else:
                        try:
                            self._engine.submit(held.request, partial(_hear, news, held))
                        except QueueFullError:
                            break
                        running[held.row] = held
                    held = next(made, None)
                if not running and held is None:
                    return
                self._engine.advance(lambda: bool(news))
                while news:
                    one, event = news.popleft()
                    one.pieces.append(event.text)
                    if event.finish is not None:
                        del running[one.row]
                        yield self._answer(one, event)
        finally:
            for one in running.values():
                self._engine.cancel(one.request.id)

    def _made(self, row: int, line: bytes | None) -> _Running | Answer:
        """Return a row's request, or what is wrong with it."""
        name: str | None = None
        try:
            data = data_of(line)
            name = name_of(data)
            return _Running(row, name, self._request(row, data))
        except Exception as problem:  # whatever a row is made of ends that row alone
            return Answer(row, name, error=_said(problem))

    def _request(self, row: int, data: object) -> Request:
        asked = row_of(data, may_have_more=self._plan.ignore_other_keys)
        own = dict(asked.generation)
        if not isinstance(own.get("strategy", ""), str):
            raise PromptError("the row's strategy is no name", "write NAME, or NAME:TOKENS,NAME")
        options = {"sequence_id": row, **self._given, **_with_strategy(self._decoder, own)}
        is_message = self._plan.chat and isinstance(asked.prompt, str)
        prompt, folder = asked.prompt, Path(self._plan.folder)
        if asked.is_conversation:
            prompt = beside(prompt, folder)
        if asked.images is not None:
            prompt = with_pictures(prompt, asked.images, folder)
        if not asked.is_conversation and not is_message:
            if asked.templating:
                name = next(iter(asked.templating))
                raise PromptError(f"{name} has no effect on a prompt", "give messages")
            return self._decoder.request(prompt, **_options(options))
        template = {**self._plan.templating, **asked.templating}
        return self._decoder.request(prompt, **_options(options), chat=True, **template)

    def _answer(self, one: _Running, event: Event) -> Answer:
        request, stats = one.request, one.request.stats()
        return Answer(
            row=one.row,
            id=one.id,
            text="".join(one.pieces),
            tokens=stats.tokens,
            finish=event.finish or "error",
            nfe=stats.nfe,
            tpf=round(stats.tpf, 4),
            error=None if event.error is None else _said(event.error),
            token_ids=tuple(request.tokens) if self._plan.token_ids else None,
        )


def _hear(news: deque[tuple[_Running, Event]], one: _Running, event: Event) -> None:
    news.append((one, event))


def _with_strategy(decoder: Decoder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the strategy that a text names, if there is one."""
    from nldc.verify import named_strategy

    others = {name: value for name, value in options.items() if name != "strategy"}
    return others | named_strategy(decoder, options.get("strategy"))


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `sequence_id` as the field that it is, beside the keywords of a request."""
    from nldc.runtime.engine.options import GenerateOptions

    return {"options": GenerateOptions(**options)}


def _said(problem: BaseException) -> str:
    if isinstance(problem, NldcRuntimeError):
        return str(problem).replace("prompt 0", "the prompt")  # each is the only one of its call
    return f"{type(problem).__name__}: {problem}"

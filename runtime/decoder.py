"""The base class of generated decoders: loading a checkpoint, `generate` and `stream`.

A generated class adds `prefill` and `step`, which know the strategy. What they share is in the
modules that this one calls: `loading` makes a decoder, `engine.reader` makes requests of prompts,
and one engine decodes whatever the calls ask for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch
from torch import Tensor

from nldc.runtime.cache.budget import budget_of
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import PARADIGMS
from nldc.runtime.checkpoint.parts import AUTO, AdapterChoice, Declared
from nldc.runtime.checkpoint.quantization import UNROUNDED
from nldc.runtime.checkpoint.weights import Progress
from nldc.runtime.engine.aio import events_of
from nldc.runtime.engine.arguments import items, keys_of, one_prompt, prompts_of, token_ids
from nldc.runtime.engine.call import Call
from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.engine.engine import Engine
from nldc.runtime.engine.handover import Handover
from nldc.runtime.engine.observe import Observer
from nldc.runtime.engine.options import GenerateOptions, RequestOptions, options_of
from nldc.runtime.engine.ownership import is_within_a_step
from nldc.runtime.engine.reader import AsRead, Prompt, Reader, chat_of, is_conversation
from nldc.runtime.engine.request import Finish, Request
from nldc.runtime.engine.stats import Stats
from nldc.runtime.engine.strategy import Room, Strategy
from nldc.runtime.errors import PromptError
from nldc.runtime.loading import Backend, backend_of, load, load_beside
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.rows.plans import Plans
from nldc.runtime.step.batch import Model
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.logprobs import TokenLogprob
from nldc.runtime.step.params import Asked, Param, Role
from nldc.runtime.step.values import Emit
from nldc.runtime.text.chat import Chat
from nldc.runtime.text.endings import Endings
from nldc.runtime.text.thinking_marks import thinking_marks
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.vision.eye import Eye
from nldc.runtime.vision.picture import PicturePrompt
from nldc.runtime.vision.rows import Pictured
from nldc.runtime.whole_numbers import as_whole, whole


@dataclass(frozen=True)
class Result:
    """What came of each prompt, in order.

    `tokens` include the EOS that ended them; `text` leaves out special tokens and is empty if the
    checkpoint has no tokenizer; `finish` says what ended each: eos, length or stop. `logprobs` has
    one for each of the tokens and `prompt_logprobs` one for each of the prompt's, None where there
    is none; they are empty where they were not asked for.
    """

    text: list[str]
    tokens: list[list[int]]
    stats: list[Stats]
    finish: list[Finish]
    logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    prompt_logprobs: list[list[TokenLogprob | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """What the model thinks of a text: of each of its `tokens`, given those before it.

    `logprobs` has one for each; the first token has none, nor have those that were not asked for.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...]

    @property
    def total(self) -> float:
        """The log-probability of all tokens that have one, in nats."""
        return math.fsum(each.logprob for each in self.logprobs if each is not None)

    @property
    def greedy(self) -> bool:
        """Whether each of them is the one that AR takes at temperature 0."""
        return all(each.greedy for each in self.logprobs if each is not None)


class Templating(TypedDict, total=False):
    """How conversations become prompts.

    With `chat`, a prompt is a user's message or a conversation, and goes through the chat template.
    A `system` message begins each; `tools` and `template_variables` are for the template, as
    `chat_template` chooses it; see `Chat`.
    """

    chat: bool
    system: str | None
    tools: Sequence[Mapping[str, Any]] | None
    template_variables: Mapping[str, Any] | None
    chat_template: str | Path | None


class CallOptions(RequestOptions, Templating, total=False):
    """What `generate`, `stream` and `astream` take alike, with the numbers that key their noise."""

    sequence_ids: Iterable[int] | None


class Decoder:
    """A model and a strategy; see `from_checkpoint`. Generated classes set the class variables.

    `ADAPTERS` names the adapters that the strategy asks for, `REQUIRED_ADAPTERS` those of them that
    it cannot do without, `SAMPLERS` those that are trained samplers, with the most rows of
    which each is asked. `CHECKPOINT_PARAMS` are its params that follow the checkpoint: the key
    of config.json that each is, and the value that it was compiled with. `DIFFUSES` says
    whether a forward sees rows ahead, as only a model that was trained for it can.
    `SCRATCH_ROWS` is the largest number of rows that one step, or the prefill beyond its
    prompt, writes behind the committed ones; `PROMPT_ROWS` and `TOKEN_ROWS` are the most that
    stay for a token of the prompt or the text. `LOOKS_UP` says whether a step looks up what the
    text says, `CARRIES_PROMPT` whether one may begin with tokens of the prompt themselves, `ROUTES`
    whether it goes by how many sequences there are. Where each sequence takes a step of its own, by
    carried counts, `ROUTED_BY` names these, and `route` is asked instead of `step`. `KERNELS` says
    whether every pattern has a Triton part. `PARAMS` are the params that requests bring, `ASKED`
    what steps ask of them.
    """

    STRATEGY: ClassVar[str] = ""
    ADAPTERS: ClassVar[tuple[str, ...]] = ()
    REQUIRED_ADAPTERS: ClassVar[tuple[str, ...]] = ()
    SAMPLERS: ClassVar[Mapping[str, int]] = {}
    CHECKPOINT_PARAMS: ClassVar[Mapping[str, tuple[str, int]]] = {}
    DIFFUSES: ClassVar[bool] = False
    SCRATCH_ROWS: ClassVar[int] = 1
    PROMPT_ROWS: ClassVar[int] = 1
    TOKEN_ROWS: ClassVar[int] = 1
    LOOKS_UP: ClassVar[bool] = False
    CARRIES_PROMPT: ClassVar[bool] = False
    ROUTES: ClassVar[bool] = False
    ROUTED_BY: ClassVar[tuple[str, ...]] = ()
    KERNELS: ClassVar[bool] = False
    PARAMS: ClassVar[tuple[Param, ...]] = ()
    ASKED: ClassVar[tuple[tuple[Asked, Role], ...]] = ()

    def __init__(
        self,
        backbone: Backbone,
        *,
        adapters: Mapping[str, Adapter | Sampler] | None = None,
        backend: Backend = "torch",
        folder: Path | None = None,
        kv_memory: str | int | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.declared().check(adapters or {})
        self.config = backbone.config
        self.backend = backend
        plans = Plans(backbone.device, backbone.dtype)
        parts = (adapters or {}).items()
        loras = {name: part for name, part in parts if isinstance(part, Adapter)}
        samplers = {name: part for name, part in parts if isinstance(part, Sampler)}
        for name, sampler in samplers.items():
            sampler.check_rows(self.SAMPLERS.get(name, 0))
        self.model = Model(backend_of(backend, backbone), loras, plans, samplers)
        self.folder = folder
        self.kv_memory = kv_memory
        self.graphs = graphs
        self.eye = Eye(folder, self.config, backbone.dtype, backbone.device)
        self.most_live: int | None = None
        self.adapters_by_folder: dict[Path, Adapter | Sampler] = {}
        self._engine: Engine | None = None
        self._making = threading.Lock()
        if kv_memory is not None:
            budget_of(kv_memory, backbone.device)

    def prefill(self, batch: StepBatch, prompt: Tensor) -> Emit:
        """Fill the cache from a prompt [1, P] and return what the first step needs."""
        raise NotImplementedError

    def step(self, batch: StepBatch, carry: dict[str, Tensor]) -> Emit:
        """Advance every sequence of the batch by at least one token."""
        raise NotImplementedError

    def route(self, live: int, *counts: int) -> str:
        """Return the name of the step that a sequence takes, of which `ROUTED_BY` are `counts`."""
        raise NotImplementedError

    @classmethod
    def steps(cls) -> tuple[str, ...]:
        """Return the steps of which each sequence takes its own; none: all take `step`."""
        if not cls.ROUTED_BY:
            return ()
        return tuple(name for name in vars(cls) if name.startswith("step_"))

    def strategies(self) -> dict[str, Strategy]:
        """Return what the decoder can run, by name: one strategy, or several of one artifact."""
        return {self.STRATEGY: self.as_strategy()}

    def as_strategy(self, handover: Handover | None = None) -> Strategy:
        """Return the decoder's own strategy as an engine runs it."""
        return Strategy(
            self.prefill,
            self.step,
            handover,
            self.SCRATCH_ROWS,
            self.LOOKS_UP,
            self.ROUTES,
            self.ASKED,
            self._routed if self.ROUTED_BY else None,
            {name: getattr(self, name) for name in self.steps()},
            self.CARRIES_PROMPT,
        )

    def _routed(self, live: int, told: Mapping[str, int]) -> str:
        """Return the step that a sequence takes, by what the host was told that it carries."""
        return self.route(live, *(told[name] for name in self.ROUTED_BY))

    @classmethod
    def params_by_strategy(cls) -> dict[str, tuple[Param, ...]]:
        """Return the params that requests bring, by the name of the strategy that has them."""
        return {cls.STRATEGY: cls.PARAMS}

    @classmethod
    def runtime_params(cls) -> tuple[Param, ...]:
        """Return the params that requests bring: those of every strategy of the decoder."""
        return tuple(param for own in cls.params_by_strategy().values() for param in own)

    @classmethod
    def declared(cls) -> Declared:
        """Return the adapters that the strategy declares."""
        required, samplers = frozenset(cls.REQUIRED_ADAPTERS), frozenset(cls.SAMPLERS)
        return Declared(cls.STRATEGY, cls.ADAPTERS, required, samplers)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        *,
        adapter: AdapterChoice = AUTO,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        backend: Backend | None = None,
        kv_memory: str | int | None = None,
        graphs: bool | None = None,
        progress: Progress | None = None,
        ahead_only: bool = False,
    ) -> Self:
        """Load the checkpoint folder `path`; None is the demo model that comes with the package.

        `adapter` is an adapter's folder, None for none, or "auto": the folder `linear_spec_lora`
        of the checkpoint if the strategy asks for an adapter and there is one. A strategy with
        several wants one of these for each name; "auto" is then the checkpoint's folder of that
        name. `dtype` None is the checkpoint's own. `device` None is the GPU if there is one.
        `backend` None is triton on a GPU if the decoder was compiled with kernels, numba on a CPU
        for quantised weights where it is installed, else torch.
        `kv_memory` is how much keys and values may take, as bytes, `2GiB` or `50%` of what is free
        (None: a share of that). `graphs` False launches every step anew; otherwise a GPU replays
        those that it can capture, see `Engine`. `progress` is called while weights are read, with
        how many bytes of how many have been. `ahead_only` refuses a model or a device of which the
        artifact does not carry every kernel, and never has more sequences live than it carries
        kernels for; otherwise, what lacks is compiled when it is first launched.

        What is worth knowing of the outcome, such as an adapter that is not there, is logged as
        warnings of the logger `nldc`, and stays in `notes`. A file that changes afterwards changes
        no weights: they are copied.

        Raises:
            CheckpointError, AdapterError, BackendError: what was asked for cannot be loaded.
        """
        return load(
            cls,
            path,
            adapter,
            dtype,
            device,
            backend,
            kv_memory,
            graphs,
            progress,
            ahead_only=ahead_only,
        )

    @classmethod
    def beside(cls, other: Decoder, adapter: AdapterChoice = AUTO) -> Self:
        """Return a decoder of this strategy on the weights of another, with adapters of its own.

        `adapter` is that of `from_checkpoint`; one that a strategy without adapters has no use for
        is left out.

        Raises:
            AdapterError: an adapter that it needs is not there, or cannot be loaded.
        """
        return load_beside(cls, other, adapter)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of how the strategy and the checkpoint fit, a line each."""
        config, notes = self.config, []
        if self.DIFFUSES and config.paradigm != PARADIGMS[0]:
            notes.append(
                f"the checkpoint says dlm_paradigm `{config.paradigm}`: `{self.STRATEGY}` computes "
                f"rows that see rows ahead, as a model trained as `{PARADIGMS[0]}` knows them"
            )
        if any(kind.activations for kind in config.quantised):
            notes.append(UNROUNDED)
        for name, (key, value) in self.CHECKPOINT_PARAMS.items():
            own = getattr(config, key)
            if own is not None and own != value:
                notes.append(
                    f"compiled with {name} = {value}, the checkpoint has {key} {own}: "
                    f"compile with --set {name}={own}, or with --model, to use it"
                )
        return (*notes, *self.declared().missing(self.model.parts))

    # Text

    @cached_property
    def reader(self) -> Reader:
        """What reads prompts and options, by the files of the checkpoint."""
        backbone, adapters = self.model.backbone, tuple(self.model.parts)
        names = tuple(self.strategies())
        return Reader(
            self.config,
            self.folder,
            names,
            adapters,
            backbone.device,
            backbone.dtype,
            embed=backbone.embed,
            eye=self.eye,
            params=self.runtime_params(),
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when first used.

        Raises:
            TokenizerError: the checkpoint has none, or it is damaged.
        """
        return self.reader.tokenizer

    @property
    def endings(self) -> Endings:
        """What ends a text, by the files of the checkpoint; see `find_endings`.

        Raises:
            CheckpointError, TokenizerError: one of the files is damaged.
        """
        return self.reader.endings

    @property
    def end_think_token_id(self) -> int | None:
        """The token that ends thinking, None if the checkpoint names none; see `thinking_marks`."""
        return thinking_marks(self.config.end_think_token_id, self.reader.any_tokenizer)[1]

    def read(
        self, prompt: Prompt, name: str = "the prompt", **templating: Unpack[Templating]
    ) -> AsRead:
        """Return a prompt whose texts are tokens, conversations rendered; `generate` takes it.

        Pictures of it are not looked at yet. `name` is what errors call it.

        Raises:
            PromptError, TokenizerError: it cannot be used.
        """
        return self.reader.read(prompt, _chat(templating), name)

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Return the embeddings [n, hidden] of token ids, to join with others in a prompt.

        Raises:
            PromptError: an id is not in the vocabulary.
        """
        ids = [self.reader.check_token(token, "embed") for token in token_ids(tokens, "embed")]
        backbone = self.model.backbone
        return backbone.embed(torch.tensor(ids, dtype=torch.int64, device=backbone.device))

    # Decoding

    @property
    def engine(self) -> Engine:
        """The engine that decodes for every call of this decoder, made when first used."""
        with self._making:
            if self._engine is None:
                self._engine = self.new_engine()
            return self._engine

    def new_engine(
        self,
        *,
        max_live: int | None = None,
        max_queue: int | None = None,
        keep_prefixes: str | int | None = None,
        observer: Observer | None = None,
    ) -> Engine:
        """Return an engine of its own on this decoder's weights; see `Engine`.

        `keep_prefixes` is written as `kv_memory` is, and counts towards that; None keeps nothing.

        Raises:
            PromptError: it is no size.
        """
        memory, device = self.kv_memory, self.model.backbone.device
        if self.most_live is not None:
            max_live = self.most_live if max_live is None else min(max_live, self.most_live)
        return Engine(
            self.strategies(),
            self.model,
            Room(self.PROMPT_ROWS, self.TOKEN_ROWS, self.SCRATCH_ROWS),
            max_live=max_live,
            max_queue=max_queue,
            kv_memory=None if memory is None else budget_of(memory, device),
            keep_prefixes=0 if keep_prefixes is None else budget_of(keep_prefixes, device),
            observer=observer,
            graphs=self.graphs,
        )

    def request(
        self,
        prompt: Prompt,
        *,
        options: GenerateOptions | None = None,
        **keywords: Unpack[CallOptions],
    ) -> Request:
        """Return the request of one prompt, to submit to an engine; the options are `generate`'s.

        Raises:
            PromptError, TokenizerError: the prompt or an option cannot be used.
        """
        one_prompt(prompt)
        return self._requests("request", [prompt], options, keywords)[0]

    def generate(
        self,
        prompts: str | PromptEmbeddings | PicturePrompt | Pictured | Iterable[Prompt] | Tensor,
        *,
        options: GenerateOptions | Sequence[GenerateOptions] | None = None,
        batch_size: int | None = None,
        on_step: Observer | None = None,
        progress: Progress | None = None,
        **keywords: Unpack[CallOptions],
    ) -> Result:
        """Decode every prompt until EOS, a stop string or `max_new_tokens`.

        The fields of `GenerateOptions` and of `Templating` are given by name, or as `options`: one
        for all prompts or one for each, of which names given beside them replace fields. `strategy`
        may be a list with a name for each prompt, and `sequence_ids` has the number that keys the
        sampling noise of each (default: the prompts' places). At most `batch_size` of the sequences
        (None: all) run at a time. `on_step` is told of every step that they have a part in,
        `progress` how many tokens of how many at most are there, a finished prompt counting whole.

        Raises:
            PromptError: a prompt, an option or a switch cannot be used.
            TokenizerError: text is asked for and the checkpoint has no tokenizer.
        """
        is_one = keywords.get("chat") and is_conversation(prompts)
        given: list[Any] = [prompts] if is_one else prompts_of(prompts)
        requests = self._requests("generate", given, options, keywords)
        if batch_size is not None:
            hint = "use 1 or more, or None"
            batch_size = whole(batch_size, "batch_size", range(1, 2**63), hint)
        texts: list[list[str]] = [[] for _ in requests]
        for request, event in self._call(requests, batch_size, on_step).events():
            if event.error is not None:
                raise event.error
            texts[request.place].append(event.text)
            if progress is not None:
                most = [each.max_new_tokens for each in requests]
                there = [
                    own if each.finish else len(each.tokens)
                    for each, own in zip(requests, most, strict=True)
                ]
                progress(sum(there), sum(most))
        return Result(
            text=["".join(text) for text in texts],
            tokens=[request.tokens for request in requests],
            stats=[request.stats() for request in requests],
            finish=[request.finish or "cancelled" for request in requests],
            logprobs=[request.logprobs for request in requests],
            prompt_logprobs=[list(request.prompt_logprobs) for request in requests],
        )

    def score(
        self,
        prompts: str | Iterable[Prompt] | Tensor,
        *,
        top: int = 0,
        from_token: int | Iterable[int] = 1,
    ) -> list[Score]:
        """Return what the model thinks of every prompt, token by token; nothing is decoded.

        The log-probability of a token is what AR gives it behind the tokens before it: by base
        weights, of the logits as they are. `top` of the likeliest tokens come with each, at most
        20. Tokens before number `from_token`, which may be one number for each prompt, are read and
        not scored. The decoder's engine does it, a prompt at a time between its steps, with no
        memory for logits that grows with the prompt.

        Raises:
            PromptError: a prompt or a number cannot be used.
            TokenizerError: a prompt is text and the checkpoint has no tokenizer.
        """
        given = prompts_of(prompts)
        one = as_whole(from_token)
        hint = "give the number of a token, or a list with one for each prompt"
        firsts = [one] * len(given) if one is not None else items(from_token, "from_token", hint)
        if len(firsts) != len(given):
            raise PromptError(f"{len(firsts)} numbers from_token for {len(given)} prompts", hint)
        options = [
            GenerateOptions(max_new_tokens=0, prompt_logprobs=top, prompt_logprobs_from=first)
            for first in firsts
        ]
        found = self.reader.requests(given, options)
        for _, event in self._call(found, None, None).events():
            if event.error is not None:
                raise event.error
        return [Score(request.prompt, request.prompt_logprobs) for request in found]

    def stream(
        self,
        prompt: Prompt,
        *,
        options: GenerateOptions | None = None,
        on_step: Observer | None = None,
        **keywords: Unpack[CallOptions],
    ) -> Generator[str, None, Stats]:
        """Yield the text of one prompt as it is decoded; the options are those of `generate`.

        What is yielded is never taken back: no half characters, no part of a stop string. The
        generator's return value is what the run cost. One that is closed, or that nobody holds any
        more, gives its place back at once.
        """
        one_prompt(prompt)
        requests = self._requests("stream", [prompt], options, keywords, as_text=True)

        def pieces() -> Generator[str, None, Stats]:
            for _, event in self._call(requests, None, on_step).events():
                if event.text:
                    yield event.text
                if event.error is not None:
                    raise event.error
            return requests[0].stats()

        return pieces()

    def astream(
        self,
        prompt: Prompt,
        *,
        options: GenerateOptions | None = None,
        on_step: Observer | None = None,
        **keywords: Unpack[CallOptions],
    ) -> AsyncGenerator[str, None]:
        """Yield the text of one prompt to an event loop; the options are those of `generate`.

        A thread decodes meanwhile, so that the loop goes on; `on_step` is called in that thread.
        One that is closed or whose task is cancelled gives its place back when a step that is
        running is over.
        """
        one_prompt(prompt)
        requests = self._requests("astream", [prompt], options, keywords, as_text=True)

        async def pieces() -> AsyncGenerator[str, None]:
            async with aclosing(events_of(self._call(requests, None, on_step))) as events:
                async for event in events:
                    if event.text:
                        yield event.text
                    if event.error is not None:
                        raise event.error

        return pieces()

    def _requests(
        self,
        call: str,
        prompts: Sequence[Prompt],
        options: object,
        keywords: CallOptions,
        *,
        as_text: bool = False,
    ) -> list[Request]:
        own = {name: value for name, value in keywords.items() if name not in _OF_CALLS}
        each = options_of(call, options, own, len(prompts))
        chat = _chat(keywords)
        given = keywords.get("sequence_ids")
        keys = None if given is None else keys_of(given, len(prompts))
        return self.reader.requests(prompts, each, chat, keys, as_text=as_text)

    def _call(
        self, requests: Sequence[Request], at_most: int | None, on_step: Observer | None
    ) -> Call:
        """Return the requests as a call; within a step, of an engine that nobody else runs."""
        engine = self.new_engine() if is_within_a_step() else self.engine
        return Call(engine, requests, at_most, on_step)


def _chat(asked: Templating) -> Chat | None:
    return chat_of(
        asked.get("chat", False),
        asked.get("system"),
        asked.get("tools"),
        asked.get("template_variables"),
        asked.get("chat_template"),
    )


_OF_CALLS = (*Templating.__annotations__, "sequence_ids")

"""The base class of generated decoders: loading a checkpoint, `generate` and `stream`.

A generated class adds `prefill` and `step`, which know the strategy; everything that strategies
share is here or in the modules that this one calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import PARADIGMS, ModelConfig
from nldc.runtime.checkpoint.parts import AUTO, LOG, AdapterChoice, Declared, choose_folders
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.checkpoint.weights import Progress, load_weights, own_dtype
from nldc.runtime.engine.arguments import (
    ends_of,
    in_words,
    keys_of,
    numbers_of,
    one_prompt,
    prompts_of,
    sampling_of,
    stops_of,
    token_ids,
)
from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.engine.handover import Choice, Chooser, chooser
from nldc.runtime.engine.session import Finish, Request, Session, Strategy
from nldc.runtime.engine.stats import Stats
from nldc.runtime.errors import BackendError, PromptError
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Backend as ModelBackend
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.processors import TokenProcessor
from nldc.runtime.step.sampling import Processor, Sampling
from nldc.runtime.step.state import StepState
from nldc.runtime.step.thinking import ThinkingLimit, thinking_limit
from nldc.runtime.step.values import Emit
from nldc.runtime.text.chat import Chat, Message, chat_text
from nldc.runtime.text.endings import Endings, Eos, chosen_ends, find_endings
from nldc.runtime.text.stopping import StopStrings
from nldc.runtime.text.thinking_marks import thinking_marks
from nldc.runtime.text.tokenizer import TextStream, Tokenizer
from nldc.runtime.whole_numbers import as_whole, shown, whole

AnyProcessor = Processor | TokenProcessor
Backend = Literal["torch", "triton"]
Prompt = str | Iterable[int] | Tensor | Sequence[Message] | PromptEmbeddings
"""Text, token ids, embeddings, or with `chat` the messages of a conversation."""


@dataclass(frozen=True)
class Result:
    """What came of each prompt, in order.

    `tokens` include the EOS that ended them; `text` leaves out special tokens and is empty if the
    checkpoint has no tokenizer; `finish` says what ended each: eos, length or stop.
    """

    text: list[str]
    tokens: list[list[int]]
    stats: list[Stats]
    finish: list[Finish]


class Decoder:
    """A model and a strategy; see `from_checkpoint`. Generated classes set the class variables.

    `ADAPTERS` names the adapters that the strategy asks for, `REQUIRED_ADAPTERS` those of them that
    it cannot do without. `CHECKPOINT_PARAMS` are its params that follow the checkpoint: the key of
    config.json that each is, and the value that it was compiled with. `DIFFUSES` says whether a
    forward sees rows ahead, as only a model that was trained for it can. `SCRATCH_ROWS` is the
    largest number of rows that one step, or the prefill beyond its prompt, writes behind the
    committed ones; `PROMPT_ROWS` and `TOKEN_ROWS` are the most that stay for a token of the prompt
    or the text. `KERNELS` says whether every pattern has a Triton part.
    """

    STRATEGY: ClassVar[str] = ""
    ADAPTERS: ClassVar[tuple[str, ...]] = ()
    REQUIRED_ADAPTERS: ClassVar[tuple[str, ...]] = ()
    CHECKPOINT_PARAMS: ClassVar[Mapping[str, tuple[str, int]]] = {}
    DIFFUSES: ClassVar[bool] = False
    SCRATCH_ROWS: ClassVar[int] = 1
    PROMPT_ROWS: ClassVar[int] = 1
    TOKEN_ROWS: ClassVar[int] = 1
    KERNELS: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        adapters: Mapping[str, Adapter] | None = None,
        backend: Backend = "torch",
        folder: Path | None = None,
    ) -> None:
        self.declared().check(adapters or {})
        self.config = backbone.config
        self.backend = backend
        self.model = Model(_backend_of(backend, backbone), dict(adapters or {}), self._plan)
        self.folder = folder
        self.adapters_by_folder: dict[Path, Adapter] = {}
        self._tokenizer: Tokenizer | None = None
        self._endings: Endings | None = None
        self._plans: weakref.WeakKeyDictionary[Layout, dict[Pattern, Plan]] = (
            weakref.WeakKeyDictionary()
        )

    def prefill(self, batch: StepBatch, prompt: Tensor) -> Emit:
        """Fill the cache from a prompt [1, P] and return what the first step needs."""
        raise NotImplementedError

    def step(self, batch: StepBatch, carry: dict[str, Tensor]) -> Emit:
        """Advance every sequence of the batch by at least one token."""
        raise NotImplementedError

    def strategies(self) -> dict[str, Strategy]:
        """Return what the decoder can run, by name: one strategy, or several of one artifact."""
        return {self.STRATEGY: Strategy(self.prefill, self.step)}

    @classmethod
    def declared(cls) -> Declared:
        """Return the adapters that the strategy declares."""
        return Declared(cls.STRATEGY, cls.ADAPTERS, frozenset(cls.REQUIRED_ADAPTERS))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        *,
        adapter: AdapterChoice = AUTO,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        backend: Backend | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Load the checkpoint folder `path`; None is the demo model that comes with the package.

        `adapter` is an adapter's folder, None for none, or "auto": the folder `linear_spec_lora`
        of the checkpoint if the strategy asks for an adapter and there is one. A strategy with
        several wants one of these for each name; "auto" is then the checkpoint's folder of that
        name. `dtype` None is the checkpoint's own. `device` None is the GPU if there is one.
        `backend` None is triton on a GPU if the decoder was compiled with kernels, else torch.
        `progress` is called while weights are read, with how many bytes of how many have been.

        What is worth knowing of the outcome, such as an adapter that is not there, is logged as
        warnings of the logger `nldc`, and stays in `notes`. A file that changes afterwards changes
        no weights: they are copied.

        Raises:
            CheckpointError, AdapterError, BackendError: what was asked for cannot be loaded.
        """
        if path is None:
            path = Path(str(resources.files("nldc") / "demo"))
        folder = Path(path)
        config = ModelConfig.load(folder)
        place = _device(device)
        kind = own_dtype(folder, config) if dtype is None else dtype_of(dtype)
        chosen = _backend(backend, place, kernels=cls.KERNELS)
        if chosen == "triton" and kind == torch.float64:
            raise BackendError("the kernels do not compute in float64", "use backend torch")
        folders = choose_folders(adapter, folder, cls.declared())
        adapters = {
            name: Adapter.load(source, config, kind, place) for name, source in folders.items()
        }
        weights = load_weights(folder, config, kind, place, progress=progress)
        backbone = Backbone(config, weights, kind, place)
        decoder = cls(backbone, adapters=adapters, backend=chosen, folder=folder)
        decoder.adapters_by_folder.update({folders[name]: adapters[name] for name in folders})
        for note in decoder.notes:
            LOG.warning("%s", note)
        return decoder

    @classmethod
    def beside(cls, other: Decoder, adapter: AdapterChoice = AUTO) -> Self:
        """Return a decoder of this strategy on the weights of another, with adapters of its own.

        `adapter` is that of `from_checkpoint`; one that a strategy without adapters has no use for
        is left out.

        Raises:
            AdapterError: an adapter that it needs is not there, or cannot be loaded.
        """
        backbone, names = other.model.backbone, cls.declared().names
        if isinstance(adapter, Mapping):
            adapter = {name: folder for name, folder in adapter.items() if name in names}
        choice = adapter if names else None
        folders = choose_folders(choice, other.folder or Path(), cls.declared())
        loaded = other.adapters_by_folder
        for folder in folders.values():
            if folder not in loaded:
                loaded[folder] = Adapter.load(
                    folder, backbone.config, backbone.dtype, backbone.device
                )
        adapters = {name: loaded[folder] for name, folder in folders.items()}
        decoder = cls(backbone, adapters=adapters, backend=other.backend, folder=other.folder)
        for note in cls.declared().missing(adapters):
            LOG.warning("%s", note)
        return decoder

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of how the strategy and the checkpoint fit, a line each."""
        config, notes = self.config, []
        if config.vision:
            notes.append(
                "the vision part of the checkpoint is left aside: text and embeddings are decoded"
            )
        if self.DIFFUSES and config.paradigm != PARADIGMS[0]:
            notes.append(
                f"the checkpoint says dlm_paradigm `{config.paradigm}`: `{self.STRATEGY}` computes "
                f"rows that see rows ahead, as a model trained as `{PARADIGMS[0]}` knows them"
            )
        for name, (key, value) in self.CHECKPOINT_PARAMS.items():
            own = getattr(config, key)
            if own is not None and own != value:
                notes.append(
                    f"compiled with {name} = {value}, the checkpoint has {key} {own}: "
                    f"compile with --set {name}={own}, or with --model, to use it"
                )
        return (*notes, *self.declared().missing(self.model.adapters))

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when first used.

        Raises:
            TokenizerError: the checkpoint has none, or it is damaged.
        """
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self.folder or Path())
            self._tokenizer.warn_if_larger(self.config.vocab_size)
        return self._tokenizer

    @property
    def _any_tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, None if it has none."""
        if self.folder is None or not Tokenizer.exists(self.folder):
            return None
        return self.tokenizer

    @property
    def endings(self) -> Endings:
        """What ends a text, by the files of the checkpoint; see `find_endings`.

        Raises:
            CheckpointError, TokenizerError: one of the files is damaged.
        """
        if self._endings is None:
            self._endings = find_endings(
                self.folder,
                self.config.eos_token_ids,
                self.config.vocab_size,
                self._any_tokenizer,
            )
            self._endings.warn(self.folder)
        return self._endings

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Return the embeddings [n, hidden] of token ids, to join with others in a prompt.

        Raises:
            PromptError: an id is not in the vocabulary.
        """
        ids = [self._check_token(token, "embed") for token in token_ids(tokens, "embed")]
        backbone = self.model.backbone
        return backbone.embed(torch.tensor(ids, dtype=torch.int64, device=backbone.device))

    @property
    def end_think_token_id(self) -> int | None:
        """The token that ends thinking, None if the checkpoint names none; see `thinking_marks`."""
        return thinking_marks(self.config.end_think_token_id, self._any_tokenizer)[1]

    def generate(
        self,
        prompts: str | PromptEmbeddings | Iterable[Prompt] | Tensor,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: str | Iterable[str] | None = (),
        eos: Eos | None = None,
        chat: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | Path | None = None,
        skip_special_tokens: bool = True,
        sequence_ids: Iterable[int] | None = None,
        processors: AnyProcessor | Iterable[AnyProcessor] | None = (),
        batch_size: int | None = None,
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        start_think_token_id: int | None = None,
        strategy: Choice = None,
    ) -> Result:
        """Decode every prompt until EOS, a stop string or `max_new_tokens`.

        `eos` holds ids or texts of tokens, and replaces what the checkpoint's files name ((): none;
        see `endings`). A text ends before the first of the `stop` strings, which may name special
        tokens; these are left out of it unless `skip_special_tokens` is False.

        With `chat`, a prompt is a user's message or a conversation, and goes through the chat
        template. A `system` message begins each; `tools` and `template_variables` are for the
        template, as `chat_template` chooses it; see `Chat`.

        `sequence_ids` key the sampling noise (default: the prompts' places). At most `batch_size`
        sequences (None: all) run at a time. Not more than `max_thinking_tokens` tokens of a thought
        come before `end_think_token_id`; where the prompt closes its thoughts, none is begun. The
        tokens that begin and end one are the checkpoint's unless given; see `thinking`. `strategy`
        is one of `strategies`, a list with one for each prompt, or a function of `Progress` that
        names one whenever there are new tokens (None: the first).

        Raises:
            PromptError: a prompt, an option or a switch cannot be used.
            TokenizerError: text is asked for and the checkpoint has no tokenizer.
        """
        sampling = sampling_of(temperature, top_k, top_p, min_p, seed, processors)
        asked = _chat(chat, system, tools, template_variables, chat_template)
        given: list[Any] = [prompts] if asked and _is_conversation(prompts) else prompts_of(prompts)
        limit = self._limit(max_thinking_tokens, end_think_token_id, start_think_token_id)
        requests = self._requests(given, asked, max_new_tokens, eos, sequence_ids, limit)
        texts = self._texts(requests, stop, skip_special_tokens)
        for request in self._run(requests, sampling, batch_size, limit, strategy):
            if texts is not None:
                texts[id(request)].update(request)
        return Result(
            text=[texts[id(r)].finish(r) if texts is not None else "" for r in requests],
            tokens=[request.tokens for request in requests],
            stats=[request.stats() for request in requests],
            finish=[request.finish or "length" for request in requests],
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: str | Iterable[str] | None = (),
        eos: Eos | None = None,
        chat: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | Path | None = None,
        skip_special_tokens: bool = True,
        sequence_ids: Iterable[int] | None = None,
        processors: AnyProcessor | Iterable[AnyProcessor] | None = (),
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        start_think_token_id: int | None = None,
        strategy: str | Chooser | None = None,
    ) -> Generator[str, None, Stats]:
        """Yield the text of one prompt as it is decoded; the options are those of `generate`.

        What is yielded is never taken back: no half characters, no part of a stop string. The
        generator's return value is what the run cost.
        """
        sampling = sampling_of(temperature, top_k, top_p, min_p, seed, processors)
        asked = _chat(chat, system, tools, template_variables, chat_template)
        limit = self._limit(max_thinking_tokens, end_think_token_id, start_think_token_id)
        one_prompt(prompt)
        requests = self._requests([prompt], asked, max_new_tokens, eos, sequence_ids, limit)
        text = Text(self.tokenizer, stops_of(stop), keep_special_tokens=not skip_special_tokens)
        run = self._run(requests, sampling, None, limit, strategy)

        def pieces() -> Generator[str, None, Stats]:
            for request in run:
                piece = text.update(request)
                if piece:
                    yield piece
            rest = text.rest()
            if rest:
                yield rest
            return requests[0].stats()

        return pieces()

    def _limit(
        self, tokens: int | None, end: int | None, start: int | None
    ) -> ThinkingLimit | None:
        tokens, end, start = numbers_of(tokens, end, start)
        if tokens is not None:
            start, end = thinking_marks(
                self.config.end_think_token_id, self._any_tokenizer, start, end
            )
        config = self.config
        return thinking_limit(tokens, end, config.vocab_size, config.mask_token_id, start)

    def _run(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        batch_size: int | None,
        limit: ThinkingLimit | None,
        strategy: Choice,
    ) -> Iterator[Request]:
        sampling.check()
        strategies = self.strategies()
        choose = chooser(strategy, len(requests), tuple(strategies))
        if batch_size is not None:
            hint = "use 1 or more, or None"
            batch_size = whole(batch_size, "batch_size", range(1, 2**63), hint)
        slots = min(len(requests), batch_size or len(requests))
        backbone = self.model.backbone
        cache = KVCache(self.config, backbone.dtype, backbone.device)
        cache.check(max(map(self._rows_of, requests)))
        state = StepState(self.config, backbone.device)

        def make_batch(cache: KVCache, live: Sequence[Request]) -> Batch:
            members = [request.member(sampling, limit) for request in live]
            return Batch(self.model, cache, members, state)

        session = Session(
            strategies, choose, make_batch, cache, backbone.device, slots, self._rows_of
        )

        def run() -> Iterator[Request]:
            with in_words():
                yield from session.run(requests)

        return run()

    def _rows_of(self, request: Request) -> int:
        """Return the most rows of the cache that a request may need."""
        text = len(request.prompt) * self.PROMPT_ROWS + request.max_new_tokens * self.TOKEN_ROWS
        return text + self.SCRATCH_ROWS

    def _requests(
        self,
        prompts: Sequence[Prompt],
        chat: Chat | None,
        max_new_tokens: int,
        eos: Eos | None,
        sequence_ids: Iterable[int] | None,
        limit: ThinkingLimit | None,
    ) -> list[Request]:
        hint = "use a whole number above 0"
        max_new_tokens = whole(max_new_tokens, "max_new_tokens", range(1, 2**63), hint)
        keys = keys_of(sequence_ids, len(prompts))
        ends = self.endings.ids if eos is None else self._ends(eos)
        requests = []
        for place, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            tokens = self._tokens(prompt, chat, place, max_new_tokens)
            requests.append(
                Request(
                    place=place,
                    prompt=tokens,
                    key=key,
                    max_new_tokens=max_new_tokens,
                    eos=ends,
                    embeddings=self._embeddings(prompt),
                    adapters=tuple(self.model.adapters),
                    thought=None if limit is None else _thought(limit, prompt, tokens),
                )
            )
        return requests

    def _ends(self, eos: Eos) -> tuple[int, ...]:
        given = [eos] if isinstance(eos, str) else ends_of(eos)
        by_text = any(isinstance(end, str) for end in given)
        tokenizer = self._any_tokenizer if by_text else None
        return chosen_ends(given, tokenizer, self.config.vocab_size)

    def _embeddings(self, prompt: Prompt) -> Tensor | None:
        if not isinstance(prompt, PromptEmbeddings):
            return None
        backbone = self.model.backbone
        return prompt.embeddings.to(backbone.device, backbone.dtype)

    def _tokens(
        self, prompt: Prompt, chat: Chat | None, place: int, max_new_tokens: int
    ) -> tuple[int, ...]:
        name = f"prompt {place}"
        tokens: Sequence[object]
        if isinstance(prompt, PromptEmbeddings):
            prompt.check(self.config.hidden_size, name)
            if chat is not None:
                raise PromptError(
                    f"{name} holds embeddings, which pass no chat template",
                    "embed the rendered template with Decoder.embed, and leave chat out",
                )
            unknown = [self.config.mask_token_id] * len(prompt.embeddings)
            tokens = unknown if prompt.tokens is None else token_ids(prompt.tokens, name)
        elif chat is not None:
            messages: Any = prompt
            text = chat_text(self.tokenizer, messages, name, chat)
            tokens = self._encoded(text, name, self.tokenizer.encode_chat)
        elif isinstance(prompt, str):
            tokens = self._encoded(prompt, name, self.tokenizer.encode)
        else:
            tokens = token_ids(prompt, name)
        if not tokens:
            raise PromptError(f"{name} is empty", "give at least one token to continue")
        checked = tuple(self._check_token(token, name) for token in tokens)
        room = self.config.context - len(checked)
        if room < max_new_tokens:
            raise PromptError(
                f"{name} has {len(checked)} tokens; with max_new_tokens {max_new_tokens} that is "
                f"more than the model's context of {self.config.context}",
                f"use max_new_tokens {room} or less" if room > 0 else "shorten the prompt",
            )
        return checked

    def _encoded(self, text: str, name: str, encode: Callable[[str], list[int]]) -> list[int]:
        if self.tokenizer.exceeds(text, self.config.context):
            raise PromptError(
                f"{name} has more tokens than the model's context of {self.config.context}",
                "shorten the prompt",
            )
        tokens = encode(text)
        self.tokenizer.check_fits(tokens, self.config.vocab_size, name)
        return tokens

    def _check_token(self, token: object, name: str) -> int:
        number = as_whole(token)
        if number is None:
            raise PromptError(f"{name} holds {shown(token)}", "token ids are whole numbers")
        if not 0 <= number < self.config.vocab_size:
            raise PromptError(
                f"{name} holds the token id {number}",
                f"ids of this model lie between 0 and {self.config.vocab_size - 1}",
            )
        return number

    def _texts(
        self, requests: Sequence[Request], stop: str | Iterable[str] | None, skip_special: bool
    ) -> dict[int, Text] | None:
        stops = stops_of(stop)
        if not stops and self._any_tokenizer is None:
            return None
        return {
            id(request): Text(self.tokenizer, stops, keep_special_tokens=not skip_special)
            for request in requests
        }

    def _plan(self, layout: Layout, pattern: Pattern) -> Plan:
        plans = self._plans.setdefault(layout, {})
        plan = plans.get(pattern)
        if plan is None:
            backbone = self.model.backbone
            wide = torch.promote_types(backbone.dtype, torch.float32)
            plan = plans[pattern] = Plan.of(layout, pattern, backbone.device, wide)
        return plan


def _backend_of(backend: Backend, backbone: Backbone) -> ModelBackend[Any]:
    if backend == "torch":
        return TorchBackend(backbone)
    from nldc.runtime.model.triton_backend import TritonBackend

    return TritonBackend(backbone)


class Text:
    """The text of one request as its tokens come, up to a stop string.

    A special token that is left out of the text is found by its id where a stop string names it.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...], *, keep_special_tokens: bool = False
    ) -> None:
        self._stream = TextStream(tokenizer, keep_special_tokens=keep_special_tokens)
        self._markers = {} if keep_special_tokens or not stops else tokenizer.markers
        self._stops = StopStrings(stops)
        self._seen = 0
        self._text = ""

    def update(self, request: Request) -> str:
        """Return the text that came since the last call; a stop string ends the request.

        The tokens that only spell what comes after the stop string are dropped.
        """
        fresh = ""
        for count in range(self._seen + 1, len(request.tokens) + 1):
            fresh += self._fed(request.tokens[count - 1])
            if self._stops.found:
                del request.tokens[count:]
                request.finish = "stop"
                break
        self._seen = len(request.tokens)
        self._text += fresh
        return fresh

    def _fed(self, token: int) -> str:
        marker = self._markers.get(token)
        if marker is None:
            return self._stops.feed(self._stream.feed([token]))
        last = self._stops.finds(self._stream.held(), marker)
        if last is not None:
            self._stops.found = True
            return last
        return self._stops.feed(marker, marker=True)

    def rest(self) -> str:
        """Return what was held back, when no more tokens come."""
        if self._stops.found:
            return ""
        last = self._stops.feed(self._stream.flush())
        rest = last if self._stops.found else last + self._stops.flush()
        self._text += rest
        return rest

    def finish(self, request: Request) -> str:
        """Return the whole text of a request that is done."""
        self.update(request)
        self.rest()
        return self._text


def _chat(
    chat: bool,
    system: str | None,
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None,
    template: str | Path | None,
) -> Chat | None:
    """Return how conversations become prompts, None if prompts are none."""
    options = {
        "system": system,
        "tools": tools,
        "template_variables": variables,
        "chat_template": template,
    }
    given = [name for name, value in options.items() if value is not None]
    if given and not chat:
        raise PromptError(f"{given[0]} has no effect without chat", "ask for chat, or leave it out")
    if not chat:
        return None
    asked = Chat(system, tools, {} if variables is None else variables, template)
    asked.check()
    return asked


def _thought(limit: ThinkingLimit, prompt: Prompt, tokens: Sequence[int]) -> int | None:
    """Return where the thought at a prompt's end begins: with the answer if nobody can know."""
    unknown = isinstance(prompt, PromptEmbeddings) and prompt.tokens is None
    return len(tokens) - 1 if unknown else limit.thought(tokens)


def _is_conversation(prompts: object) -> bool:
    """Whether prompts are the messages of one conversation."""
    if not isinstance(prompts, Sequence) or isinstance(prompts, str) or not prompts:
        return False
    return all(isinstance(message, Mapping) for message in prompts)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise BackendError(f"device {str(device)!r} is unknown", "use cpu, cuda or cuda:N")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("there is no CUDA device that torch can use", "use device cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise BackendError(f"there is no device {place}", f"the last one is cuda:{last}")
    return place


def _backend(backend: Backend | None, device: torch.device, *, kernels: bool) -> Backend:
    if backend is None:
        return "triton" if device.type == "cuda" and kernels else "torch"
    if backend == "torch":
        return backend
    if backend != "triton":
        raise BackendError(f"backend {backend!r} is unknown", "use torch or triton")
    if not kernels:
        raise BackendError(
            "the decoder was compiled without kernels", "compile it with kernels, or use torch"
        )
    from nldc.runtime.kernels.device import check_device

    check_device(device)
    return backend

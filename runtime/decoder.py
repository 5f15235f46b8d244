"""The base class of generated decoders: loading a checkpoint, `generate` and `stream`.

A generated class adds `prefill` and `step`, which know the strategy; everything that strategies
share is here or in the modules that this one calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.adapter import Adapter
from nldc.runtime.attention import Attention, Pattern, Plan, TorchAttention
from nldc.runtime.backbone import Backbone
from nldc.runtime.batch import Batch, Emit, Model
from nldc.runtime.chat import Chat, Message, chat_text
from nldc.runtime.checkpoint import load_weights
from nldc.runtime.config import ModelConfig
from nldc.runtime.embeddings import PromptEmbeddings
from nldc.runtime.endings import Endings, Eos, chosen_ends, find_endings
from nldc.runtime.errors import AdapterError, BackendError, PromptError
from nldc.runtime.handover import Choice, Chooser, chooser
from nldc.runtime.kv_cache import KVCache, Places
from nldc.runtime.layout import Layout
from nldc.runtime.sampling import Processor, Sampling
from nldc.runtime.session import Finish, Request, Session, Strategy
from nldc.runtime.stats import Stats
from nldc.runtime.stopping import StopStrings
from nldc.runtime.tensors import dtype_of
from nldc.runtime.thinking import ThinkingBudget, ThinkingLimit, thinking_limit, thinking_marks
from nldc.runtime.tokenizer import TextStream, Tokenizer

Backend = Literal["torch", "triton"]
Prompt = str | Sequence[int] | Sequence[Message] | PromptEmbeddings
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

    `ADAPTERS` names the adapters that the strategy asks for. `SCRATCH_ROWS` is the largest number
    of rows that one step, or the prefill beyond its prompt, writes behind the committed ones.
    `KERNELS` says whether every pattern has a Triton part.
    """

    STRATEGY: ClassVar[str] = ""
    ADAPTERS: ClassVar[tuple[str, ...]] = ()
    SCRATCH_ROWS: ClassVar[int] = 1
    KERNELS: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        adapters: Mapping[str, Adapter] | None = None,
        backend: Backend = "torch",
        folder: Path | None = None,
    ) -> None:
        self.config = backbone.config
        self.backend = backend
        self.model = Model(backbone, dict(adapters or {}), self._attention, self._plan)
        self.folder = folder
        self._tokenizer: Tokenizer | None = None
        self._endings: Endings | None = None
        self._plans: weakref.WeakKeyDictionary[Layout, dict[Pattern, Plan]] = (
            weakref.WeakKeyDictionary()
        )

    def prefill(self, batch: Batch, prompt: Tensor) -> Emit:
        """Fill the cache from a prompt [1, P] and return what the first step needs."""
        raise NotImplementedError

    def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:
        """Advance every sequence of the batch by at least one token."""
        raise NotImplementedError

    def strategies(self) -> dict[str, Strategy]:
        """Return what the decoder can run, by name: one strategy, or several of one artifact."""
        return {self.STRATEGY: Strategy(self.prefill, self.step)}

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        *,
        adapter: str | Path | None = "auto",
        dtype: str | torch.dtype = "float32",
        device: str | torch.device | None = None,
        backend: Backend | None = None,
    ) -> Self:
        """Load the checkpoint folder `path`; None is the demo model that comes with the package.

        `adapter` is an adapter's folder, None for none, or "auto": the folder `linear_spec_lora`
        of the checkpoint if the strategy asks for an adapter and there is one. `device` None is
        the GPU if there is one. `backend` None is triton on a GPU if the decoder was compiled with
        kernels, else torch.

        Raises:
            CheckpointError, AdapterError, BackendError: what was asked for cannot be loaded.
        """
        if path is None:
            path = Path(str(resources.files("nldc") / "demo"))
        folder = Path(path)
        config = ModelConfig.load(folder)
        place = _device(device)
        kind = dtype_of(dtype)
        chosen = _backend(backend, place, kernels=cls.KERNELS)
        if chosen == "triton" and kind == torch.float64:
            raise BackendError("the kernels do not compute in float64", "use backend torch")
        weights = load_weights(folder, config, kind, place)
        adapters = {}
        source = _adapter_folder(adapter, folder, cls)
        if source is not None:
            loaded = Adapter.load(source, config, kind, place)
            adapters = dict.fromkeys(cls.ADAPTERS, loaded)
        backbone = Backbone(config, weights, kind, place)
        return cls(backbone, adapters=adapters, backend=chosen, folder=folder)

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
        ids = [self._check_token(token, "embed") for token in tokens]
        backbone = self.model.backbone
        return backbone.embed(torch.tensor(ids, dtype=torch.int64, device=backbone.device))

    @property
    def end_think_token_id(self) -> int | None:
        """The token that ends thinking, None if the checkpoint names none; see `thinking_marks`."""
        return thinking_marks(self.config.end_think_token_id, self._any_tokenizer)[1]

    def generate(
        self,
        prompts: str | PromptEmbeddings | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        eos: Eos | None = None,
        chat: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | Path | None = None,
        skip_special_tokens: bool = True,
        sequence_ids: Sequence[int] | None = None,
        processors: Sequence[Processor] = (),
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
        sampling = Sampling(temperature, top_k, top_p, min_p, seed, tuple(processors))
        asked = _chat(chat, system, tools, template_variables, chat_template)
        given: Sequence[Any] = (
            [prompts]
            if isinstance(prompts, str | PromptEmbeddings) or (asked and _is_conversation(prompts))
            else prompts
        )
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
        stop: str | Sequence[str] = (),
        eos: Eos | None = None,
        chat: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        chat_template: str | Path | None = None,
        skip_special_tokens: bool = True,
        sequence_ids: Sequence[int] | None = None,
        processors: Sequence[Processor] = (),
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        start_think_token_id: int | None = None,
        strategy: str | Chooser | None = None,
    ) -> Generator[str, None, Stats]:
        """Yield the text of one prompt as it is decoded; the options are those of `generate`.

        What is yielded is never taken back: no half characters, no part of a stop string. The
        generator's return value is what the run cost.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, seed, tuple(processors))
        asked = _chat(chat, system, tools, template_variables, chat_template)
        limit = self._limit(max_thinking_tokens, end_think_token_id, start_think_token_id)
        requests = self._requests([prompt], asked, max_new_tokens, eos, sequence_ids, limit)
        text = Text(self.tokenizer, _stops(stop), keep_special_tokens=not skip_special_tokens)
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
        if batch_size is not None and batch_size < 1:
            raise PromptError(f"batch_size {batch_size} is not allowed", "use 1 or more, or None")
        slots = min(len(requests), batch_size or len(requests))
        longest = max(len(request.prompt) + request.max_new_tokens for request in requests)
        backbone = self.model.backbone
        capacity = longest + self.SCRATCH_ROWS
        cache = KVCache(self.config, slots, capacity, backbone.dtype, backbone.device)
        thinking = None
        if limit is not None:
            thinking = ThinkingBudget(limit, slots, capacity, backbone.device)
        ends = torch.tensor(
            requests[0].eos, dtype=torch.int64, device=backbone.device
        )  # the same for all

        def make_batch(cache: KVCache, live: Sequence[Request]) -> Batch:
            return Batch(
                self.model,
                cache,
                [request.slot for request in live],
                [request.key for request in live],
                sampling,
                ends,
                histories=lambda: [request.history for request in live],
                prompts=[len(request.prompt) for request in live],
                thoughts=[request.thought for request in live],
                thinking=thinking,
            )

        session = Session(strategies, choose, make_batch, cache, backbone.device)
        return session.run(requests)

    def _requests(
        self,
        prompts: Sequence[Prompt],
        chat: Chat | None,
        max_new_tokens: int,
        eos: Eos | None,
        sequence_ids: Sequence[int] | None,
        limit: ThinkingLimit | None,
    ) -> list[Request]:
        if not prompts:
            raise PromptError("there is no prompt", "give at least one")
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise PromptError(
                f"max_new_tokens {max_new_tokens!r} is not allowed", "use a whole number above 0"
            )
        keys = range(len(prompts)) if sequence_ids is None else sequence_ids
        if len(keys) != len(prompts):
            raise PromptError(
                f"{len(keys)} sequence_ids for {len(prompts)} prompts", "give one for each"
            )
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
                    thought=None if limit is None else _thought(limit, prompt, tokens),
                )
            )
        return requests

    def _ends(self, eos: Eos) -> tuple[int, ...]:
        by_text = isinstance(eos, str) or (
            isinstance(eos, Sequence) and any(isinstance(end, str) for end in eos)
        )
        tokenizer = self._any_tokenizer if by_text else None
        return chosen_ends(eos, tokenizer, self.config.vocab_size)

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
            tokens = unknown if prompt.tokens is None else prompt.tokens
        elif chat is not None:
            text = chat_text(self.tokenizer, prompt, name, chat)
            tokens = self._encoded(text, name, self.tokenizer.encode_chat)
        elif isinstance(prompt, str):
            tokens = self._encoded(prompt, name, self.tokenizer.encode)
        elif isinstance(prompt, Sequence):
            tokens = prompt
        else:
            raise PromptError(
                f"{name} is {prompt!r}, not text or token ids", "give a list of prompts"
            )
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
        if not isinstance(token, int) or isinstance(token, bool):
            raise PromptError(f"{name} holds {token!r}", "token ids are whole numbers")
        if not 0 <= token < self.config.vocab_size:
            raise PromptError(
                f"{name} holds the token id {token}",
                f"ids of this model lie between 0 and {self.config.vocab_size - 1}",
            )
        return token

    def _texts(
        self, requests: Sequence[Request], stop: str | Sequence[str], skip_special_tokens: bool
    ) -> dict[int, Text] | None:
        stops = _stops(stop)
        if not stops and self._any_tokenizer is None:
            return None
        return {
            id(request): Text(self.tokenizer, stops, keep_special_tokens=not skip_special_tokens)
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

    def _attention(self, plan: Plan, cache: KVCache, places: Places) -> Attention:
        if self.backend == "torch":
            return TorchAttention(plan, cache, places)
        from nldc.runtime.triton_attention import TritonAttention

        return TritonAttention(plan, cache, places)


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


def _stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in stops):
        raise PromptError(f"stop {stop!r} is not allowed", "give strings that are not empty")
    return stops


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
    from nldc.runtime.triton_attention import check_device

    check_device(device)
    return backend


def _adapter_folder(
    adapter: str | Path | None, folder: Path, decoder: type[Decoder]
) -> Path | None:
    if adapter is None:
        return None
    if adapter == "auto":
        found = folder / ADAPTER_FOLDER
        return found if decoder.ADAPTERS and found.is_dir() else None
    if not decoder.ADAPTERS:
        raise AdapterError(
            f"the strategy `{decoder.STRATEGY}` uses no adapter", "leave the adapter out"
        )
    return Path(adapter)

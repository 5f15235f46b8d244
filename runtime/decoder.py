"""The base class of generated decoders: loading a checkpoint, `generate` and `stream`.

A generated class adds `prefill` and `step`, which know the strategy; everything that strategies
share is here or in the modules that this one calls.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from nldc.runtime.abi import ADAPTER_FOLDER
from nldc.runtime.adapter import Adapter
from nldc.runtime.attention import Attention, Pattern, Plan, TorchAttention
from nldc.runtime.backbone import Backbone
from nldc.runtime.batch import Batch, Emit, Model
from nldc.runtime.chat import Message, chat_prompt
from nldc.runtime.checkpoint import load_weights
from nldc.runtime.config import ModelConfig
from nldc.runtime.embeddings import PromptEmbeddings
from nldc.runtime.errors import AdapterError, BackendError, PromptError
from nldc.runtime.handover import Choice, Chooser, chooser
from nldc.runtime.kv_cache import KVCache, Places
from nldc.runtime.layout import Layout
from nldc.runtime.sampling import Processor, Sampling
from nldc.runtime.session import Finish, Request, Session, Strategy
from nldc.runtime.stats import Stats
from nldc.runtime.stopping import StopStrings
from nldc.runtime.tensors import dtype_of
from nldc.runtime.thinking import ThinkingBudget, ThinkingLimit, thinking_limit
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
    of rows that one step, or the prefill beyond its prompt, writes behind the committed ones;
    `PROMPT_ROWS` and `TOKEN_ROWS` are the most that stay for a token of the prompt or the text.
    `KERNELS` says whether every pattern has a Triton part.
    """

    STRATEGY: ClassVar[str] = ""
    ADAPTERS: ClassVar[tuple[str, ...]] = ()
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
        self.config = backbone.config
        self.backend = backend
        self.model = Model(backbone, dict(adapters or {}), self._attention, self._plan)
        self.folder = folder
        self._tokenizer: Tokenizer | None = None
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
        return self._tokenizer

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
        """The token that ends thinking: of config.json, else of tokenizer_config.json, or None."""
        known = self.config.end_think_token_id
        if known is not None or self.folder is None or not Tokenizer.exists(self.folder):
            return known
        return self.tokenizer.id_of("end_think")

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
        stop: Sequence[str] = (),
        eos: Sequence[int] | None = None,
        chat: bool = False,
        sequence_ids: Sequence[int] | None = None,
        processors: Sequence[Processor] = (),
        batch_size: int | None = None,
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        strategy: Choice = None,
    ) -> Result:
        """Decode every prompt until EOS, a stop string or `max_new_tokens`.

        `eos` replaces the config's ids ((): none). With `chat`, a prompt is a user's message or a
        conversation, and goes through the chat template. `sequence_ids` key the sampling noise
        (default: the prompts' places). At most `batch_size` sequences (None: all) run at a time.
        With `max_thinking_tokens`, generated token of that number (from 0) is `end_think_token_id`
        (None: the checkpoint's), unless one before it is. `strategy` is one of `strategies`, a list
        with one for each prompt, or a function of `Progress` that names one whenever there are new
        tokens (None: the first).

        Raises:
            PromptError: a prompt, an option or a switch cannot be used.
            TokenizerError: text is asked for and the checkpoint has no tokenizer.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, seed, tuple(processors))
        given: Sequence[Prompt] = (
            [prompts] if isinstance(prompts, str | PromptEmbeddings) else prompts
        )
        limit = self._limit(max_thinking_tokens, end_think_token_id)
        requests = self._requests(given, chat, max_new_tokens, eos, sequence_ids)
        texts = self._texts(requests, stop)
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
        stop: Sequence[str] = (),
        eos: Sequence[int] | None = None,
        chat: bool = False,
        sequence_ids: Sequence[int] | None = None,
        processors: Sequence[Processor] = (),
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        strategy: str | Chooser | None = None,
    ) -> Generator[str, None, Stats]:
        """Yield the text of one prompt as it is decoded; the options are those of `generate`.

        What is yielded is never taken back: no half characters, no part of a stop string. The
        generator's return value is what the run cost.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, seed, tuple(processors))
        limit = self._limit(max_thinking_tokens, end_think_token_id)
        requests = self._requests([prompt], chat, max_new_tokens, eos, sequence_ids)
        text = Text(self.tokenizer, _stops(stop))
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

    def _limit(self, tokens: int | None, end: int | None) -> ThinkingLimit | None:
        if tokens is not None and end is None:
            end = self.end_think_token_id
        return thinking_limit(tokens, end, self.config.vocab_size, self.config.mask_token_id)

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
        longest = max(
            len(request.prompt) * self.PROMPT_ROWS + request.max_new_tokens * self.TOKEN_ROWS
            for request in requests
        )
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
                thinking=thinking,
                embeddings=[request.embeddings for request in live],
            )

        session = Session(strategies, choose, make_batch, cache, backbone.device)
        return session.run(requests)

    def _requests(
        self,
        prompts: Sequence[Prompt],
        chat: bool,
        max_new_tokens: int,
        eos: Sequence[int] | None,
        sequence_ids: Sequence[int] | None,
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
        ends = tuple(dict.fromkeys(self.config.eos_token_ids if eos is None else eos))
        for token in ends:
            self._check_token(token, "eos")
        return [
            Request(
                place=place,
                prompt=self._tokens(prompt, chat, place, max_new_tokens),
                key=key,
                max_new_tokens=max_new_tokens,
                eos=ends,
                embeddings=self._embeddings(prompt),
            )
            for place, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
        ]

    def _embeddings(self, prompt: Prompt) -> Tensor | None:
        if not isinstance(prompt, PromptEmbeddings):
            return None
        backbone = self.model.backbone
        return prompt.embeddings.to(backbone.device, backbone.dtype)

    def _tokens(
        self, prompt: Prompt, chat: bool, place: int, max_new_tokens: int
    ) -> tuple[int, ...]:
        name = f"prompt {place}"
        tokens: Sequence[object]
        if isinstance(prompt, PromptEmbeddings):
            prompt.check(self.config.hidden_size, name)
            if chat:
                raise PromptError(
                    f"{name} holds embeddings, which pass no chat template",
                    "embed the rendered template with Decoder.embed, and leave chat out",
                )
            unknown = [self.config.mask_token_id] * len(prompt.embeddings)
            tokens = unknown if prompt.tokens is None else prompt.tokens
        elif chat:
            tokens = chat_prompt(self.tokenizer, prompt, name)
        elif isinstance(prompt, str):
            if self.tokenizer.exceeds(prompt, self.config.context):
                raise PromptError(
                    f"{name} has more tokens than the model's context of {self.config.context}",
                    "shorten the prompt",
                )
            tokens = self.tokenizer.encode(prompt)
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

    def _check_token(self, token: object, name: str) -> int:
        if not isinstance(token, int) or isinstance(token, bool):
            raise PromptError(f"{name} holds {token!r}", "token ids are whole numbers")
        if not 0 <= token < self.config.vocab_size:
            raise PromptError(
                f"{name} holds the token id {token}",
                f"ids of this model lie between 0 and {self.config.vocab_size - 1}",
            )
        return token

    def _texts(self, requests: Sequence[Request], stop: Sequence[str]) -> dict[int, Text] | None:
        stops = _stops(stop)
        if not stops and (self.folder is None or not Tokenizer.exists(self.folder)):
            return None
        return {id(request): Text(self.tokenizer, stops) for request in requests}

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
    """The text of one request as its tokens come, up to a stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._stream = TextStream(tokenizer)
        self._stops = StopStrings(stops)
        self._seen = 0
        self._text = ""

    def update(self, request: Request) -> str:
        """Return the text that came since the last call; a stop string ends the request.

        The tokens that only spell what comes after the stop string are dropped.
        """
        fresh = ""
        for count in range(self._seen + 1, len(request.tokens) + 1):
            fresh += self._stops.feed(self._stream.feed(request.tokens[count - 1 : count]))
            if self._stops.found:
                del request.tokens[count:]
                request.finish = "stop"
                break
        self._seen = len(request.tokens)
        self._text += fresh
        return fresh

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


def _stops(stop: Sequence[str]) -> tuple[str, ...]:
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

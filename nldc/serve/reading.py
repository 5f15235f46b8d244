"""From bodies to requests of the engine: prompts become tokens, fields become options.

All of it runs in threads beside the event loop: a tokenizer or a template may take its time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nldc.diagnostics import counted
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.handover import Chooser, schedule
from nldc.runtime.engine.options import GenerateOptions
from nldc.runtime.engine.params import params_of
from nldc.runtime.engine.request import Request
from nldc.runtime.engine.strategy import Room
from nldc.runtime.errors import NldcRuntimeError, OutOfMemoryError, PromptError
from nldc.runtime.json_file import texts_of
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import ThinkingLimit
from nldc.runtime.text.chat import Chat
from nldc.runtime.text.thinking_marks import thinking_marks
from nldc.runtime.vision.picture import Picture
from nldc.runtime.vision.rows import Pictured
from nldc.serve.echo import Echo, echo_of
from nldc.serve.errors import ApiError, of_runtime, refused
from nldc.serve.pictures import picture_of
from nldc.serve.processors import AtLeast, Bias, Penalties
from nldc.serve.protocol import ChatRequest, CompletionRequest, ImagePart, Message, Sampled
from nldc.serve.settings import Settings
from nldc.serve.tracing import NO_MARKS, Marks, TracedText


@dataclass(frozen=True)
class Answer:
    """One answer to be made: the engine's request, its text as it is traced, what comes before."""

    request: Request
    text: TracedText
    echo: Echo | None = None


class Reader:
    """Reads bodies for one decoder; `route` chooses the strategy where a body names none.

    `check_room` raises OutOfMemoryError where the cache could never hold sequences of so many rows.
    A setting that no request could be read with is a PromptError or a TokenizerError at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        settings: Settings,
        route: Chooser,
        check_room: Callable[..., None],
    ) -> None:
        self._decoder = decoder
        self._check_rows = check_room
        self._settings = settings
        self._route = route
        self._tokenizer = decoder.tokenizer
        self._strategies = tuple(decoder.strategies())
        self._room = Room(decoder.PROMPT_ROWS, decoder.TOKEN_ROWS, decoder.SCRATCH_ROWS)
        self._ends = decoder.endings.ids
        self._marks = thinking_marks(decoder.config.end_think_token_id, self._tokenizer)
        self._context = decoder.config.context
        Sampling(settings.temperature).check()
        if settings.chat_template is not None:
            self._rendered([{"role": "user", "content": "?"}], {})

    def completion(self, asked: CompletionRequest) -> list[Answer]:
        """Return the sequences of a completion: `n` for each prompt, in order.

        Raises:
            ApiError: the prompts or options cannot be used.
        """
        given = _prompts(asked.prompt)
        self._check_count(len(given), asked.n)
        try:
            prompts = [self._given(each) for each in given]
            most = asked.max_tokens
            if most == 0 and not asked.echo:
                raise refused("`max_tokens` 0 asks for nothing without `echo`", "max_tokens")
            made = self._sequences(asked, prompts, most, self._settings.completion_tokens)
            return self._echoing(asked, given, made) if asked.echo else made
        except NldcRuntimeError as problem:
            raise self._refusal(problem, "prompt") from problem

    def _echoing(
        self, asked: CompletionRequest, given: Sequence[Any], made: Sequence[Answer]
    ) -> list[Answer]:
        keep = not asked.skip_special_tokens
        echoes = [echo_of(self._tokenizer, each, keep_special_tokens=keep) for each in given]
        return [replace(each, echo=echoes[n // asked.n]) for n, each in enumerate(made)]

    def chat(self, asked: ChatRequest) -> list[Answer]:
        """Return the sequences of an answer to a conversation: `n` of them.

        Raises:
            ApiError: the messages or options cannot be used.
        """
        self._check_count(1, asked.n)
        most = asked.max_completion_tokens
        if most is not None and asked.max_tokens not in (None, most):
            raise refused("`max_tokens` and `max_completion_tokens` differ", "max_tokens")
        most = asked.max_tokens if most is None else most
        if asked.top_logprobs and not asked.logprobs:
            raise refused("`top_logprobs` has no effect without `logprobs`", "top_logprobs")
        try:
            self._check_pictures(asked)
            messages = [self._message(number, each) for number, each in enumerate(asked.messages)]
            variables = asked.chat_template_kwargs or {}
            if not self._settings.special_tokens:
                self._check_variables(variables)
            text, pictures = self._rendered(messages, variables)
            tokens = self._fitting(text, self._tokenizer.encode_chat)
            length = self._decoder.reader.length(tokens, pictures)
            if length > self._most_prompt():
                raise _too_long(str(length), self._most_prompt())
            prompt = self._decoder.reader.placed(tokens, pictures, "messages")
            return self._sequences(asked, [prompt], most, self._settings.chat_tokens)
        except NldcRuntimeError as problem:
            raise self._refusal(problem, "messages") from problem

    # Prompts

    def _check_count(self, prompts: int, n: int) -> None:
        most = self._settings.sequences
        if prompts * n > most:
            raise refused(
                f"{counted(prompts, 'prompt')} with n {n} are {prompts * n} sequences, and a call "
                f"may have {most}",
                "n" if n > 1 else "prompt",
            )

    def _check_pictures(self, asked: ChatRequest) -> None:
        """Refuse more pictures than a conversation may have, before one is looked at."""
        contents = [each.content for each in asked.messages if not isinstance(each.content, str)]
        count = sum(isinstance(part, ImagePart) for parts in contents for part in parts)
        if count:
            self._decoder.eye.check()
        if count > self._settings.pictures:
            raise refused(
                f"`messages` have {counted(count, 'picture')}, and may have "
                f"{self._settings.pictures}",
                "messages",
                "too_many_images",
            )

    def _look(self, prompt: Pictured) -> None:
        """Look at pictures, in this thread and not in the engine's, which then knows them.

        Raises:
            PromptError: one is damaged.
        """
        for picture in prompt.pictures:
            self._decoder.eye.see(picture)

    def _rendered(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[str, list[Picture]]:
        chat = Chat(variables=variables, template=self._settings.chat_template)
        return self._decoder.reader.rendered(messages, "messages", chat)

    def _given(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._fitting(prompt, self._tokenizer.encode)
        return prompt

    def _fitting(self, text: str, encode: Any) -> list[int]:
        """Return the tokens of a text; one that is far too long is not encoded."""
        most = self._most_prompt()
        if self._tokenizer.exceeds(text, most):
            raise _too_long(f"more than {most}", most)
        tokens: list[int] = encode(text)
        self._tokenizer.check_fits(tokens, self._decoder.config.vocab_size, "the prompt")
        return tokens

    def _most_prompt(self) -> int:
        most = self._settings.prompt_tokens
        return self._context if most is None else min(most, self._context)

    def _message(self, number: int, message: Message) -> dict[str, Any]:
        content, place = message.content, f"messages[{number}]"
        role = "system" if message.role == "developer" else message.role
        found: dict[str, Any] = {"role": role}
        found |= message.model_dump(exclude={"role", "content"}, exclude_none=True)
        parts: list[dict[str, Any]] = []
        for at, part in enumerate(() if isinstance(content, str) else content):
            if isinstance(part, ImagePart):
                url = f"{place}.content[{at}].image_url.url"
                picture = picture_of(part, url, self._settings)
                parts.append({"type": "image", "image": picture})
            else:
                parts.append({"type": "text", "text": part.text})
        texts = [part["text"] for part in parts if part["type"] == "text"]
        whole = content if isinstance(content, str) else "".join(texts)
        if not self._settings.special_tokens:
            for name, value in {**found, "content": whole}.items():
                self._check_plain(value, f"{place}.{name}", of_model=role == "assistant")
        return {**found, "content": whole if len(texts) == len(parts) else parts}

    def _check_variables(self, variables: Mapping[str, Any]) -> None:
        """Refuse texts for the template as those of messages, wherever in a value they stand."""
        for name, value in variables.items():
            for text in texts_of(value):
                self._check_plain(text, f"chat_template_kwargs.{name[:80]}", of_model=False)

    def _check_plain(self, text: str, place: str, *, of_model: bool) -> None:
        """Refuse a text in which the tokenizer finds special tokens.

        They would mean to the model what the template's own do: another turn, another speaker. What
        the model said itself may have its marks of thoughts.
        """
        if self._tokenizer.exceeds(text, self._most_prompt()):
            raise _too_long(f"more than {self._most_prompt()}", self._most_prompt())
        markers = self._tokenizer.markers
        allowed = self._marks if of_model else ()
        for token in self._tokenizer.encode(text, special=False):
            if token in markers and token not in allowed:
                raise ApiError(
                    400,
                    f"`{place}` spells the special token `{markers[token]}`, which would mean to "
                    "the model what the chat template's own does",
                    place,
                    "special_token",
                )

    # Requests

    def _sequences(
        self,
        asked: Sampled,
        prompts: Sequence[Sequence[int] | Pictured],
        most: int | None,
        default: int,
    ) -> list[Answer]:
        settings = self._settings
        if most is not None and settings.new_tokens is not None and most > settings.new_tokens:
            raise refused(
                f"`max_tokens` {most} is more than this server's {settings.new_tokens}",
                "max_tokens",
            )
        _check_stream(asked)
        options, stops = self._options(asked), _stops(asked, settings)
        bias = self._bias(asked)
        keep = not asked.skip_special_tokens
        found, told = [], 0
        for number, prompt in enumerate(prompts):
            longest = self._longest(len(prompt), most, default)
            ids = prompt.tokens if isinstance(prompt, Pictured) else prompt
            marks = self._marks_of(ids) if isinstance(asked, ChatRequest) else NO_MARKS
            self._check_room(len(prompt), longest)  # before a picture is looked at
            if isinstance(prompt, Pictured):
                self._look(prompt)
            for choice in range(asked.n):
                place = number * asked.n + choice
                request = self._decoder.request(
                    prompt,
                    options=options,
                    processors=(*bias, *_processors(asked, options, len(prompt))),
                    max_new_tokens=longest,
                    sequence_ids=[place],
                )
                self._check_room(len(prompt), longest, request.beside)
                told += _told(request)
                if told > settings.logprobs:
                    raise refused(
                        f"this asks for more than {settings.logprobs} log-probabilities",
                        "logprobs",
                        "too_many_logprobs",
                    )
                text = TracedText(
                    self._tokenizer, stops, NO_MARKS if keep else marks, keep_special_tokens=keep
                )
                request.text = text
                found.append(Answer(request, text))
        return found

    def _options(self, asked: Sampled) -> GenerateOptions:
        temperature = self._settings.temperature if asked.temperature is None else asked.temperature
        ends = () if asked.ignore_eos else self._ends
        for token in asked.stop_token_ids or ():
            if not 0 <= token < self._decoder.config.vocab_size:
                raise refused(
                    f"`stop_token_ids` holds {token}, which is no token", "stop_token_ids"
                )
        strategy = self._route
        if asked.strategy is not None:
            strategy = schedule(asked.strategy, self._strategies)
        return GenerateOptions(
            temperature=temperature,
            top_k=asked.top_k if asked.top_k is not None and asked.top_k > 0 else None,
            top_p=asked.top_p,
            min_p=asked.min_p or None,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed % 2**64,
            eos=(*ends, *(asked.stop_token_ids or ())),
            skip_special_tokens=asked.skip_special_tokens,
            logprobs=_likeliest(asked),
            prompt_logprobs=_likeliest_of_prompt(asked),
            max_thinking_tokens=asked.max_thinking_tokens,
            strategy=strategy,
            params=self._params(asked),
        )

    def _params(self, asked: Sampled) -> dict[str, int | float]:
        """Return what a request brings of the strategies' params."""
        try:
            return params_of(asked.strategy_params, self._decoder.runtime_params())
        except PromptError as problem:
            raise refused(f"`strategy_params`: {problem}", "strategy_params") from problem

    def _bias(self, asked: Sampled) -> tuple[Bias, ...]:
        biases = {}
        for name, added in (asked.logit_bias or {}).items():
            is_number = name.isascii() and name.isdigit() and len(name) < 12
            if not is_number or int(name) >= self._decoder.config.vocab_size:
                raise refused(f"`logit_bias` names {name[:40]!r}, which is no token", "logit_bias")
            if int(name) in biases:
                raise refused(f"`logit_bias` names token {int(name)} twice", "logit_bias")
            biases[int(name)] = added
        return (Bias(tuple(sorted(biases.items()))),) if biases else ()

    def _longest(self, prompt: int, most: int | None, default: int) -> int:
        """Return how many tokens may follow a prompt of so many."""
        if prompt > self._most_prompt():
            raise _too_long(str(prompt), self._most_prompt())
        room = self._context - prompt
        least = 0 if most == 0 else 1
        if most is None:
            allowed = self._settings.new_tokens
            most = min(default, room) if allowed is None else min(default, room, allowed)
        if not least <= most <= room:
            raise ApiError(
                400,
                f"the prompt has {counted(prompt, 'token')} and `max_tokens` is "
                f"{max(most, least)}: together that is more than the model's {self._context}",
                "max_tokens",
                "context_length_exceeded",
            )
        return most

    def _marks_of(self, prompt: Sequence[int]) -> Marks:
        start, end = self._marks
        if end is None:
            return NO_MARKS
        return Marks(start, end, ThinkingLimit(0, end, start).thought(prompt) is not None)

    def _check_room(self, prompt: int, new: int, beside: int = 0) -> None:
        """Refuse a request that the cache could never hold: to wait would not help it."""
        try:
            self._check_rows(self._room.rows(prompt, new), beside)
        except OutOfMemoryError as problem:
            raise ApiError(400, str(problem), "max_tokens", "out_of_memory") from problem

    def _refusal(self, problem: NldcRuntimeError, param: str) -> ApiError:
        """Return an error of the runtime as an answer, without the paths of this machine."""
        found = of_runtime(problem)
        for path in (self._decoder.folder, self._settings.chat_template):
            if isinstance(path, Path) or (isinstance(path, str) and "/" in path):
                found.message = found.message.replace(str(path), "the model")
        if found.param is None and isinstance(problem, PromptError):
            found.param = param
        return found


def _prompts(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise refused("`prompt` is empty", "prompt")
    return [given] if isinstance(given[0], int) else list(given)


def _check_stream(asked: Sampled) -> None:
    """Refuse what only a stream shows where there is none."""
    only = {"stream_options": asked.stream_options is not None, "nldc.steps": asked.nldc.steps}
    for name, given in only.items():
        if given and not asked.stream:
            raise refused(f"`{name}` is for streams: give `stream` as well", name)


def _stops(asked: Sampled, settings: Settings) -> tuple[str, ...]:
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if len(stops) > settings.stops:
        raise refused(f"`stop` has {len(stops)} texts; it may have {settings.stops}", "stop")
    if any(len(stop) > settings.stop_characters for stop in stops):
        most = settings.stop_characters
        raise refused(f"a text of `stop` has more than {most} characters", "stop")
    if "" in stops:
        raise refused("a text of `stop` is empty", "stop")
    return tuple(stops)


def _processors(
    asked: Sampled, options: GenerateOptions, begin: int
) -> Iterator[AtLeast | Penalties]:
    """Yield what changes the logits of an answer that begins at position `begin`."""
    ends = options.eos
    if asked.min_tokens and isinstance(ends, tuple) and ends:
        yield AtLeast(ends, begin + asked.min_tokens)
    penalties = (asked.frequency_penalty, asked.presence_penalty, asked.repetition_penalty)
    if penalties != (0, 0, 1):
        yield Penalties(*penalties, begin)


def _told(request: Request) -> int:
    """Return the most log-probabilities that a request may come to."""
    asked, tokens = request.asked_logprobs, request.max_new_tokens
    found = 0 if asked.tokens is None else tokens * (1 + asked.tokens)
    return found if asked.prompt is None else found + len(request.prompt) * (1 + asked.prompt)


def _likeliest(asked: Sampled) -> int | None:
    """Return how many of the likeliest tokens stand beside each; None: no log-probabilities."""
    if isinstance(asked, ChatRequest):
        return asked.top_logprobs or 0 if asked.logprobs else None
    return asked.logprobs if isinstance(asked, CompletionRequest) else None


def _likeliest_of_prompt(asked: Sampled) -> int | None:
    """Return the same for the prompt's tokens, which are told where it is."""
    if not isinstance(asked, CompletionRequest) or not asked.echo:
        return None
    return 0 if asked.logprobs is None and asked.max_tokens == 0 else asked.logprobs


def _too_long(tokens: str, most: int) -> ApiError:
    return ApiError(
        400,
        f"the prompt has {tokens} tokens, and may have {most}",
        "prompt",
        "context_length_exceeded",
    )

"""From prompts and options as they are given to requests, by the files of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.prefix import Known
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.engine.arguments import (
    KEYS,
    ends_of,
    numbers_of,
    sampling_of,
    stops_of,
    token_ids,
)
from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.engine.handover import chooser
from nldc.runtime.engine.options import GenerateOptions
from nldc.runtime.engine.params import params_of
from nldc.runtime.engine.request import Asked, Request
from nldc.runtime.engine.text import Text
from nldc.runtime.errors import PromptError
from nldc.runtime.step.logprobs import MOST_TOP
from nldc.runtime.step.params import Param
from nldc.runtime.step.thinking import ThinkingLimit, thinking_limit
from nldc.runtime.text.chat import Chat, Message, conversation, written
from nldc.runtime.text.endings import Endings, Eos, chosen_ends, find_endings
from nldc.runtime.text.thinking_marks import thinking_marks
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.vision.eye import Eye
from nldc.runtime.vision.messages import check_no_marks, taken_out
from nldc.runtime.vision.picture import Picture, PicturePrompt
from nldc.runtime.vision.rows import START, Marks, Pictured, expanded, length_of
from nldc.runtime.whole_numbers import as_whole, shown, whole

Prompt = (
    str | Iterable[int] | Tensor | Sequence[Message] | PromptEmbeddings | PicturePrompt | Pictured
)
"""Text, token ids, embeddings, pictures with text, or with `chat` a conversation's messages."""

AsRead = PromptEmbeddings | Pictured | Sequence[Any]
"""A prompt whose texts have become tokens, each of which is still to be checked."""


class Reader:
    """Reads prompts and options for one model: `folder` is its checkpoint's, if it has one.

    `strategies` are the names that a request may choose from, `adapters` those that are there,
    `params` what it may bring. `embed` gives the embeddings [n, hidden] of ids [n], `eye` the rows
    of pictures.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: Path | None,
        strategies: Sequence[str],
        adapters: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
        *,
        embed: Callable[[Tensor], Tensor],
        eye: Eye,
        params: Sequence[Param] = (),
    ) -> None:
        self.config = config
        self.folder = folder
        self.strategies = tuple(strategies)
        self.adapters = tuple(adapters)
        self.params = tuple(params)
        self._device = device
        self._dtype = dtype
        self._embed = embed
        self.eye = eye
        self._marks: Marks | None = None
        self._tokenizer: Tokenizer | None = None
        self._endings: Endings | None = None

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
    def any_tokenizer(self) -> Tokenizer | None:
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
                self.any_tokenizer,
            )
            self._endings.warn(self.folder)
        return self._endings

    def requests(
        self,
        prompts: Sequence[Prompt],
        options: Sequence[GenerateOptions],
        chat: Chat | None = None,
        keys: Sequence[int] | None = None,
        *,
        as_text: bool = False,
    ) -> list[Request]:
        """Return the requests of one call, in order; `options` and `keys` have one for each prompt.

        `keys` go before the options' own, which go before the prompts' places.
        `as_text`: without a tokenizer there is no use in them.

        Raises:
            PromptError: a prompt or an option cannot be used.
            TokenizerError: text is asked for and the checkpoint has no tokenizer.
        """
        resolved: dict[int, Callable[..., Request]] = {}
        requests = []
        for place, (prompt, asked) in enumerate(zip(prompts, options, strict=True)):
            if id(asked) not in resolved:
                resolved[id(asked)] = self._resolved(asked, len(prompts), as_text=as_text)
            key = asked.sequence_id if keys is None else keys[place]
            requests.append(resolved[id(asked)](prompt, place, chat, key))
        return requests

    def _resolved(
        self, asked: GenerateOptions, count: int, *, as_text: bool
    ) -> Callable[[Prompt, int, Chat | None, int | None], Request]:
        """Return what makes requests of a prompt, its place, `chat` and its key."""
        sampling = sampling_of(
            asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.seed, asked.processors
        )
        limit = self._limit(asked)
        logprobs = _logprobs(asked)
        least = 1 if logprobs.prompt is None else 0
        hint = "use a whole number above 0" if least else "use a whole number, 0 for none"
        longest = whole(asked.max_new_tokens, "max_new_tokens", range(least, 2**63), hint)
        priority = whole(asked.priority, "priority", KEYS, "use a whole number of 64 bits")
        if asked.sequence_id is not None:
            whole(asked.sequence_id, "the sequence id", KEYS, "give a whole number of 64 bits")
        ends = self.endings.ids if asked.eos is None else self._ends(asked.eos)
        stops = stops_of(asked.stop)
        sampling.check()
        choose = chooser(asked.strategy, count, self.strategies)
        params = params_of(asked.params, self.params)
        has_text = bool(as_text or stops) or self.any_tokenizer is not None
        keeps_special = not asked.skip_special_tokens

        def request(prompt: Prompt, place: int, chat: Chat | None, key: int | None) -> Request:
            read = self.read(prompt, chat, f"prompt {place}")
            tokens = self._tokens(read, f"prompt {place}", longest)
            _check_logprobs(logprobs, read, tokens, place)
            text = None
            if has_text:
                text = Text(self.tokenizer, stops, keep_special_tokens=keeps_special)
            return Request(
                place=place,
                prompt=tokens,
                key=place if key is None else int(key),
                max_new_tokens=longest,
                eos=ends,
                choose=choose,
                sampling=sampling,
                embeddings=self._embeddings(read),
                sight=partial(self._seen, read) if isinstance(read, Pictured) else None,
                adapters=self.adapters,
                thinking=limit,
                thought=None if limit is None else _thought(limit, read, tokens),
                text=text,
                priority=priority,
                asked_logprobs=logprobs,
                params=params,
            )

        return request

    def _limit(self, asked: GenerateOptions) -> ThinkingLimit | None:
        tokens, end, start = numbers_of(
            asked.max_thinking_tokens, asked.end_think_token_id, asked.start_think_token_id
        )
        config = self.config
        if tokens is not None:
            known = config.end_think_token_id
            start, end = thinking_marks(known, self.any_tokenizer, start, end)
        return thinking_limit(tokens, end, config.vocab_size, config.mask_token_id, start)

    def _ends(self, eos: Eos) -> tuple[int, ...]:
        given = [eos] if isinstance(eos, str) else ends_of(eos)
        by_text = any(isinstance(end, str) for end in given)
        tokenizer = self.any_tokenizer if by_text else None
        return chosen_ends(given, tokenizer, self.config.vocab_size)

    def _embeddings(self, prompt: AsRead) -> Tensor | None:
        if not isinstance(prompt, PromptEmbeddings):
            return None
        return prompt.embeddings.detach().to(self._device, self._dtype, copy=True)

    def _seen(self, prompt: Pictured) -> tuple[Tensor, Known]:
        """Return the rows [P, hidden] of a prompt with pictures, and what names them.

        Raises:
            PromptError: a picture's file is damaged.
            CheckpointError: the vision part cannot be used.
        """
        tokens = torch.tensor(prompt.tokens, dtype=torch.int64, device=self._device)
        contents: dict[int, bytes] = {}
        with torch.inference_mode():
            rows = self._embed(tokens).to(self._dtype)
            for picture, places in zip(prompt.pictures, prompt.rows, strict=True):
                seen = self.eye.see(picture)
                rows[torch.tensor(places, device=self._device)] = seen.rows
                contents |= dict.fromkeys(places, seen.digest)
        return rows, Known(prompt.tokens, contents)

    # Conversations and pictures

    def rendered(
        self, messages: str | Sequence[Any], name: str, chat: Chat
    ) -> tuple[str, list[Picture]]:
        """Return the text of a conversation and its pictures, each a start in the text.

        Raises:
            PromptError: it is none, its pictures cannot be used, or the template refuses it.
            TokenizerError: there is no template, or it has a mistake.
        """
        plain, pictures = taken_out(conversation(messages, name), name)
        if pictures:
            self._marks_of_pictures()
            check_no_marks([plain, chat.system, chat.tools, chat.variables], name)
        text = written(self.tokenizer, plain, name, chat)
        if pictures and text.count(START) != len(pictures):
            raise PromptError(
                f"{name} has {len(pictures)} pictures, and the chat template writes {START} "
                f"{text.count(START)} times",
                "use the template of the released vision-language model",
            )
        return text, pictures

    def placed(
        self, tokens: Sequence[int], pictures: Sequence[Picture], name: str
    ) -> Sequence[int] | Pictured:
        """Return a prompt in which each start has become the rows of its picture.

        Raises:
            PromptError: it is longer than the model's context.
        """
        if not pictures:
            return tokens
        marks = self._marks_of_pictures()
        length = self.length(tokens, pictures)
        if length >= self.config.context:
            raise PromptError(
                f"{name} has {length} tokens with its pictures, and the model's context is "
                f"{self.config.context}",
                "give fewer pictures, or smaller ones",
            )
        cells = [self.eye.cells(each) for each in pictures]
        return expanded(tokens, pictures, cells, marks, self.config.mask_token_id)

    def length(self, tokens: Sequence[int], pictures: Sequence[Picture]) -> int:
        """Return how many tokens a prompt has with the rows of its pictures, see `placed`."""
        rows = sum(length_of(*self.eye.cells(each)) for each in pictures)
        return len(tokens) - len(pictures) + rows

    def _marks_of_pictures(self) -> Marks:
        """Return the tokens of pictures.

        Raises:
            PromptError: the model reads none.
            TokenizerError: the tokenizer has no tokens for them.
        """
        if self._marks is None:
            self.eye.check()
            marks = Marks.of(self.tokenizer)
            for token in (marks.start, marks.pad, marks.line, marks.end):
                self.check_token(token, "the tokenizer")
            self._marks = marks
        return self._marks

    def read(self, prompt: Prompt, chat: Chat | None, name: str) -> AsRead:
        """Return a prompt whose text, if it has any, has become tokens."""
        given: Any = prompt
        if isinstance(prompt, PicturePrompt):
            prompt.check(name)
            if chat is not None:
                given = [prompt.message()]
        elif isinstance(prompt, PromptEmbeddings):
            prompt.check(self.config.hidden_size, name)
            if chat is not None:
                raise PromptError(
                    f"{name} holds embeddings, which pass no chat template",
                    "embed the rendered template with Decoder.embed, and leave chat out",
                )
            return prompt
        elif isinstance(prompt, Pictured):
            return prompt
        if chat is not None:
            text, pictures = self.rendered(given, name, chat)
            return self.placed(
                self._encoded(text, name, self.tokenizer.encode_chat), pictures, name
            )
        if isinstance(prompt, PicturePrompt):
            pictures = list(prompt.pictures)
            texts = [each for each in prompt.parts if isinstance(each, str)]
            if pictures:
                self._marks_of_pictures()
                check_no_marks(texts, name)
            text = "".join(each if isinstance(each, str) else START for each in prompt.parts)
            return self.placed(self._encoded(text, name, self.tokenizer.encode), pictures, name)
        if isinstance(prompt, str):
            return self._encoded(prompt, name, self.tokenizer.encode)
        return token_ids(prompt, name)

    def _tokens(self, prompt: AsRead, name: str, max_new_tokens: int) -> tuple[int, ...]:
        tokens: Sequence[object]
        if isinstance(prompt, PromptEmbeddings):
            unknown = [self.config.mask_token_id] * len(prompt.embeddings)
            tokens = unknown if prompt.tokens is None else token_ids(prompt.tokens, name)
        else:
            tokens = prompt.tokens if isinstance(prompt, Pictured) else prompt
        if not tokens:
            raise PromptError(f"{name} is empty", "give at least one token to continue")
        checked = tuple(self.check_token(token, name) for token in tokens)
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

    def check_token(self, token: object, name: str) -> int:
        """Return a token id of this model.

        Raises:
            PromptError: it is none; `name` says where it was found.
        """
        number = as_whole(token)
        if number is None:
            raise PromptError(f"{name} holds {shown(token)}", "token ids are whole numbers")
        if not 0 <= number < self.config.vocab_size:
            raise PromptError(
                f"{name} holds the token id {number}",
                f"ids of this model lie between 0 and {self.config.vocab_size - 1}",
            )
        return number


def _logprobs(asked: GenerateOptions) -> Asked:
    """Return which log-probabilities are asked for.

    Raises:
        PromptError: a number is outside its range, or has no effect.
    """
    hint = f"use 0 to {MOST_TOP}: how many of the likeliest tokens to tell beside each, or None"

    def top(value: object, name: str) -> int | None:
        return None if value is None else whole(value, name, range(MOST_TOP + 1), hint)

    tokens = top(asked.logprobs, "logprobs")
    prompt = top(asked.prompt_logprobs, "prompt_logprobs")
    name, where = "prompt_logprobs_from", "use the number of a token, from 0"
    first = whole(asked.prompt_logprobs_from, name, range(2**63), where)
    if first != 1 and prompt is None:
        raise PromptError(
            f"{name} {first} has no effect without prompt_logprobs", "give both, or neither"
        )
    return Asked(tokens, prompt, first)


def _check_logprobs(asked: Asked, prompt: AsRead, tokens: Sequence[int], place: int) -> None:
    """Raise PromptError unless a prompt has the log-probabilities that are asked for."""
    if asked.prompt is None:
        return
    if isinstance(prompt, PromptEmbeddings | Pictured):
        held = "pictures" if isinstance(prompt, Pictured) else "embeddings"
        raise PromptError(
            f"prompt {place} holds {held}, which have no log-probabilities",
            "leave prompt_logprobs out; those of the tokens that follow are there: logprobs",
        )
    if asked.first > max(len(tokens), 1):
        raise PromptError(
            f"prompt_logprobs_from {asked.first} lies behind the {len(tokens)} tokens of "
            f"prompt {place}",
            f"use {len(tokens)} or less",
        )


def _thought(limit: ThinkingLimit, prompt: AsRead, tokens: Sequence[int]) -> int | None:
    """Return where the thought at a prompt's end begins: with the answer if nobody can know."""
    unknown = isinstance(prompt, PromptEmbeddings) and prompt.tokens is None
    return len(tokens) - 1 if unknown else limit.thought(tokens)


def chat_of(
    chat: bool,
    system: str | None,
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None,
    template: str | Path | None,
) -> Chat | None:
    """Return how conversations become prompts, None if prompts are none.

    Raises:
        PromptError: something is given for a template, and there is none to give it to.
    """
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


def is_conversation(prompts: object) -> bool:
    """Whether prompts are the messages of one conversation."""
    if not isinstance(prompts, Sequence) or isinstance(prompts, str) or not prompts:
        return False
    return all(isinstance(message, Mapping) for message in prompts)

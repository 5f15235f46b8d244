"""The options of a request in one place: their names, their defaults, what each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from nldc.runtime.engine.handover import Choice
from nldc.runtime.errors import PromptError
from nldc.runtime.step.processors import TokenProcessor
from nldc.runtime.step.sampling import Processor
from nldc.runtime.text.endings import Eos
from nldc.runtime.whole_numbers import shown

AnyProcessor = Processor | TokenProcessor
Stop = str | Iterable[str] | None
Processors = AnyProcessor | Iterable[AnyProcessor] | None
Params = Mapping[str, int | float] | None


@dataclass(frozen=True)
class GenerateOptions:
    """How one prompt is continued; every `generate` and `stream` takes these by name.

    `eos` holds ids or texts of tokens, and replaces what the checkpoint's files name ((): none). A
    text ends before the first of the `stop` strings, which may name special tokens; these are left
    out of it unless `skip_special_tokens` is False. `processors` change logits before anything is
    chosen. Not more than `max_thinking_tokens` tokens of a thought come before
    `end_think_token_id`; where the prompt closes its thoughts, none is begun. The tokens that begin
    and end one are the checkpoint's unless given. `strategy` is the name of one, or a function of
    `Progress` that names one whenever there are new tokens (None: the first); a list has the names
    for the prompts of a call. Of waiting requests
    the one with the highest `priority` comes first. `sequence_id` keys the sampling noise (None:
    the prompt's place among those of its call). `logprobs` asks for the log-probability of each
    token, with as many of the likeliest ones beside it; `prompt_logprobs` for those of the prompt's
    tokens from number `prompt_logprobs_from` on, with which `max_new_tokens` may be 0. `params` are
    values by name of the params that the strategy leaves to requests (`runtime: true`).
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    stop: Stop = ()
    eos: Eos | None = None
    skip_special_tokens: bool = True
    processors: Processors = ()
    max_thinking_tokens: int | None = None
    end_think_token_id: int | None = None
    start_think_token_id: int | None = None
    strategy: Choice = None
    priority: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1
    sequence_id: int | None = None
    params: Params = None

    def __post_init__(self) -> None:
        for name in ("stop", "eos", "processors"):
            value = getattr(self, name)
            if hasattr(value, "__next__"):  # a generator would be empty when asked again
                object.__setattr__(self, name, tuple(value))


class RequestOptions(TypedDict, total=False):
    """The fields of `GenerateOptions` as keywords, for the signatures that take them."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int
    stop: Stop
    eos: Eos | None
    skip_special_tokens: bool
    processors: Processors
    max_thinking_tokens: int | None
    end_think_token_id: int | None
    start_think_token_id: int | None
    strategy: Choice
    priority: int
    logprobs: int | None
    prompt_logprobs: int | None
    prompt_logprobs_from: int
    params: Params


def options_of(
    call: str, given: object, keywords: Mapping[str, Any], count: int
) -> list[GenerateOptions]:
    """Return the options of each of `count` prompts.

    `given` is what a call's `options` were: None, one for all, or one for each; `keywords` replace
    fields of it. `call` is the function that was called.

    Raises:
        TypeError: a keyword is none of the options.
        PromptError: `given` is something else, or not one for each.
    """
    for name in keywords:
        if name not in _FIELDS:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
    if given is None:
        return [GenerateOptions(**keywords)] * count
    hint = "give a GenerateOptions, or a list with one for each prompt"
    if isinstance(given, GenerateOptions):
        return [replace(given, **keywords)] * count
    each = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not each or not all(isinstance(one, GenerateOptions) for one in each):
        raise PromptError(f"options {shown(given)} is not allowed", hint)
    if len(each) != count:
        raise PromptError(f"{len(each)} options for {count} prompts", hint)
    return [replace(one, **keywords) for one in each]


_FIELDS = frozenset(field.name for field in fields(GenerateOptions))

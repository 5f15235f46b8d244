"""What answers hold, for the application's OpenAPI document; nothing is made of these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Finish = Literal["stop", "length", "abort"]


class Part(BaseModel):
    """Part of an answer, which holds nothing else."""

    model_config = ConfigDict(extra="forbid")


class Problem(Part):
    """What went wrong, and with which field of the body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Part):
    """The answer to what is refused or fails."""

    error: Problem


class ReasoningTokens(Part):
    """How many of the completion's tokens were thoughts."""

    reasoning_tokens: int


class Usage(Part):
    """How many tokens a call took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: ReasoningTokens | None = None


class Answer(Part):
    """What both kinds of answers have; `metrics` where it is asked for."""

    id: str
    created: int
    model: str
    usage: Usage
    metrics: dict[str, Any] | None = None


class LikelyToken(Part):
    """A token that is among the likeliest; `bytes` are what it spells."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(LikelyToken):
    """A token of a chat's answer."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(Part):
    """The log-probabilities of a chat's choice."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(Part):
    """The model's turn."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None = None


class ChatChoice(Part):
    """One of the answers of a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatAnswer(Answer):
    """The answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionLogprobs(Part):
    """The log-probabilities of a completion's choice, token by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Part):
    """One of the texts of a completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish


class CompletionAnswer(Answer):
    """The answer to prompts."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Brought(Part):
    """A param that requests may bring in `strategy_params`."""

    type: Literal["int", "float"]
    default: int | float
    min: int | float
    max: int | float
    help: str


class Offered(Part):
    """A strategy of the model."""

    guarantee: str
    summary: str
    params: dict[str, Brought]


class Own(Part):
    """What only this server says of a model."""

    route: str
    strategies: dict[str, Offered]


class Model(Part):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    nldc: Own


class ModelList(Part):
    """The one model."""

    object: Literal["list"]
    data: list[Model]


class Status(Part):
    """How the server does."""

    status: str


class Version(Part):
    """Which nldc this is."""

    version: str

"""What an operator decides about a server, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How one model is served.

    Of the model: `model_name` is what requests call it, `chat_template` that of `Chat.template`,
    `route` which strategy a request that names none is decoded by, see `routing.parse`,
    `temperature` what a request without one gets, `chat_tokens` how many new tokens a chat that
    does not say may get at most, `completion_tokens` the same of a completion.

    Limits: bytes of a body, tokens of a prompt and new tokens of an answer (None: the model's
    context), sequences of one call (prompts times `n`), stop strings and their characters, numbers
    of log-probabilities that one call may come to, `pictures` of one conversation. Files of
    pictures are read from below `picture_folder`, and none without one. `live` sequences are
    decoded at a time and `queue` wait; `keep_prefixes` is the engine's. A call may take `deadline`
    seconds, and its body `body_seconds` to arrive; a server that is told to end waits `drain`
    seconds for the calls that run. A client that leaves `unread` pieces of news lying is given up.

    Who may ask: `api_keys`, none for everybody; `open_metrics` lets anybody read the metrics.
    `cors_origins` are pages of other origins that browsers let in. `special_tokens` allows texts of
    messages to spell special tokens. `log_prompts` writes prompts and answers to the log.
    """

    model_name: str = "demo"
    chat_template: str | Path | None = None
    route: str | None = None
    temperature: float = 1.0
    chat_tokens: int = 1024
    completion_tokens: int = 16

    body_bytes: int = 4 << 20
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    sequences: int = 128
    stops: int = 16
    stop_characters: int = 256
    logprobs: int = 1 << 20
    pictures: int = 16
    picture_folder: str | Path | None = None
    live: int = 32
    queue: int = 256
    keep_prefixes: str | int | None = None
    deadline: float = 600.0
    body_seconds: float = 30.0
    drain: float = 30.0
    unread: int = 1024

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    open_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    special_tokens: bool = False
    log_prompts: bool = False

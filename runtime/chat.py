"""The checkpoint's chat template, rendered in a sandbox that can neither call out nor change data.

The template is chat_template.jinja, or the `chat_template` of tokenizer_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.sandbox import ImmutableSandboxedEnvironment

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.tokenizer import Tokenizer

TEMPLATE = "chat_template.jinja"
Message = Mapping[str, Any]
"""One turn of a conversation: `role` and `content`."""


class _RefusedError(Exception):
    """What a template raises about the conversation it is given."""


def chat_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Any], name: str) -> list[int]:
    """Return the token ids of a conversation, ready for the assistant's answer.

    `prompt` is a user's message or a list of messages; `name` names it in errors.

    Raises:
        PromptError: it is neither, or the template refuses it.
        TokenizerError: there is no template, or it has a mistake.
    """
    if isinstance(prompt, str):
        messages: list[Any] = [{"role": "user", "content": prompt}]
    else:
        messages = list(prompt)
    if not messages or not all(
        isinstance(message, Mapping) and "role" in message and "content" in message
        for message in messages
    ):
        raise PromptError(
            f"{name} is no conversation", "give text, or messages with a role and a content each"
        )
    return tokenizer.encode(render(tokenizer, messages, name), special=False)


def render(tokenizer: Tokenizer, messages: Sequence[Message], name: str = "prompt") -> str:
    """Return the text that the template makes of `messages`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    special = {
        key: value["content"] if isinstance(value, Mapping) else value
        for key, value in tokenizer.settings.items()
        if key.endswith("_token") and isinstance(value, str | Mapping)
    }
    try:
        template = environment.from_string(_template(tokenizer))
        return template.render(messages=list(messages), add_generation_prompt=True, **special)
    except _RefusedError as problem:
        raise PromptError(f"{name}: {problem}", "see the model's chat template") from problem
    except Exception as problem:  # a template can make Python raise anything
        raise TokenizerError(
            f"{tokenizer.folder}: the chat template fails: {problem}", "download it again"
        ) from problem


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


def _template(tokenizer: Tokenizer) -> str:
    path = tokenizer.folder / TEMPLATE
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = tokenizer.settings.get("chat_template")
    if isinstance(template, str):
        return template
    raise TokenizerError(
        f"{tokenizer.folder} has no chat template", f"add {TEMPLATE}, or do not ask for chat"
    )

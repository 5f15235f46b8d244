"""The checkpoint's chat template, rendered in a sandbox that can neither call out nor change data.

The template is chat_template.jinja, or the `chat_template` of tokenizer_config.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.tokenizer import Tokenizer

TEMPLATE = "chat_template.jinja"
SECONDS = 10.0
"""The longest that a template may take."""
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
    text = render(tokenizer, messages, name)
    if not text:
        raise PromptError(
            f"{name} is empty: the chat template writes nothing", "see the model's chat template"
        )
    return tokenizer.encode(text, special=False)


def render(tokenizer: Tokenizer, messages: Sequence[Message], name: str = "prompt") -> str:
    """Return the text that the template makes of `messages`."""
    environment = _Environment(
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
    source = _template(tokenizer)
    try:
        with _within(SECONDS):
            template = environment.from_string(source)
            return template.render(messages=list(messages), add_generation_prompt=True, **special)
    except _RefusedError as problem:
        raise PromptError(f"{name}: {problem}", "see the model's chat template") from problem
    except Exception as problem:  # a template can make Python raise anything
        raise TokenizerError(
            f"{tokenizer.folder}: the chat template fails: {problem or type(problem).__name__}",
            "download it again",
        ) from problem


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which bounds neither time nor the size of numbers, without powers."""

    intercepted_binops = frozenset(("**",))

    def call_binop(self, _context: Context, operator: str, _left: Any, _right: Any) -> Any:
        raise SecurityError(f"`{operator}` is not allowed")


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Stop Python code that runs longer: a template may loop for ever."""
    end = time.monotonic() + seconds

    def trace(_frame: FrameType, _event: str, _arg: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError(f"it takes longer than {seconds:g} s")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


def _template(tokenizer: Tokenizer) -> str:
    path = tokenizer.folder / TEMPLATE
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as problem:
            raise TokenizerError(f"{path} cannot be read: {problem}", "download it again") from None
    template = tokenizer.settings.get("chat_template")
    if isinstance(template, str):
        return template
    raise TokenizerError(
        f"{tokenizer.folder} has no chat template", f"add {TEMPLATE}, or do not ask for chat"
    )

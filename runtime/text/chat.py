"""Conversations become text by the checkpoint's chat template, rendered as transformers does it.

A checkpoint may have several templates. `default` is chat_template.jinja, the others are the files
of the folder additional_chat_templates. Without such files they are the `chat_template` of
tokenizer_config.json, or else of chat_template.json: one template, or several by name. The template
runs in a process of its own; see `template_process`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.text.template_process import PROCESS, CannotStartError, TemplateProcessError
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.runtime.text.tokenizer_files import CONFIG, read_object, read_text

TEMPLATE = "chat_template.jinja"
NO_TEMPLATE = (
    f"add {TEMPLATE}, give a template (chat_template, or --chat-template FILE), "
    "or do not ask for chat"
)
FOLDER = "additional_chat_templates"
PROCESSOR_TEMPLATE = "chat_template.json"
DEFAULT, WITH_TOOLS = "default", "tool_use"
SECONDS = 10.0
"""The longest that a template may take."""
Message = Mapping[str, Any]
"""One turn of a conversation: `role` and `content`."""
TAKEN = ("messages", "tools")


@dataclass(frozen=True)
class Chat:
    """How conversations become prompts.

    `system` is a message that begins each. `tools` are JSON schemas of what the model may call.
    `variables` are what the template knows besides, such as `enable_thinking`. `template` names one
    of the checkpoint's, is the path of a file, or a template itself. None: the one named `default`,
    or `tool_use` if there are tools.
    """

    system: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    template: str | Path | None = None

    def check(self) -> None:
        """Raise PromptError unless every option is what it should be."""
        if self.system is not None and not isinstance(self.system, str):
            raise PromptError(f"system {self.system!r} is not allowed", "give the message's text")
        tools = self.tools
        if tools is not None and (
            isinstance(tools, str | Mapping)
            or not isinstance(tools, Sequence)
            or not all(isinstance(tool, Mapping) for tool in tools)
        ):
            raise PromptError(
                "tools are not a list of JSON schemas",
                'give [{"type": "function", "function": {"name": …, "parameters": …}}]',
            )
        if not isinstance(self.variables, Mapping) or not all(
            isinstance(name, str) for name in self.variables
        ):
            raise PromptError(
                f"template_variables {self.variables!r} is not allowed", "give values by name"
            )
        for name in TAKEN:
            if name in self.variables:
                raise PromptError(
                    f"the template variable `{name}` has an option of its own",
                    "give the messages as the prompt, and tools as tools",
                )
        if self.template is not None and not isinstance(self.template, str | Path):
            raise PromptError(
                f"chat_template {self.template!r} is not allowed", "give a name or a file"
            )


def chat_prompt(
    tokenizer: Tokenizer, prompt: str | Sequence[Any], name: str, chat: Chat | None = None
) -> list[int]:
    """Return the token ids of a conversation, ready for the assistant's answer.

    `prompt` is a user's message or a list of messages; `name` names it in errors. What a tokenizer
    puts before every text, such as BOS, goes before this one, once.

    Raises:
        PromptError: it is neither, or the template refuses it, or does not know an option.
        TokenizerError: there is no template, or it has a mistake.
    """
    return tokenizer.encode_chat(chat_text(tokenizer, prompt, name, chat))


def chat_text(
    tokenizer: Tokenizer, prompt: str | Sequence[Any], name: str, chat: Chat | None = None
) -> str:
    """Return the text of a conversation, as `chat_prompt` encodes it."""
    return written(tokenizer, conversation(prompt, name), name, chat)


def written(
    tokenizer: Tokenizer, messages: Sequence[Message], name: str, chat: Chat | None = None
) -> str:
    """Return the text of messages; raises PromptError where the template writes none."""
    text = render(tokenizer, messages, name, chat)
    if not text:
        raise PromptError(
            f"{name} is empty: the chat template writes nothing", "see the model's chat template"
        )
    return text


def conversation(prompt: str | Sequence[Any], name: str) -> list[Message]:
    """Return the messages of a prompt.

    Raises:
        PromptError: it is neither a text nor a list of messages.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    if not messages or not all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and ("content" in message or "tool_calls" in message)
        for message in messages
    ):
        raise PromptError(
            f"{name} is no conversation", "give text, or messages with a role and a content each"
        )
    return messages


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    name: str = "prompt",
    chat: Chat | None = None,
) -> str:
    """Return the text that the template makes of `messages`."""
    chat = chat or Chat()
    chat.check()
    if chat.system is not None:
        if messages[0]["role"] == "system":
            raise PromptError(
                f"{name} begins with a system message of its own", "leave out one of the two"
            )
        messages = [{"role": "system", "content": chat.system}, *messages]
    special = {
        key: value["content"] if isinstance(value, Mapping) else value
        for key, value in tokenizer.settings.items()
        if key.endswith("_token") and isinstance(value, str | Mapping)
    }
    variables = {
        "documents": None,
        "add_generation_prompt": True,
        **special,
        **chat.variables,
        "messages": messages,
        "tools": chat.tools,
    }
    asked = [*chat.variables, *(["tools"] if chat.tools is not None else [])]
    origin, source = _template(tokenizer, chat)
    request = {"template": source, "variables": _plain(variables, name), "asked": asked}
    try:
        answer = PROCESS.ask(request, SECONDS)
    except CannotStartError as problem:
        raise TokenizerError(
            f"the chat template cannot be rendered, as no process can be started for it: {problem}",
            "render it elsewhere, and give the text or its token ids as the prompt",
        ) from problem
    except TemplateProcessError as problem:
        raise _failed(origin, str(problem)) from problem
    if "refused" in answer:
        raise PromptError(f"{name}: {answer['refused']}", "see the model's chat template")
    if "unused" in answer:
        raise _unused(origin, answer["unused"], answer["known"])
    if "failed" in answer:
        line = answer["line"]
        raise _failed(origin if line is None else f"{origin}:{line}", answer["failed"])
    return str(answer["text"])


def _failed(origin: str, problem: str) -> TokenizerError:
    return TokenizerError(
        f"{origin}: the chat template fails: {problem}",
        "mend it, or choose another with the option chat-template",
    )


def _unused(origin: str, unused: Sequence[str], known: Sequence[str]) -> PromptError:
    own = [name for name in known if name not in TAKEN]
    near = get_close_matches(unused[0], own, 1)
    names = ", ".join(f"`{name}`" for name in unused)
    if near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = f"it uses {', '.join(own)}" if own else "leave it out"
    return PromptError(f"{origin}: the chat template makes no use of {names}", hint)


def _plain(variables: Mapping[str, Any], name: str) -> Any:
    """Return what a template is given as plain data.

    Raises:
        PromptError: something in it is no data.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, Sequence):
            return list(value)
        raise TypeError(f"it holds {value!r}")

    try:
        return json.loads(json.dumps(variables, default=convert))
    except (TypeError, ValueError, RecursionError) as problem:
        reason = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise PromptError(
            f"{name} cannot be given to the chat template: {reason}",
            "messages, tools and variables are JSON: texts, numbers, lists, objects, true or null",
        ) from None


def templates(tokenizer: Tokenizer) -> dict[str, tuple[str, str]]:
    """Return the checkpoint's templates by name, each with the place where it stands."""
    folder = tokenizer.folder
    found = {}
    text = read_text(folder / TEMPLATE)
    if text is not None:
        found[DEFAULT] = (str(folder / TEMPLATE), text)
    more = sorted((folder / FOLDER).glob("*.jinja")) if (folder / FOLDER).is_dir() else []
    for path in more:
        text = read_text(path)
        if text is not None:
            found[path.stem] = (str(path), text)
    if found:
        return found
    value = tokenizer.settings.get("chat_template")
    if value is not None:
        return _named(value, str(folder / CONFIG))
    path = folder / PROCESSOR_TEMPLATE
    value = read_object(path).get("chat_template")
    return {} if value is None else _named(value, str(path))


def _named(value: Any, origin: str) -> dict[str, tuple[str, str]]:
    """Return the templates of a `chat_template` in JSON: one, or several by name."""
    if isinstance(value, str):
        return {DEFAULT: (origin, value)}
    if isinstance(value, Mapping):
        value = [{"name": name, "template": template} for name, template in value.items()]
    found = {}
    for each in value if isinstance(value, list) else [None]:
        name, text = (each.get(k) if isinstance(each, Mapping) else None for k in _OF_TEMPLATE)
        if not isinstance(name, str) or not isinstance(text, str):
            raise TokenizerError(
                f"{origin}: chat_template is no template",
                'give a text, or a list of {"name": …, "template": …}',
            )
        found[name] = (f"{origin}: chat_template `{name}`", text)
    return found


_OF_TEMPLATE = ("name", "template")


def _template(tokenizer: Tokenizer, chat: Chat) -> tuple[str, str]:
    """Return the place of the template that is to be used, and the template."""
    own = templates(tokenizer)
    wanted = chat.template
    if wanted is not None:
        if isinstance(wanted, str) and wanted in own:
            return own[wanted]
        if isinstance(wanted, str) and ("{{" in wanted or "{%" in wanted):
            return "chat_template", wanted
        text = read_text(Path(wanted)) if "\0" not in str(wanted) else None
        if text is None:
            names = f"the checkpoint has {', '.join(own)}" if own else "the checkpoint has none"
            raise PromptError(
                f"there is no chat template `{wanted}`", f"give a name or a file; {names}"
            )
        return str(wanted), text
    if not own:
        raise TokenizerError(f"{tokenizer.folder} has no chat template", NO_TEMPLATE)
    if chat.tools is not None and WITH_TOOLS in own:
        return own[WITH_TOOLS]
    if DEFAULT not in own:
        raise TokenizerError(
            f"{tokenizer.folder} has several chat templates, and none is the default",
            f"choose with the option chat-template: {', '.join(own)}",
        )
    return own[DEFAULT]

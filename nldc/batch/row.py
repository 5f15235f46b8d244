"""What a row asks for: a prompt or a conversation, and options of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from nldc.batch.source import LONGEST
from nldc.runtime.errors import PromptError
from nldc.runtime.json_file import parse_json

PROMPTS = ("prompt", "messages", "token_ids")
GENERATION = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "eos"),
    *("max_thinking_tokens", "end_think_token_id", "start_think_token_id"),
    *("skip_special_tokens", "strategy", "sequence_id", "params"),
)
TEMPLATING = ("system", "tools", "template_variables")
_KNOWN = ("id", *PROMPTS, "images", *GENERATION, *TEMPLATING)
_HINT = 'write {"prompt": "…"}, {"messages": [{"role": "user", "content": "…"}]} or a list of ids'


@dataclass(frozen=True)
class Row:
    """A prompt (text, token ids, or messages where it `is_conversation`) and what it is given.

    `images` are files with pictures for a text, as the row has them.
    """

    prompt: Any
    is_conversation: bool
    generation: Mapping[str, Any]
    templating: Mapping[str, Any]
    images: Any = None


def name_of(data: object) -> str | None:
    """Return the `id` of a row's data as text, None if it has none.

    Raises:
        PromptError: it is neither text nor a whole number.
    """
    name = data.get("id") if isinstance(data, dict) else None
    if name is None or isinstance(name, str):
        return name
    if type(name) is int:
        return str(name)
    raise PromptError(f"id {name!r} is not allowed", "use a text or a whole number")


def data_of(line: bytes | None) -> object:
    """Return the data of a line.

    Raises:
        PromptError: it is too long, or no JSON.
    """
    if line is None:
        raise PromptError(f"the row is longer than {LONGEST >> 20} MiB", "shorten its prompt")
    try:
        return parse_json(line, once=True)
    except ValueError as problem:
        raise PromptError(f"the row is no JSON: {problem}", _HINT) from None


def row_of(data: object, *, may_have_more: bool = False) -> Row:
    """Return what the data of a row asks for; whether its values can be used is seen later.

    Raises:
        PromptError: it is no row, or has a key that means nothing and may not have more.
    """
    if isinstance(data, str | list):
        data = {"prompt": data}
    if not isinstance(data, dict):
        raise PromptError("the row holds no prompt", _HINT)
    for key in data:
        if key not in _KNOWN and not may_have_more:
            meant = get_close_matches(key, _KNOWN, 1)
            known = f"did you mean {meant[0]!r}?" if meant else "--ignore-other-keys passes over it"
            raise PromptError(f"the row has the unknown key {key!r}", known)
    given = [key for key in PROMPTS if data.get(key) is not None]
    if len(given) != 1:
        said = "no prompt" if not given else " and ".join(given)
        raise PromptError(f"the row has {said}", "give one of prompt, messages and token_ids")
    prompt = data[given[0]]
    is_text = isinstance(prompt, str)
    if not isinstance(prompt, list) and not (is_text and given[0] == "prompt"):
        raise PromptError(f"the row's {given[0]} is of another kind", _HINT)
    return Row(
        prompt,
        given[0] == "messages",
        {key: data[key] for key in GENERATION if key in data},
        {key: data[key] for key in TEMPLATING if data.get(key) is not None},
        data.get("images"),
    )

"""Options that commands share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from nldc.cli.completing import offer_brought, offer_devices, offer_params, offer_parts
from nldc.cli.output import loading_bar, start_torch
from nldc.runtime.errors import PromptError

Command = TypeVar("Command", bound=Callable[..., Any])


def number_of(text: str) -> int | float:
    """Return a number, whole where it is written so; raise ValueError if the text is none."""
    try:
        return int(text)
    except ValueError:
        return float(text)


class _Setting(click.ParamType[tuple[str, int | float]]):
    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | float]:
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        try:
            return name, number_of(text)
        except ValueError:
            self.fail(f"{text!r} is not a number", param, ctx)


class _Variable(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE whose value is JSON, or else text."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        if text in ("True", "False", "None"):
            json_text = {"True": "true", "False": "false", "None": "null"}[text]
            self.fail(f"{text!r} is a text in JSON; write {name}={json_text}", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            if text[:1] in ("{", "[", '"'):
                self.fail(f"{text!r} is not JSON", param, ctx)
            return name, text


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return the decorator that adds options to a command, in their order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


settings = click.option(
    "--set",
    "settings",
    type=_Setting(),
    multiple=True,
    shell_complete=offer_params,
    help="Give a param another value.",
)
limits = together(
    click.option(
        "--max-launches",
        type=click.IntRange(0),
        metavar="N",
        help="Refuse a strategy of which a step may launch more.",
    ),
    click.option(
        "--max-host-waits",
        type=click.IntRange(0),
        metavar="N",
        help="Refuse a strategy of which a step may let the host wait more often.",
    ),
    click.option(
        "--max-device-waits",
        type=click.IntRange(0),
        metavar="N",
        help="Refuse a strategy of which a step may let the device wait more often.",
    ),
)
params = together(
    settings,
    click.option(
        "--acceptance",
        type=click.Path(),
        metavar="FILE",
        help="Acceptance profile, as bench --write-acceptance writes it: masks are dealt by it, "
        "and tokens a second predicted.",
    ),
)
loading = together(
    click.option("--model", type=click.Path(), help="Checkpoint folder (default: the demo model)."),
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        help="Adapter folder, `auto` (the default: the checkpoint's) or `none`; NAME=FOLDER for "
        "each where a strategy declares several.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
        help="What the weights are computed in (default: the checkpoint's own).",
    ),
    click.option(
        "--device",
        shell_complete=offer_devices,
        help="cpu, cuda or cuda:N (default: a GPU if there is one).",
    ),
    click.option(
        "--backend",
        type=click.Choice(["torch", "triton", "numba"]),
        help="Who computes layers: torch, or kernels of triton on a GPU, of numba on a CPU "
        "(default: kernels, where there are some for the weights).",
    ),
    click.option(
        "--kv-memory",
        metavar="SIZE",
        help="The most that keys and values may take, as 512MiB, 2GiB or 50% of what is free "
        "(default: a share of that).",
    ),
    click.option(
        "--graphs/--no-graphs",
        default=None,
        help="Capture steps on a GPU and replay them (default: where they can be).",
    ),
)
sampling = together(
    click.option(
        "--max-new-tokens",
        type=int,
        default=128,
        show_default=True,
        help="The most tokens of an answer.",
    ),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."),
    click.option("--top-k", type=int, help="Sample among the K likeliest tokens."),
    click.option(
        "--top-p", type=float, help="Sample among the likeliest tokens that have this share."
    ),
    click.option(
        "--min-p", type=float, help="Sample among tokens with this share of the likeliest's."
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Key of the sampling noise: the same seed, the same text.",
    ),
    click.option(
        "--param",
        "brought",
        type=_Setting(),
        multiple=True,
        shell_complete=offer_brought,
        help="Value of a param that the strategy leaves to requests; may be given again.",
    ),
    click.option(
        "--max-thinking-tokens", type=int, help="End thinking after so many tokens, in any mode."
    ),
    click.option(
        "--end-think-token-id", type=int, help="Token that ends thinking (default: the model's)."
    ),
    click.option(
        "--start-think-token-id",
        type=int,
        help="Token that begins thinking (default: the model's).",
    ),
    click.option(
        "--eos",
        multiple=True,
        metavar="ID|TEXT",
        help="Token that ends a text, by id or by its text, instead of those that the checkpoint's "
        "files name; may be given again.",
    ),
)
text_ends = together(
    click.option(
        "--stop",
        multiple=True,
        help="End before this text, in which special tokens may stand; may be given again.",
    ),
    click.option(
        "--keep-special-tokens", is_flag=True, help="Leave special tokens in, such as <|im_end|>."
    ),
)
templating = together(
    click.option("--system", metavar="TEXT", help="Message that begins each conversation."),
    click.option(
        "--tools",
        "tools_file",
        type=click.Path(),
        metavar="FILE",
        help="JSON file with a list of tools that the model may call.",
    ),
    click.option(
        "--template-var",
        "template_variables",
        type=_Variable(),
        multiple=True,
        help="Give the chat template a variable, as in enable_thinking=true; the value is JSON, or "
        "else text; may be given again.",
    ),
    click.option(
        "--chat-template",
        metavar="NAME|FILE",
        help="Chat template to use: one of the checkpoint's by its name, or a file.",
    ),
)


def prompts_and_count(count: int) -> Callable[[Command], Command]:
    """Return the decorator that adds where prompts come from, and how many: `count` by default."""
    return together(
        click.option(
            "--prompts", type=click.Path(), help="File with a prompt a line (text, ids, or JSON)."
        ),
        click.option(
            "--chat",
            is_flag=True,
            help="Each prompt is a message, or a conversation, and goes through the chat template.",
        ),
        templating,
        click.option(
            "--count",
            type=click.IntRange(1),
            default=count,
            show_default=True,
            help="How many prompts.",
        ),
    )


prompt_set = together(
    prompts_and_count(8),
    click.option(
        "--batch", "batch_size", type=click.IntRange(1), help="Sequences at a time (default: all)."
    ),
)
strategy = click.option(
    "--strategy",
    shell_complete=offer_parts,
    help="Of an artifact with several: NAME, or NAME:TOKENS,NAME to switch after so many tokens.",
)
Settings = Sequence[tuple[str, int | float]]
_LOADING = ("dtype", "device", "backend", "kv_memory", "graphs")
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(.+)", re.DOTALL)


_SAMPLING = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"),
    *("max_thinking_tokens", "end_think_token_id", "start_think_token_id"),
)


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda value: value > 0, "use a whole number above 0"),
    "temperature": (lambda value: 0 <= value < math.inf, "use 0 (greedy) or more"),
    "top_k": (lambda value: value > 0, "use a whole number above 0"),
    "top_p": (lambda value: 0 < value <= 1, "use a number in (0, 1]"),
    "min_p": (lambda value: 0 <= value <= 1, "use a number in [0, 1]"),
    "seed": (lambda value: 0 <= value < 2**64, "use 0 to 2**64 - 1"),
    "logprobs": (lambda value: 0 <= value <= 20, "use 0 to 20"),
}
_OPTIONS = {"batch_size": "--batch", "template_variables": "--template-var"}
_ARGUMENT = re.compile(
    r"^(?:temperature|seed|stop|eos)(?= )|(?<![\w'\"`./-])(?:max_new_tokens|top_[kp]|min_p"
    r"|max_thinking_tokens|(?:start|end)_think_token_id|batch_size|template_variables)(?![\w'\"`.])"
)
"""Arguments of `generate` as messages name them; not what is quoted, or part of a path."""


def limits_of(options: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits that the options set, by the name that a strategy file has for each."""
    names = ("launches", "host_waits", "device_waits")
    given = {name: options[f"max_{name}"] for name in names}
    return {name: most for name, most in given.items() if most is not None}


def settings_of(files: Sequence[str], settings: Settings, acceptance: str | None) -> dict[str, Any]:
    """Return the values of params that the options give to strategy files.

    Raises:
        StrategyError: there is an acceptance profile, and no file has a param for it.
        ProfileError: the profile cannot be read.
    """
    if acceptance is None:
        return dict(settings)
    from nldc import api
    from nldc.acceptance import read_acceptance

    return {**dict(settings), **api.by_profile(files, read_acceptance(acceptance).profile)}


def loading_of(options: Mapping[str, Any], *, traced: bool = False) -> dict[str, Any]:
    """Return the options that go to `Decoder.from_checkpoint`; begins what loads a model.

    Raises:
        UsageError: steps are to be traced and captured.
    """
    loading: dict[str, Any] = {name: options[name] for name in _LOADING}
    if traced:
        if loading["graphs"]:
            raise click.UsageError(
                "steps that are traced are launched one by one, without --graphs"
            )
        loading["graphs"] = False
    start_torch()
    bar = loading_bar()
    if bar is not None:
        click.get_current_context().call_on_close(bar.stop)
    return {**loading, "adapter": _adapter(options["adapters"]), "progress": bar}


def _adapter(texts: Sequence[str]) -> str | dict[str, str | None] | None:
    """Return the adapter, or those of several names, that the options stand for."""
    named = {
        match[1]: None if match[2] == "none" else match[2]
        for text in texts
        if (match := _NAMED.fullmatch(text)) and not Path(text).exists()
    }
    if named and len(named) == len(texts):
        return named
    if len(texts) > 1:
        raise click.UsageError("several adapters need a name each, once: --adapter NAME=FOLDER")
    only = texts[0] if texts else "auto"
    return None if only == "none" else only


def generation_of(options: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Return the options that go to `Decoder.generate`, and others by name."""
    _check_generation(options)
    ends = [int(end) if _is_number(end) else end for end in options["eos"]]
    given = {name: options[name] for name in (*_SAMPLING, *more)} | {"eos": ends or None}
    return given | {"params": brought_of(options["brought"])}


def brought_of(pairs: Settings) -> dict[str, int | float] | None:
    """Return what requests are to bring of a strategy's params; None: nothing.

    Raises:
        UsageError: one is given twice.
    """
    return once("--param", pairs) or None


def once(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return what an option gave by name; raise UsageError if it gave one twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.UsageError(f"{option} {twice} is given twice")
    return found


def _check_generation(options: Mapping[str, Any]) -> None:
    """Check what needs no model, before torch is loaded.

    Raises:
        PromptError: a value is outside its range.
    """
    for name, (is_allowed, hint) in _RANGES.items():
        value = options.get(name)
        if value is not None and not is_allowed(value):
            raise PromptError(f"{name} {value!r} is not allowed", hint)
    if "" in (options.get("stop") or ()):
        raise PromptError("stop '' is not allowed", "give strings that are not empty")
    for name in ("prompt", "chat", "ids"):
        if options.get(name) == "":
            raise PromptError(f"--{name} is empty", "give at least one token to continue")


def in_options(text: str) -> str:
    """Return a message of the runtime with the options of a command for its arguments."""

    def option(found: re.Match[str]) -> str:
        name = found[0]
        return _OPTIONS.get(name, f"--{name.replace('_', '-')}")

    return _ARGUMENT.sub(option, text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


_TEMPLATING = {
    "system": "--system",
    "tools_file": "--tools",
    "template_variables": "--template-var",
    "chat_template": "--chat-template",
}


def chat_of(options: Mapping[str, Any], is_chat: bool, asking: str) -> dict[str, Any]:
    """Return the options of `Decoder.generate` that say how conversations become prompts.

    `asking` says which options make prompts conversations.

    Raises:
        UsageError: there are such options, and the prompts are no conversations.
        PromptError: the file of tools cannot be used.
    """
    given = [option for name, option in _TEMPLATING.items() if options[name] not in (None, ())]
    if given and not is_chat:
        raise click.UsageError(f"{given[0]} is for conversations: give {asking} as well")
    if not is_chat:
        return {}
    variables = once("--template-var", options["template_variables"])
    return {
        "chat": True,
        "system": options["system"],
        "tools": _tools(options["tools_file"]),
        "template_variables": variables,
        "chat_template": options["chat_template"],
    }


def _tools(file: str | None) -> list[Any] | None:
    if file is None:
        return None
    from nldc.prompts import read_json_file

    data = read_json_file(file)
    if not isinstance(data, list) or not all(isinstance(tool, dict) for tool in data):
        raise PromptError(
            f"{file} holds no list of tools", "write [{…}, …], one JSON schema a tool"
        )
    return data

"""What an operator says, on a command line or to a cluster, as settings of a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nldc.runtime.errors import NldcRuntimeError
from nldc.serve.settings import Settings

KEY = "NLDC_API_KEY"
"""The variable that may hold a key."""
FIELDS = {
    "max_body": "body_bytes",
    "max_prompt_tokens": "prompt_tokens",
    "max_new_tokens": "new_tokens",
    "max_live": "live",
    "max_queue": "queue",
    "allow_special_tokens": "special_tokens",
    "max_images": "pictures",
    "images_below": "picture_folder",
}
"""The fields of settings that options name otherwise."""
SAME = (
    "chat_template", "route", "temperature", "keep_prefixes", "deadline", "drain", "open_metrics",
    "cors_origins", "log_prompts",
)  # fmt: skip


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings that options name; reads the file of keys, and the variable of one.

    Options are those of `nldc serve`, by the names of their variables.

    Raises:
        NldcRuntimeError: the keys cannot be read, or are none.
    """
    model = options["model"]
    own_name = "demo" if model is None else Path(model).resolve().name
    return Settings(
        model_name=options["name"] or own_name,
        api_keys=_keys_of(options["api_key_file"]),
        **{name: options[name] for name in SAME},
        **{field: options[name] for name, field in FIELDS.items()},
    )


def read_keys(path: str | Path) -> tuple[str, ...]:
    """Return the keys in a file, one a line; what begins with # is a comment.

    Raises:
        NldcRuntimeError: it cannot be read, or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise NldcRuntimeError(f"cannot read {path}: {str(reason).lower()}") from None
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise NldcRuntimeError(f"{path} holds no key", "write one a line")
    return keys


def _keys_of(path: str | Path | None) -> tuple[str, ...]:
    """Return the keys in a file, if there is one, and in the environment.

    A variable that is there and empty is a mistake, and not a server for all.
    """
    keys = () if path is None else read_keys(path)
    if KEY not in os.environ:
        return keys
    own = os.environ[KEY].strip()
    if not own:
        raise NldcRuntimeError(f"{KEY} is empty", "give it a key, or unset it to serve everybody")
    return (*keys, own)

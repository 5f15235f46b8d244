"""Which fields a body may have: what is not supported is refused by name, and never ignored.

A field whose value is null is as one that is not there; so is one with a neutral value, which asks
for what happens anyway. `user` and `metadata` are a client's notes to itself and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nldc.diagnostics import nearest
from nldc.serve.errors import refused

NEUTRAL: Mapping[str, Any] = {
    "add_generation_prompt": True,
    "add_special_tokens": True,
    "best_of": 1,
    "continue_final_message": False,
    "early_stopping": False,
    "echo": False,
    "function_call": "none",
    "functions": [],
    "include_stop_str_in_output": False,
    "length_penalty": 1,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "store": False,
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
    "use_beam_search": False,
}
UNSUPPORTED = frozenset(
    {
        *NEUTRAL,
        *("top_logprobs", "prompt_logprobs", "return_tokens_as_token_ids", "return_token_ids"),
        *("parallel_tool_calls", "web_search_options", "prediction", "audio", "verbosity"),
        *("reasoning_effort", "include_reasoning", "service_tier", "safety_identifier"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
        *("chat_template", "documents", "mm_processor_kwargs", "truncate_prompt_tokens"),
        *("allowed_token_ids", "bad_words", "logits_processors", "priority", "prompt_embeds"),
        *("cache_salt", "kv_transfer_params", "prompt_cache_key", "vllm_xargs"),
    }
)
"""What OpenAI's API or vLLM's has and this server has not, or not for every kind of request."""


def check_fields(body: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the fields of a body that are given and known.

    Raises:
        ApiError: there is another one.
    """
    found = {}
    for name, value in body.items():
        if value is None or (name not in known and _is_neutral(name, value)):
            continue
        if name in known:
            found[name] = value
            continue
        if name in UNSUPPORTED:
            raise refused(f"`{name}` is not supported", name, "unsupported_parameter")
        meant = nearest(name[:80], known)  # of a long one it would take seconds
        hint = f": did you mean `{meant}`?" if meant else ""
        raise refused(
            f"`{name[:80]}` is no field of this request{hint}", name[:80], "unknown_parameter"
        )
    return found


def _is_neutral(name: str, value: Any) -> bool:
    if name not in NEUTRAL:
        return False
    neutral = NEUTRAL[name]
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)

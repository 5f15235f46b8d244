"""What a call of transformers' `generate` asks for, as options of a decoder; the rest is refused.

transformers has turned its generation config into processors and criteria when a custom function is
called. Those that a decoder follows are read; any other one is named, and nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from nldc.runtime.errors import PromptError

FILTERS = {
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
}
"""Processors that decoders follow, and the attribute of each that is the option of its name."""
CRITERIA = ("MaxLengthCriteria", "EosTokenCriteria")
"""What may end a text: its length, and the tokens that end one."""
OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
MODES = ("greedy_search", "sample")
OF_TRANSFORMERS = ("attention_mask", "position_ids", "logits_to_keep", "use_cache")
"""Arguments for a model's forward that transformers makes by itself, or that are looked at here."""
OWN = ("cache_implementation", "prefill_chunk_size")
"""Settings of what decoders arrange by themselves."""
CACHES = ("past_key_values", "cache")


def check_call(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that a custom function is not told of.

    `given` are the call's own, by name: `kwargs` are those that it takes without naming them.

    Raises:
        PromptError: one is given that a decoder does not follow.
    """
    more = given.get("kwargs") or {}
    for name in ("assistant_model", "prefix_allowed_tokens_fn", "negative_prompt_ids"):
        if given.get(name) is not None:
            raise _refused(name)
    if given.get("synced_gpus"):
        raise _refused("synced_gpus")
    for name in CACHES:
        if more.get(name) is not None:
            raise _refused(name, "a decoder keeps keys and values in pages of its own")


def sampling_of(config: Any, processors: Iterable[Any]) -> dict[str, Any]:
    """Return the options that a generation config and the processors made of it stand for.

    Raises:
        PromptError: there is one that a decoder does not follow.
    """
    mode = str(getattr(config.get_generation_mode(), "value", ""))
    if mode not in MODES:
        raise _refused(f"the generation mode {mode}", "a strategy decodes greedily, or samples")
    options: dict[str, Any] = {"temperature": 1.0 if config.do_sample else 0.0}
    for each in processors:
        name = type(each).__name__
        if name not in FILTERS:
            hint = "temperature, top_k, top_p and min_p are followed"
            raise _refused(f"the logits processor {name}", hint)
        options[FILTERS[name]] = getattr(each, FILTERS[name])
    for name in OWN:
        if getattr(config, name, None) is not None:
            raise _refused(name, "a decoder sees to the memory of keys and values, and of prompts")
    if config.return_dict_in_generate:
        for name in OUTPUTS:
            if getattr(config, name):
                raise _refused(name, "of what is returned there are the sequences")
    return options


def check_criteria(criteria: Iterable[Any]) -> None:
    """Refuse what would end a text for another reason than its length or its last token.

    Raises:
        PromptError: there is such a criterion.
    """
    for each in criteria:
        name = type(each).__name__
        if name not in CRITERIA:
            hint = "max_length, max_new_tokens and eos_token_id are followed"
            raise _refused(f"the stopping criterion {name}", hint)


def prompts_of(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> list[list[int]]:
    """Return the prompts of a batch [B, n] without what was put before them to fill it up.

    Raises:
        PromptError: rows are filled up elsewhere, begin at other positions, or a forward is given
            what decoders do not know.
    """
    for name, value in model_kwargs.items():
        if name not in (*OF_TRANSFORMERS, *CACHES) and value is not None:
            raise _refused(name, "give input_ids, and attention_mask where rows are filled up")
    if model_kwargs.get("use_cache") is False:
        raise _refused("use_cache=False", "a decoder always keeps keys and values")
    mask = model_kwargs.get("attention_mask")
    if mask is None:
        starts = [0] * len(input_ids)
    else:
        if mask.shape != input_ids.shape:
            raise _refused(f"an attention_mask of the shape {list(mask.shape)}")
        starts = (mask != 0).int().argmax(1).tolist()
        if any(not bool(row[start:].all()) for row, start in zip(mask, starts, strict=True)):
            raise _refused("an attention_mask with zeros behind a one", "fill rows up on the left")
    positions = model_kwargs.get("position_ids")
    for row, start in enumerate(starts):
        own = [] if positions is None else positions[min(row, len(positions) - 1), start:].tolist()
        if own and own != list(range(len(own))):
            raise _refused("position_ids that do not count from 0 at a prompt's first token")
    return [ids[start:] for ids, start in zip(input_ids.tolist(), starts, strict=True)]


def _refused(what: str, hint: str = "leave it out") -> PromptError:
    return PromptError(f"{what} is not supported by a compiled strategy", hint)

"""Arguments of `generate` and `stream` as people have them, as plain Python; or what is wrong.

Token ids may be lists, ranges, generators, tensors or arrays of whole numbers; numbers may be those
of numpy. What could mean two things (bytes, truth values, a set of prompts) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from torch import Tensor

from nldc.runtime.engine.embeddings import PromptEmbeddings
from nldc.runtime.errors import PromptError
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.vision.picture import PicturePrompt
from nldc.runtime.vision.rows import Pictured
from nldc.runtime.whole_numbers import as_whole, shown, whole

KEYS = range(-(2**63), 2**63)
_ONE = (str, PromptEmbeddings, PicturePrompt, Pictured)
_OPAQUE = (bytes, bytearray, memoryview, Mapping, Set)


def plain(value: Any) -> Any:
    """Return a number of numpy or torch as Python's; all else as it is."""
    number = as_whole(value)
    if number is not None:
        return number
    if isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point():
        return float(value)
    is_float = not isinstance(value, float | str | bool | complex) and hasattr(value, "__float__")
    if is_float and getattr(value, "shape", None) == ():
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        return float(value) if kind == "f" else value
    return value


def items(value: object, name: str, hint: str) -> list[Any]:
    """Return what a list, tuple, range, generator, tensor or array holds.

    Raises:
        PromptError: it is none of these.
    """
    if isinstance(value, Tensor) and value.dim():
        return list(value.tolist())
    to_list: Any = getattr(value, "tolist", None)
    if to_list is not None and getattr(value, "ndim", False):
        return list(to_list())
    has_no_items = getattr(value, "shape", None) == ()
    if has_no_items or isinstance(value, (*_OPAQUE, str)) or not isinstance(value, Iterable):
        raise PromptError(f"{name} {shown(value)} is not allowed", hint)
    return list(value)


def prompts_of(prompts: object) -> list[Any]:
    """Return the prompts; one text, one with pictures or one of embeddings is a list of one."""
    if isinstance(prompts, _ONE):
        return [prompts]
    given = items(prompts, "prompts", "give a text, or a list of prompts")
    if not given:
        raise PromptError("there is no prompt", "give at least one")
    if all(as_whole(each) is not None for each in given):
        raise PromptError(
            f"prompts {shown(given)} are the token ids of one prompt, not a list of prompts",
            "write [ids], a list with that one prompt",
        )
    return given


def one_prompt(prompt: object) -> None:
    """Check that what is streamed is one prompt.

    Raises:
        PromptError: it is a list of prompts.
    """
    if not isinstance(prompt, list | tuple):
        return
    if prompt and all(isinstance(each, (list, tuple, *_ONE)) for each in prompt):
        raise PromptError(
            f"{shown(prompt)} is a list of prompts, and stream takes one prompt",
            "stream each by itself, or use generate for all of them",
        )


def token_ids(value: object, name: str) -> list[Any]:
    """Return the elements of what should be token ids; each is still to be checked.

    Raises:
        PromptError: `value` holds no list of numbers.
    """
    hint = "give text or a list of token ids; prompts come as a list of those"
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) != 1:
        raise PromptError(f"{name} is of shape {list(shape)}, not one row of token ids", hint)
    try:
        return items(value, name, hint)
    except PromptError:
        raise PromptError(f"{name} is {shown(value)}, not text or token ids", hint) from None


def ends_of(eos: object) -> list[Any]:
    """Return the end ids of an `eos` that is one id or several."""
    number = as_whole(eos)
    if number is not None:
        return [number]
    return items(eos, "eos", "give one token id, or a list of them")


def stops_of(stop: object) -> tuple[str, ...]:
    """Return the stop strings of one, of several, or of None.

    Raises:
        PromptError: one is no text, or empty.
    """
    if stop is None:
        return ()
    hint = "give strings that are not empty"
    stops = [stop] if isinstance(stop, str) else items(stop, "stop", hint)
    if not all(isinstance(text, str) and text for text in stops):
        raise PromptError(f"stop {shown(stop)} is not allowed", hint)
    return tuple(stops)


def keys_of(sequence_ids: object, count: int) -> list[int]:
    """Return the key of each of `count` prompts: its place, unless it is given.

    Raises:
        PromptError: there is not one for each, or one is no number of 64 bits.
    """
    if sequence_ids is None:
        return list(range(count))
    hint = "give a whole number of 64 bits for each prompt"
    keys = items(sequence_ids, "sequence_ids", hint)
    if len(keys) != count:
        raise PromptError(f"{len(keys)} sequence_ids for {count} prompts", "give one for each")
    return [whole(key, "the sequence id", KEYS, hint) for key in keys]


def processors_of(processors: object) -> tuple[Callable[..., Any], ...]:
    """Return the processors of one, of several, or of None."""
    if processors is None:
        return ()
    hint = "give functions of (logits, positions)"
    found = [processors] if callable(processors) else items(processors, "processors", hint)
    for each in found:
        if not callable(each):
            raise PromptError(f"the processor {shown(each)} cannot be called", hint)
    return tuple(found)


def sampling_of(
    temperature: object,
    top_k: object,
    top_p: object,
    min_p: object,
    seed: object,
    processors: object,
) -> Sampling:
    """Return how tokens are chosen, of the options as they were given; `check` is still to come."""
    return Sampling(
        plain(temperature),
        plain(top_k),
        plain(top_p),
        plain(min_p),
        plain(seed),
        processors_of(processors),
    )


def numbers_of(*values: Any) -> tuple[Any, ...]:
    """Return options that may be None, with numbers of numpy or torch as Python's."""
    return tuple(plain(value) for value in values)

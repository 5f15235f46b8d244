"""The bodies of requests as typed data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from nldc.runtime.step.logprobs import MOST_TOP
from nldc.serve.errors import ApiError, refused
from nldc.serve.fields import check_fields

Tokens = Annotated[int, Field(ge=1, le=2**31)]
TokenName = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,11}$"})]
Likeliest = Annotated[int, Field(ge=0, le=MOST_TOP)]
Added = Annotated[float, Field(ge=-100, le=100)]
MOST_KEYS = 64
"""Keys of an object within a body: more than any has, and few enough to say what is wrong."""
MOST_MESSAGES = 8192


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _prompt(value: Any) -> Any:
    if isinstance(value, str) or _are_texts(value) or _are_tokens(value):
        return value
    if isinstance(value, list) and all(map(_are_tokens, value)):
        return value
    raise ValueError("it is text, a list of texts, token ids, or a list of lists of token ids")


def _stop(value: Any) -> Any:
    if isinstance(value, str) or _are_texts(value):
        return value
    raise ValueError("it is a text or a list of texts")


def _small(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    return value


def _array(items: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


TEXT, TOKEN = {"type": "string"}, {"type": "integer", "minimum": 0}
STOP = {"type": "string", "minLength": 1}
# Checked here and not by pydantic, which would say of each of a million items what it lacks.
Prompt = Annotated[
    str | list[str] | list[int] | list[list[int]],
    PlainValidator(_prompt),
    WithJsonSchema({"anyOf": [TEXT, _array(TEXT), _array(TOKEN), _array(_array(TOKEN))]}),
]
Stop = Annotated[
    str | list[str], PlainValidator(_stop), WithJsonSchema({"anyOf": [STOP, _array(STOP, 0)]})
]
Small = BeforeValidator(_small)


class Body(BaseModel):
    """Part of a body: no other fields, and no value of another type made to fit."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Extension(Body):
    """What only this server has: `steps` tells of every piece of text how it came to be, `metrics`
    what the call cost.
    """

    steps: bool = False
    metrics: bool = False


class Sampled(Body):
    """What both kinds of requests may say."""

    model: str | None = None
    stream: bool = False
    stream_options: Annotated[StreamOptions | None, Small] = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=64)] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: Annotated[dict[TokenName, Added] | None, Small] = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1
    min_tokens: Annotated[int, Field(ge=0, le=2**31)] = 0
    max_thinking_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    strategy: Annotated[str, Field(max_length=1024)] | None = None
    strategy_params: Annotated[dict[str, int | float] | None, Small] = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    nldc: Annotated[Extension, Small] = Extension()


class CompletionRequest(Sampled):
    """The body of /v1/completions: texts or token ids to continue.

    `echo` puts the prompt in front of what follows, of which there may be nothing. `logprobs` is
    how many of the likeliest tokens stand beside each.
    """

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    echo: bool = False
    logprobs: Likeliest | None = None


class TextPart(Body):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """Where a picture is: a data URI that holds it, or a file that the operator lets be read.

    Pictures are seen as large as the model sees any: that is what `detail` may ask for.
    """

    url: str
    detail: Literal["auto", "high"] | None = None


class ImagePart(Body):
    """A part of a message that is a picture."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, Small]


PARTS = ("text", "image_url")
"""The types of parts."""
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Annotated[Part, Small]], Field(max_length=MOST_MESSAGES)]
    name: str | None = None
    reasoning_content: str | None = None


class ChatRequest(Sampled):
    """The body of /v1/chat/completions: a conversation to answer."""

    messages: Annotated[
        list[Annotated[Message, Small]], Field(min_length=1, max_length=MOST_MESSAGES)
    ]
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: Likeliest | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, Small] = None


T = TypeVar("T", bound=Body)


def read(kind: type[T], body: Mapping[str, Any]) -> T:
    """Return a body as typed data.

    Raises:
        ApiError: a field is not supported, unknown, missing, or of another kind.
    """
    given = check_fields(body, kind.model_fields)
    if isinstance(given.get("messages"), list):
        given["messages"] = [_plain(number, each) for number, each in enumerate(given["messages"])]
    try:
        return kind.model_validate(given)
    except ValidationError as problem:
        raise _in_words(problem) from None


def _plain(number: int, message: Any) -> Any:
    """Return a message without fields that are null, or refuse what it asks for."""
    if not isinstance(message, dict):
        return message
    place = f"messages[{number}]"
    role = message.get("role")
    for name in ("tool_calls", "function_call", "tool_call_id", "audio", "refusal"):
        if message.get(name) not in (None, []):
            raise refused(
                f"`{place}.{name}` is not supported", f"{place}.{name}", "unsupported_parameter"
            )
    if role in ("tool", "function"):
        raise refused(
            f"`{place}`: messages of the role `{role}` are not supported",
            f"{place}.role",
            "unsupported_parameter",
        )
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in PARTS:
            raise refused(
                f"`{place}.content`: parts of the type `{kind[:40]}` are not supported; "
                f"{' and '.join(PARTS)} are read",
                f"{place}.content",
                "unsupported_parameter",
            )
    return {
        name: value
        for name, value in message.items()
        if value not in (None, []) or name == "content"
    }


def _in_words(problem: ValidationError) -> ApiError:
    first, *others = problem.errors(include_url=False, include_context=False, include_input=False)
    around = first["loc"][:-1]  # where a value may be of several kinds, the one that it nearly is
    alike = [each for each in others if each["loc"][: len(around)] == around] if around else []
    error = max([first, *alike], key=lambda each: len(each["loc"]))
    place = [str(part) if isinstance(part, str) else f"[{part}]" for part in error["loc"]]
    name = place[0] if place else ""
    path = name
    for before, part in pairwise(place):
        if part.startswith("["):
            path += part
        elif before.startswith("[") and part in PARTS:
            continue  # it says by which type a part was read
        elif part.isidentifier() and part not in ("str", "int"):
            path += f".{part[:80]}"
    if error["type"] == "missing":
        return refused(f"`{path}` is missing", path)
    if error["type"] == "extra_forbidden":
        return refused(f"`{path}` is no field of this request", path, "unknown_parameter")
    said = error["msg"].removeprefix("Value error, ")
    return refused(f"`{path}`: {said[0].lower()}{said[1:]}", path)
